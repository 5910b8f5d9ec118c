"""Read images from the Parquet files of the Hugging Face Hub.

The files have a column `image` and a column `label`. `image` contains the bytes of each image file and its path.
"""

from __future__ import annotations

import importlib.util
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.data._encoded import EncodedImages
from pyramidzoo.errors import IntegrityError, UnavailableError

# How many row groups each process keeps in memory. A row group is often needed for two consecutive batches.
_CACHED_GROUPS = 2


@dataclass(frozen=True)
class RowGroup:
    """A row group: consecutive rows of a Parquet file, which can only be read together.

    Attributes:
        shard: The Parquet file.
        number: Number of the row group in the file, from 0.
        start: Position of its first row among the rows of all files of the split.
    """

    shard: Path
    number: int
    start: int


@dataclass
class ParquetImages(EncodedImages):
    """The encoded images in all Parquet files of a split. The position of an image is its row.

    Attributes:
        groups: The row groups of all files, in the order of their rows.
    """

    groups: Sequence[RowGroup]
    # The images of the row groups that were read last, by the row group's place in `groups`.
    _cache: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)
    _cache_process: int = 0  # The process that the cache belongs to. A forked process begins with an empty cache.

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read consecutive images; see `EncodedImages.read`."""
        named_images: list[tuple[str, bytes]] = []
        # The last row group that begins at or before row `start`.
        group_index = bisect_right(self.get_group_starts(), start) - 1
        while start < stop:
            group, images = self.groups[group_index], self._read_group(group_index)
            for row in range(start - group.start, min(stop - group.start, len(images))):
                named_images.append((f"image {row} of row group {group.number} in {group.shard}", images[row]))
            start, group_index = group.start + len(images), group_index + 1
        return named_images

    def get_group_starts(self) -> Sequence[int]:
        """Return the number of the first row of each row group."""
        return [group.start for group in self.groups]

    def _read_group(self, group_index: int) -> list[bytes]:
        """Read the images of a row group, or take them from the cache of this process."""
        if self._cache_process != os.getpid():
            self._cache, self._cache_process = OrderedDict(), os.getpid()
        if group_index not in self._cache:
            group = self.groups[group_index]
            table = _read_from_file(
                group.shard, lambda file: file.read_row_group(group.number, ["image.bytes"], use_threads=False)
            )
            rows = table["image"].to_pylist()
            # A missing image becomes an empty file. Decoding this file raises an error that names the image.
            self._cache[group_index] = [row["bytes"] if row and row["bytes"] else b"" for row in rows]
            if len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(group_index)
        return self._cache[group_index]


def open_shards(shards: Sequence[Path]) -> tuple[ParquetImages, list[str], NDArray[np.int64]]:
    """Open the Parquet files of a split. The labels and the names of the images are read, but not the images.

    Args:
        shards: The files, in the order of their names.

    Returns:
        The encoded images, their names, and their labels, all in the order of the rows. The label is -1 where a row has
        no label.

    Raises:
        UnavailableError: PyArrow is not installed.
        IntegrityError: A file is damaged or has other columns.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UnavailableError(
            f"{shards[0].parent} contains Parquet files, which need PyArrow: `pip install 'pyramidzoo[parquet]'`"
        )
    groups: list[RowGroup] = []
    names: list[str] = []
    labels: list[int] = []
    for shard in shards:
        rows_per_group, table = _read_from_file(shard, _read_names_and_labels)
        starts = list(accumulate(rows_per_group, initial=len(names)))
        groups += [RowGroup(shard, number, start) for number, start in enumerate(starts[:-1])]
        paths = [row["path"] if row else None for row in table["image"].to_pylist()]
        names += [path or f"{shard.name}:{row}" for row, path in enumerate(paths)]
        labels += [-1 if label is None else label for label in table["label"].to_pylist()]
    return ParquetImages(groups), names, np.array(labels, np.int64)


def _read_names_and_labels(parquet_file: Any) -> tuple[list[int], Any]:
    """Read all of a Parquet file but the images themselves.

    Returns:
        The number of rows of each row group, and a table with the paths of the images and the labels of all rows.

    Raises:
        ValueError: The file does not have the columns of an image dataset.
    """
    schema = parquet_file.schema_arrow
    column_types = {name: str(schema.field(name).type) for name in schema.names}
    image_type, label_type = column_types.get("image", ""), column_types.get("label", "")
    if not image_type.startswith("struct<bytes: binary, path: string") or not label_type.startswith("int"):
        raise ValueError(f"its columns are {column_types}, not image (bytes and path) and label")
    group_numbers = range(parquet_file.num_row_groups)
    rows_per_group = [parquet_file.metadata.row_group(number).num_rows for number in group_numbers]
    return rows_per_group, parquet_file.read(["image.path", "label"], use_threads=False)


def _read_from_file(shard: Path, read: Callable[[Any], Any]) -> Any:
    """Open a Parquet file, call a function that reads from it, and return what the function returns.

    PyArrow must not use threads of its own, because this process may be a forked process of the data loader.

    Args:
        shard: The path of the file.
        read: The function. Its argument is the open `pyarrow.parquet.ParquetFile`.

    Raises:
        IntegrityError: The file is damaged.
        OSError: The operating system cannot open the file.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard, memory_map=False, pre_buffer=False) as file:
            return read(file)
    except (ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # The operating system cannot open the file. This does not mean that the file is damaged.
        reason = " ".join(str(error).split())  # PyArrow's messages have several lines.
        raise IntegrityError(f"{shard} cannot be read: {reason}; get the file again") from error
