"""Check that an evaluation gives the same predictions with other batch sizes, with several processes, and after a kill.

    python benchmarks/equality.py ID ... [--batches 1 17 250 10000] [--processes 1 2 4] [--kills 3]

Each batch size is compared with batches of 128. Every prediction that differs is listed: its index, its label, the
class at 128, and the class here. The runs under torchrun all have batches of 128, and must have one prediction hash.
In the last of them a worker is killed at a random moment, by SIGKILL, and torchrun starts it again. The script needs
the weights and their data, as `pyramidzoo evaluate` does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import save_results

from pyramidzoo import create_model
from pyramidzoo.bench.counting import count_activation_bytes
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.data.datasets import default_data_dir, open_split
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.metrics import compare_predictions, prediction_sha256
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.predicting import predict as predict_units
from pyramidzoo.evaluation.predictions import Predictions, reduce_predictions

REFERENCE_BATCH = 128


def predict(name: str, batch_size: int) -> Predictions:
    """Predict all images in batches of one size."""
    entry = load_manifest().find(name)
    images = open_split(entry.dataset, None, default_data_dir(), download=False)
    job = plan(
        load_model(EvaluationTarget.from_entry(entry), images), Engine(ComputeSettings(torch.device("cpu"), batch_size))
    )
    return reduce_predictions(predict_units(job, job.units), len(images))


def count_bytes_per_image(name: str) -> int:
    """Count the bytes of activations that a forward pass holds at once for one image."""
    entry = load_manifest().find(name)
    model = create_model(entry.architecture).eval()
    return count_activation_bytes(lambda: model(torch.zeros(1, *entry.preprocessing.input_size)), torch.device("cpu"))


def compare_batch_sizes(name: str, batches: list[int]) -> list[dict[str, Any]]:
    """Compare the predictions in each batch size with those in batches of 128."""
    reference = predict(name, REFERENCE_BATCH)
    rows: list[dict[str, Any]] = []
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for batch in [REFERENCE_BATCH, *batches]:
        # The factor 2 leaves room for memory that is not counted, such as the weights and the workspaces of kernels.
        if 2 * batch * count_bytes_per_image(name) > memory_bytes:
            print(f"{name}, batch {batch}: left out, it needs more memory than there is", flush=True)
            continue
        predictions = reference if batch == REFERENCE_BATCH else predict(name, batch)
        changes = compare_predictions(reference.logits, predictions.logits, predictions.labels)
        rows.append(
            {
                "subject": name,
                "variant": f"batch {batch}",
                "hash": prediction_sha256(predictions.logits),
                "moved": changes.moved,
                "largest_difference": changes.largest_difference,
            }
        )
        print(f"{name}, batch {batch}: moved {list(changes.moved)}", flush=True)
    return rows


def evaluate_in_processes(
    names: list[str], processes: int, output: Path, *, kill: random.Random | None = None
) -> dict[str, Any]:
    """Run `evaluate` under torchrun, and return the records by weights id.

    If `kill` is given, one worker is killed while they run. `kill` is the random number generator that chooses which
    worker, and after how many prediction files.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["--max-restarts=3", "--monitor-interval=0.1", "-m", "pyramidzoo", "evaluate", *names]
    command += ["-b", str(REFERENCE_BATCH), "--device", "cpu", "--output", str(output), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if kill is not None:
        # The 10,000 images of a set of weights make 20 prediction files, of four batches each.
        file_count = kill.randint(1, 20 * len(names) - 1)
        while len(list(output.glob("*/*/predictions-*"))) < file_count or not (pids := list_workers(process)):
            assert process.poll() is None, "it was over before a worker could be killed"
            time.sleep(0.02)
        os.kill(kill.choice(pids), signal.SIGKILL)
    stdout, stderr = process.communicate()
    assert stdout, stderr
    return {record["weights"]: record for record in json.loads(stdout)["records"]}


def list_workers(process: subprocess.Popen[str]) -> list[int]:
    """List the process ids of the workers that torchrun has started."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        return [pid for pid in map(int, children) if b"pyramidzoo" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:  # A worker has just ended. The caller tries again.
        return []


def compare_processes(names: list[str], counts: list[int], kills: int) -> list[dict[str, Any]]:
    """Check that all runs under torchrun have one prediction hash for each set of weights."""
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            runs[f"{count} processes"] = evaluate_in_processes(names, count, Path(folder, f"{count}"))
        for seed in range(kills):
            variant = f"2 processes, one killed (seed {seed})"
            runs[variant] = evaluate_in_processes(names, 2, Path(folder, f"killed{seed}"), kill=random.Random(seed))
    rows = []
    for name in names:
        hashes = {run[name]["prediction_sha256"] for run in runs.values()}
        assert len(hashes) == 1, f"{name}: {len(hashes)} prediction hashes of {len(runs)} runs"
        print(f"{name}: one prediction hash of {len(runs)} runs under torchrun", flush=True)
        for variant, run in runs.items():
            record = run[name]
            row = {"subject": name, "variant": variant, "hash": record["prediction_sha256"]}
            rows.append({**row, "reused_files": record["reused_files"], "recorded": record["recorded"]})
    return rows


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="ID")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 17, 250, 10_000])
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    keep_memory()
    if options.processes or options.kills:
        save_results("equal_processes", compare_processes(options.weights, options.processes, options.kills))
    rows: list[dict[str, Any]] = []
    for name in options.weights if options.batches else ():
        rows += compare_batch_sizes(name, options.batches)
        save_results("equal_batch_sizes", rows)


if __name__ == "__main__":
    main()
