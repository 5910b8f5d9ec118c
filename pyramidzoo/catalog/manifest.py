"""The manifest: which weights exist, where they are, and what was published and measured of them.

The manifest is `weights_manifest.json`. The environment variable `PYRAMIDZOO_MANIFEST` may name another file, such as
the zoo of a laboratory or a corrected manifest. Its use is announced on stderr, because it changes what names mean.
Only the standard library is needed here.
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

from pyramidzoo.catalog.architectures import architectures, near_matches
from pyramidzoo.catalog.weights_entry import WeightsEntry, make_entry
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import expand_user_path, file_hash, package_path
from pyramidzoo.json_records import reject_duplicate_keys

FILE_NAME = "weights_manifest.json"
FORMAT = 1
VARIABLE = "PYRAMIDZOO_MANIFEST"

_ObjectPairsHook = Callable[[list[tuple[str, Any]]], Any]
_announced: set[Path] = set()  # manifests whose use was announced already


@dataclass(frozen=True)
class Manifest:
    """The entries of a manifest, and how they are found.

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
            UsageError: If there is none; the message names similar ids.
        """
        if name in self.entries:
            return self.entries[name]
        architecture, _, dataset = name.partition(".")
        for entry in self.of_architecture(architecture):
            if entry.default and entry.dataset == dataset:
                return entry
        raise UsageError(f"no weights are called {name!r}; {near_matches(name, self.entries)}")

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

    def of_architecture(self, architecture: str) -> list[WeightsEntry]:
        """List the entries of an architecture, in the file's order."""
        return [self.entries[f"{architecture}.{tag}"] for tag in self.tags(architecture)]

    def tags(self, architecture: str) -> list[str]:
        """List the tags of an architecture's weights. A tag is what follows the architecture in an id.

        This does not read the entries, so it works even if one of them is damaged.
        """
        return self._tags.get(architecture, [])

    @cached_property
    def _tags(self) -> Mapping[str, list[str]]:
        tags: dict[str, list[str]] = {}
        for weights_id in self.entries:
            architecture, _, tag = weights_id.partition(".")
            tags.setdefault(architecture, []).append(tag)
        return tags

    def default_for(self, architecture: str, tag: str | None = None) -> WeightsEntry:
        """Find the weights of an architecture that a tag means.

        Args:
            architecture: Name of the architecture.
            tag: A dataset, or a dataset and an origin. None means the architecture's own dataset
                (`Architecture.dataset`), even if there are weights for others only.

        Returns:
            The entry with that tag, or the default entry for that dataset.

        Raises:
            UsageError: If there is none.
        """
        entries = self.of_architecture(architecture)
        tags = ", ".join(entry.tag for entry in entries)
        if not entries:
            raise UsageError(
                f"{architecture} has no weights in the manifest; `pyramidzoo list` shows what has, "
                "`pyramidzoo convert` makes a file of your own"
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

    def with_file(self, sha256: str) -> WeightsEntry | None:
        """Find the entry whose file in the package or on the Hub has a hash; None if there is none."""
        for entry in self.entries.values():
            if sha256 in [place.sha256 for place in (entry.bundled, entry.hub) if place]:
                return entry
        return None

    def with_tensors(self, tensors_sha256: str, *, dataset: str | None = None) -> WeightsEntry | None:
        """Find the entry whose tensors have a hash, whatever file they came in.

        Args:
            tensors_sha256: Hash of the tensors.
            dataset: If several entries have these tensors, one for this dataset is preferred.

        Returns:
            The entry; None if there is none.
        """
        matches = [entry for entry in self.entries.values() if entry.tensors_sha256 == tensors_sha256]
        return next((entry for entry in matches if entry.dataset == dataset), matches[0] if matches else None)


def manifest_path() -> Path:
    """Return the path of the manifest in use.

    Returns:
        The file that `PYRAMIDZOO_MANIFEST` names, otherwise the manifest of this package.
    """
    named = os.environ.get(VARIABLE)
    return expand_user_path(named) if named else own_manifest_path()


def own_manifest_path() -> Path:
    """Return the path of this package's manifest.

    Returns:
        The file inside an installed package, or at the root of a checkout; never one in the working directory.
    """
    installed = package_path(FILE_NAME)
    return installed if installed.is_file() else Path(__file__).resolve().parents[2] / FILE_NAME


def announce_manifest() -> None:
    """Print on stderr which manifest is in use, if it is not this package's.

    Raises:
        UnavailableError: If it cannot be read.
    """
    path = manifest_path()
    if os.environ.get(VARIABLE):
        _announced.add(path)
        description = _describe_manifest(path)
        print(f"pyramidzoo: NOT the zoo's own manifest: {VARIABLE} names {path} ({description})", file=sys.stderr)


def foreign_manifest() -> str | None:
    """Return the hash of the manifest in use, if it is not this package's; otherwise None.

    Records of measurements hold it, because another manifest changes what the names in a record mean.
    """
    return file_hash(manifest_path()) if os.environ.get(VARIABLE) else None


def load_manifest() -> Manifest:
    """Load the manifest in use, and announce it if it is not this package's.

    An entry is checked when it is looked at for the first time.

    Returns:
        The manifest. Looking at a damaged entry raises IntegrityError.

    Raises:
        IntegrityError: If the file is damaged.
        UnavailableError: If the file is missing.
    """
    path = manifest_path()
    try:
        status = path.stat()
    except OSError as error:
        raise UnavailableError(
            f"cannot read the manifest {path}: {error.strerror}; mend it or {_explain_alternative()}"
        ) from error
    if os.environ.get(VARIABLE) and path not in _announced:
        announce_manifest()
    return _load_cached(path, status.st_mtime_ns, status.st_size, status.st_ino)


def own_manifest() -> Manifest:
    """Load the manifest of this package, even if another one is in use."""
    return _load_cached(own_manifest_path())


@cache
def _load_cached(path: Path, *file_state: int) -> Manifest:
    """Load a manifest. `file_state` is part of the cache's key only: a file that changes is loaded again."""
    if path == own_manifest_path():  # a test has checked that one, so it is read without the slower checks
        return Manifest(_LazyEntries(_read_entries_as_json(path, object_pairs_hook=None), path.name))
    contents = _read_entries_as_json(path, object_pairs_hook=reject_duplicate_keys)
    _require_single_defaults(contents, path)
    return Manifest(_LazyEntries(contents, path.name))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file and check all of it.

    Args:
        path: The file.

    Returns:
        The manifest.

    Raises:
        IntegrityError: If something is wrong; the message names the entry and the field.
    """
    contents = _read_entries_as_json(path, object_pairs_hook=reject_duplicate_keys)
    manifest = Manifest(_LazyEntries(contents, path.name))
    list(manifest.entries.values())
    _require_single_defaults(contents, path)
    return manifest


def _require_single_defaults(contents: dict[str, Any], path: Path) -> None:
    """Require that no two entries are the default for one architecture and dataset. It works on unchecked JSON."""
    defaults: dict[str, str] = {}
    for weights_id, content in contents.items():
        if isinstance(content, dict) and content.get("default") is True:
            key = json.dumps([content.get("architecture"), content.get("dataset")])
            other_id = defaults.setdefault(key, weights_id)
            if other_id != weights_id:
                raise IntegrityError(
                    f"{path.name}: {weights_id}: {other_id} is the default for {content.get('dataset')} already; "
                    "unset one of them"
                )


def _read_entries_as_json(path: Path, *, object_pairs_hook: _ObjectPairsHook | None) -> dict[str, Any]:
    """Read the entries of a manifest file, and those of this package's manifest if the file extends it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_pairs_hook)
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"cannot read the manifest {path}: {error}; mend it or {_explain_alternative()}"
        ) from error
    contents = document.get("weights") if isinstance(document, dict) and document.get("format") == FORMAT else None
    if not isinstance(contents, dict):
        raise IntegrityError(f"{path.name}: not a manifest of format {FORMAT}; mend it or {_explain_alternative()}")
    extends = document.get("extends", False)
    if not isinstance(extends, bool):
        raise IntegrityError(
            f"{path.name}: extends is true or false, not {extends!r}; mend it or {_explain_alternative()}"
        )
    return _add_own_entries(contents) if extends and path != own_manifest_path() else contents


def _add_own_entries(contents: dict[str, Any]) -> dict[str, Any]:
    """Add the entries of this package's manifest behind those of a manifest that extends it.

    An entry replaces the package's entry of the same id. A default replaces the package's default for the same
    architecture and dataset.
    """
    replaced_defaults = [
        _get_default_key(content)
        for content in contents.values()
        if isinstance(content, dict) and content.get("default")
    ]
    for weights_id, content in _read_entries_as_json(own_manifest_path(), object_pairs_hook=None).items():
        is_default = content["default"] and _get_default_key(content) not in replaced_defaults
        contents.setdefault(weights_id, {**content, "default": is_default})
    return contents


def _get_default_key(content: dict[str, Any]) -> tuple[Any, Any]:
    return content.get("architecture"), content.get("dataset")


def _describe_manifest(path: Path) -> str:
    """Describe a manifest in a few words, for its announcement."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        own_entries = "are used too" if document.get("extends") is True else "are not used"
        number = len(document["weights"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "which cannot be read"
    return f"{number} entries, sha256 {file_hash(path)[:8]}...; the zoo's own {own_entries}"


def _explain_alternative() -> str:
    """Say what else helps against a damaged manifest, as the end of a message."""
    return f"unset {VARIABLE}" if os.environ.get(VARIABLE) else "reinstall pyramidzoo"


class _LazyEntries(Mapping[str, WeightsEntry]):
    """Entries that are made from their JSON when they are asked for: most commands need few of several hundred."""

    def __init__(self, contents: dict[str, Any], file_name: str) -> None:
        self._contents, self._file_name = contents, file_name
        self._entries: dict[str, WeightsEntry] = {}

    def __getitem__(self, weights_id: str) -> WeightsEntry:
        if weights_id not in self._entries:
            content = self._contents[weights_id]
            try:
                self._entries[weights_id] = make_entry(weights_id, content)
            except (TypeError, AttributeError, ValueError) as error:
                raise IntegrityError(
                    f"{self._file_name}: {weights_id}: {error}; mend the entry or {_explain_alternative()}"
                ) from error
        return self._entries[weights_id]

    def __contains__(self, weights_id: object) -> bool:
        return weights_id in self._contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)
