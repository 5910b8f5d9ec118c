"""huggingface/pytorch-image-models: torchvision's names, except the head of its VGGs.

* In timm's VGGs the two hidden linear layers are convolutions (7x7 and 1x1) in `pre_logits`: the
  same numbers in another shape.
* The squeeze-and-excitation networks are those of timm's own `ResNet` class (`seresnet50`,
  `senet154`, its gluon weights). `legacy_se*` are other networks, because their first pooling has
  other windows.
* timm's `resnet26` has bottlenecks. It is the zoo's `resnet26_bottleneck`.
* timm's SE networks of basic blocks squeeze to other widths, and are not in the zoo.

Input size, crop and interpolation differ from one timm file to the next, so there is no default
preprocessing.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import Signature
from pyramidzoo.convert.layout import Layout, TensorSource
from pyramidzoo.convert.layouts._shared import PLAIN_OR_WRAPPED, TRAINING_STATE
from pyramidzoo.convert.layouts.torchvision import SHARED_ARCHITECTURES as SHARED_WITH_TORCHVISION

_HEAD = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2", "classifier.6": "head.fc"}

# The networks of the zoo that are timm's.
SHARED_ARCHITECTURES = SHARED_WITH_TORCHVISION | {
    *("resnet26_bottleneck", "resnext101_32x4d"),
    *("seresnet50", "seresnet101", "seresnet152", "senet154"),
    *("seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d"),
}

_OTHER_NAMES = {"resnet26_bottleneck": "resnet26"}


def get_timm_name(architecture: str) -> str:
    """Return timm's name of a network that is one of `SHARED_ARCHITECTURES`."""
    return _OTHER_NAMES.get(architecture, architecture)


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    module, _, value = name.rpartition(".")
    return f"{_HEAD.get(module, module)}.{value}"


def _locate_special_tensor(name: str, part: Signature, architecture: Architecture) -> TensorSource | None:
    if name not in ("classifier.0.weight", "classifier.3.weight"):
        return None
    out, inputs = part.shape
    kernel = architecture.arguments.get("pool", 7) if name == "classifier.0.weight" else 1
    return TensorSource(_get_foreign_name(name, architecture), (out, inputs // kernel**2, kernel, kernel))


LAYOUT = Layout(
    name="timm",
    repository="huggingface/pytorch-image-models",
    supports=lambda row: row.name in SHARED_ARCHITECTURES,
    get_foreign_name=_get_foreign_name,
    locate_special_tensor=_locate_special_tensor,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={},
)
