"""Torch7 files (.t7) that authors of papers published: fb.resnet.torch, PyramidNet, WRN-50-2 and ResNeXt.

All of them were built with the Lua code of fb.resnet.torch. `sandbox/torch7_reader.py` names each
layer after its place in the file's tree of modules. This module says which place each layer of the
zoo's networks has.

In the tree a residual block is a module ConcatTable, whose children are the branch and the
shortcut. If both begin with the same BN and ReLU, those are in front of the ConcatTable. Some names:

    before1.1.conv_stride2         the stem: the first layer before the first block
    block2.branch1.3.conv          the third layer with parameters in the branch of the second block
    block4.branch2.1.conv_stride2  the first layer in the shortcut of the fourth block

A name contains the order, the branch and the stride of a layer. Therefore a network with the same
shapes and other connections is refused. For example, the ResNet-50 of fb.resnet.torch is not
`resnet50`, because its blocks have a BN after the sum.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_224_BICUBIC
from pyramidzoo.models._blocks import get_imagenet_blocks_per_stage

# The classes whose convolutions are followed by BN. In the others a BN comes before the convolution.
_POSTACTIVATION_CLASSES = ("ImageResNet", "ImageWideResNet", "ImageResNeXt")


def _supports(architecture: Architecture) -> bool:
    arguments = architecture.arguments
    if architecture.class_name == "ImagePreResNet":  # fb.resnet.torch has no BN before its first block.
        return not arguments.get("first_bn", True)
    if architecture.class_name == "ImagePyramidNet":
        return True
    # The Lua code puts the stride into the 3x3 convolution, and widens a network at most to twice the width.
    is_built_by_lua_code = arguments.get("stride_in", "3x3") == "3x3" and arguments.get("width", 1) in (1, 2)
    return architecture.class_name in _POSTACTIVATION_CLASSES and is_built_by_lua_code


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    return f"{_find_place(module, architecture)}.{tensor_name}"


def _find_place(module: str, architecture: Architecture) -> str:
    """Return the place of a layer in the file's tree of modules, with the kind of the layer at the end.

    Args:
        module: The layer's name in the zoo, as "layer2.0.conv1".
        architecture: The network's architecture.

    Returns:
        The place, as "block4.branch1.1.conv": the first layer in the branch of the fourth block.
    """
    is_postactivation = architecture.class_name in _POSTACTIVATION_CLASSES
    has_bottlenecks = architecture.class_name != "ImageResNet" or bool(architecture.arguments.get("bottleneck"))
    blocks_per_stage = get_imagenet_blocks_per_stage(
        architecture.name, architecture.arguments["depth"], has_bottlenecks
    )
    if not module.startswith("layer"):
        after_last_block = f"before{sum(blocks_per_stage) + 1}"
        return {
            "conv1": "before1.1.conv_stride2",
            "bn1": "before1.2.bn",
            "norm": f"{after_last_block}.1.bn",  # only in pre-activation networks
            "fc": f"{after_last_block}.{1 if is_postactivation else 2}.linear",
        }[module]
    stage_name, block_in_stage, layer = module.split(".", 2)  # as "layer2", "0" and "conv1", or "downsample.0"
    stage = int(stage_name.removeprefix("layer"))
    block = sum(blocks_per_stage[: stage - 1]) + int(block_in_stage) + 1  # counted from 1 in the whole network
    has_block_stride = stage > 1 and block_in_stage == "0"
    if layer.startswith("downsample"):
        if layer.endswith("1"):
            return f"block{block}.branch2.2.bn"
        return f"block{block}.branch2.1.{_get_conv_kind(has_block_stride)}"
    kind, number = layer[:-1], int(layer[-1])  # as "conv" and 1
    # The position of a layer in the branch. With BN after its convolution the order is conv1, bn1,
    # conv2, bn2, ...; with BN before its convolution it is bn1, conv1, bn2, conv2, ...
    if is_postactivation:
        position = 2 * number - (kind == "conv")
    else:
        position = 2 * number - (kind == "bn")
        # In the first block of a PreResNet's stage branch and shortcut both begin with bn1, which
        # is in front of the ConcatTable. All others move forward by one position.
        if architecture.class_name != "ImagePyramidNet" and block_in_stage == "0":
            if layer == "bn1":
                return f"before{block}.1.bn"
            position -= 1
    if kind == "bn":
        return f"block{block}.branch1.{position}.bn"
    is_strided = has_block_stride and layer == ("conv2" if has_bottlenecks else "conv1")
    return f"block{block}.branch1.{position}.{_get_conv_kind(is_strided)}"


def _get_conv_kind(is_strided: bool) -> str:
    return "conv_stride2" if is_strided else "conv"


LAYOUT = Layout(
    name="torch7",
    repository="facebookarchive/fb.resnet.torch, and projects that are built on it",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    preprocessing={"imagenet1k": IMAGENET_224_BICUBIC},
)
