"""chenyaofo/pytorch-cifar-models: torchvision's code at CIFAR's size, and its names."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS, PLAIN_OR_WRAPPED, TRAINING_STATE

_CIFAR100 = Preprocessing(input_size=(3, 32, 32), mean=(0.5070, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))


def _supports(row: Architecture) -> bool:
    if row.class_name == "ImageVgg":
        return row.arguments.get("pool", 7) == 1
    return row.class_name == "CifarResNet" and row.arguments.get("shortcut") == "B"


LAYOUT = Layout(
    name="chenyaofo",
    repository="chenyaofo/pytorch-cifar-models",
    supports=_supports,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": _CIFAR100},
)
