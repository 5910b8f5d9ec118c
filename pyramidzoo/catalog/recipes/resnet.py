"""Recipes of the ResNet papers, of Facebook's code and of fattorib: table F1, rows of W1, H1 and P3."""

from __future__ import annotations

from collections.abc import Iterator

from pyramidzoo.catalog.recipes._normalization import CIFAR10_FATTORIB, CIFAR10_FB, CIFAR100_FB, IMAGENET
from pyramidzoo.catalog.recipes._recipe import Recipe

_HE15 = "He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385), section 4.2"
_HE16 = "He et al. 2016, Identity Mappings in Deep Residual Networks (arXiv:1603.05027), appendix"


_HE2015_CIFAR10 = Recipe(
    name="he2015_cifar10",
    dataset="cifar10",
    preprocessing=CIFAR10_FB,
    epochs=165,
    steps=64_000,
    batch_size=128,
    learning_rate=0.1,
    momentum=0.9,
    nesterov=False,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(32_000, 48_000),
    padding=4,
    pad_with="mean",
    flip=True,
    drop_incomplete=True,
    source=_HE15,
    notes=(
        "The paper subtracts the mean of each pixel. The mean and standard deviation of each channel are used "
        "here, as in the authors' later code.",
        "The paper does not say whether the 64,000 steps use 45,000 or 50,000 images. All 50,000 are used here.",
        "The paper does not say what the last batch of an epoch is. Incomplete batches are left out here.",
    ),
    rows={"F1:1": "resnet20", "F1:2": "resnet32", "F1:3": "resnet44", "F1:4": "resnet56"},
)


def recipes() -> Iterator[Recipe]:
    """Yield the recipes of this module."""
    yield _HE2015_CIFAR10
    yield from _he2016()
    yield from _fattorib()
    yield Recipe(
        name="fb_imagenet",
        dataset="imagenet1k",
        preprocessing=IMAGENET,
        epochs=90,
        batch_size=256,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(30, 60),
        padding=0,
        flip=True,
        random_area=(0.08, 1.0),
        color_jitter=0.4,
        lighting=0.1,
        source="facebookarchive/fb.resnet.torch, TRAINING.md, opts.lua, train.lua and datasets/imagenet.lua",
        notes=(
            "The repository does not say how ResNet-200 was trained. These are the defaults of its code, with the "
            "batch size of its examples, 256.",
            "The Wide ResNet authors' repository gives no command for ImageNet either. Its network was made in this "
            "code.",
            "Table W2 prints a top-5 error of 5.79. The authors' repository prints 6.03 for the same network.",
        ),
        rows={"P3:1": "preresnet200", "W2:4": "wide_resnet50_2"},
    )


def _he2016() -> Iterator[Recipe]:
    cifar10 = _HE2015_CIFAR10.replace(
        name="he2016_cifar10",
        warmup_steps=400,
        warmup_rate=0.01,
        source=_HE16,
        notes=(
            "The paper starts with learning rate 0.01 for 400 steps.",
            "The paper's experiments ran in Caffe. The code that was published (KaimingHe/resnet-1k-layers) is another "
            "implementation, with Nesterov's momentum and 200 epochs: see he2016_cifar10_batch64.",
            "The authors of table W1 quote these numbers.",
            "ResNet-110 of the first paper (arXiv:1512.03385) starts in the same way. That paper goes back to 0.1 when "
            "the training error is below 80 %, after about 400 steps. Here it is after exactly 400 steps.",
        ),
        rows={
            "W1:1": "preresnet164",
            "W1:2": "preresnet1001",
            "H1:2 paper": "resnet110",
            "H1:3 paper": "preresnet110",
        },
        quoted={"H1:4 paper": "preresnet164"},
    )
    yield cifar10
    yield cifar10.replace(
        name="he2016_cifar100",
        dataset="cifar100",
        preprocessing=CIFAR100_FB,
        rows={"W1:1": "preresnet164", "W1:2": "preresnet1001"},
        quoted={},
    )
    yield Recipe(
        name="he2016_cifar10_batch64",
        dataset="cifar10",
        preprocessing=CIFAR10_FB,
        epochs=200,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(80, 121),
        padding=4,
        pad_with="mean",
        flip=True,
        source="KaimingHe/resnet-1k-layers, README.md; facebookarchive/fb.resnet.torch, train.lua",
        notes=(
            "The learning rate falls at the start of epochs 81 and 122, counted from 1: after 80 and 121 epochs.",
            "The command uses two GPUs, and batch normalization used the 32 images of each. One device normalizes over "
            "all 64 images here.",
        ),
        rows={"H1:5 paper": "preresnet1001"},
    )


def _fattorib() -> Iterator[Recipe]:
    short = Recipe(
        name="fattorib_cifar10",
        dataset="cifar10",
        preprocessing=CIFAR10_FATTORIB,
        hold_out=2_500,
        epochs=180,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(90, 135, 180),
        padding=4,
        flip=True,
        source="fattorib/ResNets-CIFAR10, src/models/Train_Model.py and train_model_script.py",
        notes=(
            "The training script leaves out 2,500 images that are drawn at random. The README says 10 % (5,000), and "
            "so does the script that evaluates. 2,500 are left out here.",
            "The loop could end early, when the loss on the images that were left out rises for 100 epochs. Here it "
            "never ends early.",
            "The printed errors are means over batches, whose last one has 16 images.",
        ),
        rows={"F1:1": "resnet20_fattorib", "F1:2": "resnet32_fattorib"},
    )
    yield short
    yield short.replace(
        name="fattorib_cifar10_200epochs",
        epochs=200,
        notes=(*short.notes, "ResNet-44 and 56 were trained for 200 epochs, as the README says."),
        rows={"F1:3": "resnet44_fattorib", "F1:4": "resnet56_fattorib"},
    )
