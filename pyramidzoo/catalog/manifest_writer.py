"""Write manifest files: one way to format them, to check them, and to change them while others do the same."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pyramidzoo.catalog.manifest import FILE_NAME, VARIABLE, manifest_path, own_manifest_path, read_manifest
from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import package_path, replacing

_LOCK_SECONDS = 600


def format_manifest(document: dict[str, Any]) -> str:
    """Write the JSON of a manifest as text, as it stands in the file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def write_manifest(path: Path, document: dict[str, Any]) -> None:
    """Replace a manifest file, if the new content is valid.

    Args:
        path: The file.
        document: The JSON of the whole manifest.

    Raises:
        IntegrityError: If it is not a valid manifest; the file is then left as it was.
        NotWritableError: If the file cannot be written.
    """
    with replacing(path) as part:
        part.write_text(format_manifest(document), encoding="utf-8")
        read_manifest(part)


@contextlib.contextmanager
def edit_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """Change a manifest file. Other processes that edit it wait meanwhile, so that no change is lost.

    Args:
        path: The file.

    Yields:
        The JSON of the whole manifest. It is written when the block ends without an error.

    Raises:
        IntegrityError: If the changed manifest is not valid; the file is then left as it was.
        UnavailableError: If another process has been editing the file for ten minutes.
        NotWritableError: If the file cannot be written.
    """
    try:
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS).acquire()
    except Timeout as error:
        raise UnavailableError(f"another process has been writing to {path} for {_LOCK_SECONDS} s") from error
    with lock:
        document = json.loads(path.read_text(encoding="utf-8"))
        yield document
        write_manifest(path, document)


def write_entry(path: Path, weights_id: str, make_content: Callable[[], dict[str, Any]]) -> None:
    """Put one entry into a manifest file, and leave all others as they are.

    Args:
        path: The file.
        weights_id: The entry's id. An entry with this id is replaced.
        make_content: Returns the entry's JSON. It is called while other processes that edit the file wait.

    Raises:
        IntegrityError: If the changed manifest is not valid; the file is then left as it was.
        UnavailableError: If another process has been editing the file for ten minutes.
        NotWritableError: If the file cannot be written.
    """
    with edit_manifest(path) as document:
        document["weights"][weights_id] = make_content()


def find_writable_manifest() -> Path:
    """Find the manifest that `publish --write` changes: the one in use.

    Returns:
        Its path.

    Raises:
        UsageError: If it belongs to an installed package, because the next installation would overwrite it.
        NotWritableError: If it cannot be written.
    """
    path = manifest_path()
    if path == package_path(FILE_NAME):
        raise UsageError(
            f"--write would change {path}, which the next installation overwrites; name a manifest of your own in "
            f"{VARIABLE}, or work in a clone"
        )
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise NotWritableError(f"--write cannot change {path}; name a manifest of your own in {VARIABLE}")
    return path


def read_entry_content(weights_id: str) -> dict[str, Any]:
    """Read the JSON of an entry from the manifest in use, or from this package's if only that one has it.

    Args:
        weights_id: The entry's id.

    Returns:
        The entry as the JSON has it.

    Raises:
        UsageError: If neither manifest has the entry.
    """
    for path in (manifest_path(), own_manifest_path()):
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if weights_id in weights:
            content: dict[str, Any] = weights[weights_id]
            return content
    raise UsageError(f"{manifest_path()} has no {weights_id}")
