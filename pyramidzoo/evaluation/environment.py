"""What the numbers are computed on and with: the device, its arithmetic, the versions of everything involved."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch

import pyramidzoo
from pyramidzoo.errors import UnavailableError, UsageError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """A torch device by name. Raises UsageError, UnavailableError.

    "auto" is the GPU where there is one, and "cuda" that of this process, by its rank on the machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.device_count():
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}; cpu, cuda and cuda:1 are examples") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"only cpu and cuda can be used, not {device.type}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices are visible")
    return device


def own_cores() -> int:
    """Cores that this process may use: its share of the machine's under torchrun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_memory() -> bool:
    """Keep freed memory in this process instead of giving it back to the system; whether the C library could.

    glibc returns every activation to the kernel, which clears its pages again for the next batch: on a CPU that can
    take longer than the network. For processes of our own, since it cannot be undone (mallopt(3)).
    """
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


@contextlib.contextmanager
def strict_arithmetic(*, tf32: bool = False, fixed: bool = True) -> Iterator[None]:
    """fp32 as IEEE has it, and the same algorithm every time; the process's own settings come back afterwards.

    Less strict: with `tf32` GPUs multiply 10-bit mantissas, and without `fixed` cuDNN takes the algorithm that it finds
    fastest.
    """
    cudnn = torch.backends.cudnn
    places = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.conv", "mkldnn.matmul")
    parts: list[Any] = [torch.backends, *(attrgetter(place)(torch.backends) for place in places)]
    before = [part.fp32_precision for part in parts]
    algorithms = cudnn.benchmark, cudnn.deterministic
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        if tf32:
            parts[1].fp32_precision = parts[2].fp32_precision = "tf32"  # of cuda.matmul and cudnn.conv
        cudnn.benchmark, cudnn.deterministic = not fixed, fixed
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = algorithms
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def device_name(device: torch.device) -> str:
    """The device as records name it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({_processor()}, {threads} thread{'s' if threads > 1 else ''})"


@cache
def _processor() -> str:
    """The processor's model where Linux tells it, else its architecture: arithmetic differs between models."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Of everything that the arithmetic goes through."""
    cuda = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return {
        "pyramidzoo": pyramidzoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
        **(cuda if torch.cuda.is_available() else {}),
    }
