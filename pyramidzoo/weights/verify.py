"""Verify files on this machine: compute their hashes again, and compare these with the manifest or the sidecars."""

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

_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class FileStatus:
    """The result of verifying one file.

    Attributes:
        name: The id of the entry, or the path that the user named.
        state: "good", "altered" (the content is wrong or damaged), "missing", or "unknown" (the file belongs to no
            entry of the manifest).
        path: The path of the file, or None if it is missing.
        detail: For a good file its hash. Otherwise what is wrong, and what the user can do.
    """

    name: str
    state: Literal["good", "altered", "missing", "unknown"]
    path: Path | None
    detail: str


def verify(entry: WeightsEntry) -> FileStatus:
    """Verify the file of an entry on this machine. Nothing is downloaded.

    The hash of the file is computed again. If the manifest has the hash of the tensors, that is computed again too.
    """
    local_file = find_local_file(entry)
    if local_file is None:
        next_step = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch {entry.id}` gets it"
        return FileStatus(entry.id, "missing", None, next_step)
    path, expected_sha256 = local_file.path, local_file.expected_sha256
    next_step = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch --force {entry.id}` fetches it again"

    def make_altered_status(reason: str) -> FileStatus:
        return FileStatus(entry.id, "altered", path, reason)

    if expected_sha256 is None:
        return make_altered_status(
            f"its hash cannot be compared, because its sidecar is missing, damaged or about another file; {next_step}"
        )
    try:
        sha256 = file_hash(path)
    except UnavailableError as error:
        return make_altered_status(str(error))
    if sha256 != expected_sha256:
        return make_altered_status(f"sha256 {sha256}, expected {expected_sha256}; {next_step}")
    try:
        tensors_hash = tensors_sha256(read_tensors(path)) if entry.tensors_sha256 else None
    except PyramidzooError as error:
        return make_altered_status(f"{error}; {next_step}")
    if tensors_hash != entry.tensors_sha256:
        return make_altered_status(f"tensors sha256 {tensors_hash}, expected {entry.tensors_sha256}; {next_step}")
    return FileStatus(entry.id, "good", path, f"sha256 {sha256}")


def verify_file(path: Path) -> FileStatus:
    """Verify a file that a user names by its path: read it, and find the entry that it belongs to.

    Args:
        path: A safetensors file, or the folder that contains one.

    Returns:
        The status of the file. It is "good" if an entry has the same file hash or the same tensors. It is "unknown" if
        the file is intact but no entry has it. Otherwise it is "altered" or "missing".
    """
    name = str(path)
    try:
        path = find_weights_file(path)
        if not path.is_file():
            return FileStatus(name, "missing", None, "there is no such file")
        forget_verified()  # so that the file is read again even if this process has verified it before
        tensors, sha256 = read_weights(path).tensors, file_hash(path)
    except PyramidzooError as error:
        return FileStatus(name, "altered", path, str(error))
    manifest, tensors_hash = load_manifest(), tensors_sha256(tensors)
    entry = manifest.find_by_file_hash(sha256) or manifest.find_by_tensors_hash(tensors_hash)
    if entry is None:
        return FileStatus(
            name,
            "unknown",
            path,
            f"intact, but no entry has its sha256 {sha256} or the sha256 of its tensors, {tensors_hash}",
        )
    return FileStatus(name, "good", path, f"{entry.id}, sha256 {sha256}")


def find_unknown_files(manifest: Manifest) -> list[FileStatus]:
    """List the files in the cache that belong to no entry.

    A hidden file that is younger than a day is not listed, because a process may be writing it at the moment.

    Args:
        manifest: The manifest in use. Files of the package's manifest are not listed either, because all manifests
            share one cache.
    """
    entries = [*manifest.entries.values(), *load_package_manifest().entries.values()]
    expected_paths = {path for entry in entries for path in cache_paths(entry)}
    one_day_ago = time.time() - _SECONDS_PER_DAY
    return [
        FileStatus(path.name, "unknown", path, "no entry of the manifest has such a file")
        for path in sorted((cache_dir() / "weights").glob("*"))
        if path not in expected_paths and not (path.name.startswith(".") and path.stat().st_mtime > one_day_ago)
    ]
