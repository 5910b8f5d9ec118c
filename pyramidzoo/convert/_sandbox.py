"""A process of its own for a foreign file: no network, bounded memory, time and output, and the end of it with ours."""

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

_SCRIPT = Path(__file__).with_name("_confined.py")
_START_SECONDS = 300  # to import torch from a slow network drive
_TAIL = 1 << 16  # bytes of what the process said
_PASSED = re.compile(r"(PYTHON|LD_|DYLD_|LC_).*|PATH|HOME|LANG|TMPDIR|TEMP|TMP|SYSTEMROOT|WINDIR", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bytes of memory beyond the imports, of tensors and of output; seconds of work, of the clock."""

    memory: int
    tensors: int
    output: int
    work: int
    clock: int

    @classmethod
    def for_size(cls, size: int) -> Limits:
        """What a file of that many bytes may take.

        Tensors are stored as they are: reading them takes 2 to 4 times the file's size, whatever takes 8 times is
        blown up. The fixed parts are for what does not grow with the file; a network drive may be as slow as 1 MB/s.
        """
        return cls(
            memory=8 * size + (1 << 30),
            tensors=8 * size + (1 << 25),
            output=8 * size + (1 << 26),
            work=3 + size // 10_000_000,
            clock=60 + size // 1_000_000,
        )


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the process ended: `kind` is "done", "work" or "clock" (a limit), "died", or what it said itself."""

    kind: str
    error: str = ""
    lacking: tuple[str, ...] = ()


def run(script: Path, source: Path, output: Path, limits: Limits) -> Ended:
    """Let SCRIPT read SOURCE into OUTPUT in a process of its own. Raises OSError where none can be started."""
    with tempfile.TemporaryFile() as said:
        numbers = map(str, (os.getpid(), *dataclasses.astuple(limits)))
        process = subprocess.Popen(  # noqa: S603 (this interpreter, files of this package, and two paths)
            [sys.executable, str(_SCRIPT), str(script), str(source), str(output), *numbers],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=_environment(),
        )
        try:
            status = process.wait(_START_SECONDS + limits.clock)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # also when we are interrupted
            process.kill()
            process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL))
        return _ended(status, said.read().decode("utf-8", "replace").splitlines())


def _environment() -> dict[str, str]:
    """What Python and torch need to start; no tokens, no GPU."""
    passed = {name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)}
    return passed | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def _ended(status: int | None, lines: list[str]) -> Ended:
    facts: dict[str, Any] = {}
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            facts |= content if isinstance(content, dict) else {}
    lacking = tuple(map(str, given)) if isinstance(given := facts.get("lacking"), list) else ()
    if status == 0:
        return Ended("done", lacking=lacking)
    if status is None and "lacking" not in facts:
        return Ended("start", f"it took more than {_START_SECONDS} s")
    if status is None or status == -getattr(signal, "SIGALRM", 0):
        return Ended("clock", lacking=lacking)
    if status == -getattr(signal, "SIGXCPU", 0):
        return Ended("work", lacking=lacking)
    if "error" in facts:
        return Ended(str(facts.get("kind")), str(facts["error"]), lacking)
    return Ended("died", _name_of(status), lacking)


def _name_of(status: int) -> str:
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"status {status}"
