"""The folder of converted weights: its files, their sidecars, its locks and its temporary folders.

A sidecar is a JSON file beside a converted file. It says where the file came from and which hashes it has.
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

_SECONDS_UNTIL_MESSAGE = 2  # we wait so long for a lock before we say that we wait
_SECONDS_UNTIL_NO_LOCK = 1800  # after so long we go on without the lock


def cache_dir() -> Path:
    """Return the folder of the cache.

    It is `PYRAMIDZOO_CACHE` if that is set. Otherwise it is the folder `pyramidzoo` in `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        UnavailableError: If no variable is set and this user has no home folder.
    """
    chosen = os.environ.get("PYRAMIDZOO_CACHE")
    if chosen:
        return expand_user_path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "pyramidzoo"
    except RuntimeError as error:
        raise UnavailableError("this user has no home folder; name one for the cache in PYRAMIDZOO_CACHE") from error


def cache_paths(entry: WeightsEntry) -> tuple[Path, Path]:
    """Return the paths of an entry's converted file in the cache and of its sidecar. Neither needs to exist."""
    folder = cache_dir() / "weights"
    return folder / f"{entry.id}.safetensors", folder / f"{entry.id}.json"


def read_sidecar(entry: WeightsEntry) -> dict[str, Any]:
    """Read the sidecar of an entry.

    Returns:
        `url`, the address that the file came from; `source_sha256`, the hash of the file that came; `commit` if it came
        from the Hub. For a converted file also `layout`, `origin` (the published hash), `sha256` and `tensors_sha256`.
        Empty if there is no readable sidecar.
    """
    try:
        content = json.loads(cache_paths(entry)[1].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_sidecar_for(entry: WeightsEntry, url: str) -> dict[str, Any]:
    """Read the sidecar of an entry if it is about a file from this address; otherwise return an empty dict."""
    content = read_sidecar(entry)
    return content if content.get("url") == url else {}


def check_sidecar(entry: WeightsEntry, url: str, sha256: str) -> None:
    """Compare a downloaded file with the first file that came from the same address.

    Args:
        entry: The entry that the file is for.
        url: The address that the file came from.
        sha256: The hash of the file.

    Raises:
        IntegrityError: If the sidecar holds another hash for this address.
    """
    first_sha256 = read_sidecar_for(entry, url).get("source_sha256")
    if first_sha256 not in (None, sha256):
        raise IntegrityError(
            f"{url} has sha256 {sha256} now; the first file from there had {first_sha256}. If you trust the new "
            f"file, delete {cache_paths(entry)[1]} and fetch again"
        )


def write_sidecar(entry: WeightsEntry, content: dict[str, Any], *, published: bool) -> None:
    """Replace the sidecar of an entry.

    If nobody has published a hash of the file, the new sidecar is the only thing that later files are compared with.
    A message on stderr says so when the first hash is written.

    Args:
        entry: The entry that the sidecar is for.
        content: The fields, as `read_sidecar` returns them.
        published: Whether anybody has published a hash of the file.

    Raises:
        NotWritableError: If the cache cannot be written to.
    """
    old_content = read_sidecar(entry)
    if content == old_content:
        return
    write_text(cache_paths(entry)[1], json.dumps(content, indent=1, sort_keys=True) + "\n")
    if not published and old_content.get("source_sha256") != content["source_sha256"]:
        print(
            f"pyramidzoo: nobody has published a hash for {entry.id} ({content['url']}); the file that came has sha256 "
            f"{content['source_sha256']}; from now on, every file from there must match it",
            file=sys.stderr,
        )


@contextlib.contextmanager
def entry_lock(entry: WeightsEntry) -> Iterator[None]:
    """Let only one process of this machine fetch an entry at a time.

    The others wait, and then find the file in the cache. The operating system releases the lock of a process that
    dies. Whoever gets the lock deletes what a killed process left behind.

    The lock only saves bandwidth, because files are always replaced as a whole. So the block also runs without a lock
    where none can be had: the folder is not writable, the file system has no locks, or another process holds the lock
    for half an hour.
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
        except (OSError, NotImplementedError):  # this includes Timeout, which is an OSError
            pass
        yield


def _acquire_unless_cancelled(lock: FileLock, seconds: float) -> None:
    """Wait for a lock. Raises Cancelled, and Timeout of filelock when the seconds have passed."""
    from filelock import Timeout

    end = time.monotonic() + seconds
    while True:
        raise_if_cancelled()
        try:
            lock.acquire(timeout=0.5)
            return
        except Timeout:
            if time.monotonic() > end:
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
        raise cannot_write(cache_dir(), error) from error
    with folder as name:
        yield Path(name)


def cannot_write(folder: Path, error: OSError) -> NotWritableError:
    """Make the error for a folder of the cache that cannot be written to."""
    return NotWritableError(
        f"cannot write to {folder}: {error.strerror or error}; name another folder for the cache in PYRAMIDZOO_CACHE"
    )


def _temporary_prefix(entry: WeightsEntry) -> str:
    return f".download-{entry.id}-"


def _delete_leftovers(entry: WeightsEntry) -> None:
    """Delete unfinished files of a process that was killed. The caller must hold the lock of the entry."""
    for folder in cache_dir().glob(f"{_temporary_prefix(entry)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in cache_paths(entry):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
