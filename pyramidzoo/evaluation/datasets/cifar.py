"""CIFAR-10 and CIFAR-100 from their official python files, each of which must have its official MD5."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.evaluation.datasets._source import Source
from pyramidzoo.files import file_hash


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """One CIFAR set: its folder, the files of each split with their official MD5s, and the labels' key in them."""

    image_size: tuple[int, int, int] = (3, 32, 32)
    splits: tuple[str, ...] = ("test", "train")
    folder: str
    files: Mapping[str, Mapping[str, str]]
    labels: str
    url: str
    torchvision: str

    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if data_dir is None:
            raise UnavailableError(
                f"nothing says where {self.title} is; name the folder that holds {self.folder} with --data-dir or "
                "PYRAMIDZOO_DATA"
            )
        files = {data_dir / self.folder / name: md5 for name, md5 in self.files[split].items()}
        if download and not all(path.is_file() and file_hash(path, "md5") == md5 for path, md5 in files.items()):
            self._download(data_dir)
        for path in files:
            if not path.is_file():
                raise UnavailableError(
                    f"{self.title} is not in {data_dir}: there is no {path}; unpack {self.url} there, name another "
                    "folder with --data-dir or PYRAMIDZOO_DATA, or let --download fetch it"
                )
        parts = [_read(path, md5) for path, md5 in files.items()]
        pixels = np.concatenate([part["data"] for part in parts])
        labels = np.concatenate([np.asarray(part[self.labels], dtype=np.int64) for part in parts])
        return pixels, labels

    def _download(self, data_dir: Path) -> None:
        from huggingface_hub import constants
        from torchvision import datasets

        if constants.HF_HUB_OFFLINE:
            raise UnavailableError(
                f"{self.title} is not in {data_dir}, and HF_HUB_OFFLINE forbids to download it; unset it, or unpack "
                f"{self.url} there"
            )
        there = data_dir.exists()
        try:
            getattr(datasets, self.torchvision)(data_dir, download=True)  # checks the archive's MD5 and unpacks it
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            if not there:
                with contextlib.suppress(OSError):
                    data_dir.rmdir()  # only if it is empty
            raise UnavailableError(
                f"cannot download {self.url} to {data_dir}: {error}; try again, or unpack it there"
            ) from error


CIFAR10 = Cifar(
    title="CIFAR-10",
    classes=10,
    folder="cifar-10-batches-py",
    files={
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
    },
    labels="labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    torchvision="CIFAR10",
)

CIFAR100 = Cifar(
    title="CIFAR-100",
    classes=100,
    folder="cifar-100-python",
    files={
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
    },
    labels="fine_labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    torchvision="CIFAR100",
)


def _read(path: Path, md5: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise IntegrityError(
            f"{path} is altered: its MD5 is {found}, the official file has {md5}; unpack the official archive again"
        )
    batch: dict[str, Any] = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
    return batch


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays and nothing else, under the module names of the NumPy that wrote the files."""

    _ALLOWED: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise IntegrityError(f"a CIFAR file names {module}.{name}, which no official file does")
        return self._ALLOWED[module, name]
