"""bearpaw/pytorch-classification: {state_dict, optimizer, ...} saved from a DataParallel wrapper.

Its code of 2017 does not build what its names say. From depth 44 on its ResNets and PreResNets have
bottlenecks, with (depth - 2) / 6 blocks a stage, so that its "ResNet-110" is `resnet164` (1.70M
parameters in its table). Those PreResNets project the raw input, in every stage. ResNeXts come from
prlz77/ResNeXt.pytorch, WRNs from xternalz/WideResNet-pytorch.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._densenet import is_densenet_bc, parse_place
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

_DENSE_TOP = {"features.conv0": "conv1", "features.norm5": "bn", "classifier": "fc"}
_RESNEXT_TOP = {"conv1": "conv_1_3x3", "bn1": "bn_1", "fc": "classifier"}
_RESNEXT_BLOCK = {
    "conv1": "conv_reduce",
    "bn1": "bn_reduce",
    "conv2": "conv_conv",
    "bn2": "bn",
    "conv3": "conv_expand",
    "bn3": "bn_expand",
    "downsample.0": "shortcut.shortcut_conv",
    "downsample.1": "shortcut.shortcut_bn",
}


def _supports(row: Architecture) -> bool:
    given = row.arguments
    projects_raw_input = given.get("shared_stages") == (False, False, False) and "first_width" not in given
    return {
        "CifarVgg": row.name == "vgg19_bn_bearpaw",
        "CifarResNet": given.get("shortcut") == "B",
        "CifarBottleneckResNet": True,
        "CifarPreResNet": projects_raw_input,
        "CifarBottleneckPreResNet": projects_raw_input and given.get("stride_in") == "3x3",
        "WideResNet": True,
        "CifarResNeXt": True,
        "CifarDenseNet": is_densenet_bc(row),
    }.get(row.class_name, False)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_module(module, architecture)}.{value}"


def _module(module: str, row: Architecture) -> str:
    if row.family == "vgg":
        return "classifier" if module == "fc" else module
    if row.family == "densenet":
        return _of_densenet(module)
    if not module.startswith("layer"):
        if row.family == "resnext":
            return _RESNEXT_TOP[module]
        norm = {"wide_resnet": "bn1", "preresnet": "bn"}.get(row.family)
        return norm if norm and module == "norm" else module
    stage, block, part = module.split(".", 2)
    if row.family == "resnext":
        return f"stage_{stage[5:]}.stage_{stage[5:]}_bottleneck_{block}.{_RESNEXT_BLOCK[part]}"
    if row.family == "wide_resnet":
        return f"block{stage[5:]}.layer.{block}.{'convShortcut' if part == 'downsample' else part}"
    if row.family == "preresnet" and part == "downsample":
        return f"{module}.0"
    return module


def _of_densenet(module: str) -> str:
    if module in _DENSE_TOP:
        return _DENSE_TOP[module]
    place = parse_place(module)
    assert place is not None, module
    where = f"trans{place.block}" if place.layer is None else f"dense{place.block}.{place.layer - 1}"
    return f"{where}.{place.part}{place.number}"


LAYOUT = Layout(
    name="bearpaw",
    repository="bearpaw/pytorch-classification",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    state_dict_prefixes=("state_dict.module.",),
    ignored_prefixes=("optimizer.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
