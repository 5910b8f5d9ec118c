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
        name: "cpu", "cuda", "cuda:1" and so on. "auto" means "cuda" if the machine has a GPU, else
            "cpu". "cuda" without a number means the GPU whose number is `local_rank`.
        local_rank: Rank of this process among the processes of its machine. If there are fewer GPUs
            than processes, the GPUs are given out in turn.

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


def count_usable_cores() -> int:
    """Return how many processor cores this process may use.

    Under torchrun, the cores of a machine are divided equally among its processes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_memory() -> bool:
    """Let this process keep freed memory for its next allocations.

    By default glibc gives the memory of a freed activation back to the kernel. For the next batch
    the kernel must provide and clear this memory again. On a CPU that can take longer than the
    network itself. The setting (mallopt(3)) cannot be undone, so only a command may call this
    function, not a function of the library.

    Returns:
        Whether the C library has this setting.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # The numbers of M_TRIM_THRESHOLD and M_MMAP_MAX in glibc's malloc.h.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    # Every allocation then comes from the heap, and the heap is never made smaller.
    return mallopt is not None and bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def device_name(device: torch.device) -> str:
    """Return the name of a device for records: its type, and the model of the GPU or the CPU."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    return f"cpu ({_get_processor_name()}, {threads} thread{'s' if threads > 1 else ''})"


@cache
def _get_processor_name() -> str:
    """Return the model of the processor if Linux tells it, else its architecture, such as "x86_64".

    The model is part of a record, because two models can round differently.
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
