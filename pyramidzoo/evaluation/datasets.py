"""Test sets as their authors published them, checked by MD5 and held as one uint8 tensor."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash, user_path


@dataclass(frozen=True)
class DatasetSource:
    """One CIFAR set: its folder, the files of each split with their official MD5s, and the labels' key in them."""

    title: str
    folder: str
    splits: Mapping[str, tuple[tuple[str, str], ...]]
    labels: str
    classes: int
    url: str
    torchvision: str


DATASETS: Mapping[str, DatasetSource] = {
    "cifar10": DatasetSource(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        splits={
            "test": (("test_batch", "40351d587109b95175f43aff81a1287e"),),
            "train": (
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
        },
        labels="labels",
        classes=10,
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        torchvision="CIFAR10",
    ),
    "cifar100": DatasetSource(
        title="CIFAR-100",
        folder="cifar-100-python",
        splits={
            "test": (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            "train": (("train", "16019d7e3df5f24257cddd939b257f8d"),),
        },
        labels="fine_labels",
        classes=100,
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        torchvision="CIFAR100",
    ),
}


@dataclass(frozen=True)
class ImageSet:
    """One split: images uint8 (N, 3, H, W), labels int64 (N), and a sha256 over both (the fingerprint)."""

    name: str
    split: str
    classes: int
    images: Tensor
    labels: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


def get_dataset(name: str) -> DatasetSource:
    """Where a data set comes from. Raises UsageError."""
    if name not in DATASETS:
        raise UsageError(f"no data set is called {name!r}; the data sets are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str, split: str, data_dir: Path | None, *, download: bool = False) -> ImageSet:
    """Read a split from the official python files in `data_dir`; every file it needs must have its official MD5.

    `download` fetches the official archive where the files are absent. Raises UsageError for an unknown name or split,
    UnavailableError where the data are not there, IntegrityError where a file is altered.
    """
    source = get_dataset(name)
    if split not in source.splits:
        raise UsageError(f"{source.title} has no split {split!r}; it has {', '.join(source.splits)}")
    if data_dir is None:
        raise UnavailableError(
            f"nothing says where {source.title} is; name the folder that holds {source.folder} with --data-dir or "
            "PYRAMIDZOO_DATA"
        )
    folder = data_dir / source.folder
    files = [folder / filename for filename, _ in source.splits[split]]
    if download and not all(
        (folder / name).is_file() and file_hash(folder / name, "md5") == md5 for name, md5 in source.splits[split]
    ):
        _download(source, data_dir)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise UnavailableError(
            f"{source.title} is not in {data_dir}: there is no {missing[0]}; unpack {source.url} there, name another "
            "folder with --data-dir or PYRAMIDZOO_DATA, or let --download fetch it"
        )
    parts = [_read(path, md5) for path, (_, md5) in zip(files, source.splits[split], strict=True)]
    pixels = np.concatenate([part["data"] for part in parts])
    labels = np.concatenate([np.asarray(part[source.labels], dtype="<i8") for part in parts])
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
    digest.update(labels.tobytes())
    return ImageSet(
        name=name,
        split=split,
        classes=source.classes,
        images=torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        fingerprint=digest.hexdigest(),
    )


def default_data_dir() -> Path | None:
    """`PYRAMIDZOO_DATA`, if set."""
    named = os.environ.get("PYRAMIDZOO_DATA")
    return user_path(named) if named else None


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


def _download(source: DatasetSource, data_dir: Path) -> None:
    from huggingface_hub import constants
    from torchvision import datasets

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(
            f"{source.title} is not in {data_dir}, and HF_HUB_OFFLINE forbids to download it; unset it, or unpack "
            f"{source.url} there"
        )
    there = data_dir.exists()
    try:
        getattr(datasets, source.torchvision)(data_dir, download=True)  # checks the archive's MD5 and unpacks it
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        if not there:
            with contextlib.suppress(OSError):
                data_dir.rmdir()  # only if it is empty
        raise UnavailableError(
            f"cannot download {source.url} to {data_dir}: {error}; try again, or unpack it there"
        ) from error
