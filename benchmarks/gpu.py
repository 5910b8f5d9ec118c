"""What a GPU makes of the zoo: speed, memory and moved predictions of each arithmetic, and a whole table in one go.

    python benchmarks/gpu.py [--device cuda] [--networks NAME ...] [--graphs NAME ...] [--weights ID ...] [--batch 512]

`speed`: what `pyramidzoo bench` measures, in every precision, compiled and as a CUDA graph, beside pytorchcv and timm.
`table`: the distinct CIFAR graphs of the published tables, each evaluated once with random weights by what `pyramidzoo
evaluate` runs, strictly and in 16 bits, and where the time goes. `moved`: predictions of trained weights that differ
from the strict ones; the digits' come with the package, CIFAR's are there where PYRAMIDZOO_ORIGINS and PYRAMIDZOO_DATA
have them. Results are written after every step; what no time is left for (`--seconds`, 500) is named in them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import save_results

from pyramidzoo.bench import measuring
from pyramidzoo.bench.counting import multiply_adds
from pyramidzoo.bench.peers import chosen
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import Preprocessing, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data.datasets import ImageSet, default_data_dir, open_split
from pyramidzoo.evaluation.engine import ComputeSettings, Engine
from pyramidzoo.evaluation.environment import keep_memory, pick_device
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel, load
from pyramidzoo.evaluation.harness import evaluate, plan
from pyramidzoo.evaluation.records import Record
from pyramidzoo.evaluation.tables import published
from pyramidzoo.evaluation.workers import Worker, evaluate_all
from pyramidzoo.models import build

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
ON_GPUS_ONLY = ("tf32", "graph")
WAYS: dict[str, dict[str, Any]] = {
    "strict": {},
    "fp16, optimized": {"precision": "fp16", "optimized": True},
    "bf16, optimized": {"precision": "bf16", "optimized": True},
    "tf32": {"precision": "tf32"},
    "fp16, optimized, CUDA graph": {"precision": "fp16", "optimized": True, "cuda_graph": True},
}
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Results:
    """Rows as they come, on disk each time, and the time that is left."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.began, self.seconds = device, time.perf_counter(), seconds
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []

    def add(self, rows: list[dict[str, Any]]) -> None:
        self.rows += rows
        self._save()

    def leave_out(self, what: str, why: object) -> None:
        self.left_out.append(f"{what}: {why}")
        print(f"left out: {what}: {why}", flush=True)
        self._save()

    @contextlib.contextmanager
    def or_left_out(self, what: str) -> Iterator[None]:
        """Whatever goes wrong with one thing is no reason to lose the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.leave_out(what, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def enough(self, share: float) -> bool:
        """Whether this share of the time is over."""
        return time.perf_counter() - self.began > share * self.seconds

    def _save(self) -> None:
        spent = round(time.perf_counter() - self.began, 1)
        name = "gpu" if self.device.type == "cuda" else "gpu_script_on_a_cpu"
        save_results(name, self.rows, device=str(self.device), wall_seconds=spent, left_out=self.left_out)


def graphs() -> list[str]:
    """The additive PyramidNets of their authors' tables, and hysts' other networks: with him, not beside him."""
    rows = [row for row in published()["targets"] if row["dataset"] in ("cifar10", "cifar100")]
    theirs = {row["architecture"] for row in rows if row["table"] in ("P1", "P2")}
    his = {row["architecture"] for row in rows if row["table"] == "H1"}
    his = {name for name in his if f"{name}_hysts" not in his and not name.startswith("pyramidnet")}
    return sorted(name for name in theirs | his if "_mul_" not in name)


def speed(
    results: Results, networks: list[str], batch: int, rounds: int, variants: Sequence[str], until: float
) -> None:
    on_gpu = results.device.type == "cuda"
    variants = [name for name in variants if on_gpu or not any(word in name for word in ON_GPUS_ONLY)]
    settings = measuring.BenchmarkSettings(results.device, (batch,), variants, list(chosen(["auto"])), rounds)
    peaks = measuring.Peaks(results.device)
    for name in networks:
        what = f"speed of {name}, {', '.join(variants)}"
        if results.enough(until):
            results.leave_out(what, "no time left")
            continue
        with results.or_left_out(what):
            rows = measuring.measure_target(measuring.BenchmarkTarget(get_architecture(name)), settings, peaks)
            peaks.set_fractions(rows)
            for row in rows:
                found = "{images_per_second} images/s, {ratio} x {ratio_to}, {fraction_of_peak} of peak".format(**row)
                print(f"{name:20} {row['variant']:24} {row['error'] or found}", flush=True)
            results.add([{"part": "speed", **row} for row in rows])


def table(results: Results, names: list[str], images: int, batch: int) -> None:
    """Wall times of whole evaluations, in the order of the command: what is loaded ahead is not waited for."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (images,), generator=generator)
    split = ImageSet("cifar10", "test", 10, pixels, labels, "0" * 64)
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        macs: dict[str, int] = {}
        for name in names:
            row = get_architecture(name)
            with torch.device("meta"):
                macs[name] = multiply_adds(build(row).eval(), (3, 32, 32))
            files[name] = Path(folder, f"{name}.safetensors")
            described = Description(name, {}, "cifar10", 10, PREPROCESSING, None, None)
            write_tensors(files[name], measuring.random_calibrated_model(row).state_dict(), described.to_metadata())
        work = 2 * sum(macs.values()) * images / 1e12
        print(f"{len(names)} graphs, {work:.0f} TFLOP for {images} images", flush=True)
        for way in ("strict", "fp16, optimized"):
            engine = Engine(ComputeSettings(results.device, batch, **WAYS[way]))
            loading: dict[str, float] = {}

            def loaded(position: int, loading: dict[str, float] = loading) -> LoadedModel:
                began = time.perf_counter()
                found = load(EvaluationTarget.of_file(files[names[position]]), split)
                loading[names[position]] = round(time.perf_counter() - began, 3)
                return found

            began = last = time.perf_counter()
            rows: list[dict[str, Any]] = []
            records = evaluate_all(names, loaded, partial(plan, engine=engine), Worker())
            for name, record in zip(names, records, strict=True):
                now = time.perf_counter()
                computing = record.duration_seconds if isinstance(record, Record) else None
                rows.append(
                    {
                        "part": "table",
                        "network": name,
                        "variant": way,
                        "tflop": round(2 * macs[name] * images / 1e12, 2),
                        "seconds": round(now - last, 3),  # from the end of the one before
                        "computing_seconds": computing,
                        "loading_seconds": loading.get(name),  # in a thread, but for the first
                        "error": None if isinstance(record, Record) else record.error,
                    }
                )
                last = now
            total = {
                "seconds": round(last - began, 3),
                "computing_seconds": round(sum(row["computing_seconds"] or 0 for row in rows), 3),
                "tflop": round(work, 1),
                "batch": batch,
                "images": images,
            }
            results.add([*rows, {"part": "table", "network": "all", "variant": way, **total}])
            print(f"{way}: {total}", flush=True)


def moved(results: Results, weights: list[str], batch: int, output: Path) -> None:
    for entry in map(load_manifest().find, weights):
        with results.or_left_out(f"predictions of {entry.id}"):
            subject = EvaluationTarget.of_entry(entry)
            images = open_split(entry.dataset, None, default_data_dir(), download=False)
            for way, options in WAYS.items():
                if way == "strict":
                    continue
                if results.enough(0.95):
                    results.leave_out(f"{way}, {entry.id}", "no time left")
                    continue
                with results.or_left_out(f"{way}, {entry.id}"):
                    computing = ComputeSettings(results.device, batch, **options)
                    record = evaluate(subject, images, computing, output=output, compare=True)  # strictly once
                    against = record.against_strict
                    assert against is not None
                    print(f"{entry.id}, {way}: {len(against.moved)} of {record.images} predictions moved", flush=True)
                    recorded = {result.prediction_sha256 for result in entry.results}
                    row = {
                        "part": "moved",
                        "weights": entry.id,
                        "variant": way,
                        "images": record.images,
                        "strict_is_recorded": against.prediction_sha256 in recorded,
                        "moved": against.moved,
                        "lost": against.lost,
                        "gained": against.gained,
                        "largest_difference": against.largest_difference,
                    }
                    results.add([row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--graphs", nargs="*", default=graphs(), metavar="NAME")
    parser.add_argument("--images", type=int, default=10_000)
    measured = [entry.id for entry in load_manifest().entries.values() if entry.results]
    parser.add_argument("--weights", nargs="*", default=measured, metavar="ID")
    parser.add_argument("--seconds", type=float, default=500)
    options = parser.parse_args()
    keep_memory()
    results = Results(pick_device(options.device), options.seconds)
    with results.or_left_out("table"):
        table(results, options.graphs, options.images, options.batch)
    speed(results, options.networks, options.batch, options.rounds, VARIANTS, 0.6)
    with tempfile.TemporaryDirectory() as folder:
        moved(results, options.weights, options.batch, Path(folder))
    # last, because nobody knows how long compilers take
    speed(results, options.networks, options.batch, options.rounds, ("optimized_fp16", "optimized_fp16_compiled"), 0.8)


if __name__ == "__main__":
    main()
