"""huggingface/pytorch-image-models (timm): the names of torchvision, except in the head of VGGs.

* In timm's VGGs the two hidden linear layers are convolutions (7x7 and 1x1) in a module
  `pre_logits`. Their weights have the same values in another shape.
* The squeeze-and-excitation networks are those of timm's class `ResNet`, as `seresnet50` and
  `senet154`. The networks `legacy_se*` of timm are not in the zoo, because the windows of their
  first pooling are placed differently.
* timm's `resnet26` has bottleneck blocks. It is the zoo's `resnet26_bottleneck`.
* timm's SE networks with basic blocks are not in the zoo, because their SE modules have other
  widths.

The files of timm differ in input size, crop and interpolation, so there is no default
preprocessing.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert.layout import Layout, TensorSource
from pyramidzoo.convert.layouts._shared import PLAIN_OR_WRAPPED, TRAINING_STATE
from pyramidzoo.convert.layouts.torchvision import SHARED_ARCHITECTURES as SHARED_WITH_TORCHVISION

# The foreign names of the modules in a VGG's head, by their names in the zoo.
_VGG_HEAD = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}

# The zoo's names of the architectures that timm has too.
SHARED_ARCHITECTURES = SHARED_WITH_TORCHVISION | {
    *("resnet26_bottleneck", "resnext101_32x4d"),
    *("seresnet50", "seresnet101", "seresnet152", "senet154"),
    *("seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d"),
}

_DIFFERENT_NAMES = {"resnet26_bottleneck": "resnet26"}


def get_timm_name(architecture: str) -> str:
    """Return timm's name of an architecture. `architecture` is the zoo's name, one of `SHARED_ARCHITECTURES`."""
    return _DIFFERENT_NAMES.get(architecture, architecture)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, tensor_name = name.rpartition(".")
    return f"{_VGG_HEAD.get(module, module)}.{tensor_name}"


def _locate_special_tensor(name: str, signature: Signature, architecture: Architecture) -> TensorSource | None:
    """Return the source of the weight of a VGG's hidden linear layer, which is a convolution's weight in timm.

    The first linear layer reads the whole feature map, so its convolution has a kernel of the map's
    size. The second one has a kernel of 1x1.
    """
    if name not in ("classifier.0.weight", "classifier.3.weight"):
        return None
    outputs, inputs = signature.shape
    kernel = architecture.arguments.get("pool", 7) if name == "classifier.0.weight" else 1
    convolution_shape = (outputs, inputs // kernel**2, kernel, kernel)
    return TensorSource(_get_foreign_name(name, architecture), convolution_shape)


LAYOUT = Layout(
    name="timm",
    repository="huggingface/pytorch-image-models",
    supports=lambda architecture: architecture.name in SHARED_ARCHITECTURES,
    get_foreign_name=_get_foreign_name,
    locate_special_tensor=_locate_special_tensor,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={},
)
