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
    for counted in [False, *[True] * rounds]:
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
            if counted:
                runs[name].append(round(seconds, 5))
    return runs


def compared(runs: Mapping[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """A row for each variant: median, extremes, all runs in seconds, and its median as a multiple of the baseline's."""
    base = statistics.median(runs[baseline])
    return [
        {
            "variant": name,
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "ratio": round(statistics.median(seconds) / base, 3),
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
        print(f"{row['subject']:22} {row['variant']:44} {row['median']:8.3f} s ({spread}), {row['ratio']:.3f} x")
