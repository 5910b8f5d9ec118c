"""akamaster/pytorch_resnet_cifar10: {state_dict, best_prec1} saved from a DataParallel wrapper."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_CONSTANTS


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    return f"linear.{name[3:]}" if name.startswith("fc.") else name


LAYOUT = Layout(
    name="akamaster",
    repository="akamaster/pytorch_resnet_cifar10",
    supports=lambda row: row.class_name == "CifarResNet" and set(row.arguments) == {"depth"},  # option A, as He et al.
    state_dict_prefixes=("state_dict.module.",),
    get_foreign_name=_get_foreign_name,
    preprocessing={"cifar10": IMAGENET_CONSTANTS},
)
