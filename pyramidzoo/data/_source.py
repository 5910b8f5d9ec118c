"""What every data set is to its users: a split whose images come in batches, with labels and a fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash


@dataclass(frozen=True)
class ReaderOptions:
    """How encoded images are read: by so many processes (0: by this one), and resized as tensors or as Pillow does."""

    workers: int = 0
    tensor_resize: bool = False


class Split(ABC):
    """What evaluation needs of the images and labels of one split.

    A sample has a place, by which images and `labels` (int64, N) come, and an index, by which predictions are kept and
    hashed: the same for the same images however they are stored. `not_the_split` says why these are not the split as its
    authors published it, if they are not; then no number on them is held against anybody's.
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
        """The index of each sample from place `start` to before `stop`."""
        return np.arange(start, stop)

    @abstractmethod
    def require(self, preprocessing: Preprocessing, whose: str) -> None:
        """Raise UsageError where images cannot be prepared like this; `whose` it is, for the message."""

    @abstractmethod
    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        """uint8 images (n, C, H, W) on the device for each span of places, in order, sized but not yet normalised.

        Close it when done: it may hold processes. Raises IntegrityError for a damaged image, UnavailableError.
        """

    def flags(self, reading: ReaderOptions) -> dict[str, Any]:
        """What of the reading, and of what reads, predictions depend on."""
        return {}


@dataclass(frozen=True)
class ImageSet(Split):
    """A split in memory: images uint8 (N, C, H, W), labels int64 (N), and a sha256 over both (the fingerprint)."""

    name: str
    split: str
    classes: int
    images: Tensor
    labels: Tensor
    fingerprint: str

    def require(self, preprocessing: Preprocessing, whose: str) -> None:
        """Here is one full image and nothing else; weights that want another input cannot be judged by it."""
        wanted, size = preprocessing, tuple(self.images.shape[1:])
        if wanted.input_size != size or wanted.resize is not None or wanted.crop is not None:
            raise UsageError(
                f"{whose} wants images of {wanted.input_size}, resize {wanted.resize}, crop {wanted.crop}; "
                f"{self.name} is evaluated on full images of {size} only"
            )

    def batches(
        self,
        spans: Iterable[tuple[int, int]],
        preprocessing: Preprocessing,
        device: torch.device,
        reading: ReaderOptions,
    ) -> Generator[Tensor, None, None]:
        pixels = self.images.to(device)
        for start, stop in spans:
            yield pixels[start:stop]


@dataclass(frozen=True, kw_only=True)
class DatasetSource(ABC):
    """Where a data set comes from. `image_size` is (channels, height, width) in pixels; the first split is the test."""

    title: str
    classes: int
    image_size: tuple[int, int, int]
    splits: tuple[str, ...]

    @abstractmethod
    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> Split:
        """One split. `class_order` is for classes that are folders: see `open_split`.

        Raises UnavailableError where the data are not there, IntegrityError where a file is altered, UsageError where
        a class order is given and there are no folders, or where one is needed.
        """


@dataclass(frozen=True, kw_only=True)
class InMemory(DatasetSource):
    """A data set that is small enough to be held as a tensor."""

    @abstractmethod
    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels (N, C, H, W) and labels (N) of one split, proven to be the official ones.

        Raises UnavailableError where the data are not there, IntegrityError where a file is altered.
        """

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> ImageSet:
        """`read`, as tensors with their fingerprint."""
        if class_order is not None:
            raise UsageError(
                f"the files of {self.title} have labels in them, so there is no order of folders to choose; leave out "
                "--class-order"
            )
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


@dataclass(frozen=True, kw_only=True)
class OfficialFiles(InMemory):
    """A data set in files that its authors published, each with its official MD5.

    `files` are those of each split, by their path below the data folder; `torchvision` is the class there that can
    download them from `url`.
    """

    files: Mapping[str, Mapping[str, str]]
    url: str
    torchvision: str

    def require(self, split: str, data_dir: Path | None, *, download: bool) -> dict[Path, bytes]:
        """The bytes of a split's files, in order, each held to its MD5. Raises UnavailableError, IntegrityError."""
        if data_dir is None:
            raise UnavailableError(
                f"nothing says where {self.title} is; name the folder that holds {self.wanted(split)} with --data-dir "
                "or PYRAMIDZOO_DATA"
            )
        files = {data_dir / name: md5 for name, md5 in self.files[split].items()}
        if download and not all(path.is_file() and file_hash(path, "md5") == md5 for path, md5 in files.items()):
            self._download(split, data_dir)
        return {path: self._content(path, md5, data_dir) for path, md5 in files.items()}

    def wanted(self, split: str) -> str:
        """What must be in the data folder: a folder, or a file."""
        return next(iter(self.files[split])).split("/")[0]

    def download_arguments(self, split: str) -> dict[str, object]:
        """What torchvision's class wants to know beside the folder."""
        return {}

    def _content(self, path: Path, md5: str, data_dir: Path) -> bytes:
        if not path.is_file():
            raise UnavailableError(
                f"{self.title} is not in {data_dir}: there is no {path}; put what {self.url} has there, name another "
                "folder with --data-dir or PYRAMIDZOO_DATA, or let --download fetch it"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            raise IntegrityError(
                f"{path} is altered: its MD5 is {found}, the official file has {md5}; get the official file again"
            )
        return content

    def _download(self, split: str, data_dir: Path) -> None:
        from huggingface_hub import constants
        from torchvision import datasets

        if constants.HF_HUB_OFFLINE:
            raise UnavailableError(
                f"{self.title} is not in {data_dir}, and HF_HUB_OFFLINE forbids to download it; unset it, or put what "
                f"{self.url} has there"
            )
        there = data_dir.exists()
        try:  # it checks MD5s and unpacks
            getattr(datasets, self.torchvision)(data_dir, download=True, **self.download_arguments(split))
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if not there:
                with contextlib.suppress(OSError):
                    data_dir.rmdir()  # only if it is empty
            raise UnavailableError(
                f"cannot download {self.url} to {data_dir}: {error}; try again, or get it by hand"
            ) from error
