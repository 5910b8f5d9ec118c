"""Which weights are on this machine, told by the names of files alone: nothing is hashed, and torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from pyramidzoo.catalog.weights_entry import Hub, WeightsEntry
from pyramidzoo.errors import UnavailableError
from pyramidzoo.files import expand_user_path, package_path
from pyramidzoo.weights.cache import cache_dir, sidecar_for


def places(entries: Iterable[WeightsEntry]) -> dict[str, str]:
    """By id, for those that are here: "bundled", "cache" (converted) or "hub" (where the Hub's client keeps them)."""
    try:
        converted = _names(cache_dir() / "weights")
    except UnavailableError:  # no home folder, and none named: nothing can be there
        converted = set()
    downloaded = _names(hub_cache())
    found = {}
    for entry in entries:
        if entry.bundled is not None:
            if package_path(entry.bundled.path).is_file():
                found[entry.id] = "bundled"
        elif f"{entry.id}.safetensors" in converted:
            found[entry.id] = "cache"
        elif entry.hub is not None and entry.hub.layout is None and _folder(entry.hub) in downloaded:
            # used as it is; what is not pinned was noted when the zoo fetched it
            noted = sidecar_for(entry, entry.hub.url)
            vouched = entry.hub.sha256 or noted.get("source_sha256")
            revision = str(entry.hub.revision or noted.get("commit"))
            if vouched and (hub_cache() / _folder(entry.hub) / "snapshots" / revision / entry.hub.filename).is_file():
                found[entry.id] = "hub"
    return found


def hub_cache() -> Path:
    """Where the Hub's client keeps files, by the rules of its documentation: importing it to ask takes too long."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expand_user_path(os.path.expandvars(os.environ[name]))
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return expand_user_path(os.path.expandvars(home)) / "hub"


def _folder(hub: Hub) -> str:
    return f"models--{hub.repo_id.replace('/', '--')}"


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (hundreds of Path objects cost more than all else here)
    except OSError:
        return set()
