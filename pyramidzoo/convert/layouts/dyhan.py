"""dyhan0920/PyramidNet-PyTorch, and clovaai/CutMix-PyTorch, which uses its code.

A file holds a dictionary {state_dict, optimizer, ...}. CutMix-PyTorch saves the state dict from a
DataParallel wrapper. Files of dyhan0920 are read with the names of a wrapper and without them.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_224, PLAIN_OR_WRAPPED, TRAINING_STATE

# The authors use CIFAR-10's constants for CIFAR-100 too.
_CIFAR = Preprocessing(
    input_size=(3, 32, 32),
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
)


def _supports(architecture: Architecture) -> bool:
    if architecture.class_name == "ImagePyramidNet":
        return True
    # The project has only additive PyramidNets, whose widths grow by the same number in each block.
    arguments = architecture.arguments
    is_additive = not arguments.get("multiplicative")
    return architecture.class_name == "CifarPyramidNet" and is_additive and arguments.get("stem_channels", 16) == 16


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    return f"bn_final.{name.removeprefix('norm.')}" if name.startswith("norm.") else name


LAYOUT = Layout(
    name="dyhan",
    repository="dyhan0920/PyramidNet-PyTorch",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    # Reversed, because the first prefix is the one that error messages use for a file without a stem.
    state_dict_prefixes=tuple(reversed(PLAIN_OR_WRAPPED)),
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"cifar10": _CIFAR, "cifar100": _CIFAR, "imagenet1k": IMAGENET_224},
)
