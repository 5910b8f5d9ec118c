"""Verify files on this machine: hash them again and compare them with the manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyramidzoo.catalog.manifest import Manifest, load_manifest, load_package_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.loading import forget_verified, read_weights
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.files import file_hash, find_weights_file
from pyramidzoo.weights.cache import cache_dir, cache_paths
from pyramidzoo.weights.local import find_local_file

_SECONDS_OF_A_DAY = 86_400


@dataclass(frozen=True)
class FileStatus:
    """The result of verifying one file.

    Attributes:
        name: The id of the entry, or the path that the user named.
        state: "good", "altered", "missing", or "unknown" (no entry names this file).
        path: Where the file is, or None if it is missing.
        detail: The hash of a good file. Otherwise what is wrong, and what to do.
    """

    name: str
    state: Literal["good", "altered", "missing", "unknown"]
    path: Path | None
    detail: str


def verify(entry: WeightsEntry) -> FileStatus:
    """Hash the local file of an entry again, and its tensors if the manifest knows their hash.

    Nothing is downloaded.
    """
    local_file = find_local_file(entry)
    if local_file is None:
        next_step = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch {entry.id}` gets it"
        return FileStatus(entry.id, "missing", None, next_step)
    path, expected = local_file.path, local_file.expected_sha256
    next_step = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch --force {entry.id}` makes it anew"

    def altered(reason: str) -> FileStatus:
        return FileStatus(entry.id, "altered", path, reason)

    if expected is None:
        return altered(f"nothing says what it must be: its sidecar is missing or damaged; {next_step}")
    try:
        sha256 = file_hash(path)
    except UnavailableError as error:
        return altered(str(error))
    if sha256 != expected:
        return altered(f"sha256 {sha256}, expected {expected}; {next_step}")
    try:
        tensors_hash = tensors_sha256(read_tensors(path)) if entry.tensors_sha256 else None
    except PyramidzooError as error:
        return altered(f"{error}; {next_step}")
    if tensors_hash != entry.tensors_sha256:
        return altered(f"tensors sha256 {tensors_hash}, expected {entry.tensors_sha256}; {next_step}")
    return FileStatus(entry.id, "good", path, f"sha256 {sha256}")


def verify_file(path: Path) -> FileStatus:
    """Read a file and say which entry it belongs to.

    Args:
        path: A safetensors file, or a folder that has one.

    Returns:
        "good" if an entry has this file or its tensors, "unknown" if the file is sound but no entry has it, otherwise
        "altered" or "missing".
    """
    name = str(path)
    try:
        path = find_weights_file(path)
        if not path.is_file():
            return FileStatus(name, "missing", None, "there is no such file")
        forget_verified()
        tensors, sha256 = read_weights(path).tensors, file_hash(path)
    except PyramidzooError as error:
        return FileStatus(name, "altered", path, str(error))
    manifest, tensors_hash = load_manifest(), tensors_sha256(tensors)
    entry = manifest.find_by_file_hash(sha256) or manifest.find_by_tensors_hash(tensors_hash)
    if entry is None:
        return FileStatus(
            name, "unknown", path, f"sound, but no entry has its sha256 {sha256} or its tensors' {tensors_hash}"
        )
    return FileStatus(name, "good", path, f"{entry.id}, sha256 {sha256}")


def find_unknown_files(manifest: Manifest) -> list[FileStatus]:
    """List the files in the cache that belong to no entry.

    Hidden files younger than a day are left out, because a process may be writing them right now.

    Args:
        manifest: The manifest in use. Entries of the zoo's own manifest count too, because both share the cache.
    """
    entries = [*manifest.entries.values(), *load_package_manifest().entries.values()]
    expected_paths = {path for entry in entries for path in cache_paths(entry)}
    yesterday = time.time() - _SECONDS_OF_A_DAY
    return [
        FileStatus(path.name, "unknown", path, "no entry of the manifest names it")
        for path in sorted((cache_dir() / "weights").glob("*"))
        if path not in expected_paths and not (path.name.startswith(".") and path.stat().st_mtime > yesterday)
    ]
