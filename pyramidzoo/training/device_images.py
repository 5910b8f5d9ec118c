"""The images of a training, on the device where it is computed. All runs of a call share them."""

from __future__ import annotations

import torch

from pyramidzoo.data._splits import ImageSet

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
