"""What the layouts of DenseNets share: the parts of a layer's name, and which networks have the authors' stem."""

from __future__ import annotations

import re
from typing import NamedTuple

from pyramidzoo.catalog.architectures import Architecture

_PLACE = re.compile(r"features\.(?:denseblock(\d)\.denselayer(\d+)|transition(\d))\.(norm|conv)(\d?)")


class Place(NamedTuple):
    """The place of a convolution or BN in a dense layer or in a transition.

    Attributes:
        block: The number of the dense block, counted from 1; of a transition, the block before it.
        layer: The number of the dense layer in its block, counted from 1; None in a transition.
        part: "bn" or "conv".
        number: 1 or 2, because a dense layer can have two of each; 1 in a transition.
    """

    block: int
    layer: int | None
    part: str
    number: int


def parse_place(module: str) -> Place | None:
    """Return the place of a convolution or BN; None for stem and head."""
    match = _PLACE.fullmatch(module)
    if match is None:
        return None
    block, layer, transition, kind, number = match.groups()
    part = "bn" if kind == "norm" else kind
    return Place(int(block or transition), int(layer) if layer else None, part, int(number or 1))


def is_densenet_bc(row: Architecture) -> bool:
    """Return whether this is a CIFAR DenseNet-BC with the authors' stem of 2k channels."""
    given = row.arguments
    if row.class_name != "CifarDenseNet" or not given.get("bottleneck"):
        return False
    return given.get("compression") == 0.5 and given.get("stem_channels") == 2 * given["growth_rate"]
