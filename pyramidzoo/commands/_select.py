"""Which weights and files the names on a command line mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.files import expand_user_path, is_path

_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Selection:
    """What the names on a command line mean, each thing once.

    Attributes:
        entries: Weights of the manifest, in the order of the names.
        paths: Files, or folders that hold one, in the order of the names.
    """

    entries: list[WeightsEntry]
    paths: list[Path]


def select_weights(names: Iterable[str]) -> Selection:
    """Find the weights and the files that names mean. A name with a slash or a file's suffix is a path.

    Raises:
        UsageError: No weights have such a name.
    """
    paths, others = [], []
    for name in names:
        if is_path(name):
            paths.append(Path(os.path.normpath(expand_user_path(name))))
        else:
            others.append(name)
    return Selection(select_entries(others), list(dict.fromkeys(paths)))


def select_entries(names: Iterable[str]) -> list[WeightsEntry]:
    """Find the entries that names mean, each once.

    Args:
        names: Ids, architectures, `architecture.dataset` names and shell patterns. An architecture means one entry, its
            default, as in `create_model(pretrained=True)`. A pattern may mean several.

    Returns:
        The entries, in the order of the names.

    Raises:
        UsageError: No weights have such a name.
    """
    manifest = load_manifest()
    selected: dict[str, WeightsEntry] = {}
    for name in names:
        if name in architectures():
            entries = [manifest.find_by_tag(name)]
        elif _WILDCARD.search(name):
            # Where a pattern fits no id, `find` raises the error that says which ids are like it.
            entries = manifest.match(name) or [manifest.find(name)]
        else:
            entries = [manifest.find(name)]
        for entry in entries:
            selected[entry.id] = entry
    return list(selected.values())
