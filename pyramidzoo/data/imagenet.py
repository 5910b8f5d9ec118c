"""ImageNet's validation images, from a folder for each class or from the Parquet files of the Hugging Face Hub."""

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
from pyramidzoo.data._class_order import ordered, recorded_order
from pyramidzoo.data._encoded import EncodedImages, EncodedSet
from pyramidzoo.data._source import DatasetSource
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError

IMAGES, CLASSES = 50_000, 1_000
_PLACES = (".", "imagenet", "imagenet1k", "imagenet-1k", "imagenet_1k", "ImageNet", "ILSVRC2012")
_TREES = ("val", "validation")
_SHARDS = ("data/validation-*.parquet", "validation-*.parquet")
_OFFICIAL = re.compile(r"ILSVRC2012_val_(\d{8})\D")
_WNID = re.compile(r"n\d{8}(?!\d)")
_HOW = (
    "name the folder that holds val/CLASS/*.JPEG, or the Hub's data/validation-*.parquet (ILSVRC/imagenet-1k), with "
    "--data-dir or PYRAMIDZOO_DATA"
)


@dataclass(frozen=True)
class Files(EncodedImages):
    """A file for each image."""

    paths: Sequence[Path]

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        return [(str(path), path.read_bytes()) for path in self.paths[start:stop]]


@dataclass(frozen=True, kw_only=True)
class ImageNet(DatasetSource):
    """The classes are those of the ILSVRC 2012, in the order of their WordNet ids."""

    title: str = "ImageNet"
    classes: int = CLASSES
    image_size: tuple[int, int, int] = (3, 224, 224)
    splits: tuple[str, ...] = ("val",)

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> EncodedSet:
        """Nobody may download it without an account: `download` changes nothing."""
        if data_dir is None:
            raise UnavailableError(f"nothing says where {self.title} is; {_HOW}")
        flat = None
        for place in (data_dir / name for name in _PLACES):
            for tree in [*(place / name for name in _TREES), place]:
                if not tree.is_dir():
                    continue
                if _has_classes(tree, strict=tree == place):
                    return _of_tree(name, split, tree, class_order)
                if any(tree.glob("ILSVRC2012_val_*")) or any(tree.glob("ILSVRC2012_img_val.tar")):
                    flat = flat or tree
            for pattern in _SHARDS:
                if shards := sorted(place.glob(pattern)):
                    if class_order is not None:
                        raise UsageError(
                            f"the Parquet files of {shards[0].parent} have labels in them, so there is no order of "
                            "folders to choose; leave out --class-order"
                        )
                    return _of_shards(name, split, shards)
        if flat:
            raise UnavailableError(
                f"{flat} holds images without their classes; with ILSVRC2012_img_val.tar and "
                "ILSVRC2012_devkit_t12.tar.gz in DIR, "
                "`python -c \"from torchvision.datasets import ImageNet; ImageNet('DIR', 'val')\"` makes DIR/val with "
                "a folder for each class"
            )
        raise UnavailableError(f"{self.title} is not in {data_dir}; {_HOW}")


IMAGENET1K = ImageNet()


def not_the_split(names: Sequence[str], labels: NDArray[np.int64]) -> str | None:
    """Why these are not the validation images as published, None where nothing tells them apart."""
    if len(labels) != IMAGES:
        return f"{len(labels):,} images are not the {IMAGES:,} of the split"
    if (np.bincount(labels, minlength=CLASSES) != IMAGES // CLASSES).any():
        return f"the {CLASSES:,} classes do not have {IMAGES // CLASSES} images each, as they have in the split"
    found = [_OFFICIAL.search(name) for name in names]
    if {int(match[1]) for match in found if match} != set(range(1, IMAGES + 1)):
        return "the images do not have the names of the split, ILSVRC2012_val_00000001 and so on"
    wnids, named = _wnids(), map(_WNID.search, names)
    if any(match is None or match[0] != wnids[label] for match, label in zip(named, labels, strict=True)):
        return "the WordNet ids in the names of folders or images are not those of the classes"
    return None


def _has_classes(folder: Path, *, strict: bool) -> bool:
    """Whether there are folders, and where it may be any folder of data sets, only such as are named by WordNet ids."""
    if strict:
        return any(_WNID.fullmatch(path.name) for path in folder.iterdir() if path.is_dir())
    return any(path.is_dir() for path in folder.iterdir())


def _of_tree(name: str, split: str, tree: Path, class_order: str | Path | None) -> EncodedSet:
    """By class, and within a class in torchvision's order. Folders whose classes are known may be missing."""
    from torchvision.datasets import ImageFolder

    found = ImageFolder(tree, allow_empty=True)
    order = None if class_order is None else _chosen(tree, found.classes, class_order)
    numbers = _labels(tree, found.classes) if order is None else np.array([order.index(f) for f in found.classes])
    if not found.samples:
        raise UnavailableError(f"the folders of {tree} hold no images; {_HOW}")
    samples = sorted(found.samples, key=lambda sample: numbers[sample[1]])  # files of a class stay in their order
    paths = [Path(path) for path, _ in samples]
    labels = numbers[[number for _, number in samples]].astype(np.int64)
    names = [path.relative_to(tree).as_posix() for path in paths]
    sizes = [path.stat().st_size for path in paths]
    return EncodedSet(
        name=name,
        split=split,
        classes=CLASSES,
        encoded=Files(paths),
        labels=torch.from_numpy(labels),
        fingerprint=_fingerprint(zip(names, sizes, labels.tolist(), strict=True)),
        not_the_split=not_the_split(names, labels),
        class_order=None if order is None or class_order is None else recorded_order(order, class_order),
    )


def _chosen(tree: Path, folders: list[str], class_order: str | Path) -> list[str]:
    """The folders in the order that somebody chose, one for each class. Raises UsageError, UnavailableError."""
    order = ordered(folders, class_order, where=tree)
    if len(order) != CLASSES:
        raise UsageError(
            f"{tree} has {len(order):,} folders, and an order of folders tells the classes only where there is one for "
            f"each of the {CLASSES:,}; make the missing folders, which may be empty, or name all by ImageNet's WordNet "
            "ids (n01440764) and leave out --class-order"
        )
    return order


def _labels(tree: Path, folders: list[str]) -> NDArray[np.int64]:
    """The label of each folder, as far as its name tells it. Raises UnavailableError, UsageError where it does not."""
    for known in (_wnids(), _class_names()):
        labels = {name: label for label, name in enumerate(known)}
        if labels.keys() >= set(folders):
            return np.array([labels[folder] for folder in folders])
    if len(folders) != CLASSES:
        official = set(_wnids())
        strange = next(folder for folder in folders if folder not in official)
        raise UnavailableError(
            f"{tree} has {len(folders):,} folders, one of them {strange!r}; name them by ImageNet's WordNet ids "
            f"(n01440764), or make one for each of the {CLASSES:,} classes, in the order of their names"
        )
    order = ordered(folders, None, where=tree)
    return np.array([order.index(folder) for folder in folders])


def _of_shards(name: str, split: str, shards: list[Path]) -> EncodedSet:
    """In the order of the rows, which is read fast, and indexed as the tree would be: by class, then by name."""
    encoded, names, labels = _parquet.opened(shards)
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
        not_the_split=not_the_split(names, labels),
    )


def _fingerprint(images: Iterable[tuple[str, int, int]]) -> str:
    """sha256 over index, name, size in bytes and label of each image; what is in the files is not read."""
    digest = hashlib.sha256()
    for index, (name, size, label) in enumerate(images):
        digest.update(f"{index}\0{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _wnids() -> list[str]:
    """The 1,000 WordNet ids in the order of the labels."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return list(info.label_names())


def _class_names() -> list[str]:
    """What torchvision calls the classes, in the order of the labels; each name occurs once."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
