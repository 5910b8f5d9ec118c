"""What is counted and not timed: multiply-adds, the bytes of the weights, and the bytes that a forward pass holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_ORDINARY_POOL = (0, 0)  # PyTorch's id of the memory that belongs to no CUDA graph


def count_multiply_adds(model: nn.Module, image: tuple[int, int, int]) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image.

    Args:
        model: a plain network on the meta device, where nothing is computed. The fused operations of a rewritten
            network cannot be counted.
        image: the shape of the image, (C, H, W).
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops() // 2  # PyTorch counts a multiplication and an addition as two


def count_weight_bytes(model: nn.Module) -> int:
    """Count the bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()) if tensor.layout is torch.strided)


def count_activation_bytes(compute: Callable[[], Tensor], device: torch.device) -> int:
    """Count the most bytes that a computation holds at once, beyond what was there before (weights, images).

    On a GPU this is what PyTorch's allocator gave out, with its rounding and with the workspaces of kernels. On a CPU
    it is the sum of the tensors that are alive after an operation. That is the same number every time; what a kernel
    allocates for itself is not in it.

    Args:
        compute: the computation. It must have run before, so that nothing is allocated for the first time.
        device: where it computes.
    """
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            compute()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        with _LiveStorages() as live:
            compute()
        return live.most


def count_graph_bytes(capture: Callable[[], object]) -> int:
    """Count the bytes that a CUDA graph keeps for its activations.

    A captured graph allocates in a memory pool of its own: its activations, its result and the workspaces of its
    kernels. The pool keeps whole segments of the device's memory as long as the graph lives, also between replays. So
    the size of its segments is the peak memory of the graph. The graph's input is allocated outside.

    Args:
        capture: a computation that captures a graph, and keeps it.
    """
    before = set(_pool_sizes())
    capture()
    # a pool that was there before belongs to another graph, even if that graph is gone
    return sum(size for pool, size in _pool_sizes().items() if pool not in before)


def _pool_sizes() -> dict[tuple[int, int], int]:
    """Return the bytes of the segments of each memory pool of a CUDA graph, by the pool's id."""
    sizes: dict[tuple[int, int], int] = {}
    for segment in torch.cuda.memory_snapshot():  # type: ignore[no-untyped-call]
        pool = tuple(segment["segment_pool_id"])
        if pool != _ORDINARY_POOL:
            sizes[pool] = sizes.get(pool, 0) + segment["total_size"]
    return sizes


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation allocates, until it is freed. `most` is the most bytes at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        # By the address of the storage's record. No other storage gets this address while the weak reference lives.
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        self._live = {key: live for key, live in self._live.items() if not _is_freed(live[0])}
        for storage in _storages(results):
            # a storage that was given is that of a view, or of a result in place
            if storage._cdata not in given and storage._cdata not in self._live:
                self._live[storage._cdata] = _make_weak(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._live.values()))
        return results


def _make_weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _is_freed(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def _storages(values: Any) -> list[torch.UntypedStorage]:
    # filters in oneDNN's own memory order have no storage
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.layout is torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
