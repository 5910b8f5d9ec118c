"""Measure how much faster a forward pass is in a process that keeps freed memory than in one that returns it.

The process returns freed memory to the system, as glibc does by default, or keeps it (environment.keep_memory).

python benchmarks/memory.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from timing import compare_runs, write_results

# This program computes all images twice. It prints the seconds and the minor page faults of the second time, and the
# peak memory in MiB.
PROGRAM = """
import resource, sys, time
import torch
from pyramidzoo import create_model
from pyramidzoo.evaluation.environment import keep_memory
name, images, batch, keep = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "kept"
assert not keep or keep_memory(), "this C library cannot"
model = create_model(name).eval()
inputs = torch.randn(batch, 3, 32, 32)
with torch.inference_mode():
    for counted in (False, True):
        began, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(images // batch):
            model(inputs)
        seconds = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
print(seconds, usage.ru_minflt - faults, usage.ru_maxrss // 1024)
"""
# For each measurement: the network, the number of images, and the batch size.
CASES = (("resnet20", 5120, 128), ("wrn_28_10", 256, 64), ("pyramidnet110_a84", 1024, 64))


def run_once(name: str, images: int, batch: int, variant: str) -> tuple[float, int, int]:
    """Run the program in a new process, and return the seconds, the page faults and the peak memory that it prints."""
    arguments = [sys.executable, "-c", PROGRAM, name, str(images), str(batch), variant]
    seconds, faults, peak = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
    return round(float(seconds), 4), int(faults), int(peak)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    rows = []
    for name, images, batch in CASES:
        runs: dict[str, list[tuple[float, int, int]]] = {"given back": [], "kept": []}
        for _ in range(rounds):
            for variant, results in runs.items():
                results.append(run_once(name, images, batch, variant))
        for row in compare_runs({variant: [r[0] for r in results] for variant, results in runs.items()}, "given back"):
            extra = {"page_faults": runs[row["variant"]][-1][1], "peak_mib": max(r[2] for r in runs[row["variant"]])}
            rows.append({"subject": f"{name}, batch {batch}", **row, **extra})
    write_results("memory", rows)


if __name__ == "__main__":
    main()
