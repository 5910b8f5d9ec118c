"""Count the multiply-adds of a network, the bytes of its weights, and the bytes that a forward pass holds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_POOL_WITHOUT_GRAPH = (0, 0)  # PyTorch's id of the memory pool that belongs to no CUDA graph.


def count_multiply_adds(model: nn.Module, image: tuple[int, int, int]) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image.

    Args:
        model: a plain network on the meta device, where nothing is computed. The fused operations of a rewritten
            network cannot be counted.
        image: the shape of the image, (C, H, W).

    Returns:
        The number of multiply-adds.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops() // 2  # PyTorch counts a multiply-add as two operations.


def count_weight_bytes(model: nn.Module) -> int:
    """Count the bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()) if tensor.layout is torch.strided)


def count_activation_bytes(compute: Callable[[], Tensor], device: torch.device) -> int:
    """Count the most bytes that a computation holds at once, in addition to what was there before (weights, images).

    On a GPU these are the bytes that PyTorch's allocator gave out. They include its rounding and the workspaces of
    kernels. On a CPU it is the largest sum of the bytes of all tensors that are alive after an operation. That number
    is the same every time. It does not include what a kernel allocates for itself.

    Args:
        compute: the computation. It must have run before, because a first run also allocates what later runs reuse.
        device: the device that computes.

    Returns:
        The number of bytes.
    """
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            compute()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        with _LiveStorageCounter() as counter:
            compute()
        return counter.most_bytes


def count_graph_bytes(capture: Callable[[], object]) -> int:
    """Count the bytes that a CUDA graph keeps for its activations.

    A captured graph allocates its activations, its result and the workspaces of its kernels in a memory pool of its
    own. The pool keeps whole segments of the device's memory as long as the graph exists, also between replays. So the
    size of these segments is the peak memory of the graph. The graph's input is allocated outside of the pool.

    Args:
        capture: a function that captures a graph, and keeps it.

    Returns:
        The number of bytes.
    """
    pools_before = set(_count_pool_bytes())
    capture()
    # A pool that was there before belongs to another graph, even if that graph does not exist any more.
    return sum(byte_count for pool, byte_count in _count_pool_bytes().items() if pool not in pools_before)


def _count_pool_bytes() -> dict[tuple[int, int], int]:
    """Count the bytes of the segments in each memory pool of a CUDA graph, by the pool's id."""
    bytes_by_pool: dict[tuple[int, int], int] = {}
    for segment in torch.cuda.memory_snapshot():  # type: ignore[no-untyped-call]
        pool = tuple(segment["segment_pool_id"])
        if pool != _POOL_WITHOUT_GRAPH:
            bytes_by_pool[pool] = bytes_by_pool.get(pool, 0) + segment["total_size"]
    return bytes_by_pool


class _LiveStorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations allocated and that are not freed yet.

    A storage is the memory of a tensor and of its views. PyTorch calls `__torch_dispatch__` for every operation inside
    the `with` block of this object.

    Attributes:
        most_bytes: the most bytes of live storages after any operation.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most_bytes = 0
        # The key is the address of the C++ object of a storage (`_cdata`). The weak reference keeps this object, but
        # not its memory, so no other storage can have the same address. The second value is the number of bytes.
        self._live_storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        input_addresses = {storage._cdata for storage in _find_storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        self._live_storages = {key: live for key, live in self._live_storages.items() if not _is_freed(live[0])}
        for storage in _find_storages(results):
            # If a result has the storage of an input, it is a view, or it was computed in place. Nothing was allocated.
            if storage._cdata not in input_addresses and storage._cdata not in self._live_storages:
                self._live_storages[storage._cdata] = _make_weak_reference(storage), storage.nbytes()
        self.most_bytes = max(self.most_bytes, sum(byte_count for _, byte_count in self._live_storages.values()))
        return results


def _make_weak_reference(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _is_freed(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


def _find_storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested arguments or results of an operation."""
    # Filters in oneDNN's own order have another layout than `strided`, and no storage.
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.layout is torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
