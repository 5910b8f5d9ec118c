"""What every data set is to its users: one uint8 tensor of images, their labels, and a fingerprint."""

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
from torch import Tensor

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash


@dataclass(frozen=True)
class ImageSet:
    """One split: images uint8 (N, C, H, W), labels int64 (N), and a sha256 over both (the fingerprint)."""

    name: str
    split: str
    classes: int
    images: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Where a data set comes from. `image_size` is (channels, height, width) in pixels."""

    title: str
    classes: int
    image_size: tuple[int, int, int]
    splits: tuple[str, ...]

    @abstractmethod
    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pixels (N, C, H, W) and labels (N) of one split, proven to be the official ones.

        Raises UnavailableError where the data are not there, IntegrityError where a file is altered.
        """

    def load(self, name: str, split: str, data_dir: Path | None, *, download: bool) -> ImageSet:
        """`read`, as tensors with their fingerprint."""
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
class OfficialFiles(Source):
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
