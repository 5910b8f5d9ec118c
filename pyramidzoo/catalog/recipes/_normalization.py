"""How the images of each author's recipes are normalized: mean and standard deviation of values from 0 to 1."""

from __future__ import annotations

from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing

_SMALL = (3, 32, 32)

# hysts/pytorch_image_classification, dataloader.py.
CIFAR10_HYSTS = Preprocessing(_SMALL, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
MNIST_HYSTS = Preprocessing((1, 28, 28), (0.1307,), (0.3081,))
FASHION_MNIST_HYSTS = Preprocessing((1, 28, 28), (0.2860,), (0.3530,))

# facebookarchive/fb.resnet.torch, datasets/cifar10.lua and cifar100.lua: constants of pixels from 0 to 255.
CIFAR10_FB = Preprocessing(_SMALL, (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
CIFAR100_FB = Preprocessing(_SMALL, (129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255))
IMAGENET = Preprocessing(
    (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=256, crop=224, interpolation="bicubic"
)

# fattorib/ResNets-CIFAR10, src/models/train_model_script.py: ImageNet's constants on CIFAR-10.
CIFAR10_FATTORIB = Preprocessing(_SMALL, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# Pixels divided by 255 and nothing else.
SVHN_UNIT = Preprocessing(_SMALL, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# lisa-lab/pylearn2, scripts/datasets/make_cifar10_gcn_whitened.py and make_cifar100_gcn_whitened.py.
CIFAR_WHITENED = WhitenedPreprocessing(_SMALL, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
