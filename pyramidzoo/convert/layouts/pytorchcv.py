"""pytorchcv (osmr/imgclsmob): zips around state dicts, `features.stageN.unitM.body.convK.conv|bn` and `output`.

* A BN comes after its convolution in post-activation networks, and before it in pre-activation
  networks. In both it is in a module with the convolution's name.
* The last BN of a PyramidNet's block is directly in the block.
* DenseNets without bottlenecks call the only convolution of a layer `conv`.
* `wrn50_2` has its BN folded into its convolutions, see `_folded.py`.

pytorchcv calls a block "unit". Some of its names, each with the zoo's name of the same network:

    resnet20_cifar10        resnet20_b             densenet40_k12_cifar10  densenet_c_40_k12
    resnet164bn_cifar10     resnet164              wrn28_10_cifar10        wrn_28_10
    resnet50                resnet50_s1            preresnet20_cifar10     preresnet20_rawid
    resnet50b               resnet50               preresnet164bn_cifar10  preresnet164_s3
    resnetbc26b             resnet26_bottleneck    bn_vgg16                vgg16_bn_nobias
    wrn50_2                 wide_resnet50_2        bn_vgg16b               vgg16_bn
"""

from __future__ import annotations

import re

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert.layout import Layout, TensorSource
from pyramidzoo.convert.layouts import _folded
from pyramidzoo.convert.layouts._densenet import place_of
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS, IMAGENET_224, PLAIN_OR_WRAPPED, TRAINING_STATE
from pyramidzoo.models.vgg import CONVOLUTIONS_PER_STAGE as VGG_STAGES

_BLOCK = ("init_block.conv", "init_block.bn")
_BLOCK_AND_POOL = ("init_block.conv.conv", "init_block.conv.bn")
_BARE = ("init_block", "")

# The names of the stem's convolution and BN, by the zoo's class.
_STEMS = {
    "CifarResNet": _BLOCK,
    "CifarBottleneckResNet": _BLOCK,
    "ImageResNet": _BLOCK_AND_POOL,
    "CifarPreResNet": _BARE,
    "CifarBottleneckPreResNet": _BARE,
    "ImagePreResNet": _BLOCK,
    "WideResNet": _BARE,
    "ImageWideResNet": _BLOCK_AND_POOL,
    "CifarPyramidNet": _BLOCK,
    "ImagePyramidNet": _BLOCK,
    "CifarResNeXt": _BLOCK,
    "ImageResNeXt": _BLOCK_AND_POOL,
    "CifarShakeShake": _BLOCK,
    "CifarSEResNet": _BLOCK,
    "CifarSEPreResNet": _BLOCK,
    "ImageSEResNet": _BLOCK_AND_POOL,
    "ImageSEPreResNet": _BLOCK,
    "CifarDenseNet": _BARE,
    "ImageDenseNet": _BLOCK,
}
_SENET = {
    "conv1.0": "features.init_block.conv1.conv",
    "conv1.1": "features.init_block.conv1.bn",
    "conv1.3": "features.init_block.conv2.conv",
    "conv1.4": "features.init_block.conv2.bn",
    "conv1.6": "features.init_block.conv3.conv",
    "bn1": "features.init_block.conv3.bn",
    "fc": "output.fc",
}
_VGG_HEAD = {"classifier.0": "output.fc1.fc", "classifier.3": "output.fc2.fc", "classifier.6": "output.fc3"}
_IN_BLOCK_MODULE = {
    "downsample": "identity_conv",
    "downsample.0": "identity_conv.conv",
    "downsample.1": "identity_conv.bn",
    "se.fc1": "se.conv1",
    "se.fc2": "se.conv2",
    "shortcut.conv1": "identity_branch.conv1",
    "shortcut.conv2": "identity_branch.conv2",
    "shortcut.bn": "identity_branch.bn",
}
_BRANCH_MODULE = re.compile(r"(?:(branch\d)\.)?(conv|bn)(\d)")


def _supports(row: Architecture) -> bool:
    given = row.arguments
    return {
        "CifarResNet": given.get("shortcut") == "B",
        "CifarPreResNet": dict(given) == {"depth": given.get("depth"), "shared_stages": (False, True, True)},
        "CifarBottleneckPreResNet": set(given) == {"depth", "stride_in"},
        "ImagePreResNet": given.get("first_bn", True),
        "ImageWideResNet": given.get("depth") == 50,
        "CifarPyramidNet": not given.get("multiplicative") and given.get("stem_channels", 16) == 16,
        "CifarDenseNet": given.get("compression") == 0.5,
        "CifarShakeShake": given.get("variant") == "pytorchcv",
        "CifarVgg": False,
        "ImageVgg": given.get("pool", 7) == 7,
    }.get(row.class_name, True)


def _foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    if architecture.class_name == "ImageVgg":
        return f"{_of_vgg(module, architecture)}.{value}"
    if architecture.class_name.endswith("DenseNet"):
        return f"{_of_densenet(module, architecture)}.{value}"
    return f"{_of_residual_network(module, architecture)}.{value}"


def _of_residual_network(module: str, row: Architecture) -> str:
    if row.class_name == "SENet" and module in _SENET:
        return _SENET[module]
    if not module.startswith("layer"):
        stem = _STEMS.get(row.class_name, _BARE)
        top = {"conv1": stem[0], "bn1": stem[1], "norm": "post_activ.bn"}
        return f"features.{top[module]}" if module in top else "output"
    stage, block, part = module.split(".", 2)
    return f"features.stage{stage[5:]}.unit{int(block) + 1}.{_IN_BLOCK_MODULE.get(part) or _of_block(part, row)}"


def _of_block(part: str, row: Architecture) -> str:
    """A convolution or BN of a residual branch: `conv2` -> `body.conv2.conv`, `branch1.bn2` -> `branch1.conv2.bn`."""
    match = _BRANCH_MODULE.fullmatch(part)
    assert match is not None, part
    branch, kind, number = match.groups()
    if row.family == "pyramidnet" and part == _last_norm(row):
        return "bn"
    return f"{branch or 'body'}.conv{number}.{kind}"


def _last_norm(row: Architecture) -> str:
    return "bn4" if row.class_name == "ImagePyramidNet" or row.arguments.get("bottleneck") else "bn3"


def _of_densenet(module: str, row: Architecture) -> str:
    stem = _STEMS[row.class_name]
    top = {"features.conv0": stem[0], "features.norm0": stem[1], "features.norm5": "post_activ.bn"}
    if module in top:
        return f"features.{top[module]}"
    place = place_of(module)
    if place is None:
        return "output"
    if place.layer is None:
        stage = place.block + 1  # In pytorchcv a transition belongs to the stage after it.
        return f"features.stage{stage}.trans{stage}.conv.{place.part}"
    plain = row.class_name == "CifarDenseNet" and not row.arguments.get("bottleneck")
    return f"features.stage{place.block}.unit{place.layer}.conv{'' if plain else place.number}.{place.part}"


def _of_vgg(module: str, row: Architecture) -> str:
    if module in _VGG_HEAD:
        return _VGG_HEAD[module]
    index = int(module.removeprefix("features."))
    for stage, count in enumerate(VGG_STAGES[row.arguments["depth"]], start=1):
        if index < 3 * count:
            return f"features.stage{stage}.unit{index // 3 + 1}.{('conv', 'bn')[index % 3]}"
        index -= 3 * count + 1  # A convolution, BN and ReLU for each layer, and the stage's pooling.
    raise AssertionError(module)


def _is_folded(row: Architecture) -> bool:
    return row.class_name == "ImageWideResNet"


def _source(name: str, part: Signature, architecture: Architecture) -> TensorSource | None:
    module, _, value = name.rpartition(".")
    if not _is_folded(architecture) or not _folded.is_norm(module):
        return None
    convolution = _of_residual_network(_folded.convolution_of(module), architecture)
    return _folded.norm_source(value, f"{convolution}.bias")


LAYOUT = Layout(
    name="pytorchcv",
    repository="osmr/imgclsmob (pytorchcv)",
    supports=_supports,
    foreign_name=_foreign_name,
    source=_source,
    remark=lambda row: _folded.remark(row) if _is_folded(row) else None,
    containers=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    # Its training code has one set of constants for all CIFAR-like datasets.
    preprocessing={
        "cifar10": CIFAR10_CONSTANTS,
        "cifar100": CIFAR10_CONSTANTS,
        "svhn": CIFAR10_CONSTANTS,
        "imagenet1k": IMAGENET_224,
    },
)
