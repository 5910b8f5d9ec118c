"""Torch7 files (.t7) of the authors: fb.resnet.torch, PyramidNet, WRN-50-2, ResNeXt, all built by fb's Lua code.

`sandbox/torch7_reader.py` names each layer after its place in the file's tree of modules. This
module says which place each layer of the zoo's networks has. A residual block is a ConcatTable of
branch and shortcut; a BN-ReLU that both read is in front of it. The place contains the order, the
branch and the stride, so that another graph with the same shapes is refused: fb's ResNet-50, whose
blocks have a BN after the sum, is not `resnet50`.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_224_BICUBIC
from pyramidzoo.models._blocks import get_imagenet_blocks_per_stage

_POSTACTIVATION = ("ImageResNet", "ImageWideResNet", "ImageResNeXt")


def _supports(row: Architecture) -> bool:
    given = row.arguments
    if row.class_name == "ImagePreResNet":
        return not given.get("first_bn", True)
    plain = given.get("stride_in", "3x3") == "3x3" and given.get("width", 1) in (1, 2)
    return row.class_name == "ImagePyramidNet" or (row.class_name in _POSTACTIVATION and plain)


def _foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_place(module, architecture)}.{value}"


def _place(module: str, row: Architecture) -> str:
    """The place of a layer of the zoo's network in the file's tree, with the kind of the layer."""
    bottleneck = row.class_name != "ImageResNet" or bool(row.arguments.get("bottleneck"))
    counts = get_imagenet_blocks_per_stage(row.name, row.arguments["depth"], bottleneck)
    if not module.startswith("layer"):
        last = sum(counts) + 1
        final_norm = row.class_name not in _POSTACTIVATION
        return {
            "conv1": "before1.1.conv_stride2",
            "bn1": "before1.2.bn",
            "norm": f"before{last}.1.bn",
            "fc": f"before{last}.{2 if final_norm else 1}.linear",
        }[module]
    stage, index, part = module.split(".", 2)
    block = sum(counts[: int(stage[5:]) - 1]) + int(index) + 1
    is_strided = stage != "layer1" and index == "0"
    if part.startswith("downsample"):
        place = f"block{block}.branch2.{2 if part.endswith('1') else 1}"
        return f"{place}.{_kind('bn' if part.endswith('1') else 'conv', is_strided)}"
    kind, number = part[:-1], int(part[-1])
    if row.class_name in _POSTACTIVATION:
        position = 2 * number - (kind == "conv")
    elif row.class_name == "ImagePyramidNet" or index != "0":
        position = 2 * number - (kind == "bn")
    elif part == "bn1":
        return f"before{block}.1.bn"  # Branch and shortcut share it.
    else:
        position = 2 * number - (kind == "bn") - 1
    is_strided_part = is_strided and part == ("conv2" if bottleneck else "conv1")
    return f"block{block}.branch1.{position}.{_kind(kind, is_strided_part)}"


def _kind(kind: str, is_strided: bool) -> str:
    return "conv_stride2" if is_strided and kind == "conv" else kind


LAYOUT = Layout(
    name="torch7",
    repository="facebookarchive/fb.resnet.torch, and projects that are built on it",
    supports=_supports,
    foreign_name=_foreign_name,
    preprocessing={"imagenet1k": IMAGENET_224_BICUBIC},
)
