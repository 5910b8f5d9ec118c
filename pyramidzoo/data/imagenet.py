"""ImageNet's images, from one folder for each class or from the Parquet files of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyramidzoo.data import _parquet
from pyramidzoo.data._class_order import describe_order, sort_folders
from pyramidzoo.data._encoded import EncodedImages, EncodedSet
from pyramidzoo.data._sources import DatasetSource
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError

IMAGES, CLASSES = 50_000, 1_000
# Folders below the data folder that may hold ImageNet.
_FOLDERS = (".", "imagenet", "imagenet1k", "imagenet-1k", "imagenet_1k", "ImageNet", "ILSVRC2012")
# What holds each split: folders with a folder for each class, and Parquet files.
_TREES = {"val": ("val", "validation"), "train": ("train",)}
_SHARDS = {
    "val": ("data/validation-*.parquet", "validation-*.parquet"),
    "train": ("data/train-*.parquet", "train-*.parquet"),
}
_TRAINING_IMAGES = "they are training images, and published results are of the validation images"
_OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\D")
_WNID = re.compile(r"n\d{8}(?!\d)")


@dataclass(frozen=True)
class ImageFiles(EncodedImages):
    """One file for each image.

    Attributes:
        paths: The files, by place.
    """

    paths: Sequence[Path]

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read some files; see `EncodedImages.read`."""
        return [(str(path), path.read_bytes()) for path in self.paths[start:stop]]


@dataclass(frozen=True, kw_only=True)
class ImageNet(DatasetSource):
    """The images of the ILSVRC 2012. The classes are in the order of their WordNet ids."""

    title: str = "ImageNet"
    classes: int = CLASSES
    image_size: tuple[int, int, int] = (3, 224, 224)
    splits: tuple[str, ...] = ("val", "train")

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> EncodedSet:
        """Open the first tree of folders, or the first Parquet files, in the folders where people put ImageNet.

        `download` has no effect, because a download needs an account. See `DatasetSource.open`.
        """
        if data_dir is None:
            raise UnavailableError(f"nothing says where {self.title} is; {_advise_where_to_put(split)}")
        unsorted_images = None
        for folder in (data_dir / name for name in _FOLDERS):
            trees = [folder / name for name in _TREES[split]]
            # a folder of another name may also hold the classes of the validation images
            for tree in [*trees, folder] if split == "val" else trees:
                if not tree.is_dir():
                    continue
                if _has_class_folders(tree, only_wnids=tree == folder):
                    return _open_tree(name, split, tree, class_order)
                if any(tree.glob("ILSVRC2012_val_*")) or any(tree.glob("ILSVRC2012_img_val.tar")):
                    unsorted_images = unsorted_images or tree
            for pattern in _SHARDS[split]:
                if shards := sorted(folder.glob(pattern)):
                    if class_order is not None:
                        raise UsageError(
                            f"the Parquet files of {shards[0].parent} have labels in them, so there is no order of "
                            "folders to choose; leave out --class-order"
                        )
                    return _open_shards(name, split, shards)
        if unsorted_images:
            raise UnavailableError(
                f"{unsorted_images} holds images without their classes; with ILSVRC2012_img_val.tar and "
                "ILSVRC2012_devkit_t12.tar.gz in DIR, "
                "`python -c \"from torchvision.datasets import ImageNet; ImageNet('DIR', 'val')\"` makes DIR/val with "
                "a folder for each class"
            )
        where = f"{self.title} is" if split == "val" else f"the training images of {self.title} are"
        raise UnavailableError(f"{where} not in {data_dir}; {_advise_where_to_put(split)}")


IMAGENET1K = ImageNet()


def not_the_split(names: Sequence[str], labels: NDArray[np.int64]) -> str | None:
    """Say why images are not the official validation images.

    Args:
        names: Names of the images, with their folders.
        labels: Labels of the images.

    Returns:
        The reason, or None if nothing distinguishes them from the official ones.
    """
    if len(labels) != IMAGES:
        return f"{len(labels):,} images are not the {IMAGES:,} of the split"
    if (np.bincount(labels, minlength=CLASSES) != IMAGES // CLASSES).any():
        return f"the {CLASSES:,} classes do not have {IMAGES // CLASSES} images each, as they have in the split"
    official_names = [_OFFICIAL_NAME.search(name) for name in names]
    if {int(match[1]) for match in official_names if match} != set(range(1, IMAGES + 1)):
        return "the images do not have the names of the split, ILSVRC2012_val_00000001 and so on"
    wnids, matches = _wnids(), map(_WNID.search, names)
    if any(match is None or match[0] != wnids[label] for match, label in zip(matches, labels, strict=True)):
        return "the WordNet ids in the names of folders or images are not those of the classes"
    return None


def _advise_where_to_put(split: str) -> str:
    """Say what holds a split, and how to name it."""
    return (
        f"name the folder that holds {_TREES[split][0]}/CLASS/*.JPEG, or the Hub's {_SHARDS[split][0]} "
        "(ILSVRC/imagenet-1k), with --data-dir or PYRAMIDZOO_DATA"
    )


def _has_class_folders(folder: Path, *, only_wnids: bool) -> bool:
    """Tell whether a folder holds folders. Only those named by WordNet ids count where it may hold anything."""
    folders = (path for path in folder.iterdir() if path.is_dir())
    return any(_WNID.fullmatch(path.name) for path in folders) if only_wnids else any(True for _ in folders)


def _open_tree(name: str, split: str, tree: Path, class_order: str | Path | None) -> EncodedSet:
    """Open a tree with a folder for each class. Images come by class, and within a class in torchvision's order.

    Folders may be missing if the names of the others tell their classes.
    """
    from torchvision.datasets import ImageFolder

    tree_files = ImageFolder(tree, allow_empty=True)
    folders = tree_files.classes
    order = None if class_order is None else _sort_all_folders(tree, folders, class_order)
    label_of = _recognise_labels(tree, folders) if order is None else np.array([order.index(f) for f in folders])
    if not tree_files.samples:
        raise UnavailableError(f"the folders of {tree} hold no images; {_advise_where_to_put(split)}")
    # The sort is stable, so the files of a class stay in torchvision's order.
    samples = sorted(tree_files.samples, key=lambda sample: label_of[sample[1]])
    paths = [Path(path) for path, _ in samples]
    labels = label_of[[number for _, number in samples]].astype(np.int64)
    names = [path.relative_to(tree).as_posix() for path in paths]
    sizes = [path.stat().st_size for path in paths]
    return EncodedSet(
        name=name,
        split=split,
        classes=CLASSES,
        encoded=ImageFiles(paths),
        labels=torch.from_numpy(labels),
        fingerprint=_fingerprint(zip(names, sizes, labels.tolist(), strict=True)),
        not_the_split=not_the_split(names, labels) if split == "val" else _TRAINING_IMAGES,
        class_order=None if order is None or class_order is None else describe_order(order, class_order),
    )


def _sort_all_folders(tree: Path, folders: list[str], class_order: str | Path) -> list[str]:
    """Put the folders into the order that the user chose, and check that each class has one."""
    order = sort_folders(folders, class_order, where=tree)
    if len(order) != CLASSES:
        raise UsageError(
            f"{tree} has {len(order):,} folders, and an order of folders tells the classes only where there is one for "
            f"each of the {CLASSES:,}; make the missing folders, which may be empty, or name all by ImageNet's WordNet "
            "ids (n01440764) and leave out --class-order"
        )
    return order


def _recognise_labels(tree: Path, folders: list[str]) -> NDArray[np.int64]:
    """Find the label of each folder by its name: a WordNet id, a class name, or its position in the only order."""
    for class_names in (_wnids(), _class_names()):
        labels = {name: label for label, name in enumerate(class_names)}
        if labels.keys() >= set(folders):
            return np.array([labels[folder] for folder in folders])
    if len(folders) != CLASSES:
        wnids = set(_wnids())
        unknown = next(folder for folder in folders if folder not in wnids)
        raise UnavailableError(
            f"{tree} has {len(folders):,} folders, one of them {unknown!r}; name them by ImageNet's WordNet ids "
            f"(n01440764), or make one for each of the {CLASSES:,} classes, in the order of their names"
        )
    order = sort_folders(folders, None, where=tree)
    return np.array([order.index(folder) for folder in folders])


def _open_shards(name: str, split: str, shards: list[Path]) -> EncodedSet:
    """Open Parquet files. Images come in the order of the rows, because other orders are slow to read.

    Their indices are those that the same images have in a tree: by class, then by name.
    """
    encoded, names, labels = _parquet.open_shards(shards)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= CLASSES:
        raise IntegrityError(f"{shards[0].parent} has labels that are not 0 to {CLASSES - 1}; get the files again")
    by_index = sorted(range(len(names)), key=lambda row: (labels[row], names[row]))
    order = np.empty(len(names), np.int64)
    order[by_index] = np.arange(len(names))
    rows = [(names[row], 0, int(labels[row])) for row in by_index]
    return EncodedSet(
        name=name,
        split=split,
        classes=CLASSES,
        encoded=encoded,
        labels=torch.from_numpy(labels),
        fingerprint=_fingerprint([*rows, *((shard.name, shard.stat().st_size, -1) for shard in shards)]),
        order=order,
        not_the_split=not_the_split(names, labels) if split == "val" else _TRAINING_IMAGES,
    )


def _fingerprint(images: Iterable[tuple[str, int, int]]) -> str:
    """Hash index, name, size in bytes and label of each image. The files themselves are not read."""
    sha256 = hashlib.sha256()
    for index, (name, size, label) in enumerate(images):
        sha256.update(f"{index}\0{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return sha256.hexdigest()


def _wnids() -> list[str]:
    """List the 1,000 WordNet ids in the order of the labels."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return list(info.label_names())


def _class_names() -> list[str]:
    """List torchvision's names of the classes in the order of the labels. Each name occurs once."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
