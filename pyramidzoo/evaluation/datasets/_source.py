"""What every data set is to its users: one uint8 tensor of images, their labels, and a fingerprint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """One split: images uint8 (N, C, H, W), labels int64 (N), and a sha256 over both (the fingerprint)."""

    name: str
    split: str
    classes: int
    images: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a data set comes from. `image_size` is (channels, height, width) in pixels."""

    title: str
    classes: int
    image_size: tuple[int, int, int]
    splits: tuple[str, ...]

    @abstractmethod
    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels (N, C, H, W) and labels (N) of one split, proven to be the official ones.

        Raises UnavailableError where the data are not there, IntegrityError where a file is altered.
        """

    def load(self, name: str, split: str, data_dir: Path | None, *, download: bool) -> ImageSet:
        """`read`, as tensors with their fingerprint."""
        pixels, labels = self.read(split, data_dir, download=download)
        digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
        digest.update(labels.astype("<i8").tobytes())
        return ImageSet(
            name=name,
            split=split,
            classes=self.classes,
            images=torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1, *self.image_size)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            fingerprint=digest.hexdigest(),
        )
