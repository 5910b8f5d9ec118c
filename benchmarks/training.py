"""Measure what a training step costs: its time against plain loops, and its memory with `--grad-checkpointing`.

    python benchmarks/training.py [--rounds 7] [--steps 20] [--padded-steps 2] [--threads 2] [--device cpu]

Time: resnet20 in batches of 128 on random images of 32x32 pixels, by the recipe he2015_cifar10. Two plain loops have
the same network, optimizer and batch size. They compute in fp32, in PyTorch's default memory format. `plain loop`
changes the images of a batch as tensors. `torchvision loop` changes each image with torchvision's transforms, in two
processes of a DataLoader that are started before the clock. `train, fp32, channels_last` is no setting of the command:
it would round in another way than `fp32` does. All of them keep freed memory (environment.keep_memory), as the command
does.

Padded widths: pyramidnet110_a48 and pyramidnet164_a48 in the plain loop in fp32, and as the command trains them in
bf16, with and without padded widths. A step takes seconds, so these epochs have their own number of steps.

Memory: one step of pyramidnet164_a270, with and without `--grad-checkpointing`. On a CPU all tensors that are alive at
the same time are counted: weights, gradients, momenta, maps, and what a block computes again. Memory grows with the
batch in a straight line, so two small batches tell that of 128. On a GPU a batch of 128 is measured by PyTorch's
allocator.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import compare_runs, save_results, time_in_turns
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pyramidzoo import create_model
from pyramidzoo.catalog.recipes import get_recipe
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.environment import keep_memory, pick_device
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.step import Precision, TrainingRun

RECIPE = get_recipe("he2015_cifar10")
BATCH = RECIPE.batch_size
CPU = torch.device("cpu")
PADDED_NETWORKS = ("pyramidnet110_a48", "pyramidnet164_a48")


def make_images(count: int) -> ImageSet:
    """Make random images, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        name="cifar10",
        split="train",
        classes=10,
        images=torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 10, (count,), generator=generator),
        fingerprint="0" * 64,
    )


def make_train_epoch(
    images: ImageSet,
    precision: Precision,
    *,
    architecture: str = "resnet20",
    memory_format: torch.memory_format | None = None,
    pad_widths: bool = False,
) -> Callable[[], object]:
    """Return a function that trains one epoch as the command does, in another memory format if one is given."""
    data = TrainingImages(images, CPU)
    run = TrainingRun(architecture, RECIPE, data, 0, CPU, precision, pad_widths=pad_widths)
    if memory_format is not None:
        run.memory_format = memory_format
        run.model.to(memory_format=memory_format)

    def train_epoch() -> tuple[float, int]:
        with strict_arithmetic():
            for step in range(run.start_epoch(run.draw_epoch())):
                run.run_step(step)
            return run.read_sums()

    return train_epoch


def make_plain_epoch(
    make_batches: Callable[[], Iterator[tuple[Tensor, Tensor]]], architecture: str = "resnet20"
) -> Callable[[], object]:
    """Return a function that trains one epoch in a plain loop, on the batches of inputs and labels that it is given."""
    model = create_model(architecture, num_classes=10).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
    )

    def train_epoch() -> float:
        total = 0.0
        for inputs, labels in make_batches():
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        return total

    return train_epoch


def make_tensor_batches(images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
    """Change whole batches as tensors: normalize, pad, crop at random, mirror at random."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (RECIPE.preprocessing.mean, RECIPE.preprocessing.std))
    padding = RECIPE.padding
    for index in torch.randperm(len(images)).split(BATCH):  # type: ignore[no-untyped-call]
        padded = F.pad((images.images[index] / 255 - mean) / std, (padding,) * 4)
        windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)
        down, right = torch.randint(0, 2 * padding + 1, (2, len(index)))
        inputs = windows[torch.arange(len(index)), :, down, right]
        is_mirrored = (torch.rand(len(index)) < 0.5).view(-1, 1, 1, 1)
        yield torch.where(is_mirrored, inputs.flip(3), inputs), images.labels[index]


class TransformedImages(Dataset[Any]):
    """Single images, changed by torchvision's usual transforms."""

    def __init__(self, images: ImageSet) -> None:
        self.pixels, self.labels = np.ascontiguousarray(images.images.permute(0, 2, 3, 1).numpy()), images.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=RECIPE.padding),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(RECIPE.preprocessing.mean, RECIPE.preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[place])), int(self.labels[place])


def measure_time(steps: int, rounds: int) -> list[dict[str, Any]]:
    """Time epochs of so many steps in turns."""
    images = make_images(steps * BATCH)
    loader = DataLoader(TransformedImages(images), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    variants = {
        "plain loop": make_plain_epoch(lambda: make_tensor_batches(images)),
        "torchvision loop": make_plain_epoch(lambda: iter(loader)),
        "train, bf16": make_train_epoch(images, "bf16"),
        "train, fp32": make_train_epoch(images, "fp32"),
        "train, fp32, channels_last": make_train_epoch(images, "fp32", memory_format=torch.channels_last),
    }
    runs = time_in_turns(variants, rounds=rounds)
    rows: list[dict[str, Any]] = []
    for plain, torchvision in zip(
        compare_runs(runs, "plain loop"), compare_runs(runs, "torchvision loop"), strict=True
    ):
        row = {
            "subject": f"resnet20, batch {BATCH}",
            **plain,
            "times_as_fast_as_plain": round(1 / plain["ratio"], 3),
            "times_as_fast_as_torchvision": round(1 / torchvision["ratio"], 3),
            "images_per_second": round(len(images) / plain["median"], 1),
        }
        print(
            f"{row['variant']:28} {row['median']:8.3f} s ({row['min']:.3f} to {row['max']:.3f}), "
            f"{row['times_as_fast_as_plain']:.2f} times as fast as the plain loop (by round "
            f"{1 / row['by_round']:.2f}), {row['times_as_fast_as_torchvision']:.2f} as the torchvision loop (by round "
            f"{1 / torchvision['by_round']:.2f})",
            flush=True,
        )
        rows.append(row)
    return rows


def measure_padded_widths(architecture: str, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Time epochs of so many steps of a PyramidNet in turns, with and without padded widths."""
    images = make_images(steps * BATCH)
    variants = {
        "plain loop": make_plain_epoch(lambda: make_tensor_batches(images), architecture),
        "train, bf16": make_train_epoch(images, "bf16", architecture=architecture),
        "train, bf16, padded widths": make_train_epoch(images, "bf16", architecture=architecture, pad_widths=True),
    }
    rows: list[dict[str, Any]] = []
    for compared in compare_runs(time_in_turns(variants, rounds=rounds), "plain loop"):
        row = {
            "subject": f"{architecture}, batch {BATCH}",
            **compared,
            "times_as_fast_as_plain": round(1 / compared["ratio"], 3),
            "images_per_second": round(len(images) / compared["median"], 1),
        }
        print(
            f"{architecture}, {row['variant']:28} {row['median']:8.3f} s ({row['min']:.3f} to {row['max']:.3f}), "
            f"{row['times_as_fast_as_plain']:.2f} times as fast as the plain loop (by round {1 / row['by_round']:.2f})",
            flush=True,
        )
        rows.append(row)
    return rows


class CountLiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive at the same time, each storage once.

    A tensor counts from the operation that returns it to its end. What an operation needs only within itself is not
    seen.

    Attributes:
        peak: the largest number of bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor from now on, unless it is counted already."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._remove, storage.nbytes()).atexit = False

    def _remove(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def measure_peak(architecture: str, batch: int, device: torch.device, *, grad_checkpointing: bool) -> int:
    """Measure the peak memory of one step in bytes, after a first step, which makes the momenta."""
    images = TrainingImages(make_images(batch), device)
    recipe = RECIPE.replace(batch_size=batch)
    run = TrainingRun(architecture, recipe, images, 0, device, grad_checkpointing=grad_checkpointing)
    run.model.train()
    (draws,) = run.draw_epoch()
    draws = draws.to(device)
    if device.type == "cuda":
        run.compute_step(draws)
        torch.cuda.reset_peak_memory_stats(device)
        run.compute_step(draws)
        return torch.cuda.max_memory_allocated(device)
    run.compute_step(draws)
    counter = CountLiveBytes()
    with counter:
        for tensor in [images.images, *find_tensors(run.model), *run.state().values()]:
            counter.add(tensor)
        run.compute_step(draws)
    return counter.peak


def find_tensors(model: nn.Module) -> list[Tensor]:
    """List the parameters and their gradients."""
    parameters = list(model.parameters())
    return [*parameters, *(parameter.grad for parameter in parameters if parameter.grad is not None)]


def measure_memory(architecture: str, device: torch.device, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    """Measure one step with and without checkpoints, and compute from the last two batches what 128 images need."""
    rows: list[dict[str, Any]] = []
    for grad_checkpointing in (False, True):
        peaks = [measure_peak(architecture, batch, device, grad_checkpointing=grad_checkpointing) for batch in batches]
        slope = (peaks[-1] - peaks[0]) / (batches[-1] - batches[0]) if len(batches) > 1 else 0.0
        rows.append(
            {
                "subject": f"{architecture}, one step, batch {BATCH}",
                "variant": "with --grad-checkpointing" if grad_checkpointing else "plain",
                "measured_batches": list(batches),
                "measured_bytes": peaks,
                "bytes_of_128": round(peaks[-1] + slope * (BATCH - batches[-1])),
            }
        )
    for row in rows:
        row["ratio"] = round(row["bytes_of_128"] / rows[0]["bytes_of_128"], 3)
        print(
            f"{row['subject']}, {row['variant']}: {row['bytes_of_128'] / 2**20:,.0f} MiB, ratio {row['ratio']}",
            flush=True,
        )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="steps of each run (default: %(default)s)")
    parser.add_argument(
        "--padded-steps", type=int, default=2, help="steps of each run of a PyramidNet (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="where the memory is measured (default: %(default)s)")
    parser.add_argument("--network", default="pyramidnet164_a270", help="whose memory is measured")
    parts = ("time", "padded", "memory")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    options = parser.parse_args(arguments)
    keep_memory()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    rows: list[dict[str, Any]] = []
    if "time" in options.parts:
        rows += measure_time(options.steps, options.rounds)
    if "padded" in options.parts:
        for architecture in PADDED_NETWORKS:
            rows += measure_padded_widths(architecture, options.padded_steps, options.rounds)
    if "memory" in options.parts:
        rows += measure_memory(options.network, device, (BATCH,) if device.type == "cuda" else (2, 4))
    save_results("training", rows, device=str(device))


if __name__ == "__main__":
    main()
