"""bearpaw/pytorch-classification: {state_dict, optimizer, ...} saved from a DataParallel wrapper.

What its code of 2017 builds is not what its names say: from depth 44 on its ResNets and PreResNets are bottlenecks with
(depth - 2) / 6 units a stage, so that its "ResNet-110" is `resnet164` (1.70M parameters in its table). Those PreResNets
project the raw input, in every stage. ResNeXts come from prlz77/ResNeXt.pytorch, WRNs from xternalz/WideResNet-pytorch.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert._layout import CIFAR10_CONSTANTS, Layout
from pyramidzoo.convert.layouts._densenet import is_densenet_bc, place_of

_DENSE_TOP = {"features.conv0": "conv1", "features.norm5": "bn", "classifier": "fc"}
_NEXT_TOP = {"conv1": "conv_1_3x3", "bn1": "bn_1", "fc": "classifier"}
_NEXT_UNIT = {
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
    raw = given.get("shared_stages") == (False, False, False) and "first_width" not in given
    return {
        "CifarVgg": row.name == "vgg19_bn_bearpaw",
        "CifarResNet": given.get("shortcut") == "B",
        "CifarBottleneckResNet": True,
        "CifarPreResNet": raw,
        "CifarBottleneckPreResNet": raw and given.get("stride_in") == "3x3",
        "WideResNet": True,
        "CifarResNeXt": True,
        "CifarDenseNet": is_densenet_bc(row),
    }.get(row.class_name, False)


def _foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_module(module, architecture)}.{value}"


def _module(module: str, row: Architecture) -> str:
    if row.family == "vgg":
        return "classifier" if module == "fc" else module
    if row.family == "densenet":
        return _of_densenet(module)
    if not module.startswith("layer"):
        if row.family == "resnext":
            return _NEXT_TOP[module]
        norm = {"wide_resnet": "bn1", "preresnet": "bn"}.get(row.family)
        return norm if norm and module == "norm" else module
    stage, unit, part = module.split(".", 2)
    if row.family == "resnext":
        return f"stage_{stage[5:]}.stage_{stage[5:]}_bottleneck_{unit}.{_NEXT_UNIT[part]}"
    if row.family == "wide_resnet":
        return f"block{stage[5:]}.layer.{unit}.{'convShortcut' if part == 'downsample' else part}"
    if row.family == "preresnet" and part == "downsample":
        return f"{module}.0"
    return module


def _of_densenet(module: str) -> str:
    if module in _DENSE_TOP:
        return _DENSE_TOP[module]
    place = place_of(module)
    assert place is not None, module
    where = f"trans{place.block}" if place.layer is None else f"dense{place.block}.{place.layer - 1}"
    return f"{where}.{place.part}{place.number}"


LAYOUT = Layout(
    name="bearpaw",
    repository="bearpaw/pytorch-classification",
    supports=_supports,
    foreign_name=_foreign_name,
    containers=("state_dict.module.",),
    beside=("optimizer.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
