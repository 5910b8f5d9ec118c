"""deeplearning-wisc/dice: a DenseNet-BC with the names of andreasveit/densenet-pytorch.

A file holds a dictionary {epoch, state_dict}.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._densenet import is_densenet_bc, parse_place
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

# The foreign names of modules of stem and head, by their names in the zoo.
_STEM_AND_HEAD = {"features.conv0": "conv1", "features.norm5": "bn1", "classifier": "fc"}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    if module in _STEM_AND_HEAD:
        return f"{_STEM_AND_HEAD[module]}.{tensor_name}"
    place = parse_place(module)
    assert place is not None, name
    parent = f"trans{place.block}" if place.layer is None else f"block{place.block}.layer.{place.layer - 1}"
    return f"{parent}.{place.kind}{place.number}.{tensor_name}"


LAYOUT = Layout(
    name="dice",
    repository="deeplearning-wisc/dice",
    supports=is_densenet_bc,
    get_foreign_name=_get_foreign_name,
    state_dict_prefixes=("state_dict.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
