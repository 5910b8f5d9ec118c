"""Strict fp32 arithmetic: the settings of PyTorch that make a result exact and repeatable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def strict_arithmetic(*, tf32: bool = False, deterministic: bool = True) -> Iterator[None]:
    """Compute in IEEE fp32 and with the same algorithms every time, inside a `with` block.

    The settings that the process had before are restored at the end of the block.

    Args:
        tf32: Let GPUs use TF32 (10 bits of mantissa) for matrix products and convolutions.
        deterministic: Use deterministic algorithms. If false, cuDNN measures which algorithm is
            fastest and uses it.
    """
    backends: Any = torch.backends
    cudnn = backends.cudnn
    # Each of these objects has a setting `fp32_precision` of its own.
    objects_for_tf32: list[Any] = [backends.cuda.matmul, cudnn.conv]
    objects: list[Any] = [backends, *objects_for_tf32, cudnn.rnn, backends.mkldnn.conv, backends.mkldnn.matmul]
    precisions_before = [each.fp32_precision for each in objects]
    algorithms_before = cudnn.benchmark, cudnn.deterministic
    try:
        for each in objects:
            each.fp32_precision = "ieee"
        if tf32:
            for each in objects_for_tf32:
                each.fp32_precision = "tf32"
        cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = algorithms_before
        for each, precision in zip(objects, precisions_before, strict=True):
            each.fp32_precision = precision
