"""What layouts of DenseNets share: which network has the authors' stem, and what a layer's name says."""

from __future__ import annotations

import re
from typing import NamedTuple

from pyramidzoo.catalog.architectures import Architecture

_PLACE = re.compile(r"features\.(?:denseblock(\d)\.denselayer(\d+)|transition(\d))\.(norm|conv)(\d?)")


class Place(NamedTuple):
    """Part `bn` or `conv` of dense layer `layer` in `block`, both counted from 1, or of the transition after `block`.

    `number` says which of a dense layer's two, and is 1 in a transition.
    """

    block: int
    layer: int | None
    part: str
    number: int


def place_of(module: str) -> Place | None:
    """The place of a convolution or BN between stem and head; None for those two."""
    found = _PLACE.fullmatch(module)
    if found is None:
        return None
    block, layer, transition, kind, number = found.groups()
    part = "bn" if kind == "norm" else kind
    return Place(int(block or transition), int(layer) if layer else None, part, int(number or 1))


def is_densenet_bc(row: Architecture) -> bool:
    """Whether this is a CIFAR DenseNet-BC with the authors' stem of 2k channels."""
    given = row.arguments
    if row.class_name != "CifarDenseNet" or not given.get("bottleneck"):
        return False
    return given.get("compression") == 0.5 and given.get("stem_channels") == 2 * given["growth_rate"]
