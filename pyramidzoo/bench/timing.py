"""Time several variants in turn, A B C C B A ..., so that what else the machine does slows down all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Long beside the resolution of the clock and the time slice of a scheduler; short beside a round of many variants.
RUN_SECONDS = 0.33


def time_in_turns(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, after_round: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Run every variant once in each round, and time it. A first round more is not counted.

    Args:
        variants: what to run, by name.
        rounds: how many rounds are counted.
        after_round: is called after every round, the first one included.

    Returns:
        The seconds of each run of each variant, in the order of the rounds.
    """
    runs: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants.items())
    for is_counted in [False, *[True] * rounds]:
        order.reverse()  # so that no variant always follows the same one
        for name, run in order:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            if is_counted:
                runs[name].append(round(seconds, 6))
        after_round()
    return runs


def compare_runs(runs: Mapping[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Compare the runs of each variant with those of the baseline.

    Args:
        runs: seconds of the runs of each variant, as `time_in_turns` returns them.
        baseline: the name of the variant that the others are compared with.

    Returns:
        A row for each variant: the median, the extremes and all runs in seconds. `ratio` is the median over that of
        the baseline. `by_round` is the median of the ratios within each round; a machine that is slow in some rounds
        changes it less.
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


def repeat_passes(compute: Callable[[], Tensor], passes: int = 1) -> Callable[[], Tensor]:
    """Return a function that makes some passes and returns the last result when all of them are finished.

    On a GPU the passes are queued one behind the other.
    """

    @torch.inference_mode()
    def run() -> Tensor:
        for _ in range(passes):
            result = compute()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        return result

    return run


def repeat_forward(model: nn.Module, images: Tensor, passes: int = 1) -> Callable[[], Tensor]:
    """Return a function that makes some forward passes on the same images (N, C, H, W) and returns the logits."""
    return repeat_passes(lambda: model(images), passes)


def choose_passes(compute: Callable[[], Tensor], seconds: float = RUN_SECONDS) -> int:
    """Return how many passes take about so many seconds, at least one. Two passes are made to find out."""
    once = time_in_turns({"": repeat_passes(compute)}, rounds=1)[""][0]
    return max(1, round(seconds / max(once, 1e-6)))
