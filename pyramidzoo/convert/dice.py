"""deeplearning-wisc/dice: DenseNet-BC in andreasveit/densenet-pytorch's names, in {epoch, state_dict}."""

from __future__ import annotations

import re

from pyramidzoo.architectures import Architecture
from pyramidzoo.convert._layout import CIFAR10_CONSTANTS, Layout

_TOP = {"features.conv0": "conv1", "features.norm5": "bn1", "classifier": "fc"}
_LAYER = re.compile(r"features\.denseblock(\d)\.denselayer(\d+)\.(norm|conv)(\d)")
_TRANSITION = re.compile(r"features\.transition(\d)\.(norm|conv)")
_PARTS = {"norm": "bn", "conv": "conv"}


def is_densenet_bc(row: Architecture) -> bool:
    """Whether this is a CIFAR DenseNet-BC with the authors' stem of 2k channels."""
    given = row.arguments
    if row.builder != "CifarDenseNet" or not given.get("bottleneck"):
        return False
    return given.get("compression") == 0.5 and given.get("stem_channels") == 2 * given["growth_rate"]


def _foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{value}"
    if layer := _LAYER.fullmatch(module):
        block, index, part, number = layer.groups()
        return f"block{block}.layer.{int(index) - 1}.{_PARTS[part]}{number}.{value}"
    transition = _TRANSITION.fullmatch(module)
    assert transition is not None, name
    return f"trans{transition[1]}.{_PARTS[transition[2]]}1.{value}"


LAYOUT = Layout(
    name="dice",
    repository="deeplearning-wisc/dice",
    supports=is_densenet_bc,
    foreign_name=_foreign_name,
    containers=("state_dict.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
