"""Time several variants in turn, in the order A B C, C B A, A B C, ...

So other programs on the machine slow down all variants alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# How long a run takes. It is much longer than the resolution of the clock and the time slices of the operating system,
# and short enough for many rounds.
RUN_SECONDS = 0.33


def time_in_turns(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, after_round: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Run every variant once in each round, and time it.

    Before the rounds there is one more round, which is not counted: first runs are slower.

    Args:
        variants: the functions to run, by name.
        rounds: how many rounds are counted.
        after_round: function that is called after every round, also after the one that is not counted.

    Returns:
        The seconds of each run of each variant, in the order of the rounds.
    """
    runs: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants.items())
    for is_counted in [False, *[True] * rounds]:
        order.reverse()  # So a variant does not always run after the same other variant.
        for name, run in order:
            start_time = time.perf_counter()
            run()
            seconds = time.perf_counter() - start_time
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
        A row for each variant: the median, the extremes and all runs in seconds. `ratio` is the median, divided by the
        baseline's median. For `by_round` the time of each run is divided by the baseline's time in the same round;
        `by_round` is the median of these ratios. If the machine is slow in some rounds, `by_round` changes less than
        `ratio`.
    """
    baseline_median = statistics.median(runs[baseline])
    return [
        {
            "variant": name,
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "ratio": round(statistics.median(seconds) / baseline_median, 3),
            "by_round": round(statistics.median(a / b for a, b in zip(seconds, runs[baseline], strict=True)), 3),
            "runs": seconds,
        }
        for name, seconds in runs.items()
    ]


def repeat_passes(compute: Callable[[], Tensor], passes: int = 1) -> Callable[[], Tensor]:
    """Make a function that calls `compute` several times, and returns the last result when all calls are finished.

    On a GPU the calls are queued: the function waits only after the last one.
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
    """Make a function that computes the logits of the same images (N, C, H, W) several times, and returns them."""
    return repeat_passes(lambda: model(images), passes)


def choose_passes(compute: Callable[[], Tensor], seconds: float = RUN_SECONDS) -> int:
    """Return how many calls of `compute` take about `seconds`, but at least 1.

    To find out, `compute` is called twice, and the second call is timed.
    """
    seconds_of_one = time_in_turns({"": repeat_passes(compute)}, rounds=1)[""][0]
    return max(1, round(seconds / max(seconds_of_one, 1e-6)))
