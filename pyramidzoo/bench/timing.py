"""Variants timed in turn, A B C C B A ..., so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RUN_SECONDS = 0.33  # long beside the clock's resolution and a scheduler's slice, short beside a round of many variants
_PEAK_SECONDS = 0.03


def interleaved(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, after_round: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of every run of every variant, in order; one round before the first is not counted."""
    runs: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants.items())
    for counted in [False, *[True] * rounds]:
        order.reverse()  # nobody always comes after the same one
        for name, run in order:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            if counted:
                runs[name].append(round(seconds, 6))
        after_round()
    return runs


def compared(runs: Mapping[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """A row for each variant: median, extremes and all runs in seconds, and two ratios to the baseline.

    `ratio` is that of the medians; `by_round` the median of the ratios within each round, which a machine that slows
    down for some rounds disturbs less.
    """
    base = statistics.median(runs[baseline])
    return [
        {
            "variant": name,
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "ratio": round(statistics.median(seconds) / base, 3),
            "by_round": round(statistics.median(a / b for a, b in zip(seconds, runs[baseline], strict=True)), 3),
            "runs": seconds,
        }
        for name, seconds in runs.items()
    ]


def repeated(compute: Callable[[], Tensor], passes: int = 1) -> Callable[[], Tensor]:
    """A run of some passes, one queued behind the other, all of them finished when it returns the last result."""

    @torch.inference_mode()
    def run() -> Tensor:
        for _ in range(passes):
            result = compute()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        return result

    return run


def forward_passes(model: nn.Module, images: Tensor, passes: int = 1) -> Callable[[], Tensor]:
    """`repeated` forward passes of a network on the same images (N, C, H, W), which returns the logits."""
    return repeated(lambda: model(images), passes)


def passes_for(compute: Callable[[], Tensor], seconds: float = RUN_SECONDS) -> int:
    """How many passes take about that long, at least one; two are made to find out."""
    once = interleaved({"": repeated(compute)}, rounds=1)[""][0]
    return max(1, round(seconds / max(once, 1e-6)))


def convolution_peak(dtype: torch.dtype, device: torch.device = torch.device("cpu")) -> float:  # noqa: B008
    """FLOP/s of the best of nine runs of a 3x3 convolution, 256 to 256 channels on maps of 16x16, channels_last.

    Of 64 maps, which is enough for a CPU, or 1024, which is enough for a GPU.
    """
    maps = 64 if device.type == "cpu" else 1024

    def filled(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)

    x, weight = filled(maps, 256, 16, 16), filled(256, 256, 3, 3)

    def convolution() -> Tensor:
        return F.conv2d(x, weight, padding=1)

    passes = passes_for(convolution, _PEAK_SECONDS)
    best = min(interleaved({"peak": repeated(convolution, passes)}, rounds=9)["peak"])
    return 2 * x.numel() * 256 * 9 * passes / best
