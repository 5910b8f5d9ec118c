"""Measure how fast the device's best convolution is, and which share of that speed a network reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from pyramidzoo.bench.rows import BenchmarkRow
from pyramidzoo.bench.timing import choose_passes, repeat_passes, time_in_turns
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.compute_settings import PRECISIONS

_RUN_SECONDS = 0.03
_RUNS = 9
_CHANNELS, _SIDE = 256, 16  # The maps have 256 channels and 16x16 pixels.
_BATCH = {"cpu": 64, "cuda": 1024}  # These are large enough to use the whole device.


@dataclass
class Peaks:
    """The best measured speed of a convolution in each precision.

    Attributes:
        device: the device that is measured.
        flops: FLOP/s (floating-point operations a second) by precision.
    """

    device: torch.device
    flops: dict[str, float] = field(default_factory=dict)

    def measure(self, precision: str) -> None:
        """Measure the convolution in a precision, and keep the best speed of all measurements until now.

        Other programs on the machine can slow down a measurement. They hardly slow down all of them, so the best speed
        is close to the speed of a machine that does nothing else.
        """
        with strict_arithmetic(tf32=precision == "tf32", deterministic=False):
            flops = measure_convolution(PRECISIONS[precision], self.device)
        self.flops[precision] = max(self.flops.get(precision, 0.0), flops)

    def set_fractions(self, rows: Sequence[BenchmarkRow]) -> None:
        """Set `fraction_of_peak` of the rows. Call it after the last measurement, because a later one can be faster."""
        for row in rows:
            if row.gflops is not None:
                row.fraction_of_peak = round(row.gflops * 1e9 / self.flops[row.precision], 4)


def measure_convolution(dtype: torch.dtype, device: torch.device = torch.device("cpu")) -> float:  # noqa: B008
    """Measure a 3x3 convolution from 256 to 256 channels on maps of 16x16 in channels_last.

    Args:
        dtype: dtype of the maps and the filters.
        device: the device that computes.

    Returns:
        FLOP/s of the best of nine runs.
    """
    batch = _BATCH["cpu" if device.type == "cpu" else "cuda"]

    def make_tensor(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

    maps, filters = make_tensor(batch, _CHANNELS, _SIDE, _SIDE), make_tensor(_CHANNELS, _CHANNELS, 3, 3)

    def convolve() -> Tensor:
        return F.conv2d(maps, filters, padding=1)

    passes = choose_passes(convolve, _RUN_SECONDS)
    best_seconds = min(time_in_turns({"peak": repeat_passes(convolve, passes)}, rounds=_RUNS)["peak"])
    # The result has as many numbers as `maps`. Each one is a sum of 256 channels x 9 products, and a multiply-add is 2
    # operations.
    return 2 * maps.numel() * _CHANNELS * 9 * passes / best_seconds
