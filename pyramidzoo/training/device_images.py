"""The images of a training, on the device where it is computed. All runs of a call share them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.errors import UsageError
from pyramidzoo.training.recipes import Recipe

_GPU_TEST_BATCH = 1000


class TrainingImages:
    """The training images.

    Args:
        images: a training split.
        device: where the tensors go.

    Attributes:
        images: uint8 (N, H, W, C).
        labels: int64 (N).
        channels: C.
        size: (H, W).
        classes: how many classes there are.
        fingerprint: the hash of the split.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images = images.images.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = images.labels.to(device)
        _, self.channels, height, width = images.images.shape
        self.size = (height, width)
        self.classes, self.fingerprint = images.classes, images.fingerprint

    def __len__(self) -> int:
        return len(self.labels)


class TestImages:
    """The test images.

    Args:
        images: a test split.
        device: where the tensors go.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N).
        batch_size: images in a batch; None for the batch size of the training. On a GPU it is larger than that, because
            a GPU is not busy with so few images.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images, self.labels = images.images.to(device), images.labels.to(device)
        self.batch_size = _GPU_TEST_BATCH if device.type == "cuda" else None

    def batches(self, recipe: Recipe) -> Generator[Tensor, None, None]:
        """Divide the images into batches.

        Yields:
            uint8 (n, C, H, W).
        """
        yield from torch.split(self.images, self.batch_size or recipe.batch_size)


def join_splits(splits: Sequence[Split]) -> Split:
    """Join the splits that a recipe trains on into one, in order.

    Args:
        splits: splits of one dataset.

    Returns:
        The only split itself; or all images, whose fingerprint is the sha256 of the splits' fingerprints.

    Raises:
        UsageError: there are several, and not all are in memory.
    """
    first = splits[0]
    if len(splits) == 1:
        return first
    in_memory = [split for split in splits if isinstance(split, ImageSet)]
    if len(in_memory) < len(splits):
        raise UsageError(f"several splits of {first.name} cannot be joined; name a recipe that trains on one split")
    return ImageSet(
        name=first.name,
        split="+".join(split.split for split in splits),
        classes=first.classes,
        images=torch.cat([split.images for split in in_memory]),
        labels=torch.cat([split.labels for split in splits]),
        fingerprint=hashlib.sha256("".join(split.fingerprint for split in splits).encode()).hexdigest(),
    )
