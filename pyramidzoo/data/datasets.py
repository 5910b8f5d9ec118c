"""All datasets by their names, and functions that open their splits.

Small datasets are read into memory. The images of large datasets stay in their files and are decoded in batches.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pyramidzoo.data._sources import DatasetSource, InMemorySource
from pyramidzoo.data._splits import ImageSet, ReaderOptions, Split
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
    """Look up the source of a dataset by its name. The source knows the files and opens the splits.

    Args:
        name: A key of `DATASETS`.

    Returns:
        The source of the dataset.

    Raises:
        UsageError: There is no dataset of this name.
    """
    if name not in DATASETS:
        raise UsageError(f"no dataset is called {name!r}; the datasets are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str, split: str, data_dir: Path | None, *, download: bool = False) -> ImageSet:
    """Read a split of a small dataset into memory. Its files must have the official hashes.

    Args:
        name: A key of `DATASETS`.
        split: Name of the split.
        data_dir: The folder that contains the datasets. It may be None for "digits", which is part of the package.
        download: Whether missing official files are downloaded.

    Returns:
        The images, labels and fingerprint of the split.

    Raises:
        UsageError: There is no dataset or split of this name, or the dataset is too large for memory.
        UnavailableError: The files are missing, or cannot be read.
        IntegrityError: A file differs from the official file.
    """
    source = get_dataset(name)
    if not isinstance(source, InMemorySource):
        raise UsageError(f"{source.title} is too large for memory; `open_split` reads it in batches")
    _check_split(source, split)
    return source.open(name, split, data_dir, download=download)


def open_split(
    name: str,
    split: str | None,
    data_dir: Path | None,
    *,
    download: bool = False,
    class_order: str | Path | None = None,
) -> Split:
    """Open a split of a small or large dataset.

    Args:
        name: A key of `DATASETS`.
        split: Name of the split. None opens the test split.
        data_dir: The folder that contains the datasets. It may be None for "digits", which is part of the package.
        download: Whether missing official files are downloaded.
        class_order: How to sort the folders of the classes, if each class has a folder of its own (ImageNet). The first
            folder is class 0. "text" sorts the names as text. "number" sorts them by the numbers in the names. Anything
            else is the path of a text file with the name of one folder on each line, in the order of the classes. None
            is allowed if the folders are named by WordNet ids or by class names, or if "text" and "number" give the
            same order.

    Returns:
        The split.

    Raises:
        UsageError: There is no dataset or split of this name. Or `class_order` is needed and is None, or does not fit
            the folders, or is given although the classes have no folders.
        UnavailableError: The files are missing, or cannot be read.
        IntegrityError: A file differs from the official file.
    """
    source = get_dataset(name)
    split_name = split or source.splits[0]
    if isinstance(source, InMemorySource) and class_order is None:
        return load_dataset(name, split_name, data_dir, download=download)
    _check_split(source, split_name)
    return source.open(name, split_name, data_dir, download=download, class_order=class_order)


def _check_split(source: DatasetSource, split: str) -> None:
    """Raise UsageError if a dataset has no split of this name."""
    if split not in source.splits:
        raise UsageError(f"{source.title} has no split {split!r}; it has {', '.join(source.splits)}")


def default_data_dir() -> Path | None:
    """Get the folder that the environment variable PYRAMIDZOO_DATA names. Return None if it is not set."""
    folder = os.environ.get("PYRAMIDZOO_DATA")
    return expand_user_path(folder) if folder else None
