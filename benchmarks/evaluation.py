"""Compare the time of a whole `evaluate` with that of a bare PyTorch loop with the same network and images.

    python benchmarks/evaluation.py [--rounds 7]

The bare loop has its network already. It normalizes 10,000 uint8 images batch by batch, computes the logits and
counts. `evaluate` also loads and hashes the weights, keeps all logits, reduces and judges them. With `output` it also
writes the prediction files and reads them back. Weights and images are random, which does not change the times. The
script also measures how fast batches are made from images ("data path"), without a network and on one thread. The
process keeps freed memory (environment.keep_memory), as the command does. memory.py measures how much time that saves.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from timing import compare_runs, time_in_turns, write_results

from pyramidzoo import create_model
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data._splits import ImageSet, ReaderOptions
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget

IMAGES, BATCH = 10_000, 128
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def make_images() -> ImageSet:
    """Make random images, the same in every call."""
    torch.manual_seed(0)
    return ImageSet(
        name="cifar10",
        split="test",
        classes=10,
        images=torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8),
        labels=torch.randint(0, 10, (IMAGES,)),
        fingerprint="0" * 64,
    )


def measure_evaluation(architecture: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Time a bare loop and `evaluate`. Both must count the same number of correct predictions."""
    images = make_images()
    description = Description(
        architecture=architecture,
        arguments={},
        dataset="cifar10",
        num_classes=10,
        preprocessing=PREPROCESSING,
        layout=None,
        origin_sha256=None,
    )
    path = folder / f"{architecture}.safetensors"
    write_tensors(path, create_model(architecture).state_dict(), description.to_metadata())
    model = create_model(architecture, weights=path).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PREPROCESSING.mean, PREPROCESSING.std))
    settings = ComputeSettings(torch.device("cpu"), BATCH)

    @torch.inference_mode()
    def run_bare_loop() -> int:
        correct = 0
        for start in range(0, IMAGES, BATCH):
            batch = images.images[start : start + BATCH].float().div(255).sub(mean).div(std)
            correct += int((model(batch).argmax(1) == images.labels[start : start + BATCH]).sum())
        return correct

    def run_evaluate() -> int:
        return evaluate(EvaluationTarget.from_file(path), images, settings).top1_correct

    def run_evaluate_with_output() -> int:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            return evaluate(EvaluationTarget.from_file(path), images, settings, output=Path(output)).top1_correct

    variants = {
        "bare loop": run_bare_loop,
        "evaluate": run_evaluate,
        "evaluate, output kept": run_evaluate_with_output,
    }
    assert len({run() for run in variants.values()}) == 1
    runs = time_in_turns(variants, rounds=rounds)
    return [{"subject": architecture, **row} for row in compare_runs(runs, "bare loop")]


def measure_data_path(rounds: int) -> list[dict[str, Any]]:
    """Time how normalized batches are made, and how torchvision's transforms make them. There is no network."""
    from torchvision import transforms

    images = make_images()
    normalize = Normalize(PREPROCESSING)
    torchvision_transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std)],
    )
    pillow_images = [transforms.functional.to_pil_image(image) for image in images.images]
    batch_ranges = [(start, min(start + BATCH, IMAGES)) for start in range(0, IMAGES, BATCH)]

    def make_batches() -> torch.Tensor:
        for batch in images.read_batches(batch_ranges, PREPROCESSING, torch.device("cpu"), ReaderOptions()):
            last_batch = normalize(batch)
        return last_batch

    def make_images_one_by_one() -> torch.Tensor:
        for start, stop in batch_ranges:
            last_batch = torch.stack([torchvision_transform(image) for image in pillow_images[start:stop]])
        return last_batch

    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(make_batches(), make_images_one_by_one())
        runs = time_in_turns(
            {"torchvision, image by image": make_images_one_by_one, "whole batches": make_batches}, rounds=rounds
        )
    finally:
        torch.set_num_threads(threads_before)
    rows = compare_runs(runs, "torchvision, image by image")
    return [{"subject": "data path", "images_per_second": round(IMAGES / row["median"]), **row} for row in rows]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in ("resnet20", "wrn_16_2") for row in measure_evaluation(name, Path(folder), rounds)]
    write_results("evaluation", rows + measure_data_path(rounds))


if __name__ == "__main__":
    main()
