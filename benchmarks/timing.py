"""Functions for all benchmarks: time variants in turn (`pyramidzoo.bench.timing`), and write the files of results."""

from __future__ import annotations

import json
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyramidzoo.bench.timing import RUN_SECONDS, compare_runs, time_in_turns

__all__ = ["RESULTS", "RUN_SECONDS", "compare_runs", "save_results", "time_in_turns", "write_results"]

RESULTS = Path(__file__).with_name("results")


def write_results(name: str, rows: list[dict[str, Any]], *, shown: int = 0) -> None:
    """Replace results/NAME.json, and print the rows as a table.

    Args:
        name: The name of the file, without ".json".
        rows: All rows until now.
        shown: How many of the rows were printed before. They are not printed again.
    """
    save_results(name, rows)
    for row in rows[shown:]:
        spread = f"{row['min']:.3f} to {row['max']:.3f}"
        ratios = f"{row['ratio']:.3f} x, by round {row['by_round']:.3f} x"
        print(f"{row['subject']:22} {row['variant']:28} {row['median']:8.3f} s ({spread}), {ratios}", flush=True)


def save_results(name: str, rows: list[dict[str, Any]], *, device: str = "cpu", **about: Any) -> None:
    """Replace results/NAME.json. It has the rows, the date, the machine, the versions, the command and `about`."""
    import torch

    from pyramidzoo.evaluation.environment import device_name, versions

    content = {
        "benchmark": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(torch.device(device)),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "command": " ".join(sys.argv),
        **about,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
