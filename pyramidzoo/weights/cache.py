"""The folder of converted weights, the sidecars that say what each file must be, and one process at a time for each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError
from pyramidzoo.files import expand_user_path, write_text

if TYPE_CHECKING:
    from filelock import FileLock

_PATIENCE_SECONDS = 2, 1800  # before it is said that we wait; until what the others do is no longer waited for

_stop: ContextVar[threading.Event | None] = ContextVar("_stop", default=None)


class Cancelled(Exception):
    """What this thread fetches is no longer wanted."""


@contextlib.contextmanager
def cancel_on(stop: threading.Event) -> Iterator[None]:
    """From when it is set, what this thread fetches is no longer wanted."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def raise_if_cancelled() -> None:
    """Raises Interrupted where whoever wants what this thread fetches has left."""
    stop = _stop.get()
    if stop and stop.is_set():
        raise Cancelled


def cache_dir() -> Path:
    """`PYRAMIDZOO_CACHE`, else `pyramidzoo` in `XDG_CACHE_HOME` or ~/.cache."""
    named = os.environ.get("PYRAMIDZOO_CACHE")
    if named:
        return expand_user_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "pyramidzoo"
    except RuntimeError as error:
        raise UnavailableError("this user has no home folder; name one for the cache in PYRAMIDZOO_CACHE") from error


def cache_paths(entry: WeightsEntry) -> tuple[Path, Path]:
    """The entry's converted file in the cache, and the sidecar that says what it must be."""
    folder = cache_dir() / "weights"
    return folder / f"{entry.id}.safetensors", folder / f"{entry.id}.json"


def sidecar(entry: WeightsEntry) -> dict[str, Any]:
    """What was noted of the entry's file; nothing where there is no readable sidecar.

    `url` it came from, `source_sha256` of what came, `commit` of a Hub file; of a converted one also the published hash
    (`origin`), `sha256` and `tensors_sha256`.
    """
    try:
        noted = json.loads(cache_paths(entry)[1].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def sidecar_for(entry: WeightsEntry, url: str) -> dict[str, Any]:
    """What was noted of the file that came from this address; nothing where none did."""
    noted = sidecar(entry)
    return noted if noted.get("url") == url else {}


def check_sidecar(entry: WeightsEntry, url: str, sha256: str) -> None:
    """Require what was noted when the first file came from this address, if one did. Raises IntegrityError."""
    before = sidecar_for(entry, url).get("source_sha256")
    if before not in (None, sha256):
        raise IntegrityError(
            f"{url} has sha256 {sha256} now; the file noted when it first came had {before}. If the new one is to be "
            f"trusted, delete {cache_paths(entry)[1]} and fetch again"
        )


def write_sidecar(entry: WeightsEntry, facts: dict[str, Any], *, published: bool) -> None:
    """Replace what is noted of the entry's file; `published` is whether anybody has published a hash of it.

    If nobody has, the first note is said on stderr: from then on it is all that vouches for the file. Raises
    NotWritableError.
    """
    before = sidecar(entry)
    if facts == before:
        return
    write_text(cache_paths(entry)[1], json.dumps(facts, indent=1, sort_keys=True) + "\n")
    if not published and before.get("source_sha256") != facts["source_sha256"]:
        print(
            f"pyramidzoo: nobody has published a hash for {entry.id} ({facts['url']}); sha256 of what came: "
            f"{facts['source_sha256']}; noted, any later file must match",
            file=sys.stderr,
        )


@contextlib.contextmanager
def entry_lock(entry: WeightsEntry) -> Iterator[None]:
    """Have the other processes of this machine that want the same weights wait: one downloads, the others find it.

    What an earlier one left behind when it was killed is swept up. The kernel releases the lock of a dead process.
    Nothing depends on the lock but bandwidth (files are replaced as a whole), so where none can be had (a folder that
    cannot be written to, a file system without locks, a process that holds it for half an hour), it is done without.
    """
    from filelock import FileLock, Timeout

    path = cache_dir() / "locks" / f"{entry.id}.lock"
    said, patience = _PATIENCE_SECONDS
    with contextlib.ExitStack() as stack:
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock.acquire(timeout=said))
            except Timeout:
                print(f"pyramidzoo: waiting for another process that fetches {entry.id}", file=sys.stderr)
                _acquire(lock, patience)
                stack.callback(lock.release)
            _sweep(entry)
        except (OSError, NotImplementedError):  # a Timeout is an OSError too
            pass
        yield


def _acquire(lock: FileLock, seconds: float) -> None:
    """Wait for a lock, as long as what it guards is wanted. Raises Interrupted, and filelock's Timeout."""
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
    """A folder in the cache for what is on its way, gone afterwards. Raises NotWritableError."""
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=_prefix(entry), dir=cache_dir())
    except OSError as error:
        raise NotWritableError(
            f"cannot write to the cache {cache_dir()}: {error.strerror or error}; name another in PYRAMIDZOO_CACHE"
        ) from error
    with folder as name:
        yield Path(name)


def _prefix(entry: WeightsEntry) -> str:
    return f".download-{entry.id}-"


def _sweep(entry: WeightsEntry) -> None:
    """Delete what a process that was killed had under way for this entry; whoever calls holds its lock."""
    for folder in cache_dir().glob(f"{_prefix(entry)}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in cache_paths(entry):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
