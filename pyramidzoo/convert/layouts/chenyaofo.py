"""chenyaofo/pytorch-cifar-models: networks for CIFAR from torchvision's code, with torchvision's names of tensors."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS, PLAIN_OR_WRAPPED, TRAINING_STATE

_CIFAR100 = Preprocessing(input_size=(3, 32, 32), mean=(0.5070, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))


def _supports(architecture: Architecture) -> bool:
    if architecture.class_name == "ImageVgg":  # For images of 32x32 pixels the last feature map is 1x1.
        return architecture.arguments.get("pool", 7) == 1
    return architecture.class_name == "CifarResNet" and architecture.arguments.get("shortcut") == "B"


LAYOUT = Layout(
    name="chenyaofo",
    repository="chenyaofo/pytorch-cifar-models",
    supports=_supports,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": _CIFAR100},
)
