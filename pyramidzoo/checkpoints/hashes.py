"""Files held against published hashes of every kind: of the file or of what is in it, whole or in part, or git's."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from pyramidzoo.catalog.weights_entry import FileHash
from pyramidzoo.checkpoints.archives import is_archive, member_hash
from pyramidzoo.checkpoints.loading import cached_file_hash


def matches(path: Path, expected: FileHash) -> bool:
    """Whether a file is the one with that hash. Raises IntegrityError for a damaged archive, UnavailableError."""
    found = digest(path, expected)
    return found.startswith(expected.value) if expected.algorithm == "sha256_prefix" else found == expected.value


def digest(path: Path, like: FileHash) -> str:
    """A file's digest, whole, computed as the given one was.

    Where that is of an archive's member, a file that is no archive counts as the member, unpacked. Computed once in a
    process for each state of a file. Raises IntegrityError, UnavailableError.
    """
    algorithm = like.algorithm.removesuffix("_prefix")
    if like.of == "member" and is_archive(path):
        return _member_hash(path, algorithm, _state(path))
    if algorithm == "git_blob_sha1":
        return _git_blob_sha1(path, _state(path))
    return cached_file_hash(path, algorithm)


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


@cache
def _member_hash(path: Path, algorithm: str, state: tuple[int, ...]) -> str:
    return member_hash(path, algorithm)


@cache
def _git_blob_sha1(path: Path, state: tuple[int, ...]) -> str:
    """The name that git gives a file with this content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
