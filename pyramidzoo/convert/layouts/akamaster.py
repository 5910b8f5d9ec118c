"""akamaster/pytorch_resnet_cifar10: a dictionary {state_dict, best_prec1}, saved from a DataParallel wrapper."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_CONSTANTS


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    return f"linear.{name.removeprefix('fc.')}" if name.startswith("fc.") else name


LAYOUT = Layout(
    name="akamaster",
    repository="akamaster/pytorch_resnet_cifar10",
    # Without an argument `shortcut` a network has the shortcuts of option A of He et al., as all of this project.
    supports=lambda architecture: architecture.class_name == "CifarResNet" and set(architecture.arguments) == {"depth"},
    state_dict_prefixes=("state_dict.module.",),
    get_foreign_name=_get_foreign_name,
    preprocessing={"cifar10": IMAGENET_CONSTANTS},
)
