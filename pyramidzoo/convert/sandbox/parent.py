"""The part of the sandbox that runs in the user's process: it starts the child process, and says how that ended.

The child process has no network. Its memory, its time and the size of its output file are limited.
It ends when the user's process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).with_name("child.py")
_START_SECONDS = 300  # how long the child may take to start: enough to import torch from a slow network drive
_LAST_OUTPUT_BYTES = 1 << 16  # The child's messages are in the last bytes that it prints; only those are read.

# The names of the environment variables that Python and torch need to start. Only they are given to
# the child, because others can hold passwords and tokens.
_PASSED_VARIABLES = re.compile(
    r"(PYTHON|LD_|DYLD_|LC_).*|PATH|HOME|LANG|TMPDIR|TEMP|TMP|SYSTEMROOT|WINDIR", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of the child process.

    Attributes:
        memory: The largest number of bytes of memory, without the memory that the imports take.
        tensors: The largest number of bytes of all tensors together.
        output: The largest size of the file that holds the tensors, in bytes.
        work: The longest CPU time in seconds, without the time that the imports take.
        clock: The longest real time in seconds, without the time that the imports take.
    """

    memory: int
    tensors: int
    output: int
    work: int
    clock: int

    @classmethod
    def for_size(cls, size: int) -> Limits:
        """Return the limits for reading a file.

        A checkpoint holds its tensors without compression, so reading takes 2 to 4 times the file's
        size in memory. A file that needs 8 times its size was made to do harm. The constant terms
        stand for what even the smallest file needs. The time allows a network drive that is as slow
        as 1 MB/s.

        Args:
            size: The size of the file in bytes.
        """
        return cls(
            memory=8 * size + (1 << 30),
            tensors=8 * size + (1 << 25),
            output=8 * size + (1 << 26),
            work=3 + size // 10_000_000,
            clock=60 + size // 1_000_000,
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the child process ended.

    Attributes:
        kind: "done" if the tensors were written. "work" or "clock" if the limit of this name ended
            the process, and "died" if something else ended it. The other kinds are those that the
            child itself has printed: "memory" and "size" if a limit was reached; "file" if the file
            is damaged or cannot be accepted; "read", "write" and "start" if the system failed.
        error: The reason in words; empty if there is none.
        missing_protections: The protections that this system does not allow, as "without network".
    """

    kind: str
    error: str = ""
    missing_protections: tuple[str, ...] = ()


def run_in_sandbox(script: Path, source: Path, output: Path, limits: Limits) -> Outcome:
    """Read a file of another project in a process of its own, and write its tensors to another file.

    Args:
        script: The reader: a Python file with the functions `read(source, allowed)`, which returns
            tensors of at most `allowed` bytes, and `save(tensors, output)`.
        source: The file to read.
        output: The safetensors file to which the tensors are written.
        limits: The limits of the process.

    Raises:
        OSError: The system cannot start a process.
    """
    with tempfile.TemporaryFile() as child_output:
        # The child compares the first number with the process id of its parent. With the others it sets its limits.
        numbers = map(str, (os.getpid(), *dataclasses.astuple(limits)))
        process = subprocess.Popen(  # noqa: S603 (this interpreter, files of this package, and two paths)
            [sys.executable, str(_CHILD), str(script), str(source), str(output), *numbers],
            stdin=subprocess.DEVNULL,
            stdout=child_output,
            stderr=child_output,
            env=_make_child_environment(),
        )
        try:
            status = process.wait(_START_SECONDS + limits.clock)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # The child is ended also when the user interrupts this process.
            process.kill()
            process.wait()
        printed_bytes = child_output.seek(0, os.SEEK_END)
        child_output.seek(max(0, printed_bytes - _LAST_OUTPUT_BYTES))
        return _make_outcome(status, child_output.read().decode("utf-8", "replace").splitlines())


def _make_child_environment() -> dict[str, str]:
    """Make the environment variables of the child: without secrets, without a GPU, and for one thread."""
    passed_variables = {name: value for name, value in os.environ.items() if _PASSED_VARIABLES.fullmatch(name)}
    return passed_variables | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _make_outcome(status: int | None, lines: list[str]) -> Outcome:
    """Find out how the child ended.

    Args:
        status: The child's exit status, which is minus the signal's number if a signal ended the
            child. None if the child did not end in time, so that this process ended it.
        lines: The last lines that the child printed. Its messages are JSON objects; other lines,
            as warnings of libraries, are ignored.
    """
    messages: dict[str, Any] = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            messages |= content if isinstance(content, dict) else {}
    missing = messages.get("missing_protections")
    protections = tuple(map(str, missing)) if isinstance(missing, list) else ()
    if status == 0:
        return Outcome("done", missing_protections=protections)
    if status is None and "missing_protections" not in messages:  # The child prints them when its imports are done.
        return Outcome("start", f"it took more than {_START_SECONDS} s")
    # SIGALRM comes at the limit of real time, and SIGXCPU at that of CPU time. Windows has neither;
    # there -0 stands for them, and status 0 was handled above.
    if status is None or status == -getattr(signal, "SIGALRM", 0):
        return Outcome("clock", missing_protections=protections)
    if status == -getattr(signal, "SIGXCPU", 0):
        return Outcome("work", missing_protections=protections)
    if "error" in messages:
        return Outcome(str(messages.get("kind")), str(messages["error"]), protections)
    return Outcome("died", _describe_status(status), protections)


def _describe_status(status: int) -> str:
    """Name the signal that ended a process, or the exit status if no signal did."""
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"status {status}"
