"""Find the files of entries on this machine, without a network.

Nothing is hashed here, and neither torch nor the Hub's client is imported, so that `pyramidzoo list` answers at once.
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
    """A file of an entry on this machine. It has not been verified.

    Attributes:
        source: "bundled" (it came with the package), "cache" (it was converted), or "hub" (it is in the cache of the
            Hub's client).
        path: Where the file is.
        expected_sha256: The hash that it must have. None if nothing says so, because the sidecar of a converted file is
            missing, damaged, or about another file.
    """

    source: Literal["bundled", "cache", "hub"]
    path: Path
    expected_sha256: str | None


def find_local_file(entry: WeightsEntry) -> LocalFile | None:
    """Find the file of an entry on this machine. A caller that loads it must compare its hash.

    Returns:
        The file, or None if it has to be fetched.

    Raises:
        UnavailableError: If the cache has no folder, see `cache_dir`.
    """
    if entry.bundled is not None:
        path = package_path(entry.bundled.path)
        return LocalFile("bundled", path, entry.bundled.sha256) if path.is_file() else None
    is_used_as_it_is = entry.hub is not None and entry.hub.layout is None
    path = cache_paths(entry)[0]
    if path.is_file():
        expected = (read_matching_sidecar(entry) or {}).get("sha256")
        if expected is not None or not is_used_as_it_is:
            return LocalFile("cache", path, expected)
    if entry.hub is not None and is_used_as_it_is:
        return _find_in_hub_cache(entry, entry.hub)
    return None


def find_local_sources(entries: Iterable[WeightsEntry]) -> dict[str, str]:
    """Say for many entries at once which of them are on this machine.

    Returns:
        The `source` of `LocalFile` by entry id, for those entries whose file is here.
    """
    try:
        converted, repositories = _list_names(cache_dir() / "weights"), _list_names(hub_cache_dir())
    except UnavailableError:  # the cache has no folder; without its sidecars, files of the Hub cannot be judged either
        converted = repositories = set()
    sources: dict[str, str] = {}
    for entry in entries:
        # most entries are nowhere on a machine: two listings of folders tell so faster than a look for each file
        if (
            entry.bundled is not None
            or f"{entry.id}.safetensors" in converted
            or (entry.hub is not None and _repository_folder(entry.hub) in repositories)
        ):
            local_file = find_local_file(entry)
            if local_file is not None:
                sources[entry.id] = local_file.source
    return sources


def read_matching_sidecar(entry: WeightsEntry) -> dict[str, Any] | None:
    """Read the sidecar of an entry's converted file, if it is about what the manifest says now.

    Returns:
        The sidecar. None if there is no readable one, or if the file was made from another file, by another layout, or
        has other tensors than the manifest says.
    """
    content = read_sidecar(entry)
    sources: list[tuple[str, str | None, str | None]] = []  # address, published hash, layout
    if entry.hub and entry.hub.layout:
        sources.append((entry.hub.url, entry.hub.sha256, entry.hub.layout))
    if entry.origin:
        published_hash = entry.origin.hash.value if entry.origin.hash else None
        sources.append((entry.origin.url, published_hash, entry.origin.layout))
    has_source = any(
        content.get("origin", "") == published_hash
        # without a published hash, only the address tells which file it is
        and (published_hash is not None or content.get("url") == url)
        # sidecars of earlier versions have no layout
        and content.get("layout", layout) == layout
        for url, published_hash, layout in sources
    )
    has_tensors = entry.tensors_sha256 in (None, content.get("tensors_sha256"))
    return content if has_source and has_tensors and content.get("sha256") else None


def hub_cache_dir() -> Path:
    """Return the folder where the Hub's client keeps files."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        return Path(constants.HF_HUB_CACHE)
    # Importing the client only to ask takes too long. These are the rules of its documentation.
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expand_user_path(os.path.expandvars(os.environ[name]))
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return expand_user_path(os.path.expandvars(home)) / "hub"


def _find_in_hub_cache(entry: WeightsEntry, hub: HubFile) -> LocalFile | None:
    """Find a file where the Hub's client keeps it, as its `try_to_load_from_cache` does."""
    recorded = read_sidecar_for(entry, hub.url)
    expected = hub.sha256 or recorded.get("source_sha256")
    if expected is None:
        return None  # another program may have left the file there, so it says nothing about itself
    revision = str(hub.revision or recorded.get("commit") or "main")
    repository = hub_cache_dir() / _repository_folder(hub)
    with contextlib.suppress(OSError):  # a commit has no file in refs, a branch has one
        revision = (repository / "refs" / revision).read_text(encoding="utf-8")
    path = repository / "snapshots" / revision / hub.filename
    return LocalFile("hub", path, expected) if path.is_file() else None


def _repository_folder(hub: HubFile) -> str:
    return f"models--{hub.repo_id.replace('/', '--')}"


def _list_names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (hundreds of Path objects cost more than all else here)
    except OSError:
        return set()
