"""Make the variants and peers that `bench` measures, from their names.

`optimized_fp16` is a variant of our network. `timm_bf16_channelslast` is a peer: timm's network.
"""

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

# The words that may follow the first word of a name, and the settings of the engine that each word stands for.
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
        device: the device that computes.

    Returns:
        The engine.

    Raises:
        UsageError: there is no such variant, its words exclude each other, or a word needs another device.
    """
    first_word, *words = variant.split("_")
    if first_word not in ("plain", "optimized") or not {*words} <= {*WORDS}:
        raise UsageError(
            f"no variant is called {variant!r}; plain and optimized are, with _ and any of {', '.join(WORDS)}"
        )
    return Engine(ComputeSettings(device, optimized=first_word == "optimized", **_read_words(variant, words)))


def make_peer_engine(peer: str, device: torch.device) -> Engine:
    """Make the engine that computes a peer.

    Args:
        peer: a library, with any of `WORDS`, such as "pytorchcv_fp16_channelslast".
        device: the device that computes.

    Returns:
        The engine.

    Raises:
        UsageError: there is no such word, the words exclude each other, or a word needs another device.
    """
    _, words = split_peer(peer)
    if not {*words} <= {*WORDS}:
        raise UsageError(f"no peer is called {peer!r}; a library is, with _ and any of {', '.join(WORDS)}")
    return Engine(ComputeSettings(device, **_read_words(peer, words)))


def _read_words(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that the words of a name stand for. Raise UsageError if two of them name a precision."""
    if sum("precision" in WORDS[word] for word in words) > 1:
        raise UsageError(f"{name!r} names two precisions; give one")
    return {option: value for word in words for option, value in WORDS[word].items()}


class Variant(nn.Module):
    """A network that an engine computes with the fastest algorithms. It takes images and returns float32 logits.

    `prepare` must be called before the first batch of each size.

    Args:
        engine: the engine that computes the network.
        prepared: the network, prepared for this engine.

    Attributes:
        network: the network that is computed.
        passes: the names of the inference passes that rewrote it.
        precision: the precision that it computes in, a key of `PRECISIONS`.
    """

    def __init__(self, engine: Engine, prepared: PreparedNetwork) -> None:
        super().__init__()
        self._engine, self._prepared = engine, prepared
        self.network, self.passes, self.precision = prepared.network, prepared.passes, engine.settings.precision

    @classmethod
    def from_plain(cls, name: str, plain: ImageClassifier, device: torch.device) -> Variant:
        """Make the variant with this name from a copy of our plain network."""
        engine = make_engine(name, device)
        return cls(engine, engine.prepare(copy.deepcopy(plain), name))

    @classmethod
    def from_peer(cls, name: str, network: nn.Module, device: torch.device) -> Variant:
        """Make the peer with this name, such as "timm_bf16", from a copy of the library's float32 network."""
        engine = make_peer_engine(name, device)
        dtype = PRECISIONS[engine.settings.precision]
        copy_of_network = CastImages(copy.deepcopy(network).to(dtype), dtype)
        return cls(engine, PreparedNetwork(copy_of_network, (), name))

    @property
    def is_captured(self) -> bool:
        """Whether the network becomes a CUDA graph: its first batch is captured, and later batches replay it."""
        return self._engine.settings.cuda_graph

    @property
    def hides_memory(self) -> bool:
        """Whether the memory of a forward pass cannot be counted.

        Compiled code on a CPU allocates memory without PyTorch's operations, which `count_activation_bytes` follows.
        """
        settings = self._engine.settings
        return settings.compiled and settings.device.type == "cpu"

    def prepare(self, batch_size: int) -> Variant:
        """Make the program for batches of this size, and return the variant itself."""
        self._program = self._engine.make_program(self._prepared, batch_size)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute the float32 logits (n, classes) of float32 images (n, C, H, W)."""
        with self._engine.use_arithmetic(deterministic=False):
            return self._program(images)


def get_precision(network: nn.Module) -> str:
    """Return the precision that a network computes in, a key of `PRECISIONS`."""
    if isinstance(network, Variant):
        return network.precision
    dtype = next(network.parameters()).dtype
    return next(name for name, dtype_of_name in PRECISIONS.items() if dtype_of_name == dtype)
