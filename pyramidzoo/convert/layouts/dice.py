"""deeplearning-wisc/dice: DenseNet-BC in andreasveit/densenet-pytorch's names, in {epoch, state_dict}."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._densenet import is_densenet_bc, parse_place
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

_TOP = {"features.conv0": "conv1", "features.norm5": "bn1", "classifier": "fc"}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    if module in _TOP:
        return f"{_TOP[module]}.{value}"
    place = parse_place(module)
    assert place is not None, name
    where = f"trans{place.block}" if place.layer is None else f"block{place.block}.layer.{place.layer - 1}"
    return f"{where}.{place.part}{place.number}.{value}"


LAYOUT = Layout(
    name="dice",
    repository="deeplearning-wisc/dice",
    supports=is_densenet_bc,
    get_foreign_name=_get_foreign_name,
    state_dict_prefixes=("state_dict.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
