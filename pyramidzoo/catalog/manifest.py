"""The manifest: which weights exist, where they are, and what was published and measured of them.

The package contains one manifest, `weights_manifest.json`. The environment variable `PYRAMIDZOO_MANIFEST` may name
another file, such as the manifest of a laboratory or a corrected one. That file is then used instead. A message on
stderr says so, because the same weights id can mean other weights in another manifest. This module imports only the
standard library and modules that need nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.architectures import architectures, suggest_names
from pyramidzoo.catalog.weights_entry import WeightsEntry, make_entry
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import expand_user_path, file_hash, package_path
from pyramidzoo.json_records import reject_duplicate_keys

MANIFEST_FILE_NAME = "weights_manifest.json"
MANIFEST_FORMAT = 1
MANIFEST_VARIABLE = "PYRAMIDZOO_MANIFEST"  # the environment variable that names another manifest file

# `json.loads` calls such a function with the keys and values of each JSON object, and takes what it returns.
_ObjectPairsHook = Callable[[list[tuple[str, Any]]], Any]
# The manifest files that a message on stderr has named already: `load_manifest` names each file only once.
_announced_paths: set[Path] = set()


@dataclass(frozen=True)
class Manifest:
    """The entries of a manifest, and the functions that look them up.

    Attributes:
        entries: All entries by id, in the file's order.
    """

    entries: Mapping[str, WeightsEntry]

    def find(self, name: str) -> WeightsEntry:
        """Find the entry with an id. `architecture.dataset` also means the default entry for that dataset.

        Args:
            name: An id, or `architecture.dataset`.

        Returns:
            The entry.

        Raises:
            UsageError: If there is no such entry; the message names similar ids.
        """
        if name in self.entries:
            return self.entries[name]
        architecture, _, dataset = name.partition(".")
        for entry in self.list_entries(architecture):
            if entry.default and entry.dataset == dataset:
                return entry
        raise UsageError(f"no weights are called {name!r}; {suggest_names(name, self.entries)}")

    def match(self, pattern: str) -> list[WeightsEntry]:
        """List the entries whose id or architecture matches a shell pattern.

        Args:
            pattern: Such as "resnet20*".

        Returns:
            The entries, in the file's order.
        """
        return [
            self.entries[weights_id]
            for weights_id in self.entries
            if fnmatchcase(weights_id, pattern) or fnmatchcase(weights_id.partition(".")[0], pattern)
        ]

    def list_entries(self, architecture: str) -> list[WeightsEntry]:
        """List the entries of an architecture, in the file's order."""
        return [self.entries[f"{architecture}.{tag}"] for tag in self.list_tags(architecture)]

    def list_tags(self, architecture: str) -> list[str]:
        """List the tags of an architecture's weights. The id `resnet20.cifar10_akamaster` has the tag after the dot.

        This reads only the ids of the entries, so it works even if an entry is damaged.
        """
        return self._tags_by_architecture.get(architecture, [])

    @cached_property
    def _tags_by_architecture(self) -> Mapping[str, list[str]]:
        tags: dict[str, list[str]] = {}
        for weights_id in self.entries:
            architecture, _, tag = weights_id.partition(".")
            tags.setdefault(architecture, []).append(tag)
        return tags

    def find_by_tag(self, architecture: str, tag: str | None = None) -> WeightsEntry:
        """Find the entry of an architecture with a tag.

        Args:
            architecture: Name of the architecture.
            tag: A dataset ("cifar10"), or a dataset and an origin ("cifar10_akamaster"). None means the dataset for
                which the architecture was published (`Architecture.dataset`), and no other.

        Returns:
            The entry with that tag, or the default entry for that dataset.

        Raises:
            UsageError: If there is no such entry; the message names the tags of the architecture.
        """
        entries = self.list_entries(architecture)
        tags = ", ".join(entry.tag for entry in entries)
        if not entries:
            raise UsageError(
                f"{architecture} has no weights in the manifest; `pyramidzoo list` shows the architectures that have "
                "weights, `pyramidzoo convert` makes a file of weights from a checkpoint"
            )
        if tag is not None:
            for entry in entries:
                if tag == entry.tag or (entry.default and tag == entry.dataset):
                    return entry
            raise UsageError(f"{architecture} has no weights tagged {tag!r}; it has {tags}")
        dataset = architectures()[architecture].dataset
        for entry in entries:
            if entry.default and entry.dataset == dataset:
                return entry
        raise UsageError(f"{architecture} has no default weights, which would be for {dataset}; name one of {tags}")

    def find_by_file_hash(self, sha256: str) -> WeightsEntry | None:
        """Find the entry whose file in the package or on the Hub has this sha256; None if there is no such entry."""
        for entry in self.entries.values():
            if sha256 in [file.sha256 for file in (entry.bundled, entry.hub) if file]:
                return entry
        return None

    def find_by_tensors_hash(self, tensors_sha256: str, *, dataset: str | None = None) -> WeightsEntry | None:
        """Find the entry whose tensors have this hash. The hash does not depend on the format of a file.

        Args:
            tensors_sha256: Hash of the names, types, shapes and values of the tensors.
            dataset: If several entries have these tensors, one for this dataset is preferred.

        Returns:
            The entry; None if there is no such entry.
        """
        matches = [entry for entry in self.entries.values() if entry.tensors_sha256 == tensors_sha256]
        return next((entry for entry in matches if entry.dataset == dataset), matches[0] if matches else None)


def get_manifest_path() -> Path:
    """Return the path of the manifest that this process uses.

    Returns:
        The file that the environment variable `PYRAMIDZOO_MANIFEST` names. If it is not set, the package's manifest.
    """
    path_in_variable = os.environ.get(MANIFEST_VARIABLE)
    return expand_user_path(path_in_variable) if path_in_variable else get_package_manifest_path()


def get_package_manifest_path() -> Path:
    """Return the path of the package's manifest.

    Returns:
        The file inside an installed package, or the file at the root of a git checkout of the package. A file in the
        working directory is never taken.
    """
    installed_path = package_path(MANIFEST_FILE_NAME)
    # A checkout has no copy of the file inside the package. There it is two folders above this module's folder.
    return installed_path if installed_path.is_file() else Path(__file__).resolve().parents[2] / MANIFEST_FILE_NAME


def announce_manifest() -> None:
    """Print on stderr which manifest file this process uses, if `PYRAMIDZOO_MANIFEST` names one.

    Raises:
        UnavailableError: If the hash of the file cannot be computed.
    """
    path = get_manifest_path()
    if os.environ.get(MANIFEST_VARIABLE):
        _announced_paths.add(path)
        description = _describe_manifest(path)
        message = f"pyramidzoo: NOT the zoo's own manifest: {MANIFEST_VARIABLE} names {path} ({description})"
        print(message, file=sys.stderr)


def hash_foreign_manifest() -> str | None:
    """Compute the sha256 of the manifest file that `PYRAMIDZOO_MANIFEST` names; None if the variable is not set.

    The records of evaluations contain this hash: with another manifest the same weights id can mean other weights.
    """
    return file_hash(get_manifest_path()) if os.environ.get(MANIFEST_VARIABLE) else None


def load_manifest() -> Manifest:
    """Load the manifest that this process uses. If `PYRAMIDZOO_MANIFEST` names it, a message on stderr says so.

    An entry is checked when it is read from the manifest for the first time, not when the manifest is loaded.

    Returns:
        The manifest. Reading a damaged entry from it raises IntegrityError.

    Raises:
        IntegrityError: If the file is damaged.
        UnavailableError: If the file is missing.
    """
    path = get_manifest_path()
    try:
        status = path.stat()
    except OSError as error:
        raise UnavailableError(
            f"cannot read the manifest {path}: {error.strerror}; mend it or {_explain_alternative()}"
        ) from error
    if os.environ.get(MANIFEST_VARIABLE) and path not in _announced_paths:
        announce_manifest()
    # A file that is replaced or written gets another time, size or inode. So it is loaded again.
    return _load_cached(path, status.st_mtime_ns, status.st_size, status.st_ino)


def load_package_manifest() -> Manifest:
    """Load the package's manifest, even if `PYRAMIDZOO_MANIFEST` names another one."""
    return _load_cached(get_package_manifest_path())


@cache
def _load_cached(path: Path, *file_state: int) -> Manifest:
    """Load a manifest, or return the one that an earlier call with the same arguments loaded.

    `file_state` (time, size and inode of the file) is not read here. It is only a part of the cache's key.
    """
    if path == get_package_manifest_path():
        # The tests check the package's manifest. So the slower checks are left out here: that no key stands twice in an
        # object, and that no two entries are the default for the same dataset.
        return Manifest(_LazyEntries(_read_entries_as_json(path, object_pairs_hook=None), path.name))
    contents = _read_entries_as_json(path, object_pairs_hook=reject_duplicate_keys)
    _require_single_defaults(contents, path)
    return Manifest(_LazyEntries(contents, path.name))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file and check every entry.

    Args:
        path: The file.

    Returns:
        The manifest.

    Raises:
        IntegrityError: If something is wrong; the message names the entry and the field.
    """
    contents = _read_entries_as_json(path, object_pairs_hook=reject_duplicate_keys)
    manifest = Manifest(_LazyEntries(contents, path.name))
    list(manifest.entries.values())  # this makes the record of every entry, and so checks all fields
    _require_single_defaults(contents, path)
    return manifest


def _require_single_defaults(contents: dict[str, Any], path: Path) -> None:
    """Raise IntegrityError if two entries are the default for the same architecture and dataset.

    The entries are JSON whose fields nobody has checked.
    """
    default_ids: dict[str, str] = {}
    for weights_id, content in contents.items():
        if isinstance(content, dict) and content.get("default") is True:
            # As text, because an unchecked value may be a list, which cannot be the key of a dict.
            key = json.dumps(_get_architecture_and_dataset(content))
            other_id = default_ids.setdefault(key, weights_id)
            if other_id != weights_id:
                raise IntegrityError(
                    f"{path.name}: {weights_id}: {other_id} is the default for {content.get('dataset')} already; "
                    "unset one of them"
                )


def _read_entries_as_json(path: Path, *, object_pairs_hook: _ObjectPairsHook | None) -> dict[str, Any]:
    """Read the entries of a manifest file as JSON, by id.

    If the file has `"extends": true`, the entries of the package's manifest follow.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_pairs_hook)
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"cannot read the manifest {path}: {error}; mend it or {_explain_alternative()}"
        ) from error
    has_format = isinstance(document, dict) and document.get("format") == MANIFEST_FORMAT
    contents = document.get("weights") if has_format else None
    if not isinstance(contents, dict):
        raise IntegrityError(
            f"{path.name}: not a manifest of format {MANIFEST_FORMAT}; mend it or {_explain_alternative()}"
        )
    extends = document.get("extends", False)
    if not isinstance(extends, bool):
        raise IntegrityError(
            f"{path.name}: extends is true or false, not {extends!r}; mend it or {_explain_alternative()}"
        )
    return _add_package_entries(contents) if extends and path != get_package_manifest_path() else contents


def _add_package_entries(contents: dict[str, Any]) -> dict[str, Any]:
    """Add the entries of the package's manifest after the entries of another manifest.

    If both have an entry with the same id, the other manifest's entry stays. If both have a default for the same
    architecture and dataset, the other manifest's default stays, and the package's entry is no longer a default.
    """
    replaced_defaults = [
        _get_architecture_and_dataset(content)
        for content in contents.values()
        if isinstance(content, dict) and content.get("default")
    ]
    for weights_id, content in _read_entries_as_json(get_package_manifest_path(), object_pairs_hook=None).items():
        is_default = content["default"] and _get_architecture_and_dataset(content) not in replaced_defaults
        contents.setdefault(weights_id, {**content, "default": is_default})
    return contents


def _get_architecture_and_dataset(content: dict[str, Any]) -> tuple[Any, Any]:
    return content.get("architecture"), content.get("dataset")


def _describe_manifest(path: Path) -> str:
    """Describe a manifest in a few words, for the message that names it. The file may be damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        package_entries_use = "are used too" if document.get("extends") is True else "are not used"
        entry_count = len(document["weights"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "which cannot be read"
    return f"{entry_count} entries, sha256 {file_hash(path)[:8]}...; the zoo's own {package_entries_use}"


def _explain_alternative() -> str:
    """Say what a user can do about a damaged manifest instead of mending it. It is the end of an error message."""
    return f"unset {MANIFEST_VARIABLE}" if os.environ.get(MANIFEST_VARIABLE) else "reinstall pyramidzoo"


class _LazyEntries(Mapping[str, WeightsEntry]):
    """The entries of a manifest, each made from its JSON when it is read for the first time.

    There are several hundred entries, and most commands need only a few of them.
    """

    def __init__(self, contents: dict[str, Any], file_name: str) -> None:
        self._contents, self._file_name = contents, file_name
        self._made_entries: dict[str, WeightsEntry] = {}

    def __getitem__(self, weights_id: str) -> WeightsEntry:
        if weights_id not in self._made_entries:
            content = self._contents[weights_id]
            try:
                self._made_entries[weights_id] = make_entry(weights_id, content)
            except (TypeError, AttributeError, ValueError) as error:
                raise IntegrityError(
                    f"{self._file_name}: {weights_id}: {error}; mend the entry or {_explain_alternative()}"
                ) from error
        return self._made_entries[weights_id]

    def __contains__(self, weights_id: object) -> bool:
        return weights_id in self._contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)
