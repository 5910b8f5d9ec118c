"""Measure images per second of every network for `pyramidzoo info`, into pyramidzoo/bundled/speed.json.

    python tools/make_speed.py ['wrn_*' ...] [--rounds 5] [--again]

It measures as `pyramidzoo bench` does, without peers. The file is written after each network, so the script can be
stopped and started again. Networks that are already in the file are left out; `--again` measures them anew. On another
device, or with other versions, than those in the file, a new file is begun.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pyramidzoo.bench.measure import BenchmarkSettings, measure_target
from pyramidzoo.bench.peaks import Peaks
from pyramidzoo.bench.speed_table import FILE
from pyramidzoo.bench.targets import BenchmarkTarget
from pyramidzoo.catalog.architectures import architectures, list_models
from pyramidzoo.evaluation.environment import device_name, keep_memory, versions
from pyramidzoo.files import write_text

TABLE = Path(__file__).resolve().parents[1] / "pyramidzoo" / FILE
BATCHES = {32: (64, 1), 224: (16, 1)}  # by the side of the images


def main(argv: list[str] | None = None) -> None:
    """Measure the networks that are asked for, and write the file after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args(argv)
    keep_memory()
    device = torch.device("cpu")
    document: dict[str, Any] = {"device": device_name(device), "versions": versions()}
    networks = _read_networks(document)
    peaks = Peaks(device)
    for name in dict.fromkeys(name for pattern in options.patterns for name in list_models(pattern)):
        if name in networks and not options.again:
            continue
        row = architectures()[name]
        settings = BenchmarkSettings(device, BATCHES[row.input_size], ("plain", "optimized"), rounds=options.rounds)
        speeds: dict[str, dict[str, float]] = defaultdict(dict)
        for measured in measure_target(BenchmarkTarget(row), settings, peaks):
            if measured.images_per_second is None:
                print(f"{name}, {measured.variant}: {measured.error}", flush=True)
                continue
            speeds[str(measured.batch)][measured.variant] = _round_to_three_digits(measured.images_per_second)
        networks[name] = {
            "date": datetime.now(timezone.utc).date().isoformat(),
            "rounds": options.rounds,
            "images_per_second": speeds,
        }
        document["networks"] = {other: networks[other] for other in architectures() if other in networks}
        write_text(TABLE, json.dumps(document, indent=1) + "\n")
        print(name, dict(speeds), flush=True)


def _read_networks(conditions: dict[str, Any]) -> dict[str, Any]:
    """Read the networks that the file has, if they were measured on this device with these versions."""
    if not TABLE.exists():
        return {}
    document = json.loads(TABLE.read_text(encoding="utf-8"))
    networks: dict[str, Any] = document.pop("networks")
    return networks if document == conditions else {}


def _round_to_three_digits(speed: float) -> float:
    """Round a speed. Two measurements agree in fewer digits than three."""
    rounded = float(f"{speed:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


if __name__ == "__main__":
    main()
