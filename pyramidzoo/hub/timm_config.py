"""Make `config.json`, the file of a published repository from which timm builds the network."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.convert.layouts.timm import SHARED_ARCHITECTURES, get_timm_name
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.timm_adapter import NAME_PREFIX, complete_cfg, make_weights_cfg


def find_timm_name(entry: WeightsEntry) -> str | None:
    """Return the name that timm itself has for this network; None if no class of timm can read the published file."""
    if entry.architecture not in SHARED_ARCHITECTURES or entry.arguments:
        return None
    return get_timm_name(entry.architecture)


def make_timm_config(entry: WeightsEntry, model: ImageClassifier, timm_name: str | None) -> dict[str, Any]:
    """Make the content of `config.json`.

    Args:
        entry: The manifest's entry of the weights.
        model: The network with these weights.
        timm_name: The result of `find_timm_name`. If it is None, the file names the network that
            `pyramidzoo.register_with_timm()` registers.

    Returns:
        The fields that timm reads, and the object `pyramidzoo` with fields from the manifest's entry.
    """
    cfg = complete_cfg(make_weights_cfg(get_architecture(entry.architecture), entry), model)
    if timm_name and timm_name.startswith("vgg"):
        # The classifier is called `head.fc` in timm's VGG, and `classifier.6` in ours. timm renames it when it loads a
        # file, and turns the other linear layers into convolutions.
        cfg = dataclasses.replace(cfg, classifier="head.fc")
    pretrained_cfg = {
        name: value for name, value in dataclasses.asdict(cfg).items() if name != "url" and value is not None
    }
    channels = entry.preprocessing.input_size[0]
    arguments = {**entry.arguments, **({"in_chans": channels} if channels != 3 else {})}
    return {
        "architecture": timm_name or NAME_PREFIX + entry.architecture,
        "num_classes": entry.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {**pretrained_cfg, "tag": entry.tag},
        **({"model_args": arguments} if arguments else {}),
        "pyramidzoo": {
            "id": entry.id,
            "architecture": entry.architecture,
            "arguments": dict(entry.arguments),
            "dataset": entry.dataset,
            "preprocessing": dataclasses.asdict(entry.preprocessing),
        },
    }
