"""The cache: a folder with converted weights, their sidecars, locks, and temporary folders of downloads.

A sidecar is a JSON file beside a converted file. It says which file was converted, where that came from, and the hashes
of both files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError
from pyramidzoo.files import expand_user_path, write_text
from pyramidzoo.weights.context import raise_if_cancelled

if TYPE_CHECKING:
    from filelock import FileLock

_SECONDS_UNTIL_MESSAGE = 2  # a process that waits for a lock says so after this time
_SECONDS_UNTIL_NO_LOCK = 1800  # a process that has said so goes on without the lock after this time


def cache_dir() -> Path:
    """Return the folder of the cache.

    The environment variable `PYRAMIDZOO_CACHE` names it. Without that variable it is the folder `pyramidzoo` in the
    folder that `XDG_CACHE_HOME` names, or else in `~/.cache`.

    Raises:
        UnavailableError: If neither variable is set and this user has no home folder.
    """
    user_choice = os.environ.get("PYRAMIDZOO_CACHE")
    if user_choice:
        return expand_user_path(user_choice)
    parent = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(parent) if parent else Path.home() / ".cache") / "pyramidzoo"
    except RuntimeError as error:
        raise UnavailableError("this user has no home folder; name one for the cache in PYRAMIDZOO_CACHE") from error


def cache_paths(entry: WeightsEntry) -> tuple[Path, Path]:
    """Return the path of an entry's converted file in the cache, and the path of its sidecar.

    The files may not exist.
    """
    folder = cache_dir() / "weights"
    return folder / f"{entry.id}.safetensors", folder / f"{entry.id}.json"


def read_sidecar(entry: WeightsEntry) -> dict[str, Any]:
    """Read the sidecar of an entry.

    Returns:
        The fields of the sidecar. If there is no readable sidecar, an empty dict. Every sidecar describes the file that
        was downloaded or found in a folder:

        * `url`: the address at which it is published,
        * `source_sha256`: its hash,
        * `commit`: its commit, if it came from the Hub.

        The sidecar of a conversion also has:

        * `origin`: the hash that was published for the file, or None,
        * `layout`: the name of its layout,
        * `sha256` and `tensors_sha256`: the hashes of the converted file and of its tensors.
    """
    try:
        content = json.loads(cache_paths(entry)[1].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_sidecar_for(entry: WeightsEntry, url: str) -> dict[str, Any]:
    """Read the sidecar of an entry. If it is about a file from another address than `url`, return an empty dict."""
    content = read_sidecar(entry)
    return content if content.get("url") == url else {}


def check_sidecar(entry: WeightsEntry, url: str, sha256: str) -> None:
    """Require that a downloaded file equals the first file that came from the same address.

    Args:
        entry: The entry whose file was downloaded.
        url: The address that the file came from.
        sha256: The hash of the file.

    Raises:
        IntegrityError: If the sidecar has another hash for the file from this address.
    """
    first_sha256 = read_sidecar_for(entry, url).get("source_sha256")
    if first_sha256 not in (None, sha256):
        raise IntegrityError(
            f"{url} has sha256 {sha256} now; the first file from this address had {first_sha256}. If you trust the "
            f"new file, delete {cache_paths(entry)[1]} and fetch again"
        )


def write_sidecar(entry: WeightsEntry, content: dict[str, Any], *, has_published_hash: bool) -> None:
    """Replace the sidecar of an entry.

    If nobody has published a hash of the file, later downloads can be compared only with the hash in this sidecar. A
    message on stderr says so when a new hash is written.

    Args:
        entry: The entry that the sidecar is for.
        content: The fields, as `read_sidecar` returns them.
        has_published_hash: Whether anybody has published a hash of the file.

    Raises:
        NotWritableError: If the cache cannot be written to.
    """
    old_content = read_sidecar(entry)
    if content == old_content:
        return
    write_text(cache_paths(entry)[1], json.dumps(content, indent=1, sort_keys=True) + "\n")
    if not has_published_hash and old_content.get("source_sha256") != content["source_sha256"]:
        print(
            f"pyramidzoo: nobody has published a hash for {entry.id} ({content['url']}); the file that came has sha256 "
            f"{content['source_sha256']}; from now on, every file from this address must have the same hash",
            file=sys.stderr,
        )


@contextlib.contextmanager
def entry_lock(entry: WeightsEntry) -> Iterator[None]:
    """Let only one process of this machine fetch an entry at a time. The `with` block is run under the lock.

    The other processes wait, and then find the file in the cache. If a process dies, the operating system releases its
    lock. The next process that gets the lock deletes the unfinished files of the dead one.

    Without the lock, several processes would download the same file, but no file could be damaged, because files are
    always replaced as a whole. So the block is also run if the lock cannot be had: if the folder is not writable, the
    file system has no locks, or another process holds the lock for more than half an hour.
    """
    from filelock import FileLock, Timeout

    path = cache_dir() / "locks" / f"{entry.id}.lock"
    with contextlib.ExitStack() as stack:
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock.acquire(timeout=_SECONDS_UNTIL_MESSAGE))
            except Timeout:
                print(f"pyramidzoo: waiting for another process that fetches {entry.id}", file=sys.stderr)
                _acquire_unless_cancelled(lock, _SECONDS_UNTIL_NO_LOCK)
                stack.callback(lock.release)
            _delete_leftovers(entry)
        except (OSError, NotImplementedError):  # The block runs without the lock. filelock's Timeout is an OSError.
            pass
        yield


def _acquire_unless_cancelled(lock: FileLock, seconds: float) -> None:
    """Wait for a lock for at most so many seconds.

    filelock cannot be interrupted while it waits. So it waits for half a second at a time.

    Raises:
        CancelledError: As soon as the downloads of this thread are cancelled.
        filelock.Timeout: If another process still holds the lock after these seconds.
    """
    from filelock import Timeout

    deadline = time.monotonic() + seconds
    while True:
        raise_if_cancelled()
        try:
            lock.acquire(timeout=0.5)
            return
        except Timeout:
            if time.monotonic() > deadline:
                raise


@contextlib.contextmanager
def temporary_folder(entry: WeightsEntry) -> Iterator[Path]:
    """Make a folder in the cache for a download, and delete it when the block ends.

    Raises:
        NotWritableError: If the cache cannot be written to.
    """
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=_temporary_prefix(entry), dir=cache_dir())
    except OSError as error:
        raise make_cache_error(cache_dir(), error) from error
    with folder as path:
        yield Path(path)


def make_cache_error(folder: Path, error: OSError) -> NotWritableError:
    """Make the error for a folder of the cache that cannot be written to. It names the variable for another folder."""
    return NotWritableError(
        f"cannot write to {folder}: {error.strerror or error}; name another folder for the cache in PYRAMIDZOO_CACHE"
    )


def _temporary_prefix(entry: WeightsEntry) -> str:
    """Return how the names of all temporary folders of an entry begin. Unfinished downloads are found by it."""
    return f".download-{entry.id}-"


def _delete_leftovers(entry: WeightsEntry) -> None:
    """Delete the unfinished files of an entry that a killed process has left behind.

    The caller must hold the lock of the entry. Otherwise the files may belong to a process that is still running.
    """
    for folder in cache_dir().glob(f"{_temporary_prefix(entry)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in cache_paths(entry):
        for unfinished_file in path.parent.glob(f".{path.name}.*.part"):  # `files.replacing` gives such names
            unfinished_file.unlink(missing_ok=True)
