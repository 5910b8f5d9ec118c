"""Hashes of files on disk: each is computed once for each state of a file, and compared with a published hash.

`pyramidzoo.files.file_hash` reads a file and hashes it. This module adds a cache of hashes, and the
three kinds of hashes that projects publish: the hash of a file, the hash of the one file in a zip
archive, and the hash that git uses as the name of a file's content. Hashes of tensors are in
`tensor_hash.py`, because they need torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from pyramidzoo.catalog.weights_entry import FileHash
from pyramidzoo.checkpoints.archives import hash_member, is_archive
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash

# Device, inode, time of modification, time of change and size of a file. When the content of a file
# changes, its state changes too.
FileState = tuple[int, int, int, int, int]

# The hashes that were computed in this process. A key is the state of a file, the kind of its hash
# ("file", "member" or "git blob"), and the algorithm.
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
    return _get_or_compute(path, "file", algorithm, lambda: file_hash(path, algorithm))


def require_hash(path: Path, expected: str, next_step: str) -> str:
    """Require that a file has the expected sha256.

    Args:
        path: The file.
        expected: Its sha256 in lower-case hex digits.
        next_step: What the user should do if the file has another sha256. The error message ends
            with it.

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
    """Hash a file with the algorithm of a published hash, once in a process for each state of the file.

    Args:
        path: The file. If the published hash is that of the one file in an archive, `path` may be
            the archive, or the file that was unpacked from it.
        published: The published hash. It says what is hashed and with which algorithm. Its value
            is not used.

    Returns:
        All digits of the hash, as lower-case hex digits, even if only the first were published.

    Raises:
        IntegrityError: The archive is damaged.
        UnavailableError: The file cannot be read.
    """
    algorithm = published.algorithm.removesuffix("_prefix")
    if published.of == "member" and is_archive(path):
        return _get_or_compute(path, "member", algorithm, lambda: hash_member(path, algorithm))
    if algorithm == "git_blob_sha1":
        return _get_or_compute(path, "git blob", algorithm, lambda: _compute_git_blob_hash(path))
    return cached_file_hash(path, algorithm)


def matches_published_hash(path: Path, published: FileHash) -> bool:
    """Return whether the hash of a file equals a published hash.

    If only the first digits of the hash were published, only those are compared.

    Raises:
        IntegrityError: The archive is damaged.
        UnavailableError: The file cannot be read.
    """
    actual = compute_published_hash(path, published)
    if published.algorithm == "sha256_prefix":
        return actual.startswith(published.value)
    return actual == published.value


def get_file_state(path: Path) -> FileState | None:
    """Return the properties of a file that change when its content changes; None if there is no file.

    The system knows these properties, so the file itself is not read.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def forget_hashes() -> None:
    """Empty the cache of hashes, so that each file is hashed again when its hash is next needed."""
    _hashes.clear()


def _get_or_compute(path: Path, kind: str, algorithm: str, compute: Callable[[], str]) -> str:
    """Return a hash of a file from the cache; compute it if the cache does not have it for the file's present state."""
    state = get_file_state(path)
    if state is None:
        return compute()  # It raises the error that says why the file cannot be read.
    key = (state, kind, algorithm)
    if key not in _hashes:
        _hashes[key] = compute()
    return _hashes[key]


def _compute_git_blob_hash(path: Path) -> str:
    """Compute the hash that git uses as the name of a file's content.

    It is the SHA-1 of "blob", a space, the file's size in decimal digits, a zero byte, and the
    content.
    """
    try:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return hasher.hexdigest()
