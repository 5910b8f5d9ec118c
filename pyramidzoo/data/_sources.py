"""Classes of dataset sources. A source knows the files of a dataset, and opens its splits."""

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
    """The source of a dataset: it knows where the files are, and opens the splits of the dataset.

    Attributes:
        title: Name of the dataset in messages, such as "CIFAR-10".
        classes: Number of classes.
        image_size: Number of channels, height and width of an image. For datasets whose images have different sizes,
            the size after cropping.
        splits: Names of the splits. The first one is the test split.
    """

    title: str
    classes: int
    image_size: tuple[int, int, int]
    splits: tuple[str, ...]

    @abstractmethod
    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> Split:
        """Open one split of the dataset.

        Args:
            name: Name of the dataset in `DATASETS`.
            split: Name of the split.
            data_dir: The folder that contains the datasets.
            download: Whether missing official files are downloaded.
            class_order: How to sort the folders of the classes, if each class has a folder of its own; see
                `data.datasets.open_split`. None for a dataset whose files contain the labels.

        Returns:
            The split.

        Raises:
            UnavailableError: The files are missing, or cannot be read.
            IntegrityError: A file differs from the official file.
            UsageError: `class_order` is given although the files contain the labels. Or it is None although the names
                of the folders do not say which class each of them is.
        """


@dataclass(frozen=True, kw_only=True)
class InMemorySource(DatasetSource):
    """The source of a dataset that is small enough for memory. Its files contain the labels."""

    @abstractmethod
    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read a split from files that have the official hashes.

        Args:
            split: Name of the split.
            data_dir: The folder that contains the datasets.
            download: Whether missing official files are downloaded.

        Returns:
            Pixels (N, C, H, W) or (N, C * H * W), and labels (N).

        Raises:
            UnavailableError: The files are missing, or cannot be read.
            IntegrityError: A file differs from the official file.
        """

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> ImageSet:
        """Read a split into tensors; see `DatasetSource.open`."""
        if class_order is not None:
            raise UsageError(
                f"the files of {self.title} contain the labels, so there are no folders of classes to sort; leave out "
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
    """The source of a dataset whose authors published files with MD5 hashes. Each file must have its official MD5.

    Attributes:
        files: For each split, the paths of its files relative to `data_dir`, and the official MD5 of each file.
        url: The address where the files are published.
        torchvision_class: Name of the class in `torchvision.datasets` that can download the files.
    """

    files: Mapping[str, Mapping[str, str]]
    url: str
    torchvision_class: str

    def read_files(self, split: str, data_dir: Path | None, *, download: bool) -> dict[Path, bytes]:
        """Read the files of a split, and compare their MD5 hashes with the official ones.

        Args:
            split: Name of the split.
            data_dir: The folder that contains the datasets.
            download: Whether the files are downloaded if one of them is missing or altered.

        Returns:
            The path and the bytes of each file, in the order of `files`.

        Raises:
            UnavailableError: `data_dir` is None, or a file is missing and cannot be downloaded.
            IntegrityError: A file has another MD5.
        """
        if data_dir is None:
            raise UnavailableError(
                f"it is not known where {self.title} is; name the folder that contains {self._get_top_name(split)} "
                "with --data-dir or PYRAMIDZOO_DATA"
            )
        files = {data_dir / name: md5 for name, md5 in self.files[split].items()}
        if download and not all(path.is_file() and file_hash(path, "md5") == md5 for path, md5 in files.items()):
            self._download(split, data_dir)
        return {path: self._read_file(path, md5, data_dir) for path, md5 in files.items()}

    def make_download_arguments(self, split: str) -> dict[str, object]:
        """Make the arguments that `torchvision_class` needs to download a split, besides the folder."""
        return {}

    def _get_top_name(self, split: str) -> str:
        """Get the name of the folder or file of a split that a user must put into `data_dir`."""
        return next(iter(self.files[split])).split("/")[0]

    def _read_file(self, path: Path, md5: str, data_dir: Path) -> bytes:
        """Read a file in `data_dir`, and require that it has an MD5 hash."""
        if not path.is_file():
            raise UnavailableError(
                f"{self.title} is not in {data_dir}: the file {path} is missing; put the files from {self.url} into "
                f"{data_dir}, name another folder with --data-dir or PYRAMIDZOO_DATA, or download them with --download"
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
        """Let torchvision download and unpack the files of a split."""
        from huggingface_hub import constants
        from torchvision import datasets

        if constants.HF_HUB_OFFLINE:
            raise UnavailableError(
                f"{self.title} is not in {data_dir}, and HF_HUB_OFFLINE forbids the download; unset this variable, or "
                f"put the files from {self.url} into {data_dir}"
            )
        data_dir_existed = data_dir.exists()
        download_dataset = getattr(datasets, self.torchvision_class)
        try:
            download_dataset(data_dir, download=True, **self.make_download_arguments(split))
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if not data_dir_existed:
                with contextlib.suppress(OSError):
                    data_dir.rmdir()  # This fails if the folder is not empty. The folder then stays.
            raise UnavailableError(
                f"cannot download {self.url} to {data_dir}: {error}; try again, or download the files by hand"
            ) from error
