"""Measure the zoo on a GPU, in parts that can be asked for one by one.

    python benchmarks/gpu.py [--parts tests strict table speed changed] [--minutes 10] [--plan] [--device cuda]

| part | what it does |
| --- | --- |
| tests | runs the tests that are marked `gpu` |
| strict | evaluates the weights that have a recorded result, in strict fp32, and compares with the record |
| table | evaluates the CIFAR graphs of the published tables with random weights, in strict fp32 and in 16 bits |
| speed | measures what `pyramidzoo bench` does: every precision, CUDA graphs, the compiler, pytorchcv |
| changed | counts the predictions of these weights that differ from strict ones, in each other precision |

Before anything runs, the plan is printed: for each part the estimated time, its time limit, and the steps for which
there is not enough time. `--plan` prints the plan only. Steps are planned in the order of --parts until the time is
used up. If there is more time than the steps need, all limits are longer than the estimates.
The estimates for a GPU were measured on an NVIDIA H200. With `--device cpu`, and small networks, the script can be
checked on a CPU.

A step that has begun runs to its end, except in `tests` and `table`. The next one begins only if its estimated time is
not longer than the time that remains until the part's limit. Results are written after every step, and name every step
that was left out. The digits come with the package. The other weights are found in the folder that PYRAMIDZOO_ORIGINS
names, and CIFAR in the one that PYRAMIDZOO_DATA names.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from timing import save_results

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.evaluation.environment import device_name, keep_memory, pick_device


@dataclass(frozen=True)
class Step:
    """One step of a part, such as the evaluation of one set of weights.

    Attributes:
        name: the name that is printed.
        seconds: how long it takes by the estimate.
        run: function that does the step and adds rows to the results. Its argument are the seconds that are left.
    """

    name: str
    seconds: float
    run: Callable[[float], None]


@dataclass
class PlannedPart:
    """One part, with the steps that fit into the time.

    Attributes:
        name: the name of the part.
        steps: what will be done.
        left_out: the names of the steps that do not fit.
        limit: seconds that the part may take.
    """

    name: str
    steps: list[Step] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    limit: float = 0.0

    @property
    def estimate(self) -> float:
        """Seconds of all planned steps."""
        return sum(step.seconds for step in self.steps)


def make_plan(parts: dict[str, list[Step]], seconds: float) -> list[PlannedPart]:
    """Decide which steps are done in so many seconds, and how long each part may take."""
    plan = [PlannedPart(name) for name in parts]
    remaining_seconds = seconds
    for part in plan:
        for step in parts[part.name]:
            if step.seconds <= remaining_seconds:
                part.steps.append(step)
                remaining_seconds -= step.seconds
            else:
                part.left_out.append(step.name)
    planned_seconds = sum(part.estimate for part in plan)
    for part in plan:
        # The limits of all parts add up to all of the time, each in proportion to its estimate.
        part.limit = part.estimate * seconds / planned_seconds if planned_seconds else 0.0
    return plan


def print_plan(plan: Sequence[PlannedPart], seconds: float, device: str) -> None:
    """Print what will be done."""
    estimate = sum(part.estimate for part in plan)
    print(f"{seconds / 60:g} minutes on {device}; the plan takes about {estimate:.0f} s:")
    for part in plan:
        steps = f"{len(part.steps)} step{'' if len(part.steps) == 1 else 's'}"
        print(f"  {part.name:8} about {part.estimate:4.0f} s, at most {part.limit:4.0f} s: {steps}")
        for name in part.left_out:
            print(f"           left out: {name}")


class Results:
    """The rows so far. They are written to disk after every step.

    Args:
        device: where it is measured.
        scratch: a folder for files that the steps share; it is deleted at the end.
    """

    def __init__(self, device: torch.device, scratch: Path) -> None:
        self.device, self.scratch, self.began = device, scratch, time.perf_counter()
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.name = "gpu" if device.type == "cuda" else "gpu_script_on_a_cpu"

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows, and write the file."""
        self.rows += rows
        self._save()

    def leave_out(self, step: str, reason: object) -> None:
        """Note that a step is not done, and write the file."""
        self.left_out.append(f"{step}: {reason}")
        print(f"left out: {step}: {reason}", flush=True)
        self._save()

    @contextlib.contextmanager
    def leave_out_on_error(self, step: str) -> Iterator[None]:
        """Note a failure as a step that is left out, so that the other steps go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.leave_out(step, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _save(self) -> None:
        seconds = round(time.perf_counter() - self.began, 1)
        save_results(self.name, self.rows, device=str(self.device), wall_seconds=seconds, left_out=self.left_out)


def run_plan(plan: Sequence[PlannedPart], results: Results) -> None:
    """Do the steps of each part within its limit."""
    for part in plan:
        for name in part.left_out:
            results.leave_out(name, "not enough time was given")
    for part in plan:
        start_time = time.perf_counter()
        for step in part.steps:
            remaining_seconds = part.limit - (time.perf_counter() - start_time)
            if step.seconds > remaining_seconds:
                results.leave_out(step.name, f"the time of the part {part.name!r} is over")
                continue
            with results.leave_out_on_error(step.name):
                step.run(remaining_seconds)


def make_steps(part: str, results: Results, options: argparse.Namespace) -> list[Step]:
    """List the steps of a part."""
    builders = {
        "tests": gpu_parts.list_tests,
        "strict": gpu_parts.list_strict,
        "table": gpu_parts.list_table,
        "speed": gpu_parts.list_speed,
        "changed": gpu_parts.list_changed,
    }
    return [Step(*step) for step in builders[part](results, options)]


PARTS = ("tests", "strict", "table", "speed", "changed")


def main(argv: list[str] | None = None) -> None:
    """Print the plan, and carry it out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--plan", action="store_true", help="print the plan and end")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="*", default=list(gpu_parts.NETWORKS), metavar="NAME", help="of speed")
    parser.add_argument("--rounds", type=int, default=7, help="of speed")
    parser.add_argument("--batch", type=int, default=512, help="images in a batch, of table, speed and changed")
    parser.add_argument("--graphs", nargs="*", default=gpu_parts.list_graphs(), metavar="NAME", help="of table")
    parser.add_argument("--images", type=int, default=10_000, help="of table")
    recorded = [entry.id for entry in load_manifest().entries.values() if entry.results]
    parser.add_argument("--weights", nargs="*", default=recorded, metavar="ID", help="of strict and changed")
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes} leaves no time; it must be positive")
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        results = Results(device, Path(scratch))
        plan = make_plan({part: make_steps(part, results, options) for part in options.parts}, options.minutes * 60)
        print_plan(plan, options.minutes * 60, device_name(device))
        if not options.plan:
            keep_memory()
            run_plan(plan, results)


if __name__ == "__main__":
    main()
