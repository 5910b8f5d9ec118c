"""AlexandrosFerles' reproduction of zero-shot knowledge transfer: WRNs that were trained from scratch.

A file holds a state dict alone.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

# The foreign names of modules, by their names in the zoo.
_STAGES = {"layer1": "block1", "layer2": "block2", "layer3": "block3"}
_LAYERS = {
    "bn1": "batch_norm1",
    "conv1": "conv1",
    "bn2": "batch_norm2",
    "conv2": "conv2",
    "downsample": "conv_inp",
}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    first_part, _, rest = name.partition(".")
    if first_part in _STAGES:
        block, layer, tensor_name = rest.split(".")
        return f"{_STAGES[first_part]}.nblockLayer.{block}.{_LAYERS[layer]}.{tensor_name}"
    return f"batch_norm.{rest}" if first_part == "norm" else name


LAYOUT = Layout(
    name="ferles",
    repository="AlexandrosFerles/NIPS_2019_Reproducibilty_Challenge_Zero-shot_Knowledge_Transfer_via_Adversarial_Belief_Matching",
    supports=lambda architecture: architecture.class_name == "WideResNet",
    get_foreign_name=_get_foreign_name,
    preprocessing={"cifar10": CIFAR10_CONSTANTS},
)
