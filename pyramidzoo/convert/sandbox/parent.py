"""The side of the sandbox that runs in this process: it starts the child process, and says how it ended.

The child process has no network, limited memory, time and output, and it ends when this process
ends.
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
_START_SECONDS = 300  # enough to import torch from a slow network drive
_OUTPUT_BYTES = 1 << 16  # how much of the end of the child's output is read

# The environment variables that Python and torch need to start. Tokens and secrets are not among
# them.
_PASSED = re.compile(r"(PYTHON|LD_|DYLD_|LC_).*|PATH|HOME|LANG|TMPDIR|TEMP|TMP|SYSTEMROOT|WINDIR", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the child process may take.

    Attributes:
        memory: Bytes of memory, beyond what the imports take.
        tensors: Bytes of all tensors together.
        output: Bytes of the file with the tensors.
        work: Seconds of CPU time, beyond what the imports take.
        clock: Seconds until it is ended, whatever it does.
    """

    memory: int
    tensors: int
    output: int
    work: int
    clock: int

    @classmethod
    def for_size(cls, size: int) -> Limits:
        """Return what the reading of a file may take.

        Tensors are stored as they are, so that reading takes 2 to 4 times the file's size. A file
        that takes 8 times its size was made to harm. The constant parts are for what does not grow
        with the file. A network drive may be as slow as 1 MB/s.

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
        kind: "done"; "work" or "clock" if that limit ended it; "died" if something else did; or
            what the child itself said: "memory" or "size" for a limit, "file" if the file is to
            blame, "read", "write" or "start" if the system is.
        error: The reason in words, if there is one.
        missing_protections: What the system does not let the child do, as "without network".
    """

    kind: str
    error: str = ""
    missing_protections: tuple[str, ...] = ()


def run_in_sandbox(script: Path, source: Path, output: Path, limits: Limits) -> Outcome:
    """Let a script read a foreign file in a process of its own.

    Args:
        script: A Python file with `read(source, allowed)`, which returns tensors of at most
            `allowed` bytes, and `save(tensors, output)`.
        source: The foreign file.
        output: Where the tensors are saved.
        limits: What the process may take.

    Raises:
        OSError: No process can be started.
    """
    with tempfile.TemporaryFile() as child_output:
        numbers = map(str, (os.getpid(), *dataclasses.astuple(limits)))
        process = subprocess.Popen(  # noqa: S603 (this interpreter, files of this package, and two paths)
            [sys.executable, str(_CHILD), str(script), str(source), str(output), *numbers],
            stdin=subprocess.DEVNULL,
            stdout=child_output,
            stderr=child_output,
            env=_child_environment(),
        )
        try:
            status = process.wait(_START_SECONDS + limits.clock)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # Also when this process is interrupted.
            process.kill()
            process.wait()
        child_output.seek(max(0, child_output.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
        return _outcome(status, child_output.read().decode("utf-8", "replace").splitlines())


def _child_environment() -> dict[str, str]:
    """The child's environment: no secrets, no GPU, and one thread."""
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    return passed | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _outcome(status: int | None, lines: list[str]) -> Outcome:
    """The outcome, by the exit status (None if the child had to be ended here) and by what the child printed."""
    messages: dict[str, Any] = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            messages |= content if isinstance(content, dict) else {}
    missing = messages.get("missing_protections")
    protections = tuple(map(str, missing)) if isinstance(missing, list) else ()
    if status == 0:
        return Outcome("done", missing_protections=protections)
    if status is None and "missing_protections" not in messages:
        return Outcome("start", f"it took more than {_START_SECONDS} s")
    if status is None or status == -getattr(signal, "SIGALRM", 0):
        return Outcome("clock", missing_protections=protections)
    if status == -getattr(signal, "SIGXCPU", 0):
        return Outcome("work", missing_protections=protections)
    if "error" in messages:
        return Outcome(str(messages.get("kind")), str(messages["error"]), protections)
    return Outcome("died", _describe_status(status), protections)


def _describe_status(status: int) -> str:
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"status {status}"
