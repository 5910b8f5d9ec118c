"""Foreign files as named tensors. Each kind is told by its first bytes, not by its name, and opened in a child process.

A safetensors file holds nothing but tensors, and is read here.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from pyramidzoo.containers import read_tensors
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError

_SECONDS = 600
_TORCH7_STARTS = (b"\x03\0\0\0\x01\0\0\0", b"\x04\0\0\0\x01\0\0\0")  # table or object, the first of the file


def unpickle(source: Path) -> dict[str, Tensor]:
    """All tensors of a torch checkpoint by their path in it ("state_dict.conv1.weight").

    A child process opens the pickle with weights_only=True, so that no object of the file is ever built in this one.
    Raises IntegrityError where the file cannot be read that way.
    """
    return _in_a_child("_unpickle.py", source, "torch checkpoint")


def read_torch7(source: Path) -> dict[str, Tensor]:
    """All parameters of a Torch7 file, named after their layer's place in it ("unit3.branch1.2.bn.weight").

    A child process reads it with `torchfile`. Raises UnavailableError where that is not installed, IntegrityError.
    """
    if importlib.util.find_spec("torchfile") is None:
        raise UnavailableError(f"{source} is a Torch7 file; torchfile reads those: `pip install 'pyramidzoo[torch7]'`")
    return _in_a_child("_torch7.py", source, "Torch7 file of a network")


def is_torch7(source: Path) -> bool:
    """Whether a file starts as `torch.save` of Lua begins one. Raises UnavailableError."""
    return _head(source).startswith(_TORCH7_STARTS)


def is_safetensors(source: Path) -> bool:
    """Whether a file starts with the length of a JSON header and the header. Raises UnavailableError."""
    head = _head(source)
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27


def _head(source: Path) -> bytes:
    try:
        with source.open("rb") as stream:
            return stream.read(16)
    except OSError as error:
        raise UnavailableError(f"cannot read {source}: {error.strerror or error}") from error


def _in_a_child(script: str, source: Path, kind: str) -> dict[str, Tensor]:
    child = Path(__file__).with_name(script)
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as folder:
        output = Path(folder) / "tensors.safetensors"
        try:
            done = subprocess.run(  # noqa: S603 (this interpreter, a file of this package, and two paths)
                [sys.executable, str(child), str(source), str(output)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise IntegrityError(f"{source} could not be read within {_SECONDS} s; it was left alone") from error
        except OSError as error:
            raise UnavailableError(f"cannot start a process to open {source}: {error.strerror or error}") from error
        if done.returncode:
            raise _failure(source, kind, done)
        return read_tensors(output)


def _failure(source: Path, kind: str, done: subprocess.CompletedProcess[str]) -> IntegrityError | UnavailableError:
    """What the child's last line says went wrong."""
    try:
        said = json.loads(done.stderr.strip().splitlines()[-1])
        reason, disk = str(said["error"]), bool(said["disk"])
    except (IndexError, ValueError, KeyError, TypeError):
        reason, disk = f"the reading process ended with status {done.returncode}", False
    if disk and reason.startswith("NotWritten"):
        return NotWritableError(
            f"cannot write the tensors of {source} to a temporary file ({reason.partition(': ')[2]}); name a folder "
            "with room in TMPDIR"
        )
    if disk:
        return UnavailableError(f"cannot read {source}: {reason}")
    return IntegrityError(f"{source} is not a readable {kind}: {reason}")
