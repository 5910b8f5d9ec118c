"""The parts of `gpu.py`: for each, the steps with their estimates, and what a step does."""

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
ON_GPUS_ONLY = ("tf32", "graph")
STRICT_BATCH = 128  # that of the recorded results
WAYS: dict[str, dict[str, Any]] = {
    "strict": {},
    "fp16, optimized": {"precision": "fp16", "optimized": True},
    "bf16, optimized": {"precision": "bf16", "optimized": True},
    "tf32": {"precision": "tf32"},
    "fp16, optimized, CUDA graph": {"precision": "fp16", "optimized": True, "cuda_graph": True},
}
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Estimates:
    """What the estimates are made of.

    Attributes:
        strict: TFLOP/s of a strict evaluation.
        half: TFLOP/s of an evaluation in 16 bits.
        network: seconds for each network that is evaluated, beyond computing.
        bench: seconds for each network that `bench` measures, beyond timing.
        compiler: seconds to compile a network.
        tests: seconds of the tests marked `gpu`.
    """

    strict: float
    half: float
    network: float
    bench: float
    compiler: float
    tests: float


# One NVIDIA H200 computed 1,671 TFLOP in 101 s strictly and in 28 s in fp16, and took 0.5 to 1 s more for each network.
# Its CPU had 16 cores. A CPU is here to check the script; two cores compute 0.05 to 0.1 TFLOP/s.
ON_A_GPU = Estimates(strict=16.0, half=60.0, network=1.0, bench=45.0, compiler=70.0, tests=120.0)
ON_A_CPU = Estimates(strict=0.05, half=0.02, network=1.0, bench=5.0, compiler=60.0, tests=60.0)


def get_estimates(device: torch.device) -> Estimates:
    """Return the estimates for a kind of device."""
    return ON_A_GPU if device.type == "cuda" else ON_A_CPU


@functools.cache
def count_tflop(architecture: str) -> float:
    """Count the operations for one image: a multiply-add is two."""
    row = get_architecture(architecture)
    with torch.device("meta"):
        return 2 * count_multiply_adds(build(row).eval(), (3, row.input_size, row.input_size)) / 1e12


def select_variants(names: Sequence[str], device: torch.device) -> list[str]:
    """Return the variants that a device can compute."""
    return [name for name in names if device.type == "cuda" or not any(word in name for word in ON_GPUS_ONLY)]


# tests


def list_tests(results: Results, options: argparse.Namespace) -> Steps:
    """List one step: all tests that are marked `gpu`."""
    return [("the tests marked gpu", get_estimates(results.device).tests, partial(run_tests, results))]


def run_tests(results: Results, seconds: float) -> None:
    """Run pytest in another process, which is ended when the time is over."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [""]
    print(f"tests: {lines[-1]}", flush=True)
    row = {
        "part": "tests",
        "exit_code": done.returncode,
        "summary": lines[-1],
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "seconds": round(time.perf_counter() - began, 1),
    }
    results.add([row])


# strict


def list_strict(results: Results, options: argparse.Namespace) -> Steps:
    """List one step for each set of weights."""
    estimates = get_estimates(results.device)
    records: list[Record] = []  # of all steps
    steps: Steps = []
    for weights in options.weights:
        tflop = count_tflop(load_manifest().find(weights).architecture) * 10_000
        seconds = estimates.network + tflop / estimates.strict
        steps.append((f"{weights}, strict", seconds, partial(run_strict, results, weights, records)))
    return steps


def run_strict(results: Results, weights: str, records: list[Record], seconds: float) -> None:
    """Evaluate weights as `pyramidzoo evaluate` does without options. The records so far get a file of their own."""
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


# table


def list_graphs() -> list[str]:
    """List the CIFAR graphs of two groups of published tables.

    They are the additive PyramidNets of their authors' tables, and hysts' networks that are not PyramidNets, except
    those for which the zoo has hysts' graph under another name.
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
    for way, speed in (("strict", estimates.strict), ("fp16, optimized", estimates.half)):
        seconds = len(options.graphs) * estimates.network + tflop / speed
        name = f"{len(options.graphs)} graphs of the table, {way}"
        steps.append((name, seconds, partial(run_table, results, options, way)))
    return steps


def run_table(results: Results, options: argparse.Namespace, way: str, seconds: float) -> None:
    """Evaluate all graphs as `pyramidzoo evaluate` does, which loads each network while the one before it computes.

    The time of a row runs from the end of the row before. When the time is over, the remaining graphs are left out.
    """
    deadline = time.perf_counter() + seconds
    names: list[str] = options.graphs
    split = make_images(options.images)
    engine = Engine(ComputeSettings(results.device, options.batch, **WAYS[way]))
    loading: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = [write_random_weights(name, Path(folder)) for name in names]

        def load_network(position: int) -> LoadedModel:
            began = time.perf_counter()
            loaded = load_model(EvaluationTarget.from_file(files[position]), split)
            loading[names[position]] = round(time.perf_counter() - began, 3)
            return loaded

        began = last = time.perf_counter()
        records = evaluate_all(names, load_network, partial(plan, engine=engine), Worker())
        for name, record in zip(names, records, strict=True):
            now = time.perf_counter()
            is_record = isinstance(record, Record)
            rows.append(
                {
                    "part": "table",
                    "network": name,
                    "variant": way,
                    "tflop": round(count_tflop(name) * options.images, 2),
                    "seconds": round(now - last, 3),
                    "computing_seconds": record.duration_seconds if isinstance(record, Record) else None,
                    "loading_seconds": loading.get(name),  # in a thread, except for the first graph
                    "error": None if is_record else record.error,  # type: ignore[union-attr]
                }
            )
            last = now
            if now > deadline:
                break
        records.close()  # type: ignore[attr-defined]
    for name in names[len(rows) :]:
        results.leave_out(f"{name}, {way}", "the time of the part 'table' is over")
    total = {
        "seconds": round(last - began, 3),
        "computing_seconds": round(sum(row["computing_seconds"] or 0 for row in rows), 3),
        "tflop": round(sum(row["tflop"] for row in rows), 1),
        "batch": options.batch,
        "images": options.images,
    }
    results.add([*rows, {"part": "table", "network": "all", "variant": way, **total}])
    print(f"table, {way}: {total}", flush=True)


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


# speed


def list_speed(results: Results, options: argparse.Namespace) -> Steps:
    """List two steps for each network. The compiler comes last, because nobody knows how long it takes."""
    estimates, device = get_estimates(results.device), results.device
    peaks = Peaks(device)
    steps: Steps = []
    for names, wanted, extra in ((VARIANTS, PEERS, 0.0), (COMPILED, PEERS[1:], estimates.compiler)):
        variants = select_variants(names, device)
        peers = wanted if importlib.util.find_spec("pytorchcv") else ()
        settings = BenchmarkSettings(device, (options.batch,), variants, peers, options.rounds)
        for network in options.networks:
            run = max(timing.RUN_SECONDS, count_tflop(network) * options.batch / estimates.strict)
            forms = len(variants) + len(peers)
            seconds = estimates.bench + extra + run * forms * (options.rounds + 2)
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


# changed


def list_changed(results: Results, options: argparse.Namespace) -> Steps:
    """List one step for each set of weights and each way that is not strict."""
    estimates = get_estimates(results.device)
    ways = [way for way in WAYS if way != "strict"]
    if results.device.type != "cuda":
        ways = [way for way in ways if way != "tf32" and "graph" not in way]
    steps: Steps = []
    for weights in options.weights:
        tflop = count_tflop(load_manifest().find(weights).architecture) * 10_000
        for way in ways:
            speed = estimates.strict if way == "tf32" else estimates.half
            seconds = estimates.network + tflop / speed
            if way == ways[0]:
                seconds += estimates.network + tflop / estimates.strict
            run = partial(run_changed, results, weights, way, options.batch)
            steps.append((f"{weights}, {way}", seconds, run))
    return steps


def run_changed(
    results: Results,
    weights: str,
    way: str,
    batch: int,
    seconds: float,
) -> None:
    """Compare predictions with the strict ones, which are kept in the scratch folder for the next way."""
    entry = load_manifest().find(weights)
    images = open_split(entry.dataset, None, default_data_dir(), download=False)
    settings = ComputeSettings(results.device, batch, **WAYS[way])
    record = evaluate(EvaluationTarget.from_entry(entry), images, settings, output=results.scratch, compare=True)
    strict = record.against_strict
    assert strict is not None
    print(f"{entry.id}, {way}: {len(strict.moved)} of {record.images} predictions changed", flush=True)
    recorded = {result.prediction_sha256 for result in entry.results}
    row = {
        "part": "moved",  # the name of this part in all results files
        "weights": entry.id,
        "variant": way,
        "images": record.images,
        "strict_is_recorded": strict.prediction_sha256 in recorded,
        "moved": strict.moved,
        "lost": strict.lost,
        "gained": strict.gained,
        "largest_difference": strict.largest_difference,
    }
    results.add([row])
