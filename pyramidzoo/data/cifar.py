"""CIFAR-10 and CIFAR-100, read from the pickle files that their authors published ("CIFAR-10 python version")."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.data._sources import OfficialFiles
from pyramidzoo.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class Cifar(OfficialFiles):
    """The source of CIFAR-10 or CIFAR-100.

    Attributes:
        labels_key: The key under which the labels are stored in the pickled dicts.
    """

    image_size: tuple[int, int, int] = (3, 32, 32)
    splits: tuple[str, ...] = ("test", "train")
    labels_key: str

    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the files of a split; see `InMemorySource.read`."""
        files = self.read_files(split, data_dir, download=download)
        batches = [_unpickle_batch(content) for content in files.values()]
        pixels = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([np.asarray(batch[self.labels_key], dtype=np.int64) for batch in batches])
        return pixels, labels


CIFAR10 = Cifar(
    title="CIFAR-10",
    classes=10,
    files={
        "test": {"cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e"},
        "train": {
            "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
            "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
    },
    labels_key="labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    torchvision_class="CIFAR10",
)

CIFAR100 = Cifar(
    title="CIFAR-100",
    classes=100,
    files={
        "test": {"cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "train": {"cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d"},
    },
    labels_key="fine_labels",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    torchvision_class="CIFAR100",
)


def _unpickle_batch(content: bytes) -> dict[str, Any]:
    """Read the dict in a file. The files were written with Python 2, so their strings are decoded as latin1."""
    batch: dict[str, Any] = _BatchUnpickler(io.BytesIO(content), encoding="latin1").load()
    return batch


class _BatchUnpickler(pickle.Unpickler):
    """An unpickler that makes NumPy arrays only, so that a file cannot run any code."""

    # The classes and functions that a file may name. The module names are those of the old NumPy that wrote the files.
    _ALLOWED: ClassVar[Mapping[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function that a file names. `pickle` calls this method for each name."""
        if (module, name) not in self._ALLOWED:
            raise IntegrityError(f"a CIFAR file names {module}.{name}, which is in no official file")
        return self._ALLOWED[module, name]
