"""szagoruyko/functional-zoo: WRN-50-2 as a dictionary of tensors, exported from the authors' Torch7 file.

BN is folded into the convolutions, see `_folded.py`. The stride of a block is in its 3x3
convolution.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert.layout import Layout, TensorSource
from pyramidzoo.convert.layouts import _folded
from pyramidzoo.convert.layouts._shared import IMAGENET_224_BICUBIC

_CONVOLUTIONS = {"conv1": "conv0", "conv2": "conv1", "conv3": "conv2", "downsample.0": "conv_dim"}


def _module(module: str) -> str:
    if not module.startswith("layer"):
        return "conv0" if module == "conv1" else module
    stage, block, part = module.split(".", 2)
    return f"group{int(stage[5:]) - 1}.block{block}.{_CONVOLUTIONS[part]}"


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_module(_folded.find_convolution(module) if _folded.is_norm(module) else module)}.{value}"


def _locate_special_tensor(name: str, part: Signature, architecture: Architecture) -> TensorSource | None:
    module, _, value = name.rpartition(".")
    if not _folded.is_norm(module):
        return None
    return _folded.locate_norm_value(value, _get_foreign_name(f"{module}.bias", architecture))


LAYOUT = Layout(
    name="functional_zoo",
    repository="szagoruyko/functional-zoo",
    supports=lambda row: row.class_name == "ImageWideResNet" and row.arguments["depth"] == 50,
    get_foreign_name=_get_foreign_name,
    locate_special_tensor=_locate_special_tensor,
    make_remark=_folded.remark,
    preprocessing={"imagenet1k": IMAGENET_224_BICUBIC},  # as the Torch7 network that it was exported from
)
