"""The training loop: a network of the table, a recipe and a seed in, a file that describes itself out."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyramidzoo.containers import Description, check_finite, read_metadata, write_tensors
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.datasets import ImageSet
from pyramidzoo.evaluation.environment import device_name, strict_arithmetic, versions
from pyramidzoo.evaluation.metrics import error_percent
from pyramidzoo.factory import create_model
from pyramidzoo.files import make_folder, write_text
from pyramidzoo.formats import render
from pyramidzoo.preprocessing import Normalize
from pyramidzoo.training.checkpoints import load_checkpoint, save_checkpoint
from pyramidzoo.training.recipes import Recipe

METADATA_KEY = "training"  # of the safetensors file: the run, what it was computed on, and how it ended


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Errors are in percent; loss and training error are of the images as they were moved."""

    epoch: int
    learning_rate: float
    loss: float
    training_error: float
    test_error: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """The weights after the last epoch, never the best one's; the log; and the last epoch's line of it."""

    path: Path
    log: Path
    last: Mapping[str, float]


def train(
    architecture: str,
    recipe: Recipe,
    images: ImageSet,
    test: ImageSet,
    *,
    seed: int,
    device: torch.device,
    output: Path,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Trained:
    """Train a network of the table from a seed, in strict fp32.

    In `output` stay ARCHITECTURE.DATASET.safetensors and the log as a CSV file; until then a checkpoint, from which the
    same call goes on after an interruption, with the same result to the last bit on the same machine. `report` sees
    each epoch as it ends. `test` is measured after each epoch and decides nothing.

    Raises UsageError where `output` holds weights or a checkpoint of another run under these names, IntegrityError
    where the checkpoint is damaged and where loss or weights are no numbers any more, NotWritableError.
    """
    stem = f"{architecture}.{recipe.dataset}"
    path, log, resume = (output / f"{stem}.{kind}" for kind in ("safetensors", "csv", "checkpoint"))
    run = {"architecture": architecture, "seed": seed, "data": images.fingerprint, **dataclasses.asdict(recipe)}
    if path.exists():
        return Trained(path, log, _finished(path, run))

    make_folder(output)
    training = _Training(architecture, recipe, images, seed, device)
    if kept := load_checkpoint(resume, run):
        training.restore(*kept)
        print(f"{stem}: going on after epoch {len(training.epochs)}", file=sys.stderr)
    training.note_circumstances()
    save_checkpoint(resume, run, *training.state())  # what cannot be written should be found out before the work
    with strict_arithmetic(), torch.enable_grad():
        while len(training.epochs) < recipe.epochs:
            epoch = training.run_epoch(images, test)
            if not math.isfinite(epoch.loss):
                raise IntegrityError(
                    f"{stem}: the loss of epoch {epoch.epoch} is {epoch.loss}; lower the learning rate"
                )
            write_text(log, render(training.lines(), "csv") + "\n")
            save_checkpoint(resume, run, *training.state())
            report(epoch)

    if path.exists():  # another process was quicker
        return Trained(path, log, _finished(path, run))
    tensors = {name: tensor.cpu() for name, tensor in training.model.state_dict().items()}
    check_finite(tensors, what=f"{stem} after epoch {recipe.epochs}")
    description = Description(
        architecture=architecture,
        arguments={},
        dataset=recipe.dataset,
        num_classes=images.classes,
        preprocessing=recipe.preprocessing,
        layout=None,
        origin_sha256=None,
    )
    last = {name: value for name, value in training.lines()[-1].items() if name != "seconds"}
    story = {"run": run, "computed": training.computed, "last": last}
    write_tensors(path, tensors, {**description.to_metadata(), METADATA_KEY: json.dumps(story, sort_keys=True)})
    resume.unlink(missing_ok=True)
    return Trained(path, log, last)


def _finished(path: Path, run: Mapping[str, Any]) -> Mapping[str, float]:
    """How the run that left these weights ended. Raises UsageError where it was another run."""
    try:
        story = json.loads(read_metadata(path)[METADATA_KEY])
        if story["run"] == json.loads(json.dumps(run)):
            return {f.name: story["last"][f.name] for f in dataclasses.fields(Epoch) if f.name != "seconds"}
    except (KeyError, TypeError, ValueError):
        pass
    raise UsageError(f"{path} does not come from a training with these settings; name another --output")


class _Training:
    """Everything that changes from epoch to epoch, and so belongs in a checkpoint."""

    def __init__(self, architecture: str, recipe: Recipe, images: ImageSet, seed: int, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are the caller's
            torch.manual_seed(seed)
            model = create_model(architecture, num_classes=images.classes, in_chans=images.images.shape[1])
        self.model = model.to(device, torch.float32)
        self.normalize = Normalize(recipe.preprocessing).to(device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)
        self.order = torch.Generator().manual_seed(seed)  # of the images, and of how they are moved
        self.epochs: list[Epoch] = []
        self.computed: list[dict[str, Any]] = []

    def note_circumstances(self) -> None:
        """On what, and with which versions, the epochs from here on are computed; a resumed run may have several."""
        here = {"device": device_name(self.device), "versions": versions()}
        if not self.computed or {**self.computed[-1], **here} != self.computed[-1]:
            self.computed.append({"from_epoch": len(self.epochs) + 1, **here})

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"momentum.{k}": kept["momentum_buffer"] for k, kept in optimizer["state"].items()}
        rest = {
            "groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "epochs": self.lines(),
            "computed": self.computed,
        }
        return {**tensors, "order": self.order.get_state()}, rest

    def restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        def part(start: str) -> dict[str, Tensor]:
            return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

        self.model.load_state_dict(part("model."))
        momenta = {int(k): {"momentum_buffer": tensor} for k, tensor in part("momentum.").items()}
        self.optimizer.load_state_dict({"state": momenta, "param_groups": rest["groups"]})
        self.schedule.load_state_dict(rest["schedule"])
        self.order.set_state(tensors["order"])
        self.epochs = [Epoch(**line) for line in rest["epochs"]]
        self.computed = rest["computed"]

    def lines(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(epoch) for epoch in self.epochs]

    def run_epoch(self, images: ImageSet, test: ImageSet) -> Epoch:
        began, rate = time.perf_counter(), round(float(self.schedule.get_last_lr()[0]), 8)
        total, wrong = (torch.zeros((), dtype=torch.float64, device=self.device) for _ in range(2))
        self.model.train()
        for pixels, labels in self._batches(images):
            pixels, labels = pixels.to(self.device), labels.to(self.device)
            logits = self.model(self.normalize(pixels))
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach() * len(labels)
            wrong += (logits.argmax(1) != labels).sum()
        epoch = Epoch(
            epoch=len(self.epochs) + 1,
            learning_rate=rate,
            loss=round(total.item() / len(images), 6),
            training_error=round(error_percent(int(wrong), len(images)), 4),
            test_error=round(self._error(test), 4),
            seconds=round(time.perf_counter() - began, 3),
        )
        self.epochs.append(epoch)
        return epoch

    def _batches(self, images: ImageSet) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over all images, in a new order, each moved by a few pixels."""
        order = torch.randperm(len(images), generator=self.order)
        for index in torch.split(order, self.recipe.batch_size):
            yield moved(images.images[index], self.recipe.padding, self.order), images.labels[index]

    @torch.inference_mode()
    def _error(self, test: ImageSet) -> float:
        self.model.eval()
        batches = torch.split(test.images, self.recipe.batch_size)
        predicted = [self.model(self.normalize(pixels.to(self.device))).argmax(1).cpu() for pixels in batches]
        return error_percent(int((torch.cat(predicted) != test.labels).sum()), len(test))


def moved(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), each moved by up to `padding` pixels up or down and left or right, zeros moving in."""
    n, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    return windows[torch.arange(n), :, down, right]
