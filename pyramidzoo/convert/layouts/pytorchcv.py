"""osmr/imgclsmob (pytorchcv): zip archives that hold a state dict.

pytorchcv calls a block "unit". A convolution or BN of a block is named
`features.stage1.unit1.body.conv1.conv` or `features.stage1.unit1.body.conv1.bn`, and the head is
named `output`.

* A BN and the convolution next to it are in one module with the convolution's name. In
  post-activation networks the BN comes after the convolution, and in pre-activation networks before
  it.
* The last BN of a block in a PyramidNet is directly in the block.
* In DenseNets without bottlenecks the only convolution of a layer is named `conv`.
* In `wrn50_2` BN is folded into the convolutions (`_folded.py` says what that means).

Some names of pytorchcv's networks, each followed by the zoo's name of the same network:

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
from pyramidzoo.convert.layouts._densenet import parse_place
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS, IMAGENET_224, PLAIN_OR_WRAPPED, TRAINING_STATE
from pyramidzoo.models.vgg import CONVOLUTIONS_PER_STAGE as VGG_STAGES

# The foreign names of the stem's convolution and BN, behind "features.".
_STEM_IN_BLOCK = ("init_block.conv", "init_block.bn")
_STEM_WITH_POOL = ("init_block.conv.conv", "init_block.conv.bn")
_STEM_WITHOUT_NORM = ("init_block", "")

# The names of the stem, by the class of the zoo's network.
_STEMS = {
    "CifarResNet": _STEM_IN_BLOCK,
    "CifarBottleneckResNet": _STEM_IN_BLOCK,
    "ImageResNet": _STEM_WITH_POOL,
    "CifarPreResNet": _STEM_WITHOUT_NORM,
    "CifarBottleneckPreResNet": _STEM_WITHOUT_NORM,
    "ImagePreResNet": _STEM_IN_BLOCK,
    "WideResNet": _STEM_WITHOUT_NORM,
    "ImageWideResNet": _STEM_WITH_POOL,
    "CifarPyramidNet": _STEM_IN_BLOCK,
    "ImagePyramidNet": _STEM_IN_BLOCK,
    "CifarResNeXt": _STEM_IN_BLOCK,
    "ImageResNeXt": _STEM_WITH_POOL,
    "CifarShakeShake": _STEM_IN_BLOCK,
    "CifarSEResNet": _STEM_IN_BLOCK,
    "CifarSEPreResNet": _STEM_IN_BLOCK,
    "ImageSEResNet": _STEM_WITH_POOL,
    "ImageSEPreResNet": _STEM_IN_BLOCK,
    "CifarDenseNet": _STEM_WITHOUT_NORM,
    "ImageDenseNet": _STEM_IN_BLOCK,
}
# The foreign names of modules, by their names in the zoo. For modules in a block both names are those
# inside the block.
_SENET_STEM_AND_HEAD = {
    "conv1.0": "features.init_block.conv1.conv",
    "conv1.1": "features.init_block.conv1.bn",
    "conv1.3": "features.init_block.conv2.conv",
    "conv1.4": "features.init_block.conv2.bn",
    "conv1.6": "features.init_block.conv3.conv",
    "bn1": "features.init_block.conv3.bn",
    "fc": "output.fc",
}
_VGG_HEAD = {"classifier.0": "output.fc1.fc", "classifier.3": "output.fc2.fc", "classifier.6": "output.fc3"}
_SHORTCUT_AND_SE_MODULES = {
    "downsample": "identity_conv",
    "downsample.0": "identity_conv.conv",
    "downsample.1": "identity_conv.bn",
    "se.fc1": "se.conv1",
    "se.fc2": "se.conv2",
    "shortcut.conv1": "identity_branch.conv1",
    "shortcut.conv2": "identity_branch.conv2",
    "shortcut.bn": "identity_branch.bn",
}
# For example "conv1", and "branch2.bn1" in a block of shake-shake.
_BRANCH_MODULE = re.compile(r"(?:(branch\d)\.)?(conv|bn)(\d)")


def _supports(architecture: Architecture) -> bool:
    """Return whether pytorchcv has an architecture. It has all networks of the classes that are not listed here."""
    arguments = architecture.arguments
    return {
        "CifarResNet": arguments.get("shortcut") == "B",
        "CifarPreResNet": (
            set(arguments) == {"depth", "shared_stages"} and arguments["shared_stages"] == (False, True, True)
        ),
        "CifarBottleneckPreResNet": set(arguments) == {"depth", "stride_in"},
        "ImagePreResNet": arguments.get("first_bn", True),
        "ImageWideResNet": arguments.get("depth") == 50,
        "CifarPyramidNet": not arguments.get("multiplicative") and arguments.get("stem_channels", 16) == 16,
        "CifarDenseNet": arguments.get("compression") == 0.5,
        "CifarShakeShake": arguments.get("variant") == "pytorchcv",
        "CifarVgg": False,
        "ImageVgg": arguments.get("pool", 7) == 7,
    }.get(architecture.class_name, True)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    if architecture.class_name == "ImageVgg":
        return f"{_get_foreign_vgg_module(module, architecture)}.{tensor_name}"
    if architecture.class_name.endswith("DenseNet"):
        return f"{_get_foreign_densenet_module(module, architecture)}.{tensor_name}"
    return f"{_get_foreign_residual_module(module, architecture)}.{tensor_name}"


def _get_foreign_residual_module(module: str, architecture: Architecture) -> str:
    """Return the foreign name of a module of a residual network, from its name in the zoo."""
    if architecture.class_name == "SENet" and module in _SENET_STEM_AND_HEAD:
        return _SENET_STEM_AND_HEAD[module]
    if not module.startswith("layer"):
        stem_conv, stem_norm = _STEMS.get(architecture.class_name, _STEM_WITHOUT_NORM)
        features = {"conv1": stem_conv, "bn1": stem_norm, "norm": "post_activ.bn"}
        return f"features.{features[module]}" if module in features else "output"
    stage_name, block, module_in_block = module.split(".", 2)  # as "layer1", "0" and "conv1", or "downsample.0"
    stage = stage_name.removeprefix("layer")
    foreign_module_in_block = _SHORTCUT_AND_SE_MODULES.get(module_in_block)
    if foreign_module_in_block is None:
        foreign_module_in_block = _get_foreign_branch_module(module_in_block, architecture)
    return f"features.stage{stage}.unit{int(block) + 1}.{foreign_module_in_block}"


def _get_foreign_branch_module(module_in_block: str, architecture: Architecture) -> str:
    """Return the foreign name of a convolution or BN of a residual branch. Both names are those inside the block.

    For example it returns `body.conv2.conv` for `conv2`, and `branch1.conv2.bn` for `branch1.bn2`.
    """
    match = _BRANCH_MODULE.fullmatch(module_in_block)
    assert match is not None, module_in_block
    branch, kind, number = match.groups()
    if architecture.family == "pyramidnet" and module_in_block == _get_last_norm_of_pyramidnet_block(architecture):
        return "bn"
    return f"{branch or 'body'}.conv{number}.{kind}"


def _get_last_norm_of_pyramidnet_block(architecture: Architecture) -> str:
    """Return the name of the last BN in a block. A block has one BN more than convolutions."""
    has_bottlenecks = architecture.class_name == "ImagePyramidNet" or architecture.arguments.get("bottleneck")
    return "bn4" if has_bottlenecks else "bn3"


def _get_foreign_densenet_module(module: str, architecture: Architecture) -> str:
    """Return the foreign name of a module of a DenseNet, from its name in the zoo."""
    stem_conv, stem_norm = _STEMS[architecture.class_name]
    features = {"features.conv0": stem_conv, "features.norm0": stem_norm, "features.norm5": "post_activ.bn"}
    if module in features:
        return f"features.{features[module]}"
    place = parse_place(module)
    if place is None:
        return "output"
    if place.layer is None:
        stage = place.block + 1  # In pytorchcv a transition belongs to the stage after it.
        return f"features.stage{stage}.trans{stage}.conv.{place.kind}"
    has_one_convolution = architecture.class_name == "CifarDenseNet" and not architecture.arguments.get("bottleneck")
    convolution = "conv" if has_one_convolution else f"conv{place.number}"
    return f"features.stage{place.block}.unit{place.layer}.{convolution}.{place.kind}"


def _get_foreign_vgg_module(module: str, architecture: Architecture) -> str:
    """Return the foreign name of a module of a VGG, from its name in the zoo.

    In the zoo the convolutions, BNs, ReLUs and poolings of all stages are in one sequence
    `features`, and a module's name is its index there. A stage has three modules for each
    convolution, and one pooling at its end.
    """
    if module in _VGG_HEAD:
        return _VGG_HEAD[module]
    index_in_stage = int(module.removeprefix("features."))
    for stage, convolution_count in enumerate(VGG_STAGES[architecture.arguments["depth"]], start=1):
        if index_in_stage < 3 * convolution_count:
            unit, position = divmod(index_in_stage, 3)
            return f"features.stage{stage}.unit{unit + 1}.{('conv', 'bn')[position]}"
        index_in_stage -= 3 * convolution_count + 1  # Now it is the index in the next stage.
    raise AssertionError(module)


def _has_folded_norms(architecture: Architecture) -> bool:
    return architecture.class_name == "ImageWideResNet"


def _locate_special_tensor(name: str, signature: Signature, architecture: Architecture) -> TensorSource | None:
    """Return the source of a BN's tensor in a network whose BN is folded; None for any other tensor.

    The shift of a folded BN is the bias of its convolution, and the other tensors of the BN get constant values, so
    that the BN only adds the shift.
    """
    module, _, tensor_name = name.rpartition(".")
    if not _has_folded_norms(architecture) or not _folded.is_norm(module):
        return None
    convolution = _get_foreign_residual_module(_folded.find_convolution(module), architecture)
    return _folded.locate_norm_tensor(tensor_name, f"{convolution}.bias")


def _make_remark(architecture: Architecture) -> str | None:
    return _folded.make_remark(architecture) if _has_folded_norms(architecture) else None


LAYOUT = Layout(
    name="pytorchcv",
    repository="osmr/imgclsmob (pytorchcv)",
    supports=_supports,
    get_foreign_name=_get_foreign_name,
    locate_special_tensor=_locate_special_tensor,
    make_remark=_make_remark,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    # The project's training code normalizes the images of CIFAR-100 and SVHN with CIFAR-10's constants too.
    preprocessing={
        "cifar10": CIFAR10_CONSTANTS,
        "cifar100": CIFAR10_CONSTANTS,
        "svhn": CIFAR10_CONSTANTS,
        "imagenet1k": IMAGENET_224,
    },
)
