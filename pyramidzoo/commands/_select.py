"""Find the weights and the files that a user names on the command line."""

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
    """The weights and the files that a user named on the command line, without duplicates.

    Attributes:
        entries: Entries of the manifest, in the order of the names.
        paths: Weights files, or folders that contain a weights file, in the order of the names.
    """

    entries: list[WeightsEntry]
    paths: list[Path]


def select_weights(names: Iterable[str]) -> Selection:
    """Find the weights and the files that a user names. A name with a slash or the suffix of a weights file is a path.

    Args:
        names: Paths, and the names that `select_entries` accepts.

    Raises:
        UsageError: No weights have such a name.
    """
    paths, names_of_entries = [], []
    for name in names:
        if is_path(name):
            paths.append(Path(os.path.normpath(expand_user_path(name))))
        else:
            names_of_entries.append(name)
    return Selection(select_entries(names_of_entries), list(dict.fromkeys(paths)))


def select_entries(names: Iterable[str]) -> list[WeightsEntry]:
    """Find the entries of the manifest that a user names.

    Args:
        names: Weights ids, architectures, `architecture.dataset` names, and shell patterns. An architecture means its
            default entry, as in `create_model(pretrained=True)`. A pattern means all entries that match it.

    Returns:
        The entries in the order of the names, without duplicates.

    Raises:
        UsageError: No weights have such a name.
    """
    manifest = load_manifest()
    selected: dict[str, WeightsEntry] = {}
    for name in names:
        if name in architectures():
            entries = [manifest.find_by_tag(name)]
        elif _WILDCARD.search(name):
            # If no id matches the pattern, `find` raises an error. Its message names similar ids.
            entries = manifest.match(name) or [manifest.find(name)]
        else:
            entries = [manifest.find(name)]
        for entry in entries:
            selected[entry.id] = entry
    return list(selected.values())
