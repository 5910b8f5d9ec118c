"""Files that others will trust: hashed as a whole, replaced as a whole, never half-written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pyramidzoo.errors import NotWritableError, UnavailableError, UsageError

_CHUNK = 1 << 20


def packaged(name: str) -> Path:
    """A file that came with this package, by its path within it."""
    return Path(__file__).parent / name


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
    processes may write the same path at once. Raises NotWritableError where the folder cannot be written to.
    """
    make_folder(path.parent)
    # not tempfile's own: an interrupt between its return and the `try` would leave the file behind
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
        part.chmod(mode)  # safetensors makes files private to their owner; a shared cache must be readable
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise NotWritableError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from error
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises NotWritableError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotWritableError(f"cannot make the folder {folder}: a file is in its way; name another") from error
    except OSError as error:
        raise NotWritableError(f"cannot make the folder {folder}: {error.strerror or error}; name another") from error


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8) as a whole. Raises NotWritableError."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def names_a_file(weights: str) -> bool:
    """Whether a name is meant as a path, and not as an id, a tag or a pattern: a folder called cifar10 is ./cifar10."""
    suffixes = (".safetensors", ".pth", ".th", ".pt", ".tar", ".bin", ".zip", ".t7")
    return "/" in weights or os.sep in weights or weights in (".", "..") or Path(weights).suffix in suffixes


def weights_file(path: Path) -> Path:
    """The file that a path means: itself, or in a folder as it is published, `model.safetensors`.

    Raises UsageError for a folder that has none.
    """
    if not path.is_dir():
        return path
    if (published := path / "model.safetensors").is_file():
        return published
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    here = f"{len(found)} safetensors files, name one of them" if found else "no safetensors file"
    raise UsageError(f"{path} is a folder with {here}")


def user_path(text: str) -> Path:
    """A path as the user wrote it, ~ included; a ~ that stands for nobody stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises RuntimeError there)
