"""Large splits: images stay encoded where they lie, and are decoded on the way to the device, ahead of the network."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data._decoding import Decoder, decoder_name
from pyramidzoo.data._source import ReaderOptions, Split
from pyramidzoo.data.transforms import INTERPOLATIONS
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError

_AHEAD = 2  # batches that each process has ready


class EncodedImages(ABC):
    """Encoded images by their place."""

    @abstractmethod
    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """A name for messages and the bytes of each image. Raises IntegrityError, UnavailableError, OSError."""


@dataclass(frozen=True)
class EncodedSet(Split):
    """A split whose images are decoded when they are wanted.

    `order` is the index of each place, None where equal; `class_order` is how somebody chose the order of the classes,
    None where nobody did.
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
        return np.arange(start, stop) if self.order is None else self.order[start:stop]

    def require(self, preprocessing: Preprocessing, whose: str) -> None:
        """Images of all sizes must be resized and cropped to the one that the network reads."""
        wanted = preprocessing
        crop = wanted.crop or 0
        if wanted.input_size != (3, crop, crop) or not 0 < crop <= (wanted.resize or 0):
            raise UsageError(
                f"{whose} wants images of {wanted.input_size}, resize {wanted.resize}, crop {wanted.crop}; images of "
                f"{self.name} are resized and then cropped to a square of three channels"
            )
        if (wanted.interpolation or INTERPOLATIONS[0]) not in INTERPOLATIONS:
            raise UsageError(
                f"{whose} wants images resized by {wanted.interpolation!r}; {' and '.join(INTERPOLATIONS)} are possible"
            )

    def flags(self, reading: ReaderOptions) -> dict[str, Any]:
        flags: dict[str, Any] = {"decoder": decoder_name(), "tensor_resize": reading.tensor_resize}
        # only where it was chosen: the names of folders of results are hashes of all flags
        return flags if self.class_order is None else {**flags, "class_order": self.class_order}

    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        crops = _Crops(self.encoded, Decoder(preprocessing, tensor_resize=reading.tensor_resize))
        with _own_signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more processes than cores, and of threads before a fork
            loader = DataLoader(
                crops,
                batch_size=None,  # one item is a whole batch
                sampler=list(spans),
                num_workers=reading.workers,
                prefetch_factor=_AHEAD if reading.workers else None,
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # the caller's random numbers are the caller's
            )
            batches: Any = iter(loader)
        batch: Tensor | PyramidzooError | None
        try:
            while isinstance(batch := _next(batches), Tensor):
                yield batch.to(device, non_blocking=True).permute(0, 3, 1, 2)
        finally:
            del batches  # the last reference, so that its processes end here, also where somebody keeps the error
        if batch is not None:
            raise batch


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGCHLD: torch's would raise wherever the program is when a process of its loader dies.

    Without it, that is noticed within seconds of asking for the next batch.
    """
    in_charge = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if in_charge else None
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


def _next(batches: Any) -> Tensor | PyramidzooError | None:
    """The next batch, or why there is none; None after the last."""
    try:
        batch: Tensor | PyramidzooError | None = next(batches, None)
        return batch
    except (RuntimeError, OSError, EOFError) as error:  # of the connection: what images do wrong comes as a value
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).partition(". ")[0] or "its connection is closed"
        return UnavailableError(
            f"a process that decodes images has ended ({reason}); it may have had too little memory, or shared memory: "
            "try fewer with -j, or none with -j 0"
        )


class _Crops(Dataset[Any]):
    """Spans of places to uint8 batches (n, H, W, 3). An error comes as a value: torch would wrap it in a traceback."""

    def __init__(self, encoded: EncodedImages, decoder: Decoder) -> None:
        self.encoded, self.decoder = encoded, decoder

    def __getitem__(self, span: Any) -> Tensor | PyramidzooError:
        try:
            images = [self.decoder(content, name) for name, content in self.encoded.read(*span)]
            return torch.from_numpy(np.stack(images))
        except PyramidzooError as error:
            return error
        except OSError as error:
            return UnavailableError.from_os_error(error)
