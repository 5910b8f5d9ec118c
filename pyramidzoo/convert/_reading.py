"""Foreign files as named tensors. Each kind is told by its first bytes, not by its name, and opened in a sandbox.

A safetensors file holds nothing but tensors, and is read here.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tarfile
import tempfile
from pathlib import Path

from torch import Tensor

from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.convert import _sandbox
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError

_PICKLE, _ZIP, _GZIP = b"\x80", b"PK\x03\x04", b"\x1f\x8b"
_TORCH7_STARTS = (b"\x03\0\0\0\x01\0\0\0", b"\x04\0\0\0\x01\0\0\0")  # table or object, the first of the file
_KEPT = 500  # characters of a reason, which may quote the file


def unpickle(source: Path) -> dict[str, Tensor]:
    """All tensors of a torch checkpoint by their path in it ("state_dict.conv1.weight").

    A process of its own opens the pickle, with weights_only=True and under limits, so that no object of the file is
    ever built in this one. Raises IntegrityError where the file cannot be read that way.
    """
    if reason := _no_checkpoint(source):
        raise IntegrityError(f"{source} is not a readable torch checkpoint: {reason}")
    return _in_a_sandbox("_unpickle.py", source, "torch checkpoint")


def read_torch7(source: Path) -> dict[str, Tensor]:
    """All parameters of a Torch7 file, named after their layer's place in it ("unit3.branch1.2.bn.weight").

    A process of its own reads it with `torchfile`. Raises UnavailableError where that is not installed, IntegrityError.
    """
    if importlib.util.find_spec("torchfile") is None:
        raise UnavailableError(f"{source} is a Torch7 file; torchfile reads those: `pip install 'pyramidzoo[torch7]'`")
    return _in_a_sandbox("_torch7.py", source, "Torch7 file of a network")


def is_torch7(source: Path) -> bool:
    """Whether a file starts as `torch.save` of Lua begins one. Raises UnavailableError."""
    return _head(source).startswith(_TORCH7_STARTS)


def is_safetensors(source: Path) -> bool:
    """Whether a file starts with the length of a JSON header and the header. Raises UnavailableError."""
    head = _head(source)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _no_checkpoint(source: Path) -> str | None:
    """What a file that starts otherwise than torch's is instead, and what to do about it."""
    head = _head(source)
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
    """Whether the first block is a tar's; nothing more of it is read."""
    with source.open("rb") as stream:
        block = stream.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _head(source: Path) -> bytes:
    try:
        with source.open("rb") as stream:
            return stream.read(24)
    except OSError as error:
        raise UnavailableError(f"cannot read {source}: {error.strerror or error}") from error


def _in_a_sandbox(script: str, source: Path, kind: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as folder:
        output = Path(folder) / "tensors.safetensors"
        try:
            limits = _sandbox.Limits.for_size(source.stat().st_size)
            ended = _sandbox.run(Path(__file__).with_name(script), source, output, limits)
        except OSError as error:
            raise UnavailableError(f"cannot start a process to open {source}: {error.strerror or error}") from error
        if ended.lacking:
            _say_once(ended.lacking)
        if ended.kind != "done":
            raise _failure(source, kind, ended, limits)
        try:
            return read_tensors(output)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(output), str(source))) from error


@functools.cache
def _say_once(lacking: tuple[str, ...]) -> None:
    logging.getLogger("pyramidzoo").warning(
        "the process that opens foreign files should be %s, which this system does not allow; "
        "convert only files that you trust",
        " and ".join(lacking),
    )


def _failure(source: Path, kind: str, ended: _sandbox.Ended, limits: _sandbox.Limits) -> PyramidzooError:
    """What the process said went wrong, or how it ended."""
    reason = "".join(c if c.isprintable() else "?" for c in ended.error[:_KEPT])
    if ended.kind == "write":
        return NotWritableError(
            f"cannot write the tensors of {source} to a temporary file ({reason}); name a folder with room in TMPDIR"
        )
    if ended.kind == "read":
        return UnavailableError(f"cannot read {source}: {reason}")
    if ended.kind == "start":
        return UnavailableError(f"cannot start the process that opens {source}: {reason}; is torch installed whole?")
    limit = {
        "memory": f"more than {limits.memory >> 20} MiB of memory",
        "size": f"more than {limits.output >> 20} MiB for its tensors",
        "work": f"more than {limits.work} s of work",
        "clock": f"more than {limits.clock} s",
    }.get(ended.kind)
    if limit:
        reason = f"it takes {limit}, which no checkpoint of its size does; it is damaged, or made to harm"
    elif ended.kind == "died":
        reason = f"it ended the process that read it ({reason}); it is damaged, or made to harm"
    return IntegrityError(f"{source} is not a readable {kind}: {reason}")
