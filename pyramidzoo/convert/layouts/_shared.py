"""What several layouts share: preprocessing constants, and where training scripts put a state dict."""

from __future__ import annotations

import dataclasses

from pyramidzoo.catalog.preprocessing import Preprocessing

# CIFAR images (32x32), with the mean and standard deviation that the authors took from CIFAR-10.
CIFAR10_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

# CIFAR images (32x32), with the mean and standard deviation of ImageNet.
IMAGENET_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# ImageNet images, as torchvision evaluates its first weights.
IMAGENET_224 = Preprocessing(
    input_size=(3, 224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    interpolation="bilinear",
)

# The same, as Lua's fb.resnet.torch resizes images.
IMAGENET_224_BICUBIC = dataclasses.replace(IMAGENET_224, interpolation="bicubic")

# The paths of a state dict that was saved alone, from a wrapper (DataParallel), or by a training
# script.
PLAIN_OR_WRAPPED = ("", "module.", "model.", "model.module.", "state_dict.", "state_dict.module.")

# What a training script saves beside the state dict. A second network (as `state_dict_ema.`) is not
# ignored: which of the two is meant must be decided by the user.
TRAINING_STATE = ("optimizer.", "optim.", "scheduler.", "lr_scheduler.", "scaler.", "amp_scaler.")
