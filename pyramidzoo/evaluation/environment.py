"""What an evaluation runs on: devices, processor cores, memory and versions of libraries."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import numpy
import safetensors
import torch

import pyramidzoo
from pyramidzoo.errors import UnavailableError, UsageError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the torch device that has a name.

    Args:
        name: "cpu", "cuda", "cuda:1" and so on. "auto" is the GPU if the machine has one, else the
            CPU. "cuda" without a number is the GPU of this process.
        local_rank: Rank of this process among the processes of its machine. It decides which GPU
            "cuda" is.

    Returns:
        The device.

    Raises:
        UsageError: There is no such name.
        UnavailableError: This machine has no such device.
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


def usable_cores() -> int:
    """Return the number of processor cores for this process.

    Under torchrun the processes of a machine share them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_memory() -> bool:
    """Let this process keep freed memory for its next allocations.

    glibc gives the memory of every activation back to the kernel, and the kernel clears its pages
    again for the next batch. On a CPU that can take longer than the network itself. The setting
    cannot be undone (mallopt(3)), so only a command may call this, not a library function.

    Returns:
        Whether the C library has this setting.
    """
    m_trim_threshold, m_mmap_max = -1, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def device_name(device: torch.device) -> str:
    """Return the name that records have for a device. It has the model of the GPU or CPU."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({_processor_name()}, {threads} thread{'s' if threads > 1 else ''})"


@cache
def _processor_name() -> str:
    """Return the processor's model if Linux tells it, else its architecture.

    Arithmetic differs between models.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of all software that can change a result, by name."""
    cuda = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return {
        "pyramidzoo": pyramidzoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
        **(cuda if torch.cuda.is_available() else {}),
    }
