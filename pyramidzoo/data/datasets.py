"""All datasets by name. Small ones are read into memory; the images of large ones are decoded in batches."""

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
    """Look up where a dataset comes from.

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
    """Read a split into memory, from official files with their official hashes.

    Args:
        name: A key of `DATASETS`.
        split: Name of the split.
        data_dir: The folder that holds datasets. "digits" is part of the package and needs none.
        download: Download the official files if they are missing.

    Returns:
        The images, labels and fingerprint of the split.

    Raises:
        UsageError: There is no dataset or split of this name, or the dataset is too large for memory.
        UnavailableError: The data are not there.
        IntegrityError: A file differs from the official one.
    """
    source = get_dataset(name)
    if not isinstance(source, InMemorySource):
        raise UsageError(f"{source.title} is too large to be held in memory; `open_split` reads it in batches")
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
        split: Name of the split; None opens the split for testing.
        data_dir: The folder that holds datasets. "digits" is part of the package and needs none.
        download: Download the official files if they are missing.
        class_order: Which class each folder is, where the classes are folders (ImageNet). "text" sorts
            their names as text, "number" by the numbers in them. Anything else is a file that has one
            name in each line, in the order of the classes. None is enough for folders that are named by
            WordNet ids or class names, and for names that both ways sort equally.

    Returns:
        The split.

    Raises:
        UsageError: There is no dataset or split of this name. Or a class order is needed, does not fit
            the folders, or is given although the data are not in folders.
        UnavailableError: The data are not there.
        IntegrityError: A file differs from the official one.
    """
    source = get_dataset(name)
    split_name = split or source.splits[0]
    if isinstance(source, InMemorySource) and class_order is None:
        return load_dataset(name, split_name, data_dir, download=download)
    _check_split(source, split_name)
    return source.open(name, split_name, data_dir, download=download, class_order=class_order)


def _check_split(source: DatasetSource, split: str) -> None:
    if split not in source.splits:
        raise UsageError(f"{source.title} has no split {split!r}; it has {', '.join(source.splits)}")


def default_data_dir() -> Path | None:
    """Get the folder that the environment variable PYRAMIDZOO_DATA names, or None."""
    folder = os.environ.get("PYRAMIDZOO_DATA")
    return expand_user_path(folder) if folder else None
