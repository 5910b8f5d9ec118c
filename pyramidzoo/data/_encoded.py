"""Splits that are too large for memory. Their images stay in encoded files, such as JPEG files.

While the network computes, processes of a data loader read and decode the next batches.
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
from pyramidzoo.data._decoding import Decoder, get_decoder_name
from pyramidzoo.data._splits import ReaderOptions, Split
from pyramidzoo.data.transforms import INTERPOLATIONS
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError

_PREFETCHED_BATCHES = 2  # how many batches each process decodes before they are needed


class EncodedImages(ABC):
    """The encoded images of a split in storage. An image is read by its position in storage."""

    @abstractmethod
    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read consecutive images without decoding them.

        Args:
            start: Position of the first image.
            stop: Position after the last image.

        Returns:
            For each image, a name for messages and the bytes of its file.

        Raises:
            IntegrityError: A file is damaged.
            UnavailableError: A file cannot be read.
            OSError: The operating system cannot read a file.
        """

    def get_group_starts(self) -> Sequence[int] | None:
        """Return the position of the first image of each group that can only be read as a whole.

        None means that each image can be read alone.
        """
        return None


@dataclass(frozen=True)
class EncodedSet(Split):
    """A split whose images are decoded when a batch is read.

    `Split` explains positions and indices.

    Attributes:
        name: Name of the dataset, as in `DATASETS`.
        split: Name of the split.
        classes: Number of classes.
        encoded_images: The files of the images.
        labels: Labels int64 (N), in the order of the positions.
        fingerprint: A sha256 of the index, the name, the file size and the label of each image.
        index_by_position: Indices int64 (N), in the order of the positions. None if each index equals its position.
        unofficial_reason: Why the images are not those of the official split. None if they are.
        class_order: How the user sorted the folders of the classes, as records describe it. None if the user did not
            sort them.
    """

    name: str
    split: str
    classes: int
    encoded_images: EncodedImages
    labels: Tensor
    fingerprint: str
    index_by_position: NDArray[np.int64] | None = None
    unofficial_reason: str | None = None
    class_order: str | None = None

    def get_indices(self, start: int, stop: int) -> NDArray[np.int64]:
        """Get the indices of samples by their positions; see `Split.get_indices`."""
        return np.arange(start, stop) if self.index_by_position is None else self.index_by_position[start:stop]

    def check_preprocessing(self, preprocessing: Preprocessing, requester: str) -> None:
        """Require that a preprocessing resizes images and crops squares; see `Split.check_preprocessing`."""
        input_size, resize, crop = preprocessing.input_size, preprocessing.resize or 0, preprocessing.crop or 0
        if input_size != (3, crop, crop) or not 0 < crop <= resize:
            raise UsageError(
                f"{requester} wants images of {input_size}, resize {preprocessing.resize}, crop {preprocessing.crop}; "
                f"images of {self.name} are resized and then cropped to a square of three channels"
            )
        interpolation = preprocessing.interpolation or INTERPOLATIONS[0]
        if interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"{requester} wants images resized by {interpolation!r}; {' and '.join(INTERPOLATIONS)} are possible"
            )

    def get_flags(self, reader_options: ReaderOptions) -> dict[str, Any]:
        """Get the settings of the reader that can change predictions; see `Split.get_flags`."""
        flags: dict[str, Any] = {"decoder": get_decoder_name(), "tensor_resize": reader_options.tensor_resize}
        # The name of a folder of results contains a hash of all flags. If a flag was added to all records, results of
        # earlier versions would not be found again. So this one is added only if the option is used.
        return flags if self.class_order is None else {**flags, "class_order": self.class_order}

    def read_batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reader_options: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """Decode images in batches, and move them to a device; see `Split.read_batches`."""
        decoder = Decoder(preprocessing, tensor_resize=reader_options.tensor_resize)
        decoded_spans = _DecodedSpans(self.encoded_images, decoder)
        return decode_batches(decoded_spans, list(spans), device, reader_options.workers)


def decode_batches(
    batches: DecodedBatches, keys: Sequence[Any], device: torch.device, workers: int
) -> Generator[Tensor, None, None]:
    """Decode images in batches, and move them to a device. The caller closes the generator.

    Args:
        batches: The dataset that decodes a batch.
        keys: The key of each batch in `batches`.
        device: The device for the batches.
        workers: Number of processes that decode images; 0 decodes in this process.

    Yields:
        A batch of uint8 images (n, C, H, W) for each key, in order.

    Raises:
        IntegrityError: An image is damaged.
        UnavailableError: An image cannot be read, or a process that decodes images has ended.
    """
    with _restore_sigchld_handler(), warnings.catch_warnings():
        # PyTorch warns of more processes than cores, and Python of a fork in a program with threads.
        warnings.simplefilter("ignore")
        loader = DataLoader(
            batches,
            batch_size=None,  # Each item of `batches` is already a whole batch.
            sampler=keys,
            num_workers=workers,
            prefetch_factor=_PREFETCHED_BATCHES if workers else None,
            pin_memory=device.type == "cuda",
            # Without a generator of its own, the loader would draw a number from PyTorch's global generator.
            generator=torch.Generator(),
        )
        decoded: Any = iter(loader)
    batch: Tensor | PyramidzooError | None
    try:
        while isinstance(batch := _get_next_batch(decoded), Tensor):
            yield batch.to(device, non_blocking=True).permute(0, 3, 1, 2)
    finally:
        # The processes of the loader end when the last reference to its iterator is gone. The traceback of an error
        # would keep the local variable alive, so it is deleted here.
        del decoded
    if batch is not None:
        raise batch


@contextlib.contextmanager
def _restore_sigchld_handler() -> Iterator[None]:
    """Remove the handler of the signal SIGCHLD that PyTorch's data loader installs in the `with` block.

    The system sends this signal when a child process ends. PyTorch's handler then raises an error at whatever line the
    program is. Without this handler, the loader notices the end of a process when the next batch is requested.
    """
    can_set_handlers = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    previous_handler = signal.getsignal(signal.SIGCHLD) if can_set_handlers else None
    yield
    if previous_handler is not None:
        signal.signal(signal.SIGCHLD, previous_handler)


def _get_next_batch(batches: Any) -> Tensor | PyramidzooError | None:
    """Get the next batch from the iterator of a data loader.

    Returns:
        The batch, None after the last batch, or the error that prevented the batch.
    """
    try:
        batch: Tensor | PyramidzooError | None = next(batches, None)
        return batch
    # The connection to a process failed. An error of an image is no exception here, see `DecodedBatches`.
    except (RuntimeError, OSError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition(". ")[0] or "its connection is closed"
        return UnavailableError(
            f"a process that decodes images has ended ({reason}); it may have had too little memory, or shared memory: "
            "try fewer with -j, or none with -j 0"
        )


class DecodedBatches(Dataset[Any], ABC):
    """Batches of decoded images, as a dataset for PyTorch's data loader.

    The key of a batch says which images it has. A batch is a uint8 tensor (n, H, W, 3). If an image is damaged, the
    item is the error itself. If the error was raised, the data loader would replace its message by a traceback.
    """

    @abstractmethod
    def decode(self, key: Any) -> list[NDArray[np.uint8]]:
        """Decode the images of a batch, each (H, W, 3).

        Args:
            key: The key of the batch.

        Returns:
            The images.
        """

    def __getitem__(self, key: Any) -> Tensor | PyramidzooError:
        try:
            return torch.from_numpy(np.stack(self.decode(key)))
        except PyramidzooError as error:
            return error
        except OSError as error:
            return UnavailableError.from_os_error(error)


class _DecodedSpans(DecodedBatches):
    """The batches of a split.

    The key of a batch is a span: the position of its first image, and the position after its last image.
    """

    def __init__(self, encoded_images: EncodedImages, decoder: Decoder) -> None:
        self.encoded_images, self.decoder = encoded_images, decoder

    def decode(self, key: Any) -> list[NDArray[np.uint8]]:
        """Decode the images of a span."""
        return [self.decoder(content, name) for name, content in self.encoded_images.read(*key)]
