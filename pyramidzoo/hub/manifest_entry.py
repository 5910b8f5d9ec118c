"""The entry of published weights in the manifest."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import (
    FILE_NAME,
    VARIABLE,
    Result,
    WeightsEntry,
    manifest_path,
    own_manifest_path,
    read_manifest,
)
from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import packaged, replacing
from pyramidzoo.hub.upload import Publication

_LOCK_SECONDS = 600


def make_published_entry(publication: Publication, content: dict[str, Any]) -> dict[str, Any]:
    """Make the manifest's entry of published weights, as JSON.

    The entry gets the new place on the Hub. The place that it had on the Hub before becomes its origin. A missing hash
    of the tensors is filled in, and so are results that came from records.

    Args:
        publication: The published weights.
        content: The entry as the manifest has it.

    Returns:
        A new entry.
    """
    prepared, entry = publication.prepared, publication.prepared.entry
    return {
        **content,
        "default": entry.default,
        "hub": dataclasses.asdict(publication.hub),
        "origin": entry.origin and dataclasses.asdict(entry.origin),
        "tensors_sha256": prepared.tensors_sha256,
        "results": [_to_json(result) for result in entry.results],
    }


def _to_json(result: Result) -> dict[str, Any]:
    """Turn a result into what JSON can hold; its mappings are read-only views, which `asdict` cannot copy."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: dict(value) if hasattr(value, "items") else value for name, value in values.items()}


def manifest_content(entry: WeightsEntry) -> dict[str, Any]:
    """An entry as the JSON has it: that of the manifest in use, or of the package's, which it extends."""
    for path in (manifest_path(), own_manifest_path()):
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if entry.id in weights:
            found: dict[str, Any] = weights[entry.id]
            return found
    raise UsageError(f"{manifest_path()} has no {entry.id}")


def writable_manifest() -> Path:
    """The manifest that `--write` changes. Raises UsageError where it belongs to an installed package."""
    path = manifest_path()
    if path == packaged(FILE_NAME):
        raise UsageError(
            f"--write would change {path}, which the next installation overwrites; name a manifest of your own in "
            f"{VARIABLE}, or work in a clone"
        )
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise NotWritableError(f"--write cannot change {path}; name a manifest of your own in {VARIABLE}")
    return path


def write_entry(path: Path, weights_id: str, make: Callable[[], dict[str, Any]]) -> None:
    """Put an entry into a manifest file; all else in it stays, also what other processes write at the same time.

    `make` is called while they wait. Raises IntegrityError, and leaves the file alone, where the result would not be a
    valid manifest.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
            document = json.loads(path.read_text(encoding="utf-8"))
            document["weights"][weights_id] = make()
            with replacing(path) as part:
                part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                read_manifest(part)
    except Timeout as error:
        raise UnavailableError(f"another process has been writing to {path} for {_LOCK_SECONDS} s") from error
