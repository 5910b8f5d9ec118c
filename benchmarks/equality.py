"""Whether the ways to run one evaluation give the same predictions: batch sizes, processes, killed processes.

    python benchmarks/equality.py ID ... [--batches 1 17 250 10000] [--processes 1 2 4] [--kills 3]

Batch sizes are compared with 128, and every moved prediction is listed: (index, label, class at 128, class here). Runs
under torchrun all have 128, and must have one prediction hash; so must those of which a worker is killed at random, by
SIGKILL, and started again by torchrun. Needs the weights and their data, as `pyramidzoo evaluate` does.
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
from pyramidzoo.bench.counting import activation_bytes
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.data.datasets import default_data_dir, open_split
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.metrics import compare_predictions, prediction_sha256
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.predicting import predict
from pyramidzoo.evaluation.predictions import Predictions, reduce_predictions

REFERENCE = 128


def predicted(name: str, batch_size: int) -> Predictions:
    entry = load_manifest().find(name)
    images = open_split(entry.dataset, None, default_data_dir(), download=False)
    job = plan(
        load_model(EvaluationTarget.of_entry(entry), images), Engine(ComputeSettings(torch.device("cpu"), batch_size))
    )
    return reduce_predictions(predict(job, job.units), len(images))


def bytes_per_image(name: str) -> int:
    """Of the activations of one forward pass; nothing is computed."""
    entry = load_manifest().find(name)
    model = create_model(entry.architecture).eval()
    return activation_bytes(lambda: model(torch.zeros(1, *entry.preprocessing.input_size)), torch.device("cpu"))


def batch_sizes(name: str, batches: list[int]) -> list[dict[str, Any]]:
    reference = predicted(name, REFERENCE)
    rows: list[dict[str, Any]] = []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for batch in [REFERENCE, *batches]:
        if 2 * batch * bytes_per_image(name) > memory:
            print(f"{name}, batch {batch}: left out, it needs more memory than there is", flush=True)
            continue
        found = reference if batch == REFERENCE else predicted(name, batch)
        against = compare_predictions(reference.logits, found.logits, found.labels)
        rows.append(
            {
                "subject": name,
                "variant": f"batch {batch}",
                "hash": prediction_sha256(found.logits),
                "moved": against.moved,
                "largest_difference": against.largest_difference,
            }
        )
        print(f"{name}, batch {batch}: moved {list(against.moved)}", flush=True)
    return rows


def launched(names: list[str], processes: int, output: Path, *, killed: random.Random | None = None) -> dict[str, Any]:
    """Records by weights of `evaluate` under torchrun; with `killed`, one of its workers is, at some moment."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["--max-restarts=3", "--monitor-interval=0.1", "-m", "pyramidzoo", "evaluate", *names]
    command += ["-b", str(REFERENCE), "--device", "cpu", "--output", str(output), "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if killed is not None:
        wanted = killed.randint(1, 20 * len(names) - 1)  # of the files, four batches each, for 10,000 images
        while len(list(output.glob("*/*/predictions-*"))) < wanted or not (found := workers(process)):
            assert process.poll() is None, "it was over before a worker could be killed"
            time.sleep(0.02)
        os.kill(killed.choice(found), signal.SIGKILL)
    out, err = process.communicate()
    assert out, err
    return {record["weights"]: record for record in json.loads(out)["records"]}


def workers(process: subprocess.Popen[str]) -> list[int]:
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        return [pid for pid in map(int, children) if b"pyramidzoo" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:  # one has just ended
        return []


def many_processes(names: list[str], counts: list[int], kills: int) -> list[dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            runs[f"{count} processes"] = launched(names, count, Path(folder, f"{count}"))
        for seed in range(kills):
            variant = f"2 processes, one killed (seed {seed})"
            runs[variant] = launched(names, 2, Path(folder, f"killed{seed}"), killed=random.Random(seed))
    rows = []
    for name in names:
        hashes = {run[name]["prediction_sha256"] for run in runs.values()}
        assert len(hashes) == 1, f"{name}: {len(hashes)} prediction hashes of {len(runs)} runs"
        print(f"{name}: one prediction hash of {len(runs)} runs under torchrun", flush=True)
        for variant, run in runs.items():
            record = run[name]
            kept = {"hash": record["prediction_sha256"], "reused_files": record["reused_files"]}
            rows.append({"subject": name, "variant": variant, **kept, "recorded": record["recorded"]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", metavar="ID")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 17, 250, 10_000])
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    keep_memory()
    if options.processes or options.kills:
        save_results("equal_processes", many_processes(options.weights, options.processes, options.kills))
    rows: list[dict[str, Any]] = []
    for name in options.weights if options.batches else ():
        rows += batch_sizes(name, options.batches)
        save_results("equal_batch_sizes", rows)


if __name__ == "__main__":
    main()
