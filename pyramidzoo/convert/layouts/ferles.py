"""AlexandrosFerles' reproduction of zero-shot knowledge transfer: WRN state dicts trained from scratch."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import CIFAR10_CONSTANTS

_STAGES = {"layer1": "block1", "layer2": "block2", "layer3": "block3"}
_PARTS = {
    "bn1": "batch_norm1",
    "conv1": "conv1",
    "bn2": "batch_norm2",
    "conv2": "conv2",
    "downsample": "conv_inp",
}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    top, _, rest = name.partition(".")
    if top in _STAGES:
        block, part, value = rest.split(".")
        return f"{_STAGES[top]}.nblockLayer.{block}.{_PARTS[part]}.{value}"
    return f"batch_norm.{rest}" if top == "norm" else name


LAYOUT = Layout(
    name="ferles",
    repository="AlexandrosFerles/NIPS_2019_Reproducibilty_Challenge_Zero-shot_Knowledge_Transfer_via_Adversarial_Belief_Matching",
    supports=lambda row: row.class_name == "WideResNet",
    get_foreign_name=_get_foreign_name,
    preprocessing={"cifar10": CIFAR10_CONSTANTS},
)
