"""Files that others will trust: hashed as a whole, replaced as a whole, never half-written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pyramidzoo.errors import UnavailableError

_CHUNK = 1 << 20


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's bytes. Raises UnavailableError where the file cannot be read."""
    digest = hashlib.new(algorithm)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the place of `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. The temporary file goes away on any error, and several
    processes may write the same path at once. Raises UnavailableError where the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UnavailableError(
            f"cannot write to {path.parent}: {error.strerror or error}; name a folder that can be written to"
        ) from error
    part = Path(name)
    try:
        yield part
        # mkstemp makes files private to their owner; a shared cache must be readable to those the umask allows
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8) as a whole. Raises UnavailableError."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
