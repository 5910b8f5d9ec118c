"""szagoruyko/functional-zoo: WRN-50-2 as a dictionary of tensors, exported from the Torch7 file of the WRN authors.

BN is folded into the convolutions (`_folded.py` says what that means). The stride of a block is in
its 3x3 convolution.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert.layout import Layout, TensorSource
from pyramidzoo.convert.layouts import _folded
from pyramidzoo.convert.layouts._shared import IMAGENET_224_BICUBIC

# The foreign names of a block's convolutions, by their names in the zoo.
_CONVOLUTIONS = {"conv1": "conv0", "conv2": "conv1", "conv3": "conv2", "downsample.0": "conv_dim"}


def _get_foreign_module(module: str) -> str:
    """Return the foreign name of a convolution or the head."""
    if not module.startswith("layer"):
        return "conv0" if module == "conv1" else module
    stage, block, convolution = module.split(".", 2)
    group = int(stage.removeprefix("layer")) - 1  # The project counts stages from 0.
    return f"group{group}.block{block}.{_CONVOLUTIONS[convolution]}"


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    # A BN was folded into its convolution, so the BN's values are under the convolution's name.
    folded_module = _folded.find_convolution(module) if _folded.is_norm(module) else module
    return f"{_get_foreign_module(folded_module)}.{tensor_name}"


def _locate_special_tensor(name: str, signature: Signature, architecture: Architecture) -> TensorSource | None:
    """Return the source of a BN's tensor; None for a tensor of another layer.

    The file has no BN any more. The shift of a folded BN is the bias of its convolution, and the other tensors of the
    BN get constant values, so that the BN only adds the shift.
    """
    module, _, tensor_name = name.rpartition(".")
    if not _folded.is_norm(module):
        return None
    return _folded.locate_norm_tensor(tensor_name, _get_foreign_name(f"{module}.bias", architecture))


LAYOUT = Layout(
    name="functional_zoo",
    repository="szagoruyko/functional-zoo",
    supports=lambda architecture: (
        architecture.class_name == "ImageWideResNet" and architecture.arguments["depth"] == 50
    ),
    get_foreign_name=_get_foreign_name,
    locate_special_tensor=_locate_special_tensor,
    make_remark=_folded.make_remark,
    preprocessing={"imagenet1k": IMAGENET_224_BICUBIC},  # as the Torch7 network that it was exported from
)
