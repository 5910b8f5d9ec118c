"""The training and test images as tensors on the device. All trainings of one command share them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.errors import UsageError

_GPU_TEST_BATCH = 1000


class TrainingImages:
    """The training images on a device.

    Args:
        images: A training split.
        device: The device for the tensors.

    Attributes:
        images: Pixels, uint8 (N, H, W, C). Whitened images are float32.
        labels: Class of each image, int64 (N).
        channels: Number of channels C.
        size: Height H and width W in pixels.
        classes: Number of classes.
        fingerprint: The hash of the split.
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
    """The test images on a device.

    Args:
        images: A test split.
        device: The device for the tensors.

    Attributes:
        images: Pixels, uint8 (N, C, H, W). Whitened images are float32.
        labels: Class of each image, int64 (N).
        batch_size: Number of images in a batch; None for the batch size of the training. On a GPU it is larger,
            because a small batch does not use the whole GPU.
    """

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images, self.labels = images.images.to(device), images.labels.to(device)
        self.batch_size = _GPU_TEST_BATCH if device.type == "cuda" else None

    def batches(self, recipe: Recipe) -> Generator[Tensor, None, None]:
        """Divide the images into batches.

        Args:
            recipe: The recipe whose batch size is used on a CPU.

        Yields:
            Images (n, C, H, W), of the type of `images`.
        """
        yield from torch.split(self.images, self.batch_size or recipe.batch_size)


def join_splits(splits: Sequence[Split]) -> Split:
    """Join the splits that a recipe trains on into one, in order.

    Args:
        splits: Splits of one dataset.

    Returns:
        One split with all images. Its fingerprint is the sha256 of the fingerprints of the splits. A single split is
        returned as it is.

    Raises:
        UsageError: There are several splits, and they are not in memory.
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
