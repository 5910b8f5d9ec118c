"""What is counted and not timed: multiply-adds, parameters' bytes, and the bytes that a forward pass holds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, image: tuple[int, int, int]) -> int:
    """Of convolutions and linear layers, for one image (C, H, W); `model` is on the meta device, where nothing is done.

    Not of a rewritten network, whose fused operations nobody counts.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *image, device="meta"))
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def weights_bytes(model: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()) if tensor.layout is torch.strided)


def activation_bytes(compute: Callable[[], Tensor], device: torch.device) -> int:
    """The most bytes held at once while a result is computed, beyond what was there before (weights, images).

    On a GPU by its allocator, with its rounding and the kernels' workspaces; on a CPU the tensors that are alive after
    each operation, the same number every time, without what a kernel needs for itself meanwhile.
    """
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            compute()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        with _Alive() as alive:
            compute()
        return alive.most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation makes, until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        # by the address of the storage's record, which nobody else gets while there is a weak reference to it
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        self._made = {key: made for key, made in self._made.items() if not _freed(made[0])}
        for storage in _storages(results):
            if storage._cdata not in given and storage._cdata not in self._made:  # else a view, or computed in place
                self._made[storage._cdata] = _weakly(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return results


def _weakly(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _freed(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def _storages(values: Any) -> list[torch.UntypedStorage]:
    # filters in oneDNN's own order have none
    tensors = [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.layout is torch.strided]
    return [tensor.untyped_storage() for tensor in tensors]
