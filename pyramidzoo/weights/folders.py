"""Search the folders of `PYRAMIDZOO_ORIGINS` for published files. A file is recognised by its hash, not by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyramidzoo.catalog.weights_entry import HubFile, Origin, WeightsEntry
from pyramidzoo.checkpoints.hashes import cached_file_hash, matches_published_hash
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import expand_user_path
from pyramidzoo.weights.cache import read_sidecar_for


@dataclass(frozen=True)
class FolderSearch:
    """The result of searching folders for the published file of an entry.

    Attributes:
        path: The path of the file. None if no folder has it.
        is_hub_file: True if the file is the one that was published on the Hub. False if it is the one that was
            published at the authors' address ("origin"), or if no file was found.
        altered_files: Files that have the name of the published file, but another content. Empty if `path` is not None.
    """

    path: Path | None
    is_hub_file: bool
    altered_files: tuple[Path, ...] = ()


def list_folders() -> list[Path]:
    """Return the folders that the environment variable `PYRAMIDZOO_ORIGINS` names. They may not exist."""
    return [expand_user_path(name) for name in os.environ.get("PYRAMIDZOO_ORIGINS", "").split(os.pathsep) if name]


def search_folders(entry: WeightsEntry, folders: list[Path]) -> FolderSearch:
    """Search folders, and all folders in them, for the published file of an entry.

    Args:
        entry: The entry. `is_recognisable` must be true for it.
        folders: The folders to search. Folders that do not exist are ignored.

    Returns:
        The first file whose hash is right. If there is none, the files that have only the right name.

    Raises:
        IntegrityError: If a file with the published name is damaged.
        UnavailableError: If a file with the published name cannot be read.
    """
    published_names = _list_published_names(entry)
    altered_files: list[Path] = []
    for folder in folders:
        for path in _iterate_files(folder):
            has_published_name = path.name in published_names
            try:
                is_hub_file = entry.hub is not None and _is_hub_file(path, entry, entry.hub)
                is_origin_file = entry.origin is not None and _is_origin_file(path, entry, entry.origin)
            except (IntegrityError, UnavailableError):
                if has_published_name:
                    raise
                continue  # The file has another name, so it is probably not the published one. It is ignored.
            if is_hub_file or is_origin_file:
                return FolderSearch(path, is_hub_file)
            if has_published_name:
                altered_files.append(path)
    return FolderSearch(None, False, tuple(altered_files))


def is_recognisable(entry: WeightsEntry) -> bool:
    """Decide whether the file of an entry can be recognised by its hash.

    It can if a hash of the file was published, or if the sidecar has the hash of the first file that was downloaded.
    """
    if entry.hub and (entry.hub.sha256 or read_sidecar_for(entry, entry.hub.url).get("source_sha256")):
        return True
    origin = entry.origin
    return origin is not None and bool(origin.hash or read_sidecar_for(entry, origin.url).get("source_sha256"))


def _iterate_files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and in the folders below it, in the order of their names.

    Links to folders are followed. Each folder is visited only once, so that a link to a parent causes no endless loop.
    """
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # `os.walk` visits the folders that remain in this list.
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(parent, name)) not in visited)  # noqa: PTH118
        visited.add(os.path.realpath(parent))
        yield from (path for name in sorted(names) if (path := Path(parent, name)).is_file())


def _is_hub_file(path: Path, entry: WeightsEntry, hub: HubFile) -> bool:
    """Decide whether a file is the one that the entry has on the Hub. The quick comparison of sizes comes first."""
    expected_sha256 = hub.sha256 or read_sidecar_for(entry, hub.url).get("source_sha256")
    has_right_size = hub.bytes is None or path.stat().st_size == hub.bytes
    return expected_sha256 is not None and has_right_size and cached_file_hash(path) == expected_sha256


def _is_origin_file(path: Path, entry: WeightsEntry, origin: Origin) -> bool:
    """Decide whether a file is the one that the entry's authors published, or the unpacked member of their archive."""
    if origin.hash is None:
        return cached_file_hash(path) == read_sidecar_for(entry, origin.url).get("source_sha256")
    # If the published hash is that of an archive's member, the file may be the archive or the unpacked member. The
    # manifest has the size of the archive only.
    has_right_size = origin.bytes is None or origin.hash.of == "member" or path.stat().st_size == origin.bytes
    return has_right_size and matches_published_hash(path, origin.hash)


def _list_published_names(entry: WeightsEntry) -> set[str]:
    """Return the names that a copy of the authors' file usually has: its name, and the name of an unpacked zip file.

    The file on the Hub adds no name. Many of the files on the Hub are called model.safetensors, so this name does not
    show whose weights a file contains.
    """
    if entry.origin is None or entry.origin.manual is not None:
        return set()
    return {entry.origin.filename, entry.origin.filename.removesuffix(".zip")}
