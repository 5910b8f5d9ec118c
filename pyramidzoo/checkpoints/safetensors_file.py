"""safetensors files: written as a whole, and read strictly."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyramidzoo.checkpoints.tensor_hash import content_sha256
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError
from pyramidzoo.files import replacing
from pyramidzoo.json_records import reject_duplicate_keys

_SEAL = "content_sha256"  # the metadata key of a sealed file
_LONGEST_HEADER = 16 << 20  # bytes. The longest header of a network here has 0.6 MB; safetensors accepts 100 MB.
_LONGEST_NAME = 500  # characters


@dataclass(frozen=True)
class Content:
    """What a safetensors file holds.

    Attributes:
        path: The file.
        metadata: The strings in its header.
        tensors: All its tensors by their names, on the CPU.
    """

    path: Path
    metadata: Mapping[str, str]
    tensors: dict[str, Tensor]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, in place of what was there.

    The same tensors and metadata give the same bytes. On an error the old file stays as it was.

    Args:
        path: The file to write.
        tensors: The tensors by their names.
        metadata: Strings for the header of the file.

    Raises:
        NotWritableError: The file cannot be written.
    """
    with replacing(path) as part:
        try:
            save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, part, dict(metadata))
            _sort_metadata(part)
        except SafetensorError as error:  # The library wraps errors of the operating system, as "disk full".
            raise NotWritableError(f"cannot write {path}: {error}; nothing was left there") from error


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that holds a hash of all its content.

    This is for files that no manifest knows, so that damage is noticed. Arguments and errors are
    those of `write_tensors`.
    """
    write_tensors(path, tensors, {**metadata, _SEAL: content_sha256(tensors, metadata)})


def read_sealed(path: Path) -> Content:
    """Read a file that `write_sealed` wrote.

    Returns:
        The tensors, and the metadata without the hash.

    Raises:
        IntegrityError: Anything in the file was changed.
        UnavailableError: The file cannot be read.
    """
    content = read_content(path)
    metadata = {name: value for name, value in content.metadata.items() if name != _SEAL}
    if content.metadata.get(_SEAL) != content_sha256(content.tensors, metadata):
        raise IntegrityError(f"{path} is damaged: its content does not match its hash; delete it and run again")
    return Content(path, metadata, content.tensors)


def read_metadata(path: Path) -> dict[str, str]:
    """Read only the metadata of a safetensors file.

    Raises:
        IntegrityError: The file is damaged.
        UnavailableError: The file cannot be read.
    """
    with _open_file(path) as container:
        return dict(container.metadata() or {})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, onto the CPU. Errors are those of `read_content`."""
    return read_content(path).tensors


def read_content(path: Path, *, header_checked: bool = False) -> Content:
    """Read the metadata and all tensors of a safetensors file.

    The tensors are a private memory map of the file: their values are read from the disk when they
    are first used, and a change of a tensor does not change the file.

    Args:
        path: The file.
        header_checked: Whether `check_header` has accepted the file in its present state, so that
            it is not called.

    Returns:
        The content, on the CPU, whatever the default device is.

    Raises:
        IntegrityError: The file is damaged, or holds what no network here has.
        UnavailableError: The file cannot be read.
    """
    # Older versions of safetensors make tensors on the default device. The context costs a tenth of
    # the reading time, so it is entered only where that is another device.
    default_is_cpu = torch.get_default_device().type == "cpu"
    with contextlib.nullcontext() if default_is_cpu else torch.device("cpu"), _open_file(path) as container:
        if not header_checked:
            check_header(path)
        try:
            tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            first_line = str(error).partition("\n")[0]
            raise IntegrityError(f"{path} holds a tensor that no network here has ({first_line})") from error
        return Content(path, dict(container.metadata() or {}), tensors)


def check_header(path: Path) -> None:
    """Check the header of a safetensors file for what the library accepts and this package does not.

    Each name must stand there once, because otherwise each reader could choose another one of the
    two. Names must be printable and of a sensible length.

    Raises:
        IntegrityError: The header is not accepted.
        UnavailableError: The file cannot be read.
    """
    with _open_bytes(path) as stream:
        length = _read_header_length(stream, path)
        try:
            header = json.loads(stream.read(length).decode(), object_pairs_hook=reject_duplicate_keys)
        except (ValueError, RecursionError) as error:
            raise _not_safetensors(path, f"its header: {error}") from error
    for name in header if isinstance(header, dict) else ():
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise _not_safetensors(path, f"it holds a tensor called {name[:60]!a}, as no network's is")


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a file that was just written.

    safetensors writes them in a random order. A cache that several processes fill needs equal
    bytes.
    """
    with path.open("rb+") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(length))


def _open_file(path: Path) -> safe_open:
    with _open_bytes(path) as stream:  # The library says "no such file" of a file without read permission.
        _read_header_length(stream, path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _not_safetensors(path, str(error)) from error
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _open_bytes(path: Path) -> BinaryIO:
    if not path.is_file():
        raise UnavailableError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    try:
        return path.open("rb")
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _read_header_length(stream: BinaryIO, path: Path) -> int:
    """The number of bytes of the header, which the first eight bytes of the file say."""
    length = int.from_bytes(stream.read(8), "little")
    if length > _LONGEST_HEADER:
        raise _not_safetensors(path, f"its header would have {length} bytes, more than {_LONGEST_HEADER}")
    return length


def _not_safetensors(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable safetensors file ({reason})")
