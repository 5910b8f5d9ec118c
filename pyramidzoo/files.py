"""Read, hash and replace files, and find the file that a path means.

A file is always replaced as a whole, so that no process reads one that is only partly written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError

_READ_BYTES = 1 << 20  # how much of a file is in memory while it is hashed
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".th", ".pt", ".tar", ".bin", ".zip", ".t7")


def package_path(name: str) -> Path:
    """Return the path of a file that came with this package.

    Args:
        name: Path of the file within the package.

    Returns:
        The path.
    """
    return Path(__file__).parent / name


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Compute the hash of a file.

    Args:
        path: The file.
        algorithm: Name of the algorithm, as `hashlib` calls it.

    Returns:
        The hash, as lower-case hex digits.

    Raises:
        UnavailableError: If the file cannot be read.
    """
    hasher = hashlib.new(algorithm)
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return hasher.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file as a whole: give a temporary file beside it, and rename that at the end.

    A reader sees the old file or the new one, never a part. Several processes may write the same path at once. The
    temporary file is deleted if the block raises an error; the old file then stays.

    Args:
        path: The file to replace. Its folder is made if it is missing.

    Yields:
        The path of the temporary file, which is empty.

    Raises:
        NotWritableError: If the file or its folder cannot be written.
    """
    make_folder(path.parent)
    # `tempfile` is not used: an interrupt between its return and the `try` would leave the file behind.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            part.touch(exist_ok=False)
            mode = part.stat().st_mode
        except OSError as error:
            raise NotWritableError(
                f"cannot write to {path.parent}: {error.strerror or error}; name a folder that can be written to"
            ) from error
        yield part
        part.chmod(mode)  # safetensors makes a file that only its owner can read, but others may share the cache
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise NotWritableError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, if they are missing.

    Args:
        folder: The folder.

    Raises:
        NotWritableError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotWritableError(f"cannot make the folder {folder}: a file is in its way; name another") from error
    except OSError as error:
        raise NotWritableError(f"cannot make the folder {folder}: {error.strerror or error}; name another") from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Args:
        path: The file.
        text: Its new content, which is written as UTF-8.

    Raises:
        NotWritableError: If it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def is_path(weights: str) -> bool:
    """Return whether a user means a path, and not an id, a tag or a pattern.

    A path has a slash or the suffix of a weights file. So `./cifar10` is the folder, and `cifar10` is the tag.
    """
    return "/" in weights or os.sep in weights or weights in (".", "..") or Path(weights).suffix in _WEIGHTS_SUFFIXES


def find_weights_file(path: Path) -> Path:
    """Find the weights file that a path means.

    Args:
        path: A file, or a folder.

    Returns:
        The path itself if it is no folder. In a folder, `model.safetensors`, which is the name in published folders;
        otherwise the only safetensors file.

    Raises:
        UsageError: If the folder has no safetensors file, or several.
    """
    if not path.is_dir():
        return path
    if (published := path / "model.safetensors").is_file():
        return published
    candidates = sorted(path.glob("*.safetensors"))
    if len(candidates) == 1:
        return candidates[0]
    problem = f"{len(candidates)} safetensors files, name one of them" if candidates else "no safetensors file"
    raise UsageError(f"{path} is a folder with {problem}")


def expand_user_path(text: str) -> Path:
    """Turn what a user wrote into a path. A `~` is expanded, unless it stands for nobody."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises RuntimeError for an unknown user)
