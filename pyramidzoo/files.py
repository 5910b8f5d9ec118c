"""Hash files, replace files, and find the weights file that a user's path means.

A file is always replaced as a whole. So no process can read a file that is only partly written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError

_CHUNK_BYTES = 1 << 20  # a file is hashed in chunks of this size, so that it does not have to fit into memory
_WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".th", ".pt", ".tar", ".bin", ".zip", ".t7")


def package_path(name: str) -> Path:
    """Return the path of a file that is part of this package.

    Args:
        name: Path of the file, relative to the folder of the package.

    Returns:
        The absolute path.
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
            while chunk := stream.read(_CHUNK_BYTES):
                hasher.update(chunk)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    return hasher.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file as a whole. The `with` block writes a temporary file, which is then renamed to `path`.

    A reader sees the complete old file or the complete new file. Several processes may write the same path at once. If
    the block raises an error, the temporary file is deleted, and the old file stays as it was.

    Args:
        path: The file to replace. Its folder is made if it is missing.

    Yields:
        The path of the temporary file. It is empty, and lies in the folder of `path`.

    Raises:
        NotWritableError: If the file or its folder cannot be written.
    """
    make_folder(path.parent)
    # `tempfile` would choose the name and make the file in one call. Ctrl-C right after that call, before the `try`
    # begins, would leave the file behind. Here the name is known before the file exists.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
        except OSError as error:
            raise NotWritableError(
                f"cannot write to {path.parent}: {error.strerror or error}; name a folder that can be written to"
            ) from error
        yield temporary
        # The safetensors library makes files that only their owner can read. The usual permissions are restored,
        # because several users may share the folder.
        temporary.chmod(mode)
        # After a crash of the system, `path` must not name a file whose content has not reached the disk.
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise NotWritableError(
            f"cannot write {path}: {error.strerror or error}; no partly written file was left"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder if it is missing, and also the folders that it lies in.

    Args:
        folder: The folder.

    Raises:
        NotWritableError: If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotWritableError(
            f"cannot make the folder {folder}: a file has the same path; name another folder"
        ) from error
    except OSError as error:
        raise NotWritableError(
            f"cannot make the folder {folder}: {error.strerror or error}; name another folder"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole.

    Args:
        path: The file.
        text: The new content of the file, which is written as UTF-8.

    Raises:
        NotWritableError: If the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_path(text: str) -> bool:
    """Decide whether a text with which a user names weights is a path. Otherwise it is an id, a tag or a pattern.

    A text is a path if it contains a slash or ends with the suffix of a weights file. So `./cifar10` is a folder, and
    `cifar10` is the tag of weights.
    """
    return "/" in text or os.sep in text or text in (".", "..") or Path(text).suffix in _WEIGHTS_SUFFIXES


def find_weights_file(path: Path) -> Path:
    """Find the weights file that a path means. The path may be that of the file, or of the folder that contains it.

    Args:
        path: A file, or a folder.

    Returns:
        If `path` is not a folder, `path` itself, even if no such file exists. If it is a folder, the file
        `model.safetensors` in it, or else the only safetensors file in it. Published folders contain a
        `model.safetensors`.

    Raises:
        UsageError: If the folder has no `model.safetensors`, and either no safetensors file or several.
    """
    if not path.is_dir():
        return path
    if (published_file := path / "model.safetensors").is_file():
        return published_file
    candidates = sorted(path.glob("*.safetensors"))
    if len(candidates) == 1:
        return candidates[0]
    problem = f"{len(candidates)} safetensors files; name one of them" if candidates else "no safetensors file"
    raise UsageError(f"{path} is a folder with {problem}")


def expand_user_path(text: str) -> Path:
    """Turn a text that a user wrote into a path. `~` and `~NAME` at its start become the home folder of that user.

    If there is no such user, the text stays as it is.
    """
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises RuntimeError for an unknown user)
