"""Writing safetensors files as a whole, and reading them with more checks than the library makes."""

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

_CONTENT_HASH_KEY = "content_sha256"  # the metadata key under which a sealed file holds the hash of its content
# The longest header of a network here has 0.6 MB. The library safetensors would accept 100 MB.
_LONGEST_HEADER_BYTES = 16 << 20
_LONGEST_TENSOR_NAME = 500  # characters


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
    """Write a safetensors file. A file that is already at this path is replaced.

    The same tensors and metadata always give the same bytes. On an error the old file stays as it
    was.

    Args:
        path: The file to write.
        tensors: The tensors by their names.
        metadata: Strings for the header of the file.

    Raises:
        NotWritableError: The file cannot be written.
    """
    with replacing(path) as temporary_file:
        try:
            contiguous_tensors = {name: tensors[name].contiguous() for name in sorted(tensors)}
            save_file(contiguous_tensors, temporary_file, dict(metadata))
            _sort_metadata(temporary_file)
        except SafetensorError as error:  # The library raises it for errors of the system too, as "disk full".
            raise NotWritableError(f"cannot write {path}: {error}; no partly written file was left") from error


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a sealed file: a safetensors file whose metadata hold the hash of its tensors and other metadata.

    If the file is damaged later, `read_sealed` notices it by the hash. Published weights do not need this, because the
    manifest has their hashes. Training checkpoints are in no manifest. Arguments and errors are those of
    `write_tensors`.
    """
    write_tensors(path, tensors, {**metadata, _CONTENT_HASH_KEY: content_sha256(tensors, metadata)})


def read_sealed(path: Path) -> Content:
    """Read a file that `write_sealed` wrote, and compare its content with its hash.

    Returns:
        The tensors and the metadata. The metadata do not contain the hash.

    Raises:
        IntegrityError: The file was changed after it was written, or has no hash.
        UnavailableError: The file cannot be read.
    """
    content = read_content(path)
    metadata = {name: value for name, value in content.metadata.items() if name != _CONTENT_HASH_KEY}
    if content.metadata.get(_CONTENT_HASH_KEY) != content_sha256(content.tensors, metadata):
        raise IntegrityError(f"{path} is damaged: its content does not match its hash; delete it and run again")
    return Content(path, metadata, content.tensors)


def read_metadata(path: Path) -> dict[str, str]:
    """Read only the metadata of a safetensors file.

    Raises:
        IntegrityError: The file is damaged.
        UnavailableError: The file cannot be read.
    """
    with _open_file(path) as opened_file:
        return dict(opened_file.metadata() or {})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, onto the CPU. Errors are those of `read_content`."""
    return read_content(path).tensors


def read_content(path: Path, *, header_checked: bool = False) -> Content:
    """Read the metadata and all tensors of a safetensors file.

    The tensors are a private memory map of the file: their values are read from the disk when they
    are first used, and a change of a tensor does not change the file.

    Args:
        path: The file.
        header_checked: Whether `check_header` has already accepted the file as it is now. If so, it
            is not called again.

    Returns:
        The content, on the CPU, whatever torch's default device is.

    Raises:
        IntegrityError: The file is damaged, or holds a tensor that no network here has.
        UnavailableError: The file cannot be read.
    """
    # Older versions of safetensors make tensors on torch's default device. The context
    # torch.device("cpu") prevents that. It takes a tenth of the reading time, so it is used only if
    # the default device is not the CPU.
    is_default_cpu = torch.get_default_device().type == "cpu"
    with contextlib.nullcontext() if is_default_cpu else torch.device("cpu"), _open_file(path) as opened_file:
        if not header_checked:
            check_header(path)
        try:
            tensors = {name: opened_file.get_tensor(name) for name in opened_file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            first_line = str(error).partition("\n")[0]
            raise IntegrityError(f"{path} holds a tensor that no network here has ({first_line})") from error
        return Content(path, dict(opened_file.metadata() or {}), tensors)


def check_header(path: Path) -> None:
    """Check the header of a safetensors file more strictly than the library safetensors does.

    No name may occur twice, because two programs could then read two different tensors under this
    name. Names must be printable, and have at most `_LONGEST_TENSOR_NAME` characters.

    Raises:
        IntegrityError: The header is not accepted.
        UnavailableError: The file cannot be read.
    """
    with _open_bytes(path) as stream:
        length = _read_header_length(stream, path)
        try:
            header = json.loads(stream.read(length).decode(), object_pairs_hook=reject_duplicate_keys)
        except (ValueError, RecursionError) as error:
            raise _make_format_error(path, f"its header: {error}") from error
    for name in header if isinstance(header, dict) else ():
        if len(name) > _LONGEST_TENSOR_NAME or not name.isprintable():
            raise _make_format_error(path, f"it holds a tensor called {name[:60]!a}, as no network's is")


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file that was just written.

    The library safetensors writes them in a random order. Several processes can write the same file
    of the cache at the same time, and all must write the same bytes.
    """
    with path.open("rb+") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(header_bytes))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        # The format allows spaces behind the header. With them the header keeps its length, so that
        # the values behind it need not be moved.
        stream.write(text.ljust(header_bytes))


def _open_file(path: Path) -> safe_open:
    """Open a file with the library safetensors, after checks for errors that the library does not explain."""
    # Of a file without read permission the library says "no such file". `_open_bytes` says the real reason.
    with _open_bytes(path) as stream:
        _read_header_length(stream, path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _make_format_error(path, str(error)) from error
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading; raise UnavailableError if that is impossible."""
    if not path.is_file():
        raise UnavailableError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    try:
        return path.open("rb")
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _read_header_length(stream: BinaryIO, path: Path) -> int:
    """Read the length of a file's header in bytes, which is in the first eight bytes of the file."""
    length = int.from_bytes(stream.read(8), "little")
    if length > _LONGEST_HEADER_BYTES:
        raise _make_format_error(path, f"its header would have {length} bytes, more than {_LONGEST_HEADER_BYTES}")
    return length


def _make_format_error(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable safetensors file ({reason})")
