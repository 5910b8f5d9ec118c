"""Which weights and files the names on a command line mean."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import WeightsEntry, load_manifest
from pyramidzoo.files import names_a_file, user_path

_WILD = re.compile(r"[*?\[]")


def select(patterns: list[str]) -> list[WeightsEntry]:
    """The entries that ids, architectures, `architecture.dataset` names and shell patterns mean. Raises UsageError.

    An architecture means one entry, its default, as with `create_model(pretrained=True)`; a pattern may mean several.
    """
    manifest = load_manifest()
    chosen: dict[str, WeightsEntry] = {}
    for name in patterns:
        if name in architectures():
            entries = [manifest.default_for(name)]
        else:  # where a pattern fits nothing, `find` says what it resembles
            entries = (manifest.match(name) if _WILD.search(name) else []) or [manifest.find(name)]
        for entry in entries:
            chosen[entry.id] = entry
    return list(chosen.values())


def split(names: list[str]) -> tuple[list[WeightsEntry], list[Path]]:
    """The entries and the files or folders that names mean, each once: with a slash or a suffix it is a path."""
    paths = [Path(os.path.normpath(user_path(name))) for name in names if names_a_file(name)]
    return select([name for name in names if not names_a_file(name)]), list(dict.fromkeys(paths))
