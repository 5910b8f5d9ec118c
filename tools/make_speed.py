"""Measure how many images per second every network computes, and write pyramidzoo/bundled/speed.json.

    python tools/make_speed.py ['wrn_*' ...] [--rounds 5] [--again]

`pyramidzoo info` shows these numbers. They are measured as `pyramidzoo bench` measures them, without the networks of
other libraries. The file is written after each network, so the script can be stopped and started again. Networks that
are already in the file are not measured again, unless `--again` is given. All numbers of a file belong to one device
and one set of library versions. If the device or a version differs, the old numbers are dropped.
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
BATCHES = {32: (64, 1), 224: (16, 1)}  # the batch sizes to measure, by the height of the images in pixels


def main(argv: list[str] | None = None) -> None:
    """Measure the networks whose names match the patterns of the command line, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args(argv)
    keep_memory()
    device = torch.device("cpu")
    document: dict[str, Any] = {"device": device_name(device), "versions": versions()}
    networks = _read_measured_networks(document)
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
        # The order of the file is the order of the catalog, whatever the order of the measurements.
        document["networks"] = {
            architecture: networks[architecture] for architecture in architectures() if architecture in networks
        }
        write_text(TABLE, json.dumps(document, indent=1) + "\n")
        print(name, dict(speeds), flush=True)


def _read_measured_networks(conditions: dict[str, Any]) -> dict[str, Any]:
    """Read the measured networks from the file.

    Args:
        conditions: The device and the versions of the present measurement.

    Returns:
        The content of the file's field `networks`; empty if the file has other conditions.
    """
    if not TABLE.exists():
        return {}
    document = json.loads(TABLE.read_text(encoding="utf-8"))
    networks: dict[str, Any] = document.pop("networks")
    return networks if document == conditions else {}


def _round_to_three_digits(speed: float) -> float:
    """Round a speed to three digits. Two measurements of a network already differ in the third digit."""
    rounded = float(f"{speed:.3g}")
    return int(rounded) if rounded.is_integer() else rounded


if __name__ == "__main__":
    main()
