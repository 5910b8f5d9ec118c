"""The parts of `gpu.py`. For each part, one function lists its steps with estimates, and one does a step."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timing
import torch

from pyramidzoo.bench.counting import count_multiply_adds
from pyramidzoo.bench.measure import BenchmarkSettings, measure_target
from pyramidzoo.bench.peaks import Peaks
from pyramidzoo.bench.targets import BenchmarkTarget, random_calibrated_model
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.published_tables import load_published_tables
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import default_data_dir, open_split
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel, load_model
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.records import Record
from pyramidzoo.evaluation.workers import Worker, evaluate_all
from pyramidzoo.models import build

if TYPE_CHECKING:
    from gpu import Results

Steps = list[tuple[str, float, Callable[[float], None]]]  # name, estimate in seconds, what to do

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = (
    "pyramidnet110_a84",
    "pyramidnet110_a270",
    "pyramidnet164_a270",
    "wrn_28_10",
    "densenet_bc_100_k12",
    "resnext29_8x64d",
)
VARIANTS = (
    "plain",
    "plain_tf32",
    "plain_fp16",
    "optimized",
    "optimized_tf32",
    "optimized_fp16",
    "optimized_bf16",
    "optimized_fp16_graph",
)
COMPILED = ("optimized_fp16", "optimized_fp16_compiled")
PEERS = ("pytorchcv", "pytorchcv_fp16_channelslast")
WORDS_FOR_GPUS_ONLY = ("tf32", "graph")  # A variant whose name has one of these words needs a GPU.
STRICT_BATCH = 128  # The recorded results were measured in batches of this size.
# The arithmetics in which weights are evaluated: for each name, the settings that differ from the strict ones.
ARITHMETICS: dict[str, dict[str, Any]] = {
    "strict": {},
    "fp16, optimized": {"precision": "fp16", "optimized": True},
    "bf16, optimized": {"precision": "bf16", "optimized": True},
    "tf32": {"precision": "tf32"},
    "fp16, optimized, CUDA graph": {"precision": "fp16", "optimized": True, "cuda_graph": True},
}
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Estimates:
    """Speeds and times of a device, from which the time of each step is estimated.

    Attributes:
        strict_tflops: TFLOP/s of a strict evaluation.
        tflops_16_bits: TFLOP/s of an evaluation in 16 bits.
        evaluate_seconds: seconds to evaluate a network, without the time to compute logits.
        bench_seconds: seconds to measure a network with `bench`, without the timed runs.
        compiler_seconds: seconds to compile a network.
        tests_seconds: seconds of the tests marked `gpu`.
    """

    strict_tflops: float
    tflops_16_bits: float
    evaluate_seconds: float
    bench_seconds: float
    compiler_seconds: float
    tests_seconds: float


# One NVIDIA H200 computed 1,671 TFLOP in 101 s strictly and in 28 s in fp16, and took 0.5 to 1 s more for each network.
# Its machine had 16 CPU cores.
ON_A_GPU = Estimates(
    strict_tflops=16.0,
    tflops_16_bits=60.0,
    evaluate_seconds=1.0,
    bench_seconds=45.0,
    compiler_seconds=70.0,
    tests_seconds=120.0,
)
# On a CPU the script is only checked. Two cores compute 0.05 to 0.1 TFLOP/s.
ON_A_CPU = Estimates(
    strict_tflops=0.05,
    tflops_16_bits=0.02,
    evaluate_seconds=1.0,
    bench_seconds=5.0,
    compiler_seconds=60.0,
    tests_seconds=60.0,
)


def get_estimates(device: torch.device) -> Estimates:
    """Return the estimates for a kind of device."""
    return ON_A_GPU if device.type == "cuda" else ON_A_CPU


@functools.cache
def count_tflop(architecture: str) -> float:
    """Count the operations of a network for one image, in 1e12. A multiply-add counts as two operations."""
    row = get_architecture(architecture)
    with torch.device("meta"):
        return 2 * count_multiply_adds(build(row).eval(), (3, row.input_size, row.input_size)) / 1e12


def select_variants(names: Sequence[str], device: torch.device) -> list[str]:
    """Return the variants that a device can compute."""
    return [name for name in names if device.type == "cuda" or not any(word in name for word in WORDS_FOR_GPUS_ONLY)]


# The part "tests"


def list_tests(results: Results, options: argparse.Namespace) -> Steps:
    """List one step: all tests that are marked `gpu`."""
    return [("the tests marked gpu", get_estimates(results.device).tests_seconds, partial(run_tests, results))]


def run_tests(results: Results, seconds: float) -> None:
    """Run pytest in another process. If it takes longer than `seconds`, it is killed, which is an error."""
    start_time = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    print(f"tests: {lines[-1]}", flush=True)
    row = {
        "part": "tests",
        "exit_code": done.returncode,
        "summary": lines[-1],
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "seconds": round(time.perf_counter() - start_time, 1),
    }
    results.add([row])


# The part "strict"


def list_strict(results: Results, options: argparse.Namespace) -> Steps:
    """List one step for each set of weights."""
    estimates = get_estimates(results.device)
    records: list[Record] = []  # All steps add their record to this list.
    steps: Steps = []
    for weights in options.weights:
        tflop = count_tflop(load_manifest().find(weights).architecture) * 10_000
        seconds = estimates.evaluate_seconds + tflop / estimates.strict_tflops
        steps.append((f"{weights}, strict", seconds, partial(run_strict, results, weights, records)))
    return steps


def run_strict(results: Results, weights: str, records: list[Record], seconds: float) -> None:
    """Evaluate weights as `pyramidzoo evaluate` does without options, and add the record to `records`.

    All records until now are written to a file.
    """
    entry = load_manifest().find(weights)
    images = open_split(entry.dataset, None, default_data_dir(), download=False)
    record = evaluate(EvaluationTarget.from_entry(entry), images, ComputeSettings(results.device, STRICT_BATCH))
    records.append(record)
    document = {"records": [record.to_json() for record in records], "failures": []}
    timing.RESULTS.mkdir(exist_ok=True)
    path = timing.RESULTS / f"{results.name}_strict.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    wrong = record.images - record.top1_correct
    same_predictions = record.prediction_sha256 in {result.prediction_sha256 for result in entry.results}
    print(f"{entry.id}, strict: {wrong} of {record.images} wrong, recorded: {record.recorded}", flush=True)
    row = {
        "part": "strict",
        "weights": entry.id,
        "images": record.images,
        "wrong": wrong,
        "recorded": record.recorded,
        "same_predictions": same_predictions,
        "seconds": record.duration_seconds,
    }
    results.add([row])


# The part "table"


def list_graphs() -> list[str]:
    """List the architectures for CIFAR in two groups of published tables.

    The first group are the additive PyramidNets in the tables of the authors of PyramidNet (P1, P2). The second group
    are the other networks in the table of hysts (H1). If the zoo has a network with the graph of hysts (`NAME_hysts`),
    the network NAME is left out.
    """
    rows = [row for row in load_published_tables()["targets"] if row["dataset"] in ("cifar10", "cifar100")]
    pyramidnets = {str(row["architecture"]) for row in rows if row["table"] in ("P1", "P2")}
    hysts = {str(row["architecture"]) for row in rows if row["table"] == "H1"}
    hysts = {name for name in hysts if f"{name}_hysts" not in hysts and not name.startswith("pyramidnet")}
    return sorted(name for name in pyramidnets | hysts if "_mul_" not in name)


def list_table(results: Results, options: argparse.Namespace) -> Steps:
    """List two steps: all graphs in strict fp32, and all in 16 bits."""
    if not options.graphs:
        return []
    estimates = get_estimates(results.device)
    tflop = sum(count_tflop(name) for name in options.graphs) * options.images
    steps: Steps = []
    for arithmetic, tflops in (("strict", estimates.strict_tflops), ("fp16, optimized", estimates.tflops_16_bits)):
        seconds = len(options.graphs) * estimates.evaluate_seconds + tflop / tflops
        name = f"{len(options.graphs)} graphs of the table, {arithmetic}"
        steps.append((name, seconds, partial(run_table, results, options, arithmetic)))
    return steps


def run_table(results: Results, options: argparse.Namespace, arithmetic: str, seconds: float) -> None:
    """Evaluate all graphs as `pyramidzoo evaluate` does: while a network computes, the next one is loaded.

    The time of a row is the time since the end of the row before. When `seconds` are over, the remaining graphs are
    left out.
    """
    deadline = time.perf_counter() + seconds
    names: list[str] = options.graphs
    split = make_images(options.images)
    engine = Engine(ComputeSettings(results.device, options.batch, **ARITHMETICS[arithmetic]))
    loading_seconds: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [write_random_weights(name, Path(folder)) for name in names]

        def load_network(position: int) -> LoadedModel:
            load_start = time.perf_counter()
            loaded = load_model(EvaluationTarget.from_file(files[position]), split)
            loading_seconds[names[position]] = round(time.perf_counter() - load_start, 3)
            return loaded

        start_time = end_of_last_row = time.perf_counter()
        records = evaluate_all(names, load_network, partial(plan, engine=engine), Worker())
        for name, record in zip(names, records, strict=True):
            now = time.perf_counter()
            is_record = isinstance(record, Record)
            rows.append(
                {
                    "part": "table",
                    "network": name,
                    "variant": arithmetic,
                    "tflop": round(count_tflop(name) * options.images, 2),
                    "seconds": round(now - end_of_last_row, 3),
                    "computing_seconds": record.duration_seconds if isinstance(record, Record) else None,
                    # Each graph but the first one is loaded in a thread while another graph computes.
                    "loading_seconds": loading_seconds.get(name),
                    "error": None if is_record else record.error,  # type: ignore[union-attr]
                }
            )
            end_of_last_row = now
            if now > deadline:
                break
        records.close()  # type: ignore[attr-defined]
    for name in names[len(rows) :]:
        results.leave_out(f"{name}, {arithmetic}", "the time of the part 'table' is over")
    sums = {
        "seconds": round(end_of_last_row - start_time, 3),
        "computing_seconds": round(sum(row["computing_seconds"] or 0 for row in rows), 3),
        "tflop": round(sum(row["tflop"] for row in rows), 1),
        "batch": options.batch,
        "images": options.images,
    }
    results.add([*rows, {"part": "table", "network": "all", "variant": arithmetic, **sums}])
    print(f"table, {arithmetic}: {sums}", flush=True)


def make_images(count: int) -> ImageSet:
    """Make random images of CIFAR-10's size, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageSet("cifar10", "test", 10, pixels, labels, "0" * 64)


def write_random_weights(architecture: str, folder: Path) -> Path:
    """Write a file of random weights that `evaluate` can read."""
    path = folder / f"{architecture}.safetensors"
    description = Description(architecture, {}, "cifar10", 10, PREPROCESSING, None, None)
    model = random_calibrated_model(get_architecture(architecture))
    write_tensors(path, model.state_dict(), description.to_metadata())
    return path


# The part "speed"


def list_speed(results: Results, options: argparse.Namespace) -> Steps:
    """List two steps for each network: without and with torch.compile.

    All steps with torch.compile come last, because the time that the compiler takes is hard to estimate.
    """
    estimates, device = get_estimates(results.device), results.device
    peaks = Peaks(device)
    steps: Steps = []
    for all_variants, all_peers, compiler_seconds in (
        (VARIANTS, PEERS, 0.0),
        (COMPILED, PEERS[1:], estimates.compiler_seconds),
    ):
        variants = select_variants(all_variants, device)
        peers = all_peers if importlib.util.find_spec("pytorchcv") else ()
        settings = BenchmarkSettings(device, (options.batch,), variants, peers, options.rounds)
        for network in options.networks:
            run_seconds = max(timing.RUN_SECONDS, count_tflop(network) * options.batch / estimates.strict_tflops)
            # Each variant and each peer runs once in every round, and also before the rounds.
            run_count = (len(variants) + len(peers)) * (options.rounds + 2)
            seconds = estimates.bench_seconds + compiler_seconds + run_seconds * run_count
            name = f"speed of {network}, {', '.join(variants)}"
            steps.append((name, seconds, partial(run_speed, results, network, settings, peaks)))
    return steps


def run_speed(results: Results, network: str, settings: BenchmarkSettings, peaks: Peaks, seconds: float) -> None:
    """Measure a network as `pyramidzoo bench` does."""
    rows = measure_target(BenchmarkTarget(get_architecture(network)), settings, peaks)
    peaks.set_fractions(rows)
    for row in rows:
        speed = f"{row.images_per_second} images/s, {row.ratio} x {row.ratio_to}, {row.fraction_of_peak} of peak"
        print(f"{network:20} {row.variant:28} {row.error or speed}", flush=True)
    results.add([{"part": "speed", **row.as_data()} for row in rows])


# The part "changed"


def list_changed(results: Results, options: argparse.Namespace) -> Steps:
    """List one step for each set of weights and each arithmetic that is not strict."""
    estimates = get_estimates(results.device)
    arithmetics = [name for name in ARITHMETICS if name != "strict"]
    if results.device.type != "cuda":
        arithmetics = [name for name in arithmetics if name != "tf32" and "graph" not in name]
    steps: Steps = []
    for weights in options.weights:
        tflop = count_tflop(load_manifest().find(weights).architecture) * 10_000
        for arithmetic in arithmetics:
            tflops = estimates.strict_tflops if arithmetic == "tf32" else estimates.tflops_16_bits
            seconds = estimates.evaluate_seconds + tflop / tflops
            if arithmetic == arithmetics[0]:  # The first step also computes the strict predictions.
                seconds += estimates.evaluate_seconds + tflop / estimates.strict_tflops
            run = partial(run_changed, results, weights, arithmetic, options.batch)
            steps.append((f"{weights}, {arithmetic}", seconds, run))
    return steps


def run_changed(
    results: Results,
    weights: str,
    arithmetic: str,
    batch: int,
    seconds: float,
) -> None:
    """Count the predictions that differ from the strict ones.

    The strict predictions stay in the scratch folder, so the steps of the other arithmetics do not compute them again.
    """
    entry = load_manifest().find(weights)
    images = open_split(entry.dataset, None, default_data_dir(), download=False)
    settings = ComputeSettings(results.device, batch, **ARITHMETICS[arithmetic])
    record = evaluate(EvaluationTarget.from_entry(entry), images, settings, output=results.scratch, compare=True)
    strict = record.against_strict
    assert strict is not None
    print(f"{entry.id}, {arithmetic}: {len(strict.moved)} of {record.images} predictions changed", flush=True)
    recorded = {result.prediction_sha256 for result in entry.results}
    row = {
        "part": "moved",  # The files of results have this name for the part "changed".
        "weights": entry.id,
        "variant": arithmetic,
        "images": record.images,
        "strict_is_recorded": strict.prediction_sha256 in recorded,
        "moved": strict.moved,
        "lost": strict.lost,
        "gained": strict.gained,
        "largest_difference": strict.largest_difference,
    }
    results.add([row])
