"""The same network in other libraries, with the same tensors. Only a network with the same logits is a peer.

Where each of our tensors lies in theirs is what `pyramidzoo.convert` knows about the checkpoints of these libraries.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.bench.pytorchcv_names import find_names
from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import get_signatures
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.layouts.timm import get_timm_name
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.models import skip_initialisation
from pyramidzoo.models._interface import ImageClassifier

# A share of the largest logit in float64. Rounding made at most 1e-11 in all networks (tests/parity.py); another
# epsilon in one BN makes 1e-6.
_TOLERANCE_FP64 = 1e-9


def _build_pytorchcv(row: Architecture, classes: int) -> nn.Module | None:
    provider = importlib.import_module("pytorchcv.model_provider")
    names = find_names(row.name, vars(provider))
    if names:
        network: nn.Module = provider.get_model(names[0], num_classes=classes)
        return network
    return _build_pytorchcv_class(row, classes)


def _build_pytorchcv_class(row: Architecture, classes: int) -> nn.Module | None:
    """Build a network for which pytorchcv has the class, but no name."""
    arguments, package = row.arguments, "pytorchcv.models"
    depth = arguments.get("depth", 0)

    def stages(blocks: int, *widths: int) -> list[list[int]]:
        return [[width] * blocks for width in widths]

    if row.class_name == "CifarResNet":
        channels = stages((depth - 2) // 6, 16, 32, 64)
        resnet = importlib.import_module(f"{package}.resnet_cifar").CIFARResNet
        return resnet(channels, 16, bottleneck=False, num_classes=classes)
    if row.class_name == "WideResNet":
        channels = stages((depth - 4) // 6, *(width * arguments["width"] for width in (16, 32, 64)))
        return importlib.import_module(f"{package}.wrn_cifar").CIFARWRN(channels, 16, num_classes=classes)
    if row.class_name == "CifarResNeXt":
        channels = stages((depth - 2) // 9, 256, 512, 1024)
        resnext = importlib.import_module(f"{package}.resnext_cifar").CIFARResNeXt
        return resnext(channels, 64, arguments["cardinality"], arguments["base_width"], num_classes=classes)
    return None


def _build_timm(row: Architecture, classes: int) -> nn.Module | None:
    timm = importlib.import_module("timm")
    name = get_timm_name(row.name)
    return timm.create_model(name, num_classes=classes) if timm.is_model(name) else None


def _build_torchvision(row: Architecture, classes: int) -> nn.Module | None:
    models = importlib.import_module("torchvision.models")
    return models.get_model(row.name, num_classes=classes) if row.name in models.list_models() else None


# For each library, what builds its network of that name, with so many classes; None where it has none.
LIBRARIES: dict[str, Callable[[Architecture, int], nn.Module | None]] = {
    "pytorchcv": _build_pytorchcv,
    "timm": _build_timm,
    "torchvision": _build_torchvision,
}


def split_peer(name: str) -> tuple[str, list[str]]:
    """Split the name of a peer, such as "timm_bf16_channelslast", into its library and its words."""
    library, *words = name.split("_")
    return library, words


def select_peers(names: Sequence[str]) -> list[str]:
    """Return the peers that are asked for, each once.

    Args:
        names: peers; or only "auto" for the installed libraries, or only "none".

    Raises:
        UsageError: a library is not known.
        UnavailableError: a library cannot be imported.
    """
    if list(names) == ["none"]:
        return []
    if list(names) == ["auto"]:
        names = [library for library in LIBRARIES if importlib.util.find_spec(library) is not None]
    for name in names:
        library, _ = split_peer(name)
        if library not in LIBRARIES:
            raise UsageError(f"no peer is called {name!r}; they are {', '.join(LIBRARIES)}, or auto or none alone")
        _get_version(library)
    return list(dict.fromkeys(names))


def get_library_versions(peers: Iterable[str]) -> dict[str, str]:
    """Return the version of the library of each peer, by library."""
    return {library: _get_version(library) for library, _ in map(split_peer, peers)}


def _get_version(library: str) -> str:
    try:
        importlib.import_module(library)
        return importlib.metadata.version(library)
    except ImportError as error:  # a library without metadata raises one too
        raise UnavailableError(
            f"{library} cannot be imported ({error}); `pip install {library}`, or leave it out of --peers"
        ) from error


def build_peer(
    library: str, row: Architecture, model: ImageClassifier, image: tuple[int, int, int]
) -> nn.Module | None:
    """Build a library's form of our network.

    Args:
        library: a name in `LIBRARIES`.
        row: the architecture of the network.
        model: our network on the CPU, in evaluation mode. It stays as it is.
        image: the shape of an image, (C, H, W).

    Returns:
        The network of the library on the CPU, in float32 and in evaluation mode, with copies of our tensors. None where
        the library has no such network: each of our tensors must have its place there, and the logits of two images
        must be equal in float64.
    """
    layout = get_layout(library)
    if not layout.supports(row):
        return None
    tensors = model.state_dict()
    state: dict[Any, Tensor] = {}
    for name, part in get_signatures(tensors).items():
        place, shape, _ = layout.locate(name, part, row)
        state[place] = tensors[name].reshape(part.shape if shape is None else shape)
    with skip_initialisation():
        network = LIBRARIES[library](row, model.num_classes)
    if network is None or _get_shapes(network.state_dict()) != _get_shapes(state):
        return None  # another network; or its BN is folded, so that some of our tensors have no place
    network.load_state_dict(state)
    return network.eval() if _has_equal_logits(network, model, image) else None


def _get_shapes(tensors: dict[Any, Tensor]) -> dict[Any, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _has_equal_logits(network: nn.Module, model: nn.Module, image: tuple[int, int, int]) -> bool:
    images = torch.randn(2, *image, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        ours = copy.deepcopy(model).double()(images)
        try:
            theirs = copy.deepcopy(network).eval().double()(images)
        except RuntimeError:  # for instance, its last pooling takes maps of one size only
            return False
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= _TOLERANCE_FP64 * ours.abs().max())
