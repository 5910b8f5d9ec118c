"""Images in Parquet files of the Hugging Face Hub.

They have a column `image`, which holds the bytes and the path of each image, and a column `label`.
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

# Row groups that each process keeps in memory. Two batches in a row often share a group.
_CACHED_GROUPS = 2


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a file, which are stored together.

    Attributes:
        shard: The file.
        number: Number of the group in the file.
        start: Place of its first row among the rows of all files.
    """

    shard: Path
    number: int
    start: int


@dataclass
class ParquetImages(EncodedImages):
    """Images by row. Each process opens the files for itself.

    Attributes:
        groups: All row groups, in the order of their rows.
    """

    groups: Sequence[RowGroup]
    _cache: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)
    _cache_process: int = 0

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        """Read the files of some images; see `EncodedImages.read`."""
        files: list[tuple[str, bytes]] = []
        position = bisect_right(self.group_starts(), start) - 1
        while start < stop:
            group, images = self.groups[position], self._read_group(position)
            for row in range(start - group.start, min(stop - group.start, len(images))):
                files.append((f"image {row} of row group {group.number} in {group.shard}", images[row]))
            start, position = group.start + len(images), position + 1
        return files

    def group_starts(self) -> Sequence[int]:
        """Return the place of the first row of each row group."""
        return [group.start for group in self.groups]

    def _read_group(self, position: int) -> list[bytes]:
        """Read the images of a row group, or take them from the cache of this process."""
        if self._cache_process != os.getpid():
            self._cache, self._cache_process = OrderedDict(), os.getpid()
        if position not in self._cache:
            group = self.groups[position]
            column = _read_part(group.shard, lambda file: file.read_row_group(group.number, ["image.bytes"], False))[
                "image"
            ]
            self._cache[position] = [row["bytes"] if row and row["bytes"] else b"" for row in column.to_pylist()]
            if len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(position)
        return self._cache[position]


def open_shards(shards: Sequence[Path]) -> tuple[ParquetImages, list[str], NDArray[np.int64]]:
    """Open the Parquet files of a split.

    Args:
        shards: The files, in order.

    Returns:
        The images, and the name and label of each, all in the order of the rows. The label is -1 where a
        row has none.

    Raises:
        UnavailableError: PyArrow is not installed.
        IntegrityError: A file is damaged or has other columns.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UnavailableError(
            f"{shards[0].parent} holds Parquet files; PyArrow reads those: `pip install 'pyramidzoo[parquet]'`"
        )
    groups: list[RowGroup] = []
    names: list[str] = []
    labels: list[int] = []
    for shard in shards:
        sizes, table = _read_part(shard, _read_index)
        starts = list(accumulate(sizes, initial=len(names)))
        groups += [RowGroup(shard, number, start) for number, start in enumerate(starts[:-1])]
        paths = [row["path"] if row else None for row in table["image"].to_pylist()]
        names += [path or f"{shard.name}:{row}" for row, path in enumerate(paths)]
        labels += [-1 if label is None else label for label in table["label"].to_pylist()]
    return ParquetImages(groups), names, np.array(labels, np.int64)


def _read_index(file: Any) -> tuple[list[int], Any]:
    """Read the number of rows of each row group, and the names and labels of all rows."""
    schema = file.schema_arrow
    columns = {name: str(schema.field(name).type) for name in schema.names}
    images, labels = columns.get("image", ""), columns.get("label", "")
    if not images.startswith("struct<bytes: binary, path: string") or not labels.startswith("int"):
        raise ValueError(f"its columns are {columns}, not image (bytes and path) and label")
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return sizes, file.read(["image.path", "label"], False)


def _read_part(shard: Path, read: Callable[[Any], Any]) -> Any:
    """Open a Parquet file and read something from it, in this thread. Raise IntegrityError if it is damaged."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard, memory_map=False, pre_buffer=False) as file:
            return read(file)
    except (ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # The system cannot open the file. It may be there and whole.
        reason = " ".join(str(error).split())  # the message in one line
        raise IntegrityError(f"{shard} cannot be read: {reason}; get the file again") from error
