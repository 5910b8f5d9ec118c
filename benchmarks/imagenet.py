"""Compare the time in which `evaluate` reads large images with that of a bare loop, also with --tensor-resize.

    python benchmarks/imagenet.py [--rounds 7] [--images 800] [--workers 2]

The images are generated. They have 500x375 pixels, as most of ImageNet's, and noise that makes their files about as
large (100 kB). The bare loop reads, decodes, resizes and crops each image with the same Pillow operations, and does not
keep the results. The loader makes uint8 batches of 64 images, in this process or in worker processes. Its time includes
that to start and end these processes. The script also counts how much the pixels differ with `tensor resize`, and how
many predictions of a network with random weights differ.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import compare_runs, time_in_turns, write_results
from torchvision import transforms

from pyramidzoo import create_model
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data._splits import ReaderOptions, Split
from pyramidzoo.data.datasets import open_split
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.evaluation.environment import keep_memory

BATCH = 64
CPU = torch.device("cpu")


def write_images(folder: Path, images: int) -> None:
    """Write JPEG files of noisy images, every second one upright, into the folder of one of ImageNet's classes.

    Args:
        folder: The folder of the dataset.
        images: The number of files.
    """
    generator = np.random.default_rng(0)
    for number in range(images):
        size = (500, 375) if number % 2 else (375, 500)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(np.int64)
        noisy = (smooth + generator.integers(-24, 25, smooth.shape)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noisy).save(stream, "JPEG", quality=90)
        class_folder = folder / "val" / "n01440764"
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / f"{number:08d}.JPEG").write_bytes(stream.getvalue())


def read_batches(images: Split, preprocessing: Preprocessing, reading: ReaderOptions) -> list[torch.Tensor]:
    """Read all images in batches, and return the batches."""
    batch_ranges = [(start, min(start + BATCH, len(images))) for start in range(0, len(images), BATCH)]
    with contextlib.closing(images.read_batches(batch_ranges, preprocessing, CPU, reading)) as batches:
        return list(batches)


def measure_reading(folder: Path, interpolation: str, rounds: int, workers: int) -> list[dict[str, Any]]:
    """Time the bare loop and the loader, and compare the pixels and the predictions with and without tensor resize."""
    images = open_split("imagenet1k", None, folder)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing((3, 224, 224), mean, std, resize=256, crop=224, interpolation=interpolation)
    paths = sorted((folder / "val" / "n01440764").iterdir())
    resize = transforms.Resize(256, transforms.InterpolationMode(interpolation))
    crop = transforms.CenterCrop(224)

    def run_bare_loop() -> None:
        for path in paths:
            with path.open("rb") as stream:
                np.asarray(crop(resize(Image.open(stream).convert("RGB"))))

    variants = {
        "bare loop": run_bare_loop,
        "loader, -j 0": lambda: read_batches(images, preprocessing, ReaderOptions()),
        f"loader, -j {workers}": lambda: read_batches(images, preprocessing, ReaderOptions(workers)),
        "loader, -j 0, tensor resize": lambda: read_batches(images, preprocessing, ReaderOptions(0, True)),
        f"loader, -j {workers}, tensor resize": lambda: read_batches(
            images, preprocessing, ReaderOptions(workers, True)
        ),
    }
    rows = compare_runs(time_in_turns(variants, rounds=rounds), "bare loop")
    # The pixels, and later the logits, without and with tensor resize.
    pixels = [
        torch.cat(read_batches(images, preprocessing, ReaderOptions(0, tensor_resize)))
        for tensor_resize in (False, True)
    ]
    pixel_differences = (pixels[0].int() - pixels[1].int()).abs()
    torch.manual_seed(0)
    model, normalize = create_model("resnet18").eval(), Normalize(preprocessing)
    with torch.inference_mode():
        logits = [
            torch.cat([model(normalize(batch)) for batch in torch.split(all_images, BATCH)]) for all_images in pixels
        ]
    changed_predictions = int((logits[0].argmax(1) != logits[1].argmax(1)).sum())
    difference = {
        "largest difference": int(pixel_differences.max()),
        "mean difference": round(pixel_differences.double().mean().item(), 5),
        "moved predictions": changed_predictions,
        "images": len(images),
    }
    print(f"{interpolation}, tensor resize: {difference}")
    return [
        {
            "subject": interpolation,
            **row,
            "images_per_second": round(len(images) / row["median"], 1),
            **(difference if "tensor" in row["variant"] else {}),
        }
        for row in rows
    ]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        rows = [
            row
            for interpolation in ("bilinear", "bicubic")
            for row in measure_reading(Path(folder), interpolation, args.rounds, args.workers)
        ]
    write_results("imagenet", rows)


if __name__ == "__main__":
    main()
