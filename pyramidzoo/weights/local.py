"""Find the files of entries on this machine, without using the network.

`pyramidzoo list` uses this module and must be quick. So this module computes no hashes, and imports neither PyTorch nor
the Hub's client.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyramidzoo.catalog.weights_entry import HubFile, WeightsEntry
from pyramidzoo.errors import UnavailableError
from pyramidzoo.files import expand_user_path, package_path
from pyramidzoo.weights.cache import cache_dir, cache_paths, read_sidecar, read_sidecar_for


@dataclass(frozen=True)
class LocalFile:
    """The file of an entry on this machine. Its hash has not been compared yet.

    Attributes:
        source: "bundled" (the file is part of the package), "cache" (it was converted, and is in the cache of
            pyramidzoo), or "hub" (it is in the cache of the Hub's client).
        path: The path of the file.
        expected_sha256: The hash that the file must have. None if this hash is not known, because the sidecar of a
            converted file is missing or damaged, or is about another file.
    """

    source: Literal["bundled", "cache", "hub"]
    path: Path
    expected_sha256: str | None


def find_local_file(entry: WeightsEntry) -> LocalFile | None:
    """Find the file of an entry on this machine. A caller that loads the file must compare its hash.

    Returns:
        The file, or None if it must be fetched.

    Raises:
        UnavailableError: If it is not known where the cache is; see `cache_dir`.
    """
    if entry.bundled is not None:
        path = package_path(entry.bundled.path)
        return LocalFile("bundled", path, entry.bundled.sha256) if path.is_file() else None
    needs_no_conversion = entry.hub is not None and entry.hub.layout is None
    path = cache_paths(entry)[0]
    if path.is_file():
        expected_sha256 = (read_matching_sidecar(entry) or {}).get("sha256")
        if expected_sha256 is not None or not needs_no_conversion:
            return LocalFile("cache", path, expected_sha256)
    if entry.hub is not None and needs_no_conversion:
        return _find_in_hub_cache(entry, entry.hub)
    return None


def find_local_sources(entries: Iterable[WeightsEntry]) -> dict[str, str]:
    """Find out which of many entries have a file on this machine.

    Returns:
        For each entry that has a file on this machine, its id and where the file is, as in `LocalFile.source`.
    """
    try:
        converted_files, hub_repositories = _list_names(cache_dir() / "weights"), _list_names(hub_cache_dir())
    except UnavailableError:
        # It is not known where the cache is. Its sidecars would be needed to find files of the Hub's client too.
        converted_files = hub_repositories = set()
    sources: dict[str, str] = {}
    for entry in entries:
        # Most entries have no file on a machine. The two lists of names show this without a search for each entry.
        if (
            entry.bundled is not None
            or f"{entry.id}.safetensors" in converted_files
            or (entry.hub is not None and _get_repository_folder(entry.hub) in hub_repositories)
        ):
            local_file = find_local_file(entry)
            if local_file is not None:
                sources[entry.id] = local_file.source
    return sources


def read_matching_sidecar(entry: WeightsEntry) -> dict[str, Any] | None:
    """Read the sidecar of an entry's converted file, if the sidecar agrees with the manifest.

    The manifest may have changed since the conversion. Then the file must be converted again.

    Returns:
        The sidecar. None if there is no readable sidecar. None also if the converted file was made from another
        published file than the manifest names, was converted by another layout, or has other tensors.
    """
    content = read_sidecar(entry)
    published_files: list[tuple[str, str | None, str | None]] = []  # address, published hash, layout
    if entry.hub and entry.hub.layout:
        published_files.append((entry.hub.url, entry.hub.sha256, entry.hub.layout))
    if entry.origin:
        published_hash = entry.origin.hash.value if entry.origin.hash else None
        published_files.append((entry.origin.url, published_hash, entry.origin.layout))
    is_made_from_published_file = any(
        content.get("origin", "") == published_hash
        # If no hash was published, the address shows which file was converted.
        and (published_hash is not None or content.get("url") == url)
        # Sidecars that were written before the field existed have no layout.
        and content.get("layout", layout) == layout
        for url, published_hash, layout in published_files
    )
    has_right_tensors = entry.tensors_sha256 in (None, content.get("tensors_sha256"))
    return content if is_made_from_published_file and has_right_tensors and content.get("sha256") else None


def hub_cache_dir() -> Path:
    """Return the cache folder of the Hub's client."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return Path(constants.HF_HUB_CACHE)
    # The client has not been imported, and its import would take too long. The rest of this function follows the rules
    # in the client's documentation.
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expand_user_path(os.path.expandvars(os.environ[name]))
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return expand_user_path(os.path.expandvars(home)) / "hub"


def _find_in_hub_cache(entry: WeightsEntry, hub: HubFile) -> LocalFile | None:
    """Find a file in the cache of the Hub's client, as the client's `try_to_load_from_cache` does."""
    sidecar = read_sidecar_for(entry, hub.url)
    expected_sha256 = hub.sha256 or sidecar.get("source_sha256")
    if expected_sha256 is None:
        return None  # The cache is shared with other programs. A file with an unknown hash may be of any version.
    revision = str(hub.revision or sidecar.get("commit") or "main")
    repository = hub_cache_dir() / _get_repository_folder(hub)
    # For a branch, such as "main", the file refs/BRANCH contains the commit. For a commit there is no such file.
    with contextlib.suppress(OSError):
        revision = (repository / "refs" / revision).read_text(encoding="utf-8")
    path = repository / "snapshots" / revision / hub.filename
    return LocalFile("hub", path, expected_sha256) if path.is_file() else None


def _get_repository_folder(hub: HubFile) -> str:
    """Return the name of the folder in which the Hub's client keeps the files of a repository."""
    return f"models--{hub.repo_id.replace('/', '--')}"


def _list_names(folder: Path) -> set[str]:
    """Return the names of all files and folders in a folder. Return an empty set if it cannot be read."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (making a Path for each name would take too long)
    except OSError:
        return set()
