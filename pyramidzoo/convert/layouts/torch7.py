"""Torch7 files (.t7) of the authors: fb.resnet.torch, PyramidNet, WRN-50-2, ResNeXt, all built by fb's Lua code.

`_torch7` names each layer after its place in the file's tree of modules; where the zoo's networks have theirs is said
here. A residual unit is a ConcatTable of branch and shortcut; a BN-ReLU that both read is in front of it. The place
holds the order, the branch and the stride, so that another graph with the same shapes is refused: fb's ResNet-50, whose
units have a BN after the sum, is not `resnet50`.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.convert._layout import Layout
from pyramidzoo.models._blocks import imagenet_blocks_per_stage

_IMAGENET = Preprocessing(
    input_size=(3, 224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    interpolation="bicubic",
)
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
    bottleneck = row.class_name != "ImageResNet" or bool(row.arguments.get("bottleneck"))
    counts = imagenet_blocks_per_stage(row.name, row.arguments["depth"], bottleneck)
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
    unit = sum(counts[: int(stage[5:]) - 1]) + int(index) + 1
    strided = stage != "layer1" and index == "0"
    if part.startswith("downsample"):
        place = f"unit{unit}.branch2.{2 if part.endswith('1') else 1}"
        return f"{place}.{_kind('bn' if part.endswith('1') else 'conv', strided)}"
    kind, number = part[:-1], int(part[-1])
    if row.class_name in _POSTACTIVATION:
        position = 2 * number - (kind == "conv")
    elif row.class_name == "ImagePyramidNet" or index != "0":
        position = 2 * number - (kind == "bn")
    elif part == "bn1":
        return f"before{unit}.1.bn"  # shared by branch and shortcut
    else:
        position = 2 * number - (kind == "bn") - 1
    strided_here = strided and part == ("conv2" if bottleneck else "conv1")
    return f"unit{unit}.branch1.{position}.{_kind(kind, strided_here)}"


def _kind(kind: str, strided: bool) -> str:
    return "conv_stride2" if strided and kind == "conv" else kind


LAYOUT = Layout(
    name="torch7",
    repository="facebookarchive/fb.resnet.torch, and projects that are built on it",
    supports=_supports,
    foreign_name=_foreign_name,
    preprocessing={"imagenet1k": _IMAGENET},
)
