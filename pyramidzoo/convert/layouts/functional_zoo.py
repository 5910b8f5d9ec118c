"""szagoruyko/functional-zoo: WRN-50-2 as a dictionary of tensors, exported from the authors' Torch7 file.

BN is folded into the convolutions (see `_folded`), the stride is in the 3x3.
"""

from __future__ import annotations

import dataclasses

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert._layout import IMAGENET_224, Layout, TensorSource
from pyramidzoo.convert.layouts import _folded

_CONVOLUTIONS = {"conv1": "conv0", "conv2": "conv1", "conv3": "conv2", "downsample.0": "conv_dim"}


def _module(module: str) -> str:
    if not module.startswith("layer"):
        return "conv0" if module == "conv1" else module
    stage, unit, part = module.split(".", 2)
    return f"group{int(stage[5:]) - 1}.block{unit}.{_CONVOLUTIONS[part]}"


def _foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_module(_folded.convolution_of(module) if _folded.is_norm(module) else module)}.{value}"


def _source(name: str, part: Signature, architecture: Architecture) -> TensorSource | None:
    module, _, value = name.rpartition(".")
    if not _folded.is_norm(module):
        return None
    return _folded.norm_source(value, _foreign_name(f"{module}.bias", architecture))


LAYOUT = Layout(
    name="functional_zoo",
    repository="szagoruyko/functional-zoo",
    supports=lambda row: row.builder == "ImageWideResNet" and row.arguments["depth"] == 50,
    foreign_name=_foreign_name,
    source=_source,
    remark=_folded.remark,
    # exported from the authors' Torch7 network, whose images are resized so
    preprocessing={"imagenet1k": dataclasses.replace(IMAGENET_224, interpolation="bicubic")},
)
