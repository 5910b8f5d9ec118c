"""Strict fp32 arithmetic: the settings of PyTorch that make a result exact and repeatable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def strict_arithmetic(*, tf32: bool = False, fixed: bool = True) -> Iterator[None]:
    """Compute in IEEE fp32 and with the same algorithms every time, inside a `with` block.

    The settings that the process had before are restored at the end of the block.

    Args:
        tf32: Let GPUs use TF32 (10 bits of mantissa) for matrix products and convolutions.
        fixed: Use deterministic algorithms. If false, cuDNN measures which algorithm is fastest and
            uses it.
    """
    backends: Any = torch.backends
    cudnn = backends.cudnn
    tf32_parts: list[Any] = [backends.cuda.matmul, cudnn.conv]
    parts: list[Any] = [backends, *tf32_parts, cudnn.rnn, backends.mkldnn.conv, backends.mkldnn.matmul]
    precisions_before = [part.fp32_precision for part in parts]
    algorithms_before = cudnn.benchmark, cudnn.deterministic
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        if tf32:
            for part in tf32_parts:
                part.fp32_precision = "tf32"
        cudnn.benchmark, cudnn.deterministic = not fixed, fixed
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = algorithms_before
        for part, precision in zip(parts, precisions_before, strict=True):
            part.fp32_precision = precision
