"""The networks that `bench` measures: with random weights, or with the weights of a manifest's entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyramidzoo.catalog.architectures import Architecture, get_architecture
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.factory import create_model
from pyramidzoo.models import build
from pyramidzoo.models._interface import ImageClassifier

_CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class BenchmarkTarget:
    """One network to measure.

    Attributes:
        row: its row in the table of architectures.
        entry: the manifest's entry whose weights it gets; None for random weights.
    """

    row: Architecture
    entry: WeightsEntry | None = None

    @classmethod
    def from_entry(cls, entry: WeightsEntry) -> BenchmarkTarget:
        """Make the target for the weights of a manifest's entry."""
        return cls(get_architecture(entry.architecture), entry)

    @property
    def name(self) -> str:
        """The weights id, or the name of the architecture if the weights are random."""
        return self.row.name if self.entry is None else self.entry.id

    @property
    def image(self) -> tuple[int, int, int]:
        """The shape of one input image: (C, H, W)."""
        size = self.row.input_size
        return (3, size, size) if self.entry is None else self.entry.preprocessing.input_size

    def build_network(self) -> ImageClassifier:
        """Build the network with its weights, in float32 on the CPU, in evaluation mode.

        Returns:
            The network.

        Raises:
            IntegrityError: the file of the weights is not the one that the manifest describes.
            UnavailableError: the weights cannot be fetched.
        """
        if self.entry is None:
            return random_calibrated_model(self.row)
        return create_model(self.row.name, weights=self.entry.id).eval()


def random_calibrated_model(row: Architecture) -> ImageClassifier:
    """Build a network with random weights that is as fast as one with real weights, in evaluation mode.

    The running statistics of each BN are those of one random batch. So no activation overflows or becomes denormal: a
    processor is slow with denormal numbers. The weights are the same in every call.

    Args:
        row: the architecture.

    Returns:
        The network, in float32 on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(row)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = 1.0  # The running statistics become those of the next batch alone.
        with torch.no_grad():
            model.train()(random_images(_CALIBRATION_IMAGES, (3, row.input_size, row.input_size)))
    return model.eval()


def random_images(count: int, image: Sequence[int]) -> Tensor:
    """Make random images, the same ones in every call: float32 (count, C, H, W) for an image shape (C, H, W)."""
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(1))
