"""A split of a dataset: images that are read in batches, their labels, and a hash that identifies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.errors import UsageError


@dataclass(frozen=True)
class ReaderOptions:
    """How encoded images are read. They have no effect on images in memory.

    Attributes:
        workers: Number of processes that decode images. With 0, images are decoded in this process.
        tensor_resize: Whether images are resized as tensors and not as Pillow images. This is faster, but the pixels
            may differ by one or two of the 256 levels.
    """

    workers: int = 0
    tensor_resize: bool = False


class Split(ABC):
    """The images and labels of one split of a dataset.

    Each image has a position and an index. The position says where the image is in storage. Images are read, and labels
    are sorted, in the order of the positions. The index of an image is the same for all ways in which the split can be
    stored. So predictions are stored and hashed in the order of the indices.

    Attributes:
        name: Name of the dataset, as in `DATASETS`.
        split: Name of the split.
        classes: Number of classes.
        labels: Labels int64 (N), in the order of the positions.
        fingerprint: A sha256 that identifies images and labels.
        unofficial_reason: Why the images are not those of the official split. None if they are. Results on other images
            are not compared with published results.
    """

    name: str
    split: str
    classes: int
    labels: Tensor
    fingerprint: str
    unofficial_reason: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def get_indices(self, start: int, stop: int) -> NDArray[np.int64]:
        """Get the indices int64 (stop - start) of the images at the positions `start` to `stop - 1`."""
        return np.arange(start, stop)

    @abstractmethod
    def check_preprocessing(self, preprocessing: Preprocessing, requester: str) -> None:
        """Require that this split can prepare its images as a network needs them.

        Args:
            preprocessing: How the network needs the images.
            requester: The weights or the recipe that the preprocessing belongs to, for the error message.

        Raises:
            UsageError: This split cannot prepare its images in this way.
        """

    @abstractmethod
    def read_batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reader_options: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Read images in batches. The caller must close the generator, because it may have started processes.

        Args:
            spans: For each batch, the position of its first image, and the position after its last image.
            preprocessing: How images are resized and cropped. They are not normalised.
            device: The device to which the batches are moved.
            reader_options: How encoded images are read.

        Yields:
            The batches, in the order of `spans`: uint8 images (n, C, H, W).

        Raises:
            IntegrityError: An image is damaged.
            UnavailableError: An image cannot be read, or a process that decodes images has ended.
        """

    def get_flags(self, reader_options: ReaderOptions) -> dict[str, Any]:
        """Get the settings of the reader that can change predictions. Records of evaluations contain them."""
        return {}


@dataclass(frozen=True)
class ImageSet(Split):
    """A split whose images are in memory. The index of each image equals its position.

    Attributes:
        name: Name of the dataset, as in `DATASETS`.
        split: Name of the split.
        classes: Number of classes.
        images: Pixels uint8 (N, C, H, W).
        labels: Labels int64 (N).
        fingerprint: The sha256 of all pixels and labels.
    """

    name: str
    split: str
    classes: int
    images: Tensor
    labels: Tensor
    fingerprint: str

    def check_preprocessing(self, preprocessing: Preprocessing, requester: str) -> None:
        """Require that a preprocessing neither resizes nor crops images; see `Split.check_preprocessing`."""
        image_size = tuple(self.images.shape[1:])
        if preprocessing.input_size != image_size or preprocessing.resize is not None or preprocessing.crop is not None:
            raise UsageError(
                f"{requester} wants images of {preprocessing.input_size}, resize {preprocessing.resize}, "
                f"crop {preprocessing.crop}; {self.name} is evaluated on full images of {image_size} only"
            )

    def read_batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reader_options: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Move all images to a device, and cut them into batches; see `Split.read_batches`."""
        pixels = self.images.to(device)
        for start, stop in spans:
            yield pixels[start:stop]
