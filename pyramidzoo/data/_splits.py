"""A split of a dataset: images that come in batches, their labels, and a fingerprint of both."""

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
    """How encoded images are read. Images in memory need no options.

    Attributes:
        workers: Number of processes that decode images; 0 decodes in this process.
        tensor_resize: Resize tensors instead of Pillow images. This is faster, but the pixels differ
            by a grey level or two.
    """

    workers: int = 0
    tensor_resize: bool = False


class Split(ABC):
    """The images and labels of one split, as evaluation reads them.

    A sample has a place and an index. The place is its position in storage; images and labels come by
    place. The index does not depend on how the images are stored; predictions are stored and hashed
    by index.

    Attributes:
        name: Name of the dataset, as in `DATASETS`.
        split: Name of the split.
        classes: Number of classes.
        labels: Labels int64 (N), by place.
        fingerprint: A sha256 that identifies images and labels.
        not_the_split: Why these images are not the official split; None if they are. Results on other
            images are not compared with published ones.
    """

    name: str
    split: str
    classes: int
    labels: Tensor
    fingerprint: str
    not_the_split: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def index(self, start: int, stop: int) -> NDArray[np.int64]:
        """Get the index of each sample from place `start` to before place `stop`."""
        return np.arange(start, stop)

    @abstractmethod
    def check_preprocessing(self, preprocessing: Preprocessing, requester: str) -> None:
        """Check that the images can be prepared in a certain way.

        Args:
            preprocessing: How images must be prepared.
            requester: Whose preprocessing it is, for the error message.

        Raises:
            UsageError: They cannot.
        """

    @abstractmethod
    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Read images in batches. The caller closes the generator, because it may hold processes.

        Args:
            spans: The first place of each batch, and the place after its last one.
            preprocessing: How images are resized and cropped. They are not normalised.
            device: Where the batches are put.
            reading: How encoded images are read.

        Yields:
            uint8 images (n, C, H, W) for each span, in order.

        Raises:
            IntegrityError: An image is damaged.
            UnavailableError: An image cannot be read, or a process that decodes images has ended.
        """

    def flags(self, reading: ReaderOptions) -> dict[str, Any]:
        """Get the settings of the reader that can change predictions, as records keep them."""
        return {}


@dataclass(frozen=True)
class ImageSet(Split):
    """A split in memory.

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
        """Check that a preprocessing reads full images of this size; see `Split.check_preprocessing`."""
        size = tuple(self.images.shape[1:])
        if preprocessing.input_size != size or preprocessing.resize is not None or preprocessing.crop is not None:
            raise UsageError(
                f"{requester} wants images of {preprocessing.input_size}, resize {preprocessing.resize}, "
                f"crop {preprocessing.crop}; {self.name} is evaluated on full images of {size} only"
            )

    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Cut the images into batches on a device; see `Split.batches`."""
        pixels = self.images.to(device)
        for start, stop in spans:
            yield pixels[start:stop]
