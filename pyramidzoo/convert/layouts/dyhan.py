"""dyhan0920/PyramidNet-PyTorch and clovaai/CutMix-PyTorch, which uses its code: {state_dict, optimizer, ...}.

CutMix-PyTorch saves from a DataParallel wrapper; dyhan0920's ImageNet file is read with or without
one.
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


def _supports(row: Architecture) -> bool:
    is_other_graph = row.arguments.get("multiplicative") or row.arguments.get("stem_channels", 16) != 16
    return row.class_name == "ImagePyramidNet" or (row.class_name == "CifarPyramidNet" and not is_other_graph)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    return f"bn_final.{name[5:]}" if name.startswith("norm.") else name


LAYOUT = Layout(
    name="dyhan",
    repository="dyhan0920/PyramidNet-PyTorch",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    state_dict_prefixes=tuple(reversed(PLAIN_OR_WRAPPED)),
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"cifar10": _CIFAR, "cifar100": _CIFAR, "imagenet1k": IMAGENET_224},
)
