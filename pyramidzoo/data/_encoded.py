"""Splits that are too large for memory. Images stay encoded in their files.

A data loader reads and decodes the next batches while the network computes.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data._decoding import Decoder, decoder_name
from pyramidzoo.data._splits import ReaderOptions, Split
from pyramidzoo.data.transforms import INTERPOLATIONS
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError

_PREFETCHED = 2  # batches that each process decodes in advance


class EncodedImages(ABC):
    """Encoded images that are read by place."""

    @abstractmethod
    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read the files of some images.

        Args:
            start: Place of the first image.
            stop: Place after the last image.

        Returns:
            For each image, a name for messages and the bytes of its file.

        Raises:
            IntegrityError: A file is damaged.
            UnavailableError: A file cannot be read.
            OSError: A file cannot be read.
        """

    def group_starts(self) -> Sequence[int] | None:
        """Return the first place of each group of images that can only be read together; None without groups."""
        return None


@dataclass(frozen=True)
class EncodedSet(Split):
    """A split whose images are decoded when a batch is read.

    Attributes:
        name: Name of the dataset, as in `DATASETS`.
        split: Name of the split.
        classes: Number of classes.
        encoded: The files of the images.
        labels: Labels int64 (N), by place.
        fingerprint: A sha256 over index, name, file size and label of each image.
        order: The index of each place; None if every index equals its place.
        not_the_split: Why these images are not the official split; None if they are.
        class_order: How the user chose the order of the classes; None without a choice.
    """

    name: str
    split: str
    classes: int
    encoded: EncodedImages
    labels: Tensor
    fingerprint: str
    order: NDArray[np.int64] | None = None
    not_the_split: str | None = None
    class_order: str | None = None

    def index(self, start: int, stop: int) -> NDArray[np.int64]:
        """Get the index of each sample from place `start` to before place `stop`."""
        return np.arange(start, stop) if self.order is None else self.order[start:stop]

    def check_preprocessing(self, preprocessing: Preprocessing, requester: str) -> None:
        """Check that a preprocessing resizes and crops; see `Split.check_preprocessing`."""
        size, resize, crop = preprocessing.input_size, preprocessing.resize or 0, preprocessing.crop or 0
        if size != (3, crop, crop) or not 0 < crop <= resize:
            raise UsageError(
                f"{requester} wants images of {size}, resize {preprocessing.resize}, crop {preprocessing.crop}; images "
                f"of {self.name} are resized and then cropped to a square of three channels"
            )
        interpolation = preprocessing.interpolation or INTERPOLATIONS[0]
        if interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"{requester} wants images resized by {interpolation!r}; {' and '.join(INTERPOLATIONS)} are possible"
            )

    def flags(self, reading: ReaderOptions) -> dict[str, Any]:
        """Get the settings of the reader that can change predictions, as records keep them."""
        flags: dict[str, Any] = {"decoder": decoder_name(), "tensor_resize": reading.tensor_resize}
        # The name of a folder of results contains a hash of all flags. So a new flag is written only where it is used.
        return flags if self.class_order is None else {**flags, "class_order": self.class_order}

    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Decode images in batches, and move them to a device; see `Split.batches`."""
        crops = _DecodedSpans(self.encoded, Decoder(preprocessing, tensor_resize=reading.tensor_resize))
        return read_batches(crops, list(spans), device, reading.workers)


def read_batches(
    batches: DecodedBatches, items: Sequence[Any], device: torch.device, workers: int
) -> Generator[Tensor, None, None]:
    """Decode batches in other processes, and move them to a device. The caller closes the generator.

    Args:
        batches: Decodes a batch.
        items: What `batches` needs for each batch.
        device: Where the batches are put.
        workers: Number of processes; 0 decodes in this process.

    Yields:
        uint8 images (n, C, H, W) for each item, in order.

    Raises:
        IntegrityError: An image is damaged.
        UnavailableError: An image cannot be read, or a process that decodes images has ended.
    """
    with _restore_sigchld_handler(), warnings.catch_warnings():
        # PyTorch warns of more processes than cores, and Python of a fork in a program with threads.
        warnings.simplefilter("ignore")
        loader = DataLoader(
            batches,
            batch_size=None,  # One item of the dataset is a whole batch.
            sampler=items,
            num_workers=workers,
            prefetch_factor=_PREFETCHED if workers else None,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # Otherwise the loader takes a number from the caller's generator.
        )
        decoded: Any = iter(loader)
    batch: Tensor | PyramidzooError | None
    try:
        while isinstance(batch := _next_batch(decoded), Tensor):
            yield batch.to(device, non_blocking=True).permute(0, 3, 1, 2)
    finally:
        del decoded  # This is the last reference, so the loader's processes end now, even if an error is kept.
    if batch is not None:
        raise batch


@contextlib.contextmanager
def _restore_sigchld_handler() -> Iterator[None]:
    """Remove the handler of SIGCHLD that PyTorch's loader installs.

    When a process of the loader dies, PyTorch's handler raises an error wherever the program is.
    Without it, the loader notices within seconds of a request for the next batch.
    """
    can_set_handlers = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if can_set_handlers else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _next_batch(batches: Any) -> Tensor | PyramidzooError | None:
    """Get the next batch, or the error that prevents it, or None after the last batch."""
    try:
        batch: Tensor | PyramidzooError | None = next(batches, None)
        return batch
    except (RuntimeError, OSError, EOFError) as error:  # The connection failed. Errors of images come as values.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition(". ")[0] or "its connection is closed"
        return UnavailableError(
            f"a process that decodes images has ended ({reason}); it may have had too little memory, or shared memory: "
            "try fewer with -j, or none with -j 0"
        )


class DecodedBatches(Dataset[Any], ABC):
    """Maps an item, which says what is in a batch, to a uint8 batch (n, H, W, 3).

    An error is returned as a value, because PyTorch would put a traceback into the message of a raised error.
    """

    @abstractmethod
    def decode(self, item: Any) -> list[NDArray[np.uint8]]:
        """Decode the images (H, W, 3) of a batch."""

    def __getitem__(self, item: Any) -> Tensor | PyramidzooError:
        try:
            return torch.from_numpy(np.stack(self.decode(item)))
        except PyramidzooError as error:
            return error
        except OSError as error:
            return UnavailableError.from_os_error(error)


class _DecodedSpans(DecodedBatches):
    """Decodes the images of a span of places."""

    def __init__(self, encoded: EncodedImages, decoder: Decoder) -> None:
        self.encoded, self.decoder = encoded, decoder

    def decode(self, item: Any) -> list[NDArray[np.uint8]]:
        """Decode the images from the first place of the span to before its second one."""
        return [self.decoder(content, name) for name, content in self.encoded.read(*item)]
