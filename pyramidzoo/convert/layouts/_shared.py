"""Constants of several layouts: preprocessing, and the names under which training scripts save a state dict."""

from __future__ import annotations

import dataclasses

from pyramidzoo.catalog.preprocessing import Preprocessing

# CIFAR images (32x32), with a mean and standard deviation of CIFAR-10 that many projects use.
CIFAR10_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

# CIFAR images (32x32), with the mean and standard deviation of ImageNet.
IMAGENET_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# ImageNet images, prepared as torchvision prepares them for its first weights (IMAGENET1K_V1).
IMAGENET_224 = Preprocessing(
    input_size=(3, 224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    interpolation="bilinear",
)

# The same, but with the interpolation of the Lua project fb.resnet.torch.
IMAGENET_224_BICUBIC = dataclasses.replace(IMAGENET_224, interpolation="bicubic")

# The starts of the paths of a state dict's tensors. They depend on whether the state dict was saved
# alone, from a wrapper as DataParallel ("module."), or in a dictionary of a training script.
PLAIN_OR_WRAPPED = ("", "module.", "model.", "model.module.", "state_dict.", "state_dict.module.")

# The starts of the paths of tensors that a training script saves beside the state dict. A second
# network (as `state_dict_ema.`) is not among them, because the user must decide which of the two
# networks is to be converted.
TRAINING_STATE = ("optimizer.", "optim.", "scheduler.", "lr_scheduler.", "scaler.", "amp_scaler.")
