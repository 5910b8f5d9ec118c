"""Write manifest files: format them, check them, and change them while other processes may change them too."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pyramidzoo.catalog.manifest import (
    MANIFEST_FILE_NAME,
    MANIFEST_VARIABLE,
    get_manifest_path,
    get_package_manifest_path,
    read_manifest,
)
from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import package_path, replacing

_LOCK_TIMEOUT_SECONDS = 600


def format_manifest(document: dict[str, Any]) -> str:
    """Turn the JSON of a manifest into the text of the file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def write_manifest(path: Path, document: dict[str, Any]) -> None:
    """Replace a manifest file, if the new content is valid.

    Args:
        path: The file.
        document: The JSON of the whole manifest.

    Raises:
        IntegrityError: If `document` is not a valid manifest; the file is then not changed.
        NotWritableError: If the file cannot be written.
    """
    # `replacing` gives the path of a new file in the same folder. If the block raises no error, the new file is moved
    # to `path`.
    with replacing(path) as new_path:
        new_path.write_text(format_manifest(document), encoding="utf-8")
        read_manifest(new_path)  # raises IntegrityError if the manifest is not valid


@contextlib.contextmanager
def edit_manifest(path: Path) -> Iterator[dict[str, Any]]:
    """Change a manifest file, inside a `with` statement.

    Meanwhile other processes that call this function for the same file wait. So no process overwrites the change of
    another one.

    Args:
        path: The file.

    Yields:
        The JSON of the whole manifest. Change it inside the `with` block. It is written to the file when the block
        ends without an error.

    Raises:
        IntegrityError: If the changed manifest is not valid; the file is then not changed.
        UnavailableError: If another process has been editing the file for ten minutes.
        NotWritableError: If the file cannot be written.
    """
    try:
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT_SECONDS).acquire()
    except Timeout as error:
        raise UnavailableError(f"another process has been writing to {path} for {_LOCK_TIMEOUT_SECONDS} s") from error
    with lock:
        document = json.loads(path.read_text(encoding="utf-8"))
        yield document
        write_manifest(path, document)


def write_entry(path: Path, weights_id: str, make_content: Callable[[], dict[str, Any]]) -> None:
    """Put one entry into a manifest file, and do not change the other entries.

    Args:
        path: The file.
        weights_id: The entry's id. An entry with this id is replaced.
        make_content: A function that returns the entry's JSON. It is called while other processes that change the
            file wait. So it may read the file, and no process changes what it has read.

    Raises:
        IntegrityError: If the changed manifest is not valid; the file is then not changed.
        UnavailableError: If another process has been editing the file for ten minutes.
        NotWritableError: If the file cannot be written.
    """
    with edit_manifest(path) as document:
        document["weights"][weights_id] = make_content()


def find_writable_manifest() -> Path:
    """Find the manifest that `publish --write` changes: the manifest that this process uses.

    Returns:
        The path of the manifest.

    Raises:
        UsageError: If the manifest belongs to an installed package, because the next installation would overwrite it.
        NotWritableError: If the manifest cannot be written.
    """
    path = get_manifest_path()
    if path == package_path(MANIFEST_FILE_NAME):
        raise UsageError(
            f"--write would change {path}, which the next installation overwrites; name a manifest of your own in "
            f"{MANIFEST_VARIABLE}, or work in a clone"
        )
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise NotWritableError(f"--write cannot change {path}; name a manifest of your own in {MANIFEST_VARIABLE}")
    return path


def read_entry_content(weights_id: str) -> dict[str, Any]:
    """Read the JSON of an entry from the manifest that this process uses, or else from the package's manifest.

    Args:
        weights_id: The entry's id.

    Returns:
        The entry as the JSON has it.

    Raises:
        UsageError: If neither manifest has the entry.
    """
    for path in (get_manifest_path(), get_package_manifest_path()):
        contents = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if weights_id in contents:
            content: dict[str, Any] = contents[weights_id]
            return content
    raise UsageError(f"{get_manifest_path()} has no entry {weights_id}")
