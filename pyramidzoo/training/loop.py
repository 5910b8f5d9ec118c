"""The training loop: networks of the table, a recipe and seeds in, files that describe themselves out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.safetensors_file import read_metadata, write_tensors
from pyramidzoo.data.datasets import ImageSet
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.environment import device_name, strict_arithmetic, versions
from pyramidzoo.evaluation.metrics import error_percent
from pyramidzoo.files import make_folder, write_text
from pyramidzoo.text_output import render
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.checkpoints import load_checkpoint, save_checkpoint
from pyramidzoo.training.recipes import Recipe
from pyramidzoo.training.step import Precision, TestImages, TrainingData, TrainingRun

METADATA_KEY = "training"  # of the safetensors file: the run, what it was computed on, and how it ended


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Errors are in percent; loss and training error are of the images as they were changed."""

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


@dataclass(frozen=True)
class Task:
    """One network to train: an architecture, a recipe and a seed."""

    architecture: str
    recipe: Recipe
    seed: int

    @property
    def stem(self) -> str:
        """How its files are called. A recipe that is not the dataset's own is named, and then so is the seed."""
        if self.recipe.name == self.recipe.dataset:
            return f"{self.architecture}.{self.recipe.dataset}"
        return f"{self.architecture}.{self.recipe.name}.seed{self.seed}"


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
    """Train one network from a seed, in strict fp32.

    In `output` stay ARCHITECTURE.DATASET.safetensors and the log as a CSV file; until then a checkpoint, from which the
    same call goes on after an interruption, with the same result to the last bit on the same machine.

    Args:
        architecture: a name in the table.
        recipe: how to train it.
        images: the training images.
        test: the images that are measured after each epoch. They decide nothing.
        seed: of initialization and all random draws.
        device: where it is computed.
        output: the folder of the files.
        report: is called with each epoch as it ends.

    Raises:
        UsageError: `output` holds weights or a checkpoint of another run under these names.
        IntegrityError: the checkpoint is damaged, or loss or weights are no numbers any more.
        NotWritableError: a file cannot be written.
    """
    task = Task(architecture, recipe, seed)
    (trained,) = train_together(
        [task], images, test, device=device, output=output, report=lambda task, epoch: report(epoch)
    )
    assert trained is not None  # without a time limit it ends
    return trained


def train_together(
    tasks: Sequence[Task],
    images: ImageSet,
    test: ImageSet,
    *,
    device: torch.device,
    output: Path,
    precision: Precision = "fp32",
    fixed_algorithms: bool = True,
    minutes: float | None = None,
    checkpoint_seconds: float = 0.0,
    report: Callable[[Task, Epoch], None] = lambda task, epoch: None,
) -> list[Trained | None]:
    """Train several networks on the same images, side by side on a GPU, each on a stream of its own.

    Args:
        tasks: what to train. The result of each does not depend on the others.
        images: the training images.
        test: the images that are measured after each epoch. They decide nothing.
        device: where it is computed.
        output: the folder of the files, which have the names `Task.stem`.
        precision: "fp32", or "bf16" for autocast.
        fixed_algorithms: whether cuDNN takes the same algorithm every time. Otherwise it takes the fastest one that it
            finds, and two runs of the same command differ in their last bits.
        minutes: stop after the last epoch that ends within this time. The same call goes on.
        checkpoint_seconds: the least time between two checkpoints of a run.
        report: is called with each epoch as it ends.

    Returns:
        The files of each task, in order; None where the time was over before its end.

    Raises:
        UsageError: `output` holds weights or a checkpoint of another run under these names; two tasks would write files
            of the same name; a recipe is not made for these images.
        IntegrityError: a checkpoint is damaged, or loss or weights are no numbers any more. After such numbers the
            other runs end first.
        NotWritableError: a file cannot be written.
    """
    began = time.perf_counter()
    _require_fit(tasks, images, test)
    data, measured = TrainingData(images, device), TestImages(test, device)
    settings: dict[str, Any] = {} if precision == "fp32" else {"precision": precision}
    if not fixed_algorithms:
        settings["algorithms"] = "fastest"
    runs = [_LoggedRun(task, settings, images, data, device, output, checkpoint_seconds) for task in tasks]
    make_folder(output)
    active = [run for run in runs if run.trained is None]
    failures: list[IntegrityError] = []
    with (
        strict_arithmetic(fixed=fixed_algorithms),
        torch.enable_grad(),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        for run in active:
            run.open()
        # one may have been interrupted after its last step, before its weights were written
        active = _attempt(_LoggedRun.complete, active, failures)
        slowest = 0.0
        while active and (minutes is None or time.perf_counter() - began + slowest <= minutes * 60):
            started = time.perf_counter()
            steps = [run.start_epoch(pool) for run in active]
            for step in range(max(steps)):
                for run, count in zip(active, steps, strict=True):
                    if step < count:
                        run.training.run_step(step)
            active = _attempt(lambda run: report(run.task, run.finish_epoch(measured)), active, failures)
            slowest = max(slowest, time.perf_counter() - started)
        for run in active:
            run.save()
    if failures:
        raise failures[0] if len(failures) == 1 else IntegrityError("; ".join(map(str, failures)))
    return [run.trained for run in runs]


def _attempt(
    action: Callable[[_LoggedRun], None], runs: Sequence[_LoggedRun], failures: list[IntegrityError]
) -> list[_LoggedRun]:
    """Do something with each run. Return those that have neither failed nor ended, and note the failures."""
    active = []
    for run in runs:
        try:
            action(run)
        except IntegrityError as error:
            failures.append(error)
        else:
            if run.trained is None:
                active.append(run)
    return active


def _require_fit(tasks: Sequence[Task], images: ImageSet, test: ImageSet) -> None:
    """Raise UsageError where tasks do not fit each other or the images."""
    stems = [task.stem for task in tasks]
    for task in tasks:
        recipe = task.recipe
        if stems.count(task.stem) > 1:
            raise UsageError(
                f"{stems.count(task.stem)} of these trainings would write {task.stem}.safetensors; "
                "give each an --output of its own"
            )
        for split in (images, test):
            if split.name != recipe.dataset:
                raise UsageError(f"recipe {recipe.name} trains on {recipe.dataset}, but these images are {split.name}")
            split.require(recipe.preprocessing, f"recipe {recipe.name}")
        if recipe.steps_per_epoch(len(images)) == 0:
            raise UsageError(f"recipe {recipe.name} takes {recipe.batch_size} images a step; there are {len(images)}")


class _LoggedRun:
    """A run together with its files: weights, log and checkpoint."""

    def __init__(
        self,
        task: Task,
        settings: Mapping[str, Any],
        images: ImageSet,
        data: TrainingData,
        device: torch.device,
        output: Path,
        checkpoint_seconds: float,
    ) -> None:
        self.task, self.data, self.device = task, data, device
        self.precision: Precision = settings.get("precision", "fp32")
        self.path, self.log, self.checkpoint = (
            output / f"{task.stem}.{kind}" for kind in ("safetensors", "csv", "checkpoint")
        )
        self.identity = {
            "architecture": task.architecture,
            "seed": task.seed,
            "data": images.fingerprint,
            **task.recipe.as_data(),
            **settings,
        }
        self.checkpoint_seconds = checkpoint_seconds
        self.trained = self._find_finished()
        self.epochs: list[Epoch] = []
        self.computed: list[dict[str, Any]] = []

    def open(self) -> None:
        """Make the network, and go on from the checkpoint if there is one."""
        task = self.task
        self.training = TrainingRun(task.architecture, task.recipe, self.data, task.seed, self.device, self.precision)
        if kept := load_checkpoint(self.checkpoint, self.identity):
            tensors, rest = kept
            self.epochs = [Epoch(**line) for line in rest["epochs"]]
            self.computed = rest["computed"]
            self.training.restore(
                tensors, min(len(self.epochs) * self.training.steps_per_epoch, self.training.total_steps)
            )
            self.training.generator.set_state(tensors["order"])
            print(f"{task.stem}: going on after epoch {len(self.epochs)}", file=sys.stderr)
        self.order = self.training.generator.get_state()
        self._draws: concurrent.futures.Future[list[Draws]] | None = None
        here = {"device": device_name(self.device), "versions": versions()}
        if not self.computed or {**self.computed[-1], **here} != self.computed[-1]:
            self.computed.append({"from_epoch": len(self.epochs) + 1, **here})
        self.save()  # what cannot be written should be found out before the work

    def start_epoch(self, pool: concurrent.futures.Executor) -> int:
        """Load the draws of the next epoch, have those of the one after it drawn, and return the number of steps."""
        self._began = time.perf_counter()
        self._rate = round(self.training.learning_rate(self.training.done_steps), 8)
        batches = self._draws.result() if self._draws else self.training.draw_epoch()
        self.order = self.training.generator.get_state()
        steps = self.training.start_epoch(batches)
        self._images = sum(len(batch.index) for batch in batches[:steps])
        if self.training.captured is not None:  # the main thread only queues kernels, so there is time
            self._draws = pool.submit(self.training.draw_epoch)
        return steps

    def finish_epoch(self, test: TestImages) -> Epoch:
        """Measure the epoch, write the log and a checkpoint; after the last one, write the weights.

        Raises:
            IntegrityError: the loss is no number, or a weight is none after the last epoch.
        """
        loss, wrong = self.training.read_sums()
        epoch = Epoch(
            epoch=len(self.epochs) + 1,
            learning_rate=self._rate,
            loss=round(loss / self._images, 6),
            training_error=round(error_percent(wrong, self._images), 4),
            test_error=round(error_percent(self.training.count_wrong(test), len(test.labels)), 4),
            seconds=round(time.perf_counter() - self._began, 3),
        )
        if not math.isfinite(epoch.loss):
            raise IntegrityError(
                f"{self.task.stem}: the loss of epoch {epoch.epoch} is {epoch.loss}; lower the learning rate"
            )
        self.epochs.append(epoch)
        if self._has_all_steps or time.perf_counter() - self._saved >= self.checkpoint_seconds:
            self.save()
        self.complete()
        return epoch

    def complete(self) -> None:
        """Write the weights if all steps are done.

        Raises:
            IntegrityError: a weight is no number.
        """
        if self._has_all_steps:
            self._write_weights()

    @property
    def _has_all_steps(self) -> bool:
        return self.training.done_steps >= self.training.total_steps

    def save(self) -> None:
        """Write the log and a checkpoint."""
        lines = [dataclasses.asdict(epoch) for epoch in self.epochs]
        if lines:
            write_text(self.log, render(lines, "csv") + "\n")
        with self.training.on_stream():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.training.state().items()}
        rest = {"epochs": lines, "computed": self.computed}
        save_checkpoint(self.checkpoint, self.identity, {**tensors, "order": self.order}, rest)
        self._saved = time.perf_counter()

    def _write_weights(self) -> None:
        self.trained = self._find_finished()  # another process may have been quicker
        if self.trained is not None:
            return
        tensors: dict[str, Tensor] = {
            name: tensor.cpu().contiguous() for name, tensor in self.training.model.state_dict().items()
        }
        check_finite(tensors, what=f"{self.task.stem} after epoch {len(self.epochs)}")
        description = Description(
            architecture=self.task.architecture,
            arguments={},
            dataset=self.task.recipe.dataset,
            num_classes=self.data.classes,
            preprocessing=self.task.recipe.preprocessing,
            layout=None,
            origin_sha256=None,
        )
        last = {name: value for name, value in dataclasses.asdict(self.epochs[-1]).items() if name != "seconds"}
        story = {"run": self.identity, "computed": self.computed, "last": last}
        write_tensors(
            self.path, tensors, {**description.to_metadata(), METADATA_KEY: json.dumps(story, sort_keys=True)}
        )
        self.checkpoint.unlink(missing_ok=True)
        self.trained = Trained(self.path, self.log, last)

    def _find_finished(self) -> Trained | None:
        """Return the weights if this very run wrote them. Raises UsageError where another run did."""
        if not self.path.exists():
            return None
        try:
            story = json.loads(read_metadata(self.path)[METADATA_KEY])
            if story["run"] == json.loads(json.dumps(self.identity)):
                last = {f.name: story["last"][f.name] for f in dataclasses.fields(Epoch) if f.name != "seconds"}
                return Trained(self.path, self.log, last)
        except (KeyError, TypeError, ValueError):
            pass
        raise UsageError(f"{self.path} does not come from a training with these settings; name another --output")
