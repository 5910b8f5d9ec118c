"""Search the folders of `PYRAMIDZOO_ORIGINS` for published files. A file is recognised by its content, not its name."""

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
    """The result of a search.

    Attributes:
        path: The file, or None if no folder has it.
        is_hub_file: Whether it is the file of the Hub. Otherwise it is that of the origin.
        altered_files: Files with the name but not the content of the published file. Empty if the file was found.
    """

    path: Path | None
    is_hub_file: bool
    altered_files: tuple[Path, ...] = ()


def list_folders() -> list[Path]:
    """Return the folders that `PYRAMIDZOO_ORIGINS` names."""
    return [expand_user_path(name) for name in os.environ.get("PYRAMIDZOO_ORIGINS", "").split(os.pathsep) if name]


def search_folders(entry: WeightsEntry, folders: list[Path]) -> FolderSearch:
    """Search folders, and the folders in them, for the published file of an entry.

    Args:
        entry: The entry, which must be recognisable, see `is_recognisable`.
        folders: Where to search. A folder that does not exist is passed over.

    Returns:
        The file that was found first.

    Raises:
        IntegrityError: If a file with the published name is damaged.
        UnavailableError: If a file with the published name cannot be read.
    """
    published_names = _published_names(entry)
    altered_files: list[Path] = []
    for folder in folders:
        for path in _files_below(folder):
            has_published_name = path.name in published_names
            try:
                is_hub_file = entry.hub is not None and _is_hub_file(path, entry, entry.hub)
                is_origin_file = entry.origin is not None and _is_origin_file(path, entry, entry.origin)
            except (IntegrityError, UnavailableError):
                if has_published_name:
                    raise
                continue  # a file that cannot be read and has another name is no concern of ours
            if is_hub_file or is_origin_file:
                return FolderSearch(path, is_hub_file)
            if has_published_name:
                altered_files.append(path)
    return FolderSearch(None, False, tuple(altered_files))


def is_recognisable(entry: WeightsEntry) -> bool:
    """Say whether the content of a file shows that it is an entry's: its hash was published, or is in the sidecar."""
    if entry.hub and (entry.hub.sha256 or read_sidecar_for(entry, entry.hub.url).get("source_sha256")):
        return True
    origin = entry.origin
    return origin is not None and bool(origin.hash or read_sidecar_for(entry, origin.url).get("source_sha256"))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder. Linked folders are followed, but each folder is visited only once."""
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(parent, name)) not in visited)  # noqa: PTH118
        visited.add(os.path.realpath(parent))
        yield from (path for name in sorted(names) if (path := Path(parent, name)).is_file())


def _is_hub_file(path: Path, entry: WeightsEntry, hub: HubFile) -> bool:
    sha256 = hub.sha256 or read_sidecar_for(entry, hub.url).get("source_sha256")
    has_size = hub.bytes is None or path.stat().st_size == hub.bytes
    return sha256 is not None and has_size and cached_file_hash(path) == sha256


def _is_origin_file(path: Path, entry: WeightsEntry, origin: Origin) -> bool:
    if origin.hash is None:
        return cached_file_hash(path) == read_sidecar_for(entry, origin.url).get("source_sha256")
    # the hash of an archive's member also fits the unpacked member, which has another size
    has_size = origin.bytes is None or origin.hash.of == "member" or path.stat().st_size == origin.bytes
    return has_size and matches_published_hash(path, origin.hash)


def _published_names(entry: WeightsEntry) -> set[str]:
    """Return the names that the published file can have. An archive may have been unpacked.

    The Hub's file is left out: all files there are called model.safetensors, so its name says nothing.
    """
    if entry.origin is None or entry.origin.manual is not None:
        return set()
    return {entry.origin.filename, entry.origin.filename.removesuffix(".zip")}
