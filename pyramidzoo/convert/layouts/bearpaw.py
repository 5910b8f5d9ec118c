"""bearpaw/pytorch-classification: a dictionary {state_dict, optimizer, ...}, saved from a DataParallel wrapper.

Some networks that its code of 2017 builds are not those that their names say. From depth 44 on, its
ResNets and PreResNets have bottleneck blocks, and (depth - 2) / 6 of them in each stage. Therefore
its "ResNet-110" is the zoo's `resnet164`, which has the 1.70M parameters of the project's table. In
each stage of those PreResNets the first shortcut is a convolution of the block's input before BN
and ReLU. The code of ResNeXts comes from prlz77/ResNeXt.pytorch, and that of WRNs from
xternalz/WideResNet-pytorch.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._densenet import is_densenet_bc, parse_place
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

# The foreign names of modules, by their names in the zoo.
_DENSENET_STEM_AND_HEAD = {"features.conv0": "conv1", "features.norm5": "bn", "classifier": "fc"}
_RESNEXT_STEM_AND_HEAD = {"conv1": "conv_1_3x3", "bn1": "bn_1", "fc": "classifier"}
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


def _supports(architecture: Architecture) -> bool:
    arguments = architecture.arguments
    # In a shared stage the first shortcut reads the input after BN and ReLU, and in the others before them.
    projects_raw_input = arguments.get("shared_stages") == (False, False, False) and "first_width" not in arguments
    return {
        "CifarVgg": architecture.name == "vgg19_bn_bearpaw",
        "CifarResNet": arguments.get("shortcut") == "B",
        "CifarBottleneckResNet": True,
        "CifarPreResNet": projects_raw_input,
        "CifarBottleneckPreResNet": projects_raw_input and arguments.get("stride_in") == "3x3",
        "WideResNet": True,
        "CifarResNeXt": True,
        "CifarDenseNet": is_densenet_bc(architecture),
    }.get(architecture.class_name, False)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    return f"{_get_foreign_module(module, architecture)}.{tensor_name}"


def _get_foreign_module(module: str, architecture: Architecture) -> str:
    """Return the foreign name of a module, as a convolution, from its name in the zoo."""
    family = architecture.family
    if family == "vgg":
        return "classifier" if module == "fc" else module
    if family == "densenet":
        return _get_foreign_densenet_module(module)
    if not module.startswith("layer"):
        if family == "resnext":
            return _RESNEXT_STEM_AND_HEAD[module]
        last_norm = {"wide_resnet": "bn1", "preresnet": "bn"}.get(family)
        return last_norm if last_norm and module == "norm" else module
    stage_name, block, layer = module.split(".", 2)  # as "layer1", "0" and "conv1", or "downsample.0"
    stage = stage_name.removeprefix("layer")
    if family == "resnext":
        return f"stage_{stage}.stage_{stage}_bottleneck_{block}.{_RESNEXT_BLOCK[layer]}"
    if family == "wide_resnet":
        return f"block{stage}.layer.{block}.{'convShortcut' if layer == 'downsample' else layer}"
    if family == "preresnet" and layer == "downsample":
        return f"{module}.0"
    return module


def _get_foreign_densenet_module(module: str) -> str:
    if module in _DENSENET_STEM_AND_HEAD:
        return _DENSENET_STEM_AND_HEAD[module]
    place = parse_place(module)
    assert place is not None, module
    parent = f"trans{place.block}" if place.layer is None else f"dense{place.block}.{place.layer - 1}"
    return f"{parent}.{place.kind}{place.number}"


LAYOUT = Layout(
    name="bearpaw",
    repository="bearpaw/pytorch-classification",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    state_dict_prefixes=("state_dict.module.",),
    ignored_prefixes=("optimizer.",),
    preprocessing={"cifar10": CIFAR10_CONSTANTS, "cifar100": CIFAR10_CONSTANTS},
)
