"""Data sets as their authors published them: small ones checked by hash and held as a tensor, large ones decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pyramidzoo.data._source import DatasetSource, ImageSet, InMemory, ReaderOptions, Split
from pyramidzoo.data.cifar import CIFAR10, CIFAR100
from pyramidzoo.data.digits import DIGITS
from pyramidzoo.data.imagenet import IMAGENET1K
from pyramidzoo.data.mnist import FASHION_MNIST, MNIST
from pyramidzoo.data.svhn import SVHN
from pyramidzoo.errors import UsageError
from pyramidzoo.files import expand_user_path

__all__ = [
    "DATASETS",
    "DatasetSource",
    "ImageSet",
    "ReaderOptions",
    "Split",
    "default_data_dir",
    "get_dataset",
    "load_dataset",
    "open_split",
]

DATASETS: Mapping[str, DatasetSource] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": SVHN,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "imagenet1k": IMAGENET1K,
    "digits": DIGITS,
}


def get_dataset(name: str) -> DatasetSource:
    """Where a data set comes from. Raises UsageError."""
    if name not in DATASETS:
        raise UsageError(f"no data set is called {name!r}; the data sets are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str, split: str, data_dir: Path | None, *, download: bool = False) -> ImageSet:
    """Read a split from the official files in `data_dir`, each of which must have its official hash.

    `download` fetches the official archive where the files are absent; "digits" is part of the package and needs
    neither. Raises UsageError for an unknown name or split and for a data set that is too large to hold,
    UnavailableError where the data are not there, IntegrityError where a file is altered.
    """
    source = get_dataset(name)
    if not isinstance(source, InMemory):
        raise UsageError(f"{source.title} is too large to be held in memory; `open_split` reads it in batches")
    _require_split(source, split)
    return source.open(name, split, data_dir, download=download)


def open_split(
    name: str,
    split: str | None,
    data_dir: Path | None,
    *,
    download: bool = False,
    class_order: str | Path | None = None,
) -> Split:
    """A split of any size, the tested one where `split` is None.

    `class_order` says which class each folder is, where the classes are folders (ImageNet): "text" and "number" sort
    their names, anything else is a file with one name a line in the order of the classes. Without it, folders named by
    WordNet ids or by the names of the classes are known, and others are sorted, if text and numbers give one order.

    Raises as `load_dataset` does, and UsageError where a class order is needed, does not fit the folders, or cannot be
    chosen because the data are not in folders.
    """
    source = get_dataset(name)
    wanted = split or source.splits[0]
    if isinstance(source, InMemory) and class_order is None:
        return load_dataset(name, wanted, data_dir, download=download)
    _require_split(source, wanted)
    return source.open(name, wanted, data_dir, download=download, class_order=class_order)


def _require_split(source: DatasetSource, split: str) -> None:
    if split not in source.splits:
        raise UsageError(f"{source.title} has no split {split!r}; it has {', '.join(source.splits)}")


def default_data_dir() -> Path | None:
    """`PYRAMIDZOO_DATA`, if set."""
    named = os.environ.get("PYRAMIDZOO_DATA")
    return expand_user_path(named) if named else None
