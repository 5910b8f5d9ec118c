"""Build peers: the same network in other libraries, with the same tensors and the same logits.

`pyramidzoo.convert` knows the checkpoints of these libraries. So it also knows which tensor of a library's network gets
which tensor of our network.
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

# As a share of the largest logit in float64. Rounding changes logits by at most 1e-11 (tests/parity.py). A different
# epsilon in a single BN changes them by 1e-6.
_TOLERANCE_FP64 = 1e-9


def _build_pytorchcv(row: Architecture, classes: int) -> nn.Module | None:
    """Build the network of an architecture in pytorchcv, with random weights; None if pytorchcv has none."""
    provider = importlib.import_module("pytorchcv.model_provider")
    names = find_names(row.name, vars(provider))
    if names:
        network: nn.Module = provider.get_model(names[0], num_classes=classes)
        return network
    return _build_pytorchcv_class(row, classes)


def _build_pytorchcv_class(row: Architecture, classes: int) -> nn.Module | None:
    """Build a network for which pytorchcv has a class, but no name; None if it has no class for it.

    The number of blocks in a stage follows from the depth, as in the papers of these networks.
    """
    arguments, package = row.arguments, "pytorchcv.models"
    depth = arguments.get("depth", 0)

    def list_channels(blocks: int, *stage_widths: int) -> list[list[int]]:
        """List the output channels of every block, by stage, as pytorchcv's classes take them."""
        return [[width] * blocks for width in stage_widths]

    if row.class_name == "CifarResNet":
        channels = list_channels((depth - 2) // 6, 16, 32, 64)
        resnet = importlib.import_module(f"{package}.resnet_cifar").CIFARResNet
        return resnet(channels, 16, bottleneck=False, num_classes=classes)
    if row.class_name == "WideResNet":
        channels = list_channels((depth - 4) // 6, *(width * arguments["width"] for width in (16, 32, 64)))
        return importlib.import_module(f"{package}.wrn_cifar").CIFARWRN(channels, 16, num_classes=classes)
    if row.class_name == "CifarResNeXt":
        channels = list_channels((depth - 2) // 9, 256, 512, 1024)
        resnext = importlib.import_module(f"{package}.resnext_cifar").CIFARResNeXt
        return resnext(channels, 64, arguments["cardinality"], arguments["base_width"], num_classes=classes)
    return None


def _build_timm(row: Architecture, classes: int) -> nn.Module | None:
    """Build the network of an architecture in timm, with random weights; None if timm has none."""
    timm = importlib.import_module("timm")
    name = get_timm_name(row.name)
    return timm.create_model(name, num_classes=classes) if timm.is_model(name) else None


def _build_torchvision(row: Architecture, classes: int) -> nn.Module | None:
    """Build the network of an architecture in torchvision, with random weights; None if torchvision has none."""
    models = importlib.import_module("torchvision.models")
    return models.get_model(row.name, num_classes=classes) if row.name in models.list_models() else None


# For each library, the function that builds its network of an architecture with a number of classes. The function
# returns None if the library has no such network.
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
    """Return the names of the peers that the user asked for, each once.

    Args:
        names: names of peers; or only "auto", which means the installed libraries; or only "none".

    Returns:
        The names, such as "timm" and "timm_bf16".

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
    """Return the versions of the libraries of some peers, by the name of the library."""
    return {library: _get_version(library) for library, _ in map(split_peer, peers)}


def _get_version(library: str) -> str:
    """Import a library and return its version. Raise UnavailableError if it cannot be imported."""
    try:
        importlib.import_module(library)
        return importlib.metadata.version(library)
    except ImportError as error:  # `version` raises a subclass of it if the library has no metadata.
        raise UnavailableError(
            f"{library} cannot be imported ({error}); `pip install {library}`, or leave it out of --peers"
        ) from error


def build_peer(
    library: str, row: Architecture, model: ImageClassifier, image: tuple[int, int, int]
) -> nn.Module | None:
    """Build our network in another library, with copies of our tensors.

    Args:
        library: a name in `LIBRARIES`.
        row: the architecture of the network.
        model: our network on the CPU, in evaluation mode. It stays as it is.
        image: the shape of an image, (C, H, W).

    Returns:
        The network of the library on the CPU, in float32 and in evaluation mode. None if the library does not have the
        same network: each of our tensors must have a tensor there that gets its values, no tensor may be left over, and
        the logits of two images must be equal in float64.
    """
    layout = get_layout(library)
    if not layout.supports(row):
        return None
    tensors = model.state_dict()
    state: dict[Any, Tensor] = {}
    for name, signature in get_signatures(tensors).items():
        their_name, their_shape, _ = layout.locate(name, signature, row)
        state[their_name] = tensors[name].reshape(signature.shape if their_shape is None else their_shape)
    with skip_initialisation():
        network = LIBRARIES[library](row, model.num_classes)
    if network is None or _get_shapes(network.state_dict()) != _get_shapes(state):
        # It is another network, or its BN is folded into the convolutions, so that it has no tensors for our BN.
        return None
    network.load_state_dict(state)
    return network.eval() if _has_equal_logits(network, model, image) else None


def _get_shapes(tensors: dict[Any, Tensor]) -> dict[Any, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _has_equal_logits(network: nn.Module, model: nn.Module, image: tuple[int, int, int]) -> bool:
    """Return whether a library's network and our model give the same logits for two random images, in float64."""
    images = torch.randn(2, *image, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        our_logits = copy.deepcopy(model).double()(images)
        try:
            their_logits = copy.deepcopy(network).eval().double()(images)
        except RuntimeError:  # For instance, the last pooling of the network takes maps of only one size.
            return False
    if our_logits.shape != their_logits.shape:
        return False
    return bool((our_logits - their_logits).abs().max() <= _TOLERANCE_FP64 * our_logits.abs().max())
