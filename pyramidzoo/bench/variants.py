"""The forms in which a network is measured, by name: `optimized_fp16` is ours, `timm_bf16_channelslast` is a peer's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.bench.peers import split_peer
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.compute_settings import PRECISIONS, ComputeSettings
from pyramidzoo.evaluation.engine import CastImages, Engine, PreparedNetwork
from pyramidzoo.models._interface import ImageClassifier

# The words that may follow the first one, and the settings that each stands for.
WORDS: Mapping[str, Mapping[str, Any]] = {
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "channelslast": {"channels_last": True},
    "compiled": {"compiled": True},
    "graph": {"cuda_graph": True},
}


def make_engine(variant: str, device: torch.device) -> Engine:
    """Make the engine that computes a variant of our network.

    Args:
        variant: "plain" or "optimized", with any of `WORDS`, such as "optimized_fp16_graph".
        device: where it computes.

    Raises:
        UsageError: there is no such variant, its words exclude each other, or the device cannot do it.
    """
    form, *words = variant.split("_")
    if form not in ("plain", "optimized") or not {*words} <= {*WORDS}:
        raise UsageError(
            f"no variant is called {variant!r}; plain and optimized are, with _ and any of {', '.join(WORDS)}"
        )
    return Engine(ComputeSettings(device, optimized=form == "optimized", **_read_words(variant, words)))


def make_peer_engine(peer: str, device: torch.device) -> Engine:
    """Make the engine that computes a peer.

    Args:
        peer: a library, with any of `WORDS`, such as "pytorchcv_fp16_channelslast".
        device: where it computes.

    Raises:
        UsageError: there is no such word, the words exclude each other, or the device cannot do it.
    """
    _, words = split_peer(peer)
    if not {*words} <= {*WORDS}:
        raise UsageError(f"no peer is called {peer!r}; a library is, with _ and any of {', '.join(WORDS)}")
    return Engine(ComputeSettings(device, **_read_words(peer, words)))


def _read_words(name: str, words: Sequence[str]) -> dict[str, Any]:
    if sum("precision" in WORDS[word] for word in words) > 1:
        raise UsageError(f"{name!r} names two precisions; give one")
    return {option: value for word in words for option, value in WORDS[word].items()}


class Variant(nn.Module):
    """A network as an engine computes it, with the fastest algorithms. It takes images and returns float32 logits.

    `prepare` must be called before the first batch of each size.

    Args:
        engine: computes the network.
        form: the network as the engine takes it.

    Attributes:
        network: the network that is computed.
        passes: the names of its rewrites.
        precision: the precision that it computes in, a name in the engine's `PRECISIONS`.
    """

    def __init__(self, engine: Engine, form: PreparedNetwork) -> None:
        super().__init__()
        self._engine, self._form = engine, form
        self.network, self.passes, self.precision = form.network, form.passes, engine.settings.precision

    @classmethod
    def of_ours(cls, name: str, plain: ImageClassifier, device: torch.device) -> Variant:
        """Make a variant of our network. The plain network stays as it is."""
        engine = make_engine(name, device)
        return cls(engine, engine.prepare(copy.deepcopy(plain), name))

    @classmethod
    def of_peer(cls, name: str, network: nn.Module, device: torch.device) -> Variant:
        """Make a peer with words. The library's network, in float32, stays as it is."""
        engine = make_peer_engine(name, device)
        dtype = PRECISIONS[engine.settings.precision]
        copy_of_network = CastImages(copy.deepcopy(network).to(dtype), dtype)
        return cls(engine, PreparedNetwork(copy_of_network, (), name))

    @property
    def is_captured(self) -> bool:
        """Whether the first batch of a size is captured as a CUDA graph, and later ones replay it."""
        return self._engine.settings.cuda_graph

    @property
    def hides_memory(self) -> bool:
        """Whether nothing can see what a pass holds: compiled code on a CPU allocates without PyTorch's operations."""
        settings = self._engine.settings
        return settings.compiled and settings.device.type == "cpu"

    def prepare(self, batch_size: int) -> Variant:
        """Make ready for batches of this size, and return the variant itself."""
        self._program = self._engine.make_program(self._form, batch_size)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits, float32 (n, classes), of images, float32 (n, C, H, W)."""
        with self._engine.use_arithmetic(deterministic=False):
            return self._program(images)


def get_precision(network: nn.Module) -> str:
    """Return what a network computes in: a name in the engine's `PRECISIONS`."""
    if isinstance(network, Variant):
        return network.precision
    dtype = next(network.parameters()).dtype
    return next(name for name, other in PRECISIONS.items() if other == dtype)
