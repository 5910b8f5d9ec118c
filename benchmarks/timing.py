"""Variants timed in turn, A B C A B C ..., so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def interleaved(variants: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
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
                runs[name].append(round(seconds, 5))
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


def write_results(name: str, rows: list[dict[str, Any]]) -> None:
    """Replace results/NAME.json, and print the same as a table."""
    import torch

    from pyramidzoo.evaluation.environment import device_name, versions

    content = {
        "benchmark": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(torch.device("cpu")),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "command": " ".join(sys.argv),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        spread = f"{row['min']:.3f} to {row['max']:.3f}"
        ratios = f"{row['ratio']:.3f} x, by round {row['by_round']:.3f} x"
        print(f"{row['subject']:22} {row['variant']:28} {row['median']:8.3f} s ({spread}), {ratios}")
