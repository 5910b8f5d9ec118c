"""ImageNet's images, read from image files in a folder for each class, or from the Hub's Parquet files."""

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
# The folders in `data_dir` that may contain ImageNet. "." is `data_dir` itself.
_FOLDERS = (".", "imagenet", "imagenet1k", "imagenet-1k", "imagenet_1k", "ImageNet", "ILSVRC2012")
# The folders in such a folder that may contain a folder for each class, by split.
_TREES = {"val": ("val", "validation"), "train": ("train",)}
# The Parquet files in such a folder, by split.
_SHARDS = {
    "val": ("data/validation-*.parquet", "validation-*.parquet"),
    "train": ("data/train-*.parquet", "train-*.parquet"),
}
_OFFICIAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\D")
_WORDNET_ID = re.compile(r"n\d{8}(?!\d)")
_TRAINING_IMAGES_REASON = "they are training images, and published results are of the validation images"


@dataclass(frozen=True)
class ImageFiles(EncodedImages):
    """Encoded images of which each is a file.

    Attributes:
        paths: The files, in the order of the positions.
    """

    paths: Sequence[Path]

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read consecutive images; see `EncodedImages.read`."""
        return [(str(path), path.read_bytes()) for path in self.paths[start:stop]]


@dataclass(frozen=True, kw_only=True)
class ImageNet(DatasetSource):
    """The source of the images of ILSVRC 2012. Class 0 has the first WordNet id, n01440764."""

    title: str = "ImageNet"
    classes: int = CLASSES
    image_size: tuple[int, int, int] = (3, 224, 224)
    splits: tuple[str, ...] = ("val", "train")

    def open(
        self, name: str, split: str, data_dir: Path | None, *, download: bool, class_order: str | Path | None = None
    ) -> EncodedSet:
        """Search the folders in which ImageNet usually is, and open the first images of the split that are found.

        These images may be files in a folder for each class ("tree"), or Parquet files. `download` has no effect,
        because a download needs an account. See also `DatasetSource.open`.
        """
        if data_dir is None:
            raise UnavailableError(f"it is not known where {self.title} is; {_explain_folder(split)}")
        unsorted_images = None  # the first folder that contains images without their classes
        for folder in (data_dir / name for name in _FOLDERS):
            trees = [folder / name for name in _TREES[split]]
            # The validation images may also be in a folder of another name.
            for tree in [*trees, folder] if split == "val" else trees:
                if not tree.is_dir():
                    continue
                # `folder` itself may also contain other folders than those of classes, such as other datasets.
                if _has_class_folders(tree, must_be_wordnet_ids=tree == folder):
                    return _open_tree(name, split, tree, class_order)
                if any(tree.glob("ILSVRC2012_val_*")) or any(tree.glob("ILSVRC2012_img_val.tar")):
                    unsorted_images = unsorted_images or tree
            for pattern in _SHARDS[split]:
                if shards := sorted(folder.glob(pattern)):
                    if class_order is not None:
                        raise UsageError(
                            f"the Parquet files of {shards[0].parent} contain the labels, so there are no folders of "
                            "classes to sort; leave out --class-order"
                        )
                    return _open_shards(name, split, shards)
        if unsorted_images:
            raise UnavailableError(
                f"{unsorted_images} contains images without their classes; with ILSVRC2012_img_val.tar and "
                "ILSVRC2012_devkit_t12.tar.gz in DIR, "
                "`python -c \"from torchvision.datasets import ImageNet; ImageNet('DIR', 'val')\"` makes DIR/val with "
                "a folder for each class"
            )
        what = f"{self.title} is" if split == "val" else f"the training images of {self.title} are"
        raise UnavailableError(f"{what} not in {data_dir}; {_explain_folder(split)}")


IMAGENET1K = ImageNet()


def find_unofficial_reason(names: Sequence[str], labels: NDArray[np.int64]) -> str | None:
    """Compare the names and labels of images with those of the official validation images.

    Args:
        names: Names of the images, with their folders.
        labels: Labels int64 (N) of the images.

    Returns:
        Why the images are not the official ones. None if their names and labels are those of the official ones.
    """
    if len(labels) != IMAGES:
        return f"{len(labels):,} images are not the {IMAGES:,} of the split"
    if (np.bincount(labels, minlength=CLASSES) != IMAGES // CLASSES).any():
        return f"the {CLASSES:,} classes do not have {IMAGES // CLASSES} images each, as they have in the split"
    official_names = [_OFFICIAL_NAME.search(name) for name in names]
    if {int(match[1]) for match in official_names if match} != set(range(1, IMAGES + 1)):
        return "the images do not have the names of the split, ILSVRC2012_val_00000001 and so on"
    wordnet_ids, matches = _list_wordnet_ids(), map(_WORDNET_ID.search, names)
    if any(match is None or match[0] != wordnet_ids[label] for match, label in zip(matches, labels, strict=True)):
        return "the WordNet ids in the names of folders or images are not those of the classes"
    return None


def _explain_folder(split: str) -> str:
    """Explain which folder the user should name for a split, for error messages."""
    return (
        f"name the folder that contains {split}/CLASS/*.JPEG, or the Hub's {_SHARDS[split][0]} (ILSVRC/imagenet-1k), "
        "with --data-dir or PYRAMIDZOO_DATA"
    )


def _has_class_folders(folder: Path, *, must_be_wordnet_ids: bool) -> bool:
    """Decide whether a folder seems to contain a folder for each class.

    One folder in it is enough. With `must_be_wordnet_ids`, the name of this folder must be a WordNet id.
    """
    subfolders = (path for path in folder.iterdir() if path.is_dir())
    return any(not must_be_wordnet_ids or _WORDNET_ID.fullmatch(path.name) for path in subfolders)


def _open_tree(name: str, split: str, tree: Path, class_order: str | Path | None) -> EncodedSet:
    """Open the image files in a folder that contains a folder for each class.

    The position of an image equals its index. Images are sorted by class. Within a class they have the order in which
    torchvision's `ImageFolder` lists them.

    Args:
        name: Name of the dataset.
        split: Name of the split.
        tree: The folder that contains the folders of the classes.
        class_order: How the user wants these folders to be sorted. None recognises the class of each folder by its
            name; the folders of some classes may then be missing.
    """
    from torchvision.datasets import ImageFolder

    image_folder = ImageFolder(tree, allow_empty=True)
    folders = image_folder.classes
    sorted_folders = None if class_order is None else _sort_all_folders(tree, folders, class_order)
    if sorted_folders is None:
        label_by_folder = _recognise_labels(tree, folders)
    else:
        label_by_folder = np.array([sorted_folders.index(folder) for folder in folders])
    if not image_folder.samples:
        raise UnavailableError(f"the folders of {tree} contain no images; {_explain_folder(split)}")
    # A sample is the path of an image and the number of its folder. The sort keeps torchvision's order within a class.
    samples = sorted(image_folder.samples, key=lambda sample: label_by_folder[sample[1]])
    paths = [Path(path) for path, _ in samples]
    labels = label_by_folder[[folder_number for _, folder_number in samples]].astype(np.int64)
    names = [path.relative_to(tree).as_posix() for path in paths]
    sizes = [path.stat().st_size for path in paths]
    return EncodedSet(
        name=name,
        split=split,
        classes=CLASSES,
        encoded_images=ImageFiles(paths),
        labels=torch.from_numpy(labels),
        fingerprint=_compute_fingerprint(zip(names, sizes, labels.tolist(), strict=True)),
        unofficial_reason=find_unofficial_reason(names, labels) if split == "val" else _TRAINING_IMAGES_REASON,
        class_order=(
            None if sorted_folders is None or class_order is None else describe_order(sorted_folders, class_order)
        ),
    )


def _sort_all_folders(tree: Path, folders: list[str], class_order: str | Path) -> list[str]:
    """Sort the folders of the classes as the user chose, and require that there is a folder for every class."""
    sorted_folders = sort_folders(folders, class_order, tree=tree)
    if len(sorted_folders) != CLASSES:
        raise UsageError(
            f"{tree} has {len(sorted_folders):,} folders. A folder's position shows its class only if there is a "
            f"folder for each of the {CLASSES:,} classes; make the missing folders, which may be empty, or name all "
            "folders by ImageNet's WordNet ids (n01440764) and leave out --class-order"
        )
    return sorted_folders


def _recognise_labels(tree: Path, folders: list[str]) -> NDArray[np.int64]:
    """Find out the label of each folder by its name.

    The names may be WordNet ids, torchvision's class names, or any names that can be sorted in one way only. In the
    last case there must be a folder for every class.

    Returns:
        Labels int64, in the order of `folders`.
    """
    for class_names in (_list_wordnet_ids(), _list_class_names()):
        label_by_name = {name: label for label, name in enumerate(class_names)}
        if label_by_name.keys() >= set(folders):
            return np.array([label_by_name[folder] for folder in folders])
    if len(folders) != CLASSES:
        wordnet_ids = set(_list_wordnet_ids())
        unknown_folder = next(folder for folder in folders if folder not in wordnet_ids)
        raise UnavailableError(
            f"{tree} has {len(folders):,} folders, one of them {unknown_folder!r}; name them by ImageNet's WordNet ids "
            f"(n01440764), or make a folder for each of the {CLASSES:,} classes, in the order of their names"
        )
    sorted_folders = sort_folders(folders, None, tree=tree)
    return np.array([sorted_folders.index(folder) for folder in folders])


def _open_shards(name: str, split: str, shards: list[Path]) -> EncodedSet:
    """Open the images in Parquet files.

    The position of an image is its row, because reading in another order would be slow. Its index is the one that it
    would have in a folder for each class: images are sorted by class, and within a class by name.
    """
    encoded_images, names, labels = _parquet.open_shards(shards)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= CLASSES:
        raise IntegrityError(f"{shards[0].parent} has labels that are not 0 to {CLASSES - 1}; get the files again")
    row_by_index = sorted(range(len(names)), key=lambda row: (labels[row], names[row]))
    index_by_row = np.empty(len(names), np.int64)
    index_by_row[row_by_index] = np.arange(len(names))
    # The sizes of single images would be slow to read. The sizes of the Parquet files stand in their place.
    images = [(names[row], 0, int(labels[row])) for row in row_by_index]
    files = [(shard.name, shard.stat().st_size, -1) for shard in shards]
    return EncodedSet(
        name=name,
        split=split,
        classes=CLASSES,
        encoded_images=encoded_images,
        labels=torch.from_numpy(labels),
        fingerprint=_compute_fingerprint([*images, *files]),
        index_by_position=index_by_row,
        unofficial_reason=find_unofficial_reason(names, labels) if split == "val" else _TRAINING_IMAGES_REASON,
    )


def _compute_fingerprint(files: Iterable[tuple[str, int, int]]) -> str:
    """Compute a sha256 that identifies the images of a split. The content of the files is not read.

    Args:
        files: Name, size in bytes and label of each file, in the order of the indices.
    """
    sha256 = hashlib.sha256()
    for index, (name, size, label) in enumerate(files):
        sha256.update(f"{index}\0{name}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return sha256.hexdigest()


def _list_wordnet_ids() -> list[str]:
    """List the 1,000 WordNet ids in the order of the labels."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return list(info.label_names())


def _list_class_names() -> list[str]:
    """List torchvision's names of the classes in the order of the labels. No name occurs twice."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
