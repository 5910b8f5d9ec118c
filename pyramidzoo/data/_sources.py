"""Where a dataset comes from: files that its authors published, or a file of this package."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash


@dataclass(frozen=True, kw_only=True)
class DatasetSource(ABC):
    """Where a dataset comes from.

    Attributes:
        title: What messages call the dataset.
        classes: Number of classes.
        image_size: Channels, height and width of the images in pixels.
        splits: Names of the splits. The first one is for testing.
    """

    title: str
    classes: int
    image_size: tuple[int, int, int]
    splits: tuple[str, ...]

    @abstractmethod
    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> Split:
        """Open one split.

        Args:
            name: Name of the dataset in `DATASETS`.
            split: Name of the split.
            data_dir: The folder that holds datasets.
            download: Download the official files if they are missing.
            class_order: Order of the classes where they are folders; see `open_split`.

        Returns:
            The split.

        Raises:
            UnavailableError: The data are not there.
            IntegrityError: A file differs from the official one.
            UsageError: An order of folders is given and there are no folders, or an order is missing.
        """


@dataclass(frozen=True, kw_only=True)
class InMemorySource(DatasetSource):
    """A dataset that is small enough for memory."""

    @abstractmethod
    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read a split and prove that it is the official one.

        Args:
            split: Name of the split.
            data_dir: The folder that holds datasets.
            download: Download the official files if they are missing.

        Returns:
            Pixels (N, C, H, W) and labels (N).

        Raises:
            UnavailableError: The data are not there.
            IntegrityError: A file differs from the official one.
        """

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> ImageSet:
        """Read a split into tensors; see `DatasetSource.open`."""
        if class_order is not None:
            raise UsageError(
                f"the files of {self.title} have labels in them, so there is no order of folders to choose; leave out "
                "--class-order"
            )
        pixels, labels = self.read(split, data_dir, download=download)
        sha256 = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
        sha256.update(labels.astype("<i8").tobytes())
        return ImageSet(
            name=name,
            split=split,
            classes=self.classes,
            images=torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1, *self.image_size)),
            labels=torch.from_numpy(labels.astype(np.int64)),
            fingerprint=sha256.hexdigest(),
        )


@dataclass(frozen=True, kw_only=True)
class OfficialFiles(InMemorySource):
    """A dataset in the files that its authors published, each with its official MD5.

    Attributes:
        files: For each split, the MD5 of each file by its path below the data folder.
        url: Where the files are published.
        torchvision: Name of the class in `torchvision.datasets` that can download the files.
    """

    files: Mapping[str, Mapping[str, str]]
    url: str
    torchvision: str

    def read_files(self, split: str, data_dir: Path | None, *, download: bool) -> dict[Path, bytes]:
        """Read the files of a split and check their MD5s.

        Args:
            split: Name of the split.
            data_dir: The folder that holds datasets.
            download: Download the files unless all of them are there and unaltered.

        Returns:
            The bytes of each file, in the order of `files`.

        Raises:
            UnavailableError: `data_dir` is None, or a file is missing and cannot be downloaded.
            IntegrityError: A file has another MD5.
        """
        if data_dir is None:
            raise UnavailableError(
                f"nothing says where {self.title} is; name the folder that holds {self.top_name(split)} with "
                "--data-dir or PYRAMIDZOO_DATA"
            )
        files = {data_dir / name: md5 for name, md5 in self.files[split].items()}
        if download and not all(path.is_file() and file_hash(path, "md5") == md5 for path, md5 in files.items()):
            self._download(split, data_dir)
        return {path: self._read_file(path, md5, data_dir) for path, md5 in files.items()}

    def top_name(self, split: str) -> str:
        """Get the name of the folder or file that must be in the data folder."""
        return next(iter(self.files[split])).split("/")[0]

    def download_arguments(self, split: str) -> dict[str, object]:
        """Get the arguments of torchvision's class beside the folder."""
        return {}

    def _read_file(self, path: Path, md5: str, data_dir: Path) -> bytes:
        if not path.is_file():
            raise UnavailableError(
                f"{self.title} is not in {data_dir}: there is no {path}; put what {self.url} has there, name another "
                "folder with --data-dir or PYRAMIDZOO_DATA, or let --download fetch it"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
        actual_md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if actual_md5 != md5:
            raise IntegrityError(
                f"{path} is altered: its MD5 is {actual_md5}, the official file has {md5}; get the official file again"
            )
        return content

    def _download(self, split: str, data_dir: Path) -> None:
        """Let torchvision download and unpack the files. It checks their MD5s too."""
        from huggingface_hub import constants
        from torchvision import datasets

        if constants.HF_HUB_OFFLINE:
            raise UnavailableError(
                f"{self.title} is not in {data_dir}, and HF_HUB_OFFLINE forbids the download; unset it, or put what "
                f"{self.url} has there"
            )
        data_dir_existed = data_dir.exists()
        try:
            getattr(datasets, self.torchvision)(data_dir, download=True, **self.download_arguments(split))
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if not data_dir_existed:
                with contextlib.suppress(OSError):
                    data_dir.rmdir()  # This works only if the folder is empty.
            raise UnavailableError(
                f"cannot download {self.url} to {data_dir}: {error}; try again, or get it by hand"
            ) from error
