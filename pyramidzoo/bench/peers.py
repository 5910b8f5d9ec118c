"""The same network in other libraries, with the same tensors; only what computes the same logits is compared with.

Where each tensor lies in theirs is what `pyramidzoo.convert` knows of their checkpoints.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.bench.pytorchcv_names import names_of
from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import signatures_of
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.layouts.timm import timm_name
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.models import uninitialised
from pyramidzoo.models._interface import ImageClassifier

# Rounding in doubles came to 1e-11 at most over all networks (tests/parity.py); another epsilon in a BN is 1e-6.
_DOUBLE = 1e-9


def _of_pytorchcv(row: Architecture, classes: int) -> nn.Module | None:
    provider = importlib.import_module("pytorchcv.model_provider")
    names = names_of(row.name, vars(provider))
    if names:
        found: nn.Module = provider.get_model(names[0], num_classes=classes)
        return found
    return _of_parts(row, classes)


def _of_parts(row: Architecture, classes: int) -> nn.Module | None:
    """What pytorchcv has the class for, but no name."""
    given, models = row.arguments, "pytorchcv.models"
    depth = given.get("depth", 0)

    def stages(units: int, *widths: int) -> list[list[int]]:
        return [[width] * units for width in widths]

    if row.builder == "CifarResNet":
        channels = stages((depth - 2) // 6, 16, 32, 64)
        resnet = importlib.import_module(f"{models}.resnet_cifar").CIFARResNet
        return resnet(channels, 16, bottleneck=False, num_classes=classes)
    if row.builder == "WideResNet":
        channels = stages((depth - 4) // 6, *(width * given["width"] for width in (16, 32, 64)))
        return importlib.import_module(f"{models}.wrn_cifar").CIFARWRN(channels, 16, num_classes=classes)
    if row.builder == "CifarResNeXt":
        channels = stages((depth - 2) // 9, 256, 512, 1024)
        resnext = importlib.import_module(f"{models}.resnext_cifar").CIFARResNeXt
        return resnext(channels, 64, given["cardinality"], given["base_width"], num_classes=classes)
    return None


def _of_timm(row: Architecture, classes: int) -> nn.Module | None:
    timm = importlib.import_module("timm")
    name = timm_name(row.name)
    return timm.create_model(name, num_classes=classes) if timm.is_model(name) else None


def _of_torchvision(row: Architecture, classes: int) -> nn.Module | None:
    models = importlib.import_module("torchvision.models")
    return models.get_model(row.name, num_classes=classes) if row.name in models.list_models() else None


LIBRARIES: dict[str, Callable[[Architecture, int], nn.Module | None]] = {
    "pytorchcv": _of_pytorchcv,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def chosen(names: Sequence[str]) -> dict[str, str]:
    """The libraries to compare with, and their versions: of "auto" those that are installed, of "none" none.

    Raises UsageError for a library that nothing is known of, UnavailableError for one that cannot be imported.
    """
    if list(names) == ["none"]:
        return {}
    if list(names) == ["auto"]:
        return {name: _version(name) for name in LIBRARIES if importlib.util.find_spec(name) is not None}
    for name in names:
        if name not in LIBRARIES:
            raise UsageError(f"no peer is called {name!r}; they are {', '.join(LIBRARIES)}, or auto or none alone")
    return {name: _version(name) for name in dict.fromkeys(names)}


def _version(name: str) -> str:
    try:
        importlib.import_module(name)
        return importlib.metadata.version(name)
    except ImportError as error:  # the lack of metadata is one too
        raise UnavailableError(
            f"{name} cannot be imported ({error}); `pip install {name}`, or leave it out of --peers"
        ) from error


def peer(library: str, row: Architecture, model: ImageClassifier, image: tuple[int, int, int]) -> nn.Module | None:
    """A library's form of a network on the CPU, with copies of its tensors, in float32 and in evaluation mode.

    None where the library has no such network: every tensor must have its place there, and the logits of two images
    (C, H, W) must be equal in doubles. `model` is on the CPU, in evaluation mode, and stays as it is.
    """
    layout = get_layout(library)
    if not layout.supports(row):
        return None
    tensors = model.state_dict()
    moved: dict[Any, Tensor] = {}
    for name, part in signatures_of(tensors).items():
        place, shape, _ = layout.locate(name, part, row)
        moved[place] = tensors[name].reshape(part.shape if shape is None else shape)
    with uninitialised():
        network = LIBRARIES[library](row, model.num_classes)
    # where theirs is folded, a tensor of ours has no place
    if network is None or {name: tensor.shape for name, tensor in network.state_dict().items()} != {
        name: tensor.shape for name, tensor in moved.items()
    }:
        return None
    network.load_state_dict(moved)
    return network.eval() if _equal(network, model, image) else None


def _equal(network: nn.Module, model: nn.Module, image: tuple[int, int, int]) -> bool:
    images = torch.randn(2, *image, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours = copy.deepcopy(model).double()(images)
        try:
            theirs = copy.deepcopy(network).eval().double()(images)
        except RuntimeError:  # its last pooling wants a map of one size
            return False
    same: bool = ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= _DOUBLE * ours.abs().max())
    return same
