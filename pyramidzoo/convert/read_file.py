"""Reading a foreign file into named tensors.

The kind of a file is told by its first bytes, not by its name. A safetensors file holds nothing but
tensors, and is read in this process. Pickles and Torch7 files are opened in a process of their own,
see `sandbox/`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tarfile
import tempfile
from pathlib import Path

from torch import Tensor

from pyramidzoo.checkpoints.archives import extract_member, is_archive
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.convert.sandbox import parent as sandbox
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError

# The first bytes of each kind of file.
_PICKLE, _ZIP, _GZIP = b"\x80", b"PK\x03\x04", b"\x1f\x8b"
_TORCH7_STARTS = (b"\x03\0\0\0\x01\0\0\0", b"\x04\0\0\0\x01\0\0\0")  # table number 1, or object number 1
_HEAD_BYTES = 24  # as many as are needed to tell the kind, and shown of an unknown file
_LONGEST_REASON = 500  # characters of the sandbox's error message, which may quote the file

# The scripts in `sandbox/` that read a file there.
_PICKLE_READER = "pickle_reader.py"
_TORCH7_READER = "torch7_reader.py"


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """Read all tensors of a foreign file.

    Args:
        source: A torch checkpoint, a safetensors file, a Torch7 file, or a zip archive around one
            of them.

    Returns:
        The tensors by their path in the file, as "state_dict.conv1.weight".

    Raises:
        IntegrityError: The file is damaged, or is no checkpoint.
        UnavailableError: The file cannot be read, or there is no room to unpack it.
    """
    return _read_archive(source) if is_archive(source) else _read_unpacked(source)


def unpickle(source: Path) -> dict[str, Tensor]:
    """Read all tensors of a torch checkpoint, by their path in it.

    A process of its own opens the pickle, with `weights_only=True` and under limits, so that no
    object of the file is ever built in this process.

    Raises:
        IntegrityError: The file cannot be read that way.
        UnavailableError: The file cannot be read, or no process can be started.
    """
    if reason := _why_no_torch_file(source):
        raise IntegrityError(f"{source} is not a readable torch checkpoint: {reason}")
    return _read_in_sandbox(_PICKLE_READER, source, "torch checkpoint")


def read_torch7(source: Path) -> dict[str, Tensor]:
    """Read all parameters of a Torch7 file.

    A process of its own reads it with the package `torchfile`.

    Returns:
        The tensors, named after their layer's place in the file, as "block3.branch1.2.bn.weight";
        see `sandbox/torch7_reader.py`.

    Raises:
        IntegrityError: The file is damaged, or is not one of a network that can be read.
        UnavailableError: `torchfile` is not installed, the file cannot be read, or no process can
            be started.
    """
    if importlib.util.find_spec("torchfile") is None:
        raise UnavailableError(f"{source} is a Torch7 file; torchfile reads those: `pip install 'pyramidzoo[torch7]'`")
    return _read_in_sandbox(_TORCH7_READER, source, "Torch7 file of a network")


def is_torch7(source: Path) -> bool:
    """Return whether a file starts as those of Lua's `torch.save`. Raises UnavailableError if it cannot be read."""
    return _read_head(source).startswith(_TORCH7_STARTS)


def is_safetensors(source: Path) -> bool:
    """Return whether a file starts with the length of a JSON header and the header.

    Raises UnavailableError if it cannot be read.
    """
    head = _read_head(source)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _read_unpacked(source: Path) -> dict[str, Tensor]:
    if is_safetensors(source):
        return read_tensors(source)
    return read_torch7(source) if is_torch7(source) else unpickle(source)


def _read_archive(source: Path) -> dict[str, Tensor]:
    """Unpack the one file of an archive to a temporary folder and read it there."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="pyramidzoo-")
    except OSError as error:
        raise NotWritableError(f"cannot unpack {source}: {error.strerror or error}; name a folder in TMPDIR") from error
    with folder as name:
        member = Path(name) / source.with_suffix("").name
        extract_member(source, member)
        try:
            return _read_unpacked(member)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(member), f"{source}: its one file")) from error


def _why_no_torch_file(source: Path) -> str | None:
    """What a file is instead of a torch file, and what to do about it; None if it starts as a torch file."""
    head = _read_head(source)
    if head.startswith((_PICKLE, _ZIP)):
        return None
    if not head:
        return "it is empty; download it again"
    if head.startswith(_GZIP):
        return "it is compressed with gzip; unpack it"
    if _is_tar(source):
        return (
            "it is a tar archive; unpack it and name the checkpoint in it (torch's own archives of before 2017 cannot "
            "be opened safely: look for a newer file)"
        )
    return f"it is no torch file, it starts with {head!r}; download it again and see what its address answers"


def _is_tar(source: Path) -> bool:
    """Whether a file starts with a tar header. Nothing behind the header is read."""
    with source.open("rb") as stream:
        block = stream.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _read_head(source: Path) -> bytes:
    try:
        with source.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except OSError as error:
        raise UnavailableError(f"cannot read {source}: {error.strerror or error}") from error


def _read_in_sandbox(script: str, source: Path, kind: str) -> dict[str, Tensor]:
    """Let a script write the tensors of a file to a safetensors file, and read that with all its checks."""
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as folder:
        output = Path(folder) / "tensors.safetensors"
        try:
            limits = sandbox.Limits.for_size(source.stat().st_size)
            outcome = sandbox.run_in_sandbox(Path(sandbox.__file__).with_name(script), source, output, limits)
        except OSError as error:
            raise UnavailableError(f"cannot start a process to open {source}: {error.strerror or error}") from error
        if outcome.missing_protections:
            _warn_once(outcome.missing_protections)
        if outcome.kind != "done":
            raise _error_of(outcome, source, kind, limits)
        try:
            return read_tensors(output)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(output), str(source))) from error


@functools.cache
def _warn_once(missing_protections: tuple[str, ...]) -> None:
    logging.getLogger("pyramidzoo").warning(
        "the process that opens foreign files should be %s, which this system does not allow; "
        "convert only files that you trust",
        " and ".join(missing_protections),
    )


def _error_of(outcome: sandbox.Outcome, source: Path, kind: str, limits: sandbox.Limits) -> PyramidzooError:
    """The error for a process that did not succeed."""
    reason = "".join(c if c.isprintable() else "?" for c in outcome.error[:_LONGEST_REASON])
    if outcome.kind == "write":
        return NotWritableError(
            f"cannot write the tensors of {source} to a temporary file ({reason}); name a folder with room in TMPDIR"
        )
    if outcome.kind == "read":
        return UnavailableError(f"cannot read {source}: {reason}")
    if outcome.kind == "start":
        return UnavailableError(f"cannot start the process that opens {source}: {reason}; is torch installed whole?")
    exceeded = {
        "memory": f"more than {limits.memory >> 20} MiB of memory",
        "size": f"more than {limits.output >> 20} MiB for its tensors",
        "work": f"more than {limits.work} s of work",
        "clock": f"more than {limits.clock} s",
    }.get(outcome.kind)
    if exceeded:
        reason = f"it takes {exceeded}, which no checkpoint of its size does; it is damaged, or made to harm"
    elif outcome.kind == "died":
        reason = f"it ended the process that read it ({reason}); it is damaged, or made to harm"
    return IntegrityError(f"{source} is not a readable {kind}: {reason}")
