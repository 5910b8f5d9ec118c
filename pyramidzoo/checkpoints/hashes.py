"""Hashes of files on disk: computed once for each state of a file, and compared with published hashes of every kind.

`pyramidzoo.files.file_hash` reads a file and hashes it. This module adds the cache, and the hashes
that others publish: of a file, of the one file in a zip archive, or the name that git gives a file.
Hashes of tensors are in `tensor_hash.py`, because they need torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pyramidzoo.catalog.weights_entry import FileHash
from pyramidzoo.checkpoints.archives import is_archive, member_hash
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash

# Device, inode, time of modification, time of change and size of a file. Another content has
# another state.
FileState = tuple[int, int, int, int, int]

# The keys are the state of a file, what was hashed ("file", "member" or "git blob"), and the
# algorithm.
_hashes: dict[tuple[FileState, str, str], str] = {}

_CHUNK = 1 << 20  # bytes that are read at once


def cached_file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash a file, once in a process for each state of the file.

    Args:
        path: The file.
        algorithm: A name that `hashlib.new` knows.

    Returns:
        The hash in lower-case hex digits.

    Raises:
        UnavailableError: The file cannot be read.
    """
    return _cached(path, "file", algorithm, lambda: file_hash(path, algorithm))


def require_hash(path: Path, expected: str, next_step: str) -> str:
    """Require that a file has the expected sha256.

    Args:
        path: The file.
        expected: Its sha256 in lower-case hex digits.
        next_step: What the user should do if it has another one; the error message ends with it.

    Returns:
        The expected hash.

    Raises:
        IntegrityError: The file has another sha256.
        UnavailableError: The file cannot be read.
    """
    actual = cached_file_hash(path)
    if actual != expected:
        raise IntegrityError(f"{path} is altered: its sha256 is {actual}, expected {expected}; {next_step}")
    return actual


def compute_published_hash(path: Path, published: FileHash) -> str:
    """Hash a file in the way that a published hash was computed, once in a process for each state of the file.

    Args:
        path: The file. If the published hash is that of the one file in an archive, `path` may also
            be that file, already unpacked.
        published: The hash whose kind is used. Its value does not matter.

    Returns:
        The whole hash in lower-case hex digits, even if only the first digits were published.

    Raises:
        IntegrityError: The archive is damaged.
        UnavailableError: The file cannot be read.
    """
    algorithm = published.algorithm.removesuffix("_prefix")
    if published.of == "member" and is_archive(path):
        return _cached(path, "member", algorithm, lambda: member_hash(path, algorithm))
    if algorithm == "git_blob_sha1":
        return _cached(path, "git blob", algorithm, lambda: _git_blob_hash(path))
    return cached_file_hash(path, algorithm)


def matches_published_hash(path: Path, published: FileHash) -> bool:
    """Return whether a file has a published hash, of which only the first digits may be known.

    Raises:
        IntegrityError: The archive is damaged.
        UnavailableError: The file cannot be read.
    """
    actual = compute_published_hash(path, published)
    if published.algorithm == "sha256_prefix":
        return actual.startswith(published.value)
    return actual == published.value


def file_state(path: Path) -> FileState | None:
    """Return what distinguishes one state of a file from the next without reading it; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def forget_hashes() -> None:
    """Hash every file again from here on, as a new process would."""
    _hashes.clear()


def _cached(path: Path, what: str, algorithm: str, compute: Callable[[], str]) -> str:
    state = file_state(path)
    if state is None:
        return compute()  # It raises the error that says why the file cannot be read.
    key = (state, what, algorithm)
    if key not in _hashes:
        _hashes[key] = compute()
    return _hashes[key]


def _git_blob_hash(path: Path) -> str:
    """The name that git gives a file with this content."""
    try:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return hasher.hexdigest()
