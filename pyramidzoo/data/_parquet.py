"""Images in Parquet files as the Hugging Face Hub keeps them: columns `image` (bytes and path) and `label`."""

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

_KEPT = 2  # row groups that a process remembers: batches that follow each other share one


@dataclass(frozen=True)
class Group:
    """A row group: where it lies, and the place of its first row among all."""

    shard: Path
    number: int
    start: int


@dataclass
class Rows(EncodedImages):
    """Images by row; each process opens the files for itself."""

    groups: Sequence[Group]
    _kept: OrderedDict[int, list[bytes]] = field(default_factory=OrderedDict)
    _process: int = 0

    def read(self, start: int, stop: int) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        position = bisect_right([group.start for group in self.groups], start) - 1
        while start < stop:
            group, images = self.groups[position], self._images(position)
            for row in range(start - group.start, min(stop - group.start, len(images))):
                found.append((f"image {row} of row group {group.number} in {group.shard}", images[row]))
            start, position = group.start + len(images), position + 1
        return found

    def _images(self, position: int) -> list[bytes]:
        """The bytes of a row group's images."""
        if self._process != os.getpid():
            self._kept, self._process = OrderedDict(), os.getpid()
        if position not in self._kept:
            group = self.groups[position]
            column = _read(group.shard, lambda file: file.read_row_group(group.number, ["image.bytes"], False))["image"]
            self._kept[position] = [row["bytes"] if row and row["bytes"] else b"" for row in column.to_pylist()]
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(position)
        return self._kept[position]


def opened(shards: Sequence[Path]) -> tuple[Rows, list[str], NDArray[np.int64]]:
    """The images, and name and label of each in the order of the rows. Raises UnavailableError, IntegrityError."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UnavailableError(
            f"{shards[0].parent} holds Parquet files; PyArrow reads those: `pip install 'pyramidzoo[parquet]'`"
        )
    groups: list[Group] = []
    names: list[str] = []
    labels: list[int] = []
    for shard in shards:
        sizes, table = _read(shard, _index)
        starts = list(accumulate(sizes, initial=len(names)))
        groups += [Group(shard, number, start) for number, start in enumerate(starts[:-1])]
        paths = [row["path"] if row else None for row in table["image"].to_pylist()]
        names += [path or f"{shard.name}:{row}" for row, path in enumerate(paths)]
        labels += [-1 if label is None else label for label in table["label"].to_pylist()]
    return Rows(groups), names, np.array(labels, np.int64)


def _index(file: Any) -> tuple[list[int], Any]:
    """The rows of each row group, and their names and labels."""
    schema = file.schema_arrow
    found = {name: str(schema.field(name).type) for name in schema.names}
    images, labels = found.get("image", ""), found.get("label", "")
    if not images.startswith("struct<bytes: binary, path: string") or not labels.startswith("int"):
        raise ValueError(f"its columns are {found}, not image (bytes and path) and label")
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return sizes, file.read(["image.path", "label"], False)


def _read(shard: Path, part: Callable[[Any], Any]) -> Any:
    """Some part of a Parquet file, read by this thread alone. Raises IntegrityError where it is damaged."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(shard, memory_map=False, pre_buffer=False) as file:
            return part(file)
    except (ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's: it is not there, or must not be read
        reason = " ".join(str(error).split())  # in one line
        raise IntegrityError(f"{shard} cannot be read: {reason}; get the file again") from error
