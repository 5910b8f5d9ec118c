"""A training run together with its files: the weights, the log, and the checkpoint from which it goes on."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.safetensors_file import read_metadata, write_tensors
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.environment import device_name, versions
from pyramidzoo.evaluation.metrics import error_percent
from pyramidzoo.files import write_text
from pyramidzoo.text_output import render
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.checkpoints import load_checkpoint, save_checkpoint
from pyramidzoo.training.device_images import TestImages, TrainingImages
from pyramidzoo.training.image_stream import StreamedImages, StreamedTestImages
from pyramidzoo.training.recipes import Recipe
from pyramidzoo.training.step import Precision, TrainingRun

# The key in the metadata of a file of weights: the settings of the run, what it was computed on, and how it ended.
METADATA_KEY = "training"


@dataclass(frozen=True)
class Epoch:
    """One line of the log. Errors are in percent.

    Attributes:
        epoch: its number, from 1.
        learning_rate: that of its first step.
        loss: the mean over the training images as they were changed.
        training_error: of the training images as they were changed.
        test_error: of the test images, after the epoch.
        seconds: how long it took.
    """

    epoch: int
    learning_rate: float
    loss: float
    training_error: float
    test_error: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a training that has ended leaves behind.

    Attributes:
        path: the weights after the last epoch, which need not be the best one.
        log: the log, a CSV file.
        last: the last line of the log, without the seconds.
    """

    path: Path
    log: Path
    last: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """One network to train.

    Attributes:
        architecture: a name in the table.
        recipe: how to train it.
        seed: of the initialization and of all random draws.
    """

    architecture: str
    recipe: Recipe
    seed: int

    @property
    def stem(self) -> str:
        """The name of its files without their suffix.

        The recipe that has the name of its dataset is not named again. Every other recipe is named, with the seed.
        """
        if self.recipe.name == self.recipe.dataset:
            return f"{self.architecture}.{self.recipe.dataset}"
        return f"{self.architecture}.{self.recipe.name}.seed{self.seed}"


@dataclass(frozen=True)
class RunSettings:
    """How the runs of one call are computed, and where their files go.

    Attributes:
        device: where they are computed.
        output: the folder of the files.
        precision: "fp32", or "bf16" for autocast.
        fixed_algorithms: whether cuDNN takes the same algorithm every time.
        checkpoint_seconds: the least time between two checkpoints of a run.
        accumulate: in how many parts a batch goes through the network.
        grad_checkpointing: whether blocks are computed again in the backward pass, to save memory.
    """

    device: torch.device
    output: Path
    precision: Precision = "fp32"
    fixed_algorithms: bool = True
    checkpoint_seconds: float = 0.0
    accumulate: int = 1
    grad_checkpointing: bool = False

    def as_data(self) -> dict[str, Any]:
        """Return what decides the result, as JSON can hold it, without the defaults."""
        data: dict[str, Any] = {}
        if self.precision != "fp32":
            data["precision"] = self.precision
        if not self.fixed_algorithms:
            data["algorithms"] = "fastest"
        if self.accumulate > 1:
            data["accumulate"] = self.accumulate
        return data


class LoggedRun:
    """A run together with its files.

    Args:
        task: what to train.
        data: the training images.
        settings: how, and where the files go.

    Attributes:
        result: the files of the finished training; None before its end.
        training: the run itself, after `open`.

    Raises:
        UsageError: the file of the weights is there, and another run wrote it.
    """

    training: TrainingRun

    def __init__(self, task: Task, data: TrainingImages | StreamedImages, settings: RunSettings) -> None:
        self.task, self.data, self.settings = task, data, settings
        self.path = settings.output / f"{task.stem}.safetensors"
        self.log = settings.output / f"{task.stem}.csv"
        self.checkpoint = settings.output / f"{task.stem}.checkpoint"
        # everything that decides the result; files and checkpoints of other values are another run's
        self.identity: dict[str, Any] = {
            "architecture": task.architecture,
            "seed": task.seed,
            "data": data.fingerprint,
            **task.recipe.as_data(),
            **settings.as_data(),
        }
        self.result = self._find_result()
        self.epochs: list[Epoch] = []
        self.computed: list[dict[str, Any]] = []  # from which epoch on, the device and the versions

    def open(self) -> None:
        """Make the network, and go on from the checkpoint if there is one.

        Raises:
            IntegrityError: the checkpoint is damaged.
            UsageError: the checkpoint belongs to another run.
            NotWritableError: a file cannot be written.
        """
        task, device = self.task, self.settings.device
        self.training = TrainingRun(
            task.architecture,
            task.recipe,
            self.data,
            task.seed,
            device,
            self.settings.precision,
            accumulate=self.settings.accumulate,
            grad_checkpointing=self.settings.grad_checkpointing,
        )
        if checkpoint := load_checkpoint(self.checkpoint, self.identity):
            self._restore(*checkpoint)
        self.generator_state = self.training.generator.get_state()
        self._next_draws: concurrent.futures.Future[list[Draws]] | None = None
        environment = {"device": device_name(device), "versions": versions()}
        if not self.computed or {**self.computed[-1], **environment} != self.computed[-1]:
            self.computed.append({"from_epoch": len(self.epochs) + 1, **environment})
        self.save()  # so that a folder that cannot be written to is found before the work

    def _restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        self.epochs = [Epoch(**line) for line in rest["epochs"]]
        self.computed = rest["computed"]
        schedule = self.training.schedule
        self.training.restore(tensors, min(len(self.epochs) * schedule.steps_per_epoch, schedule.total_steps))
        self.training.generator.set_state(tensors["order"])
        print(f"{self.task.stem}: going on after epoch {len(self.epochs)}", file=sys.stderr)

    def start_epoch(self, executor: concurrent.futures.Executor) -> int:
        """Load the draws of the next epoch, and return the number of its steps.

        On a GPU the executor draws the epoch after it meanwhile: there the main thread only queues kernels.
        """
        training = self.training
        self._began = time.perf_counter()
        self._rate = round(training.schedule.learning_rate(training.done_steps), 8)
        batches = self._next_draws.result() if self._next_draws else training.draw_epoch()
        self.generator_state = training.generator.get_state()
        steps = training.start_epoch(batches)
        self._images = sum(len(batch.index) for batch in batches[:steps])
        if training.captured is not None:
            self._next_draws = executor.submit(training.draw_epoch)
        return steps

    def finish_epoch(self, test: TestImages | StreamedTestImages) -> Epoch:
        """Measure the epoch, and write the log and a checkpoint. After the last epoch, write the weights.

        Raises:
            IntegrityError: the loss is not a number, or after the last epoch a weight is not.
        """
        loss_sum, wrong = self.training.read_sums()
        test_wrong = self.training.count_wrong(test)
        epoch = Epoch(
            epoch=len(self.epochs) + 1,
            learning_rate=self._rate,
            loss=round(loss_sum / self._images, 6),
            training_error=round(error_percent(wrong, self._images), 4),
            test_error=round(error_percent(test_wrong, len(test.labels)), 4),
            seconds=round(time.perf_counter() - self._began, 3),
        )
        if not math.isfinite(epoch.loss):
            raise IntegrityError(
                f"{self.task.stem}: the loss of epoch {epoch.epoch} is {epoch.loss}; lower the learning rate"
            )
        self.epochs.append(epoch)
        is_due = time.perf_counter() - self._saved >= self.settings.checkpoint_seconds
        if self.training.has_all_steps or is_due:
            self.save()
        self.write_weights_if_done()
        return epoch

    def save(self) -> None:
        """Write the log and a checkpoint."""
        lines = [dataclasses.asdict(epoch) for epoch in self.epochs]
        if lines:
            write_text(self.log, render(lines, "csv") + "\n")
        with self.training.on_stream():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.training.state().items()}
        tensors["order"] = self.generator_state
        save_checkpoint(self.checkpoint, self.identity, tensors, {"epochs": lines, "computed": self.computed})
        self._saved = time.perf_counter()

    def write_weights_if_done(self) -> None:
        """Write the weights, and delete the checkpoint, if all steps are done.

        Raises:
            IntegrityError: a weight is not a number.
        """
        if not self.training.has_all_steps:
            return
        self.result = self._find_result()  # another process may have been quicker
        if self.result is not None:
            return
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.training.model.state_dict().items()}
        check_finite(tensors, what=f"{self.task.stem} after epoch {len(self.epochs)}")
        description = Description(
            architecture=self.task.architecture,
            arguments=dict(self.task.recipe.arguments),
            dataset=self.task.recipe.dataset,
            num_classes=self.data.classes,
            preprocessing=self.task.recipe.preprocessing,
            layout=None,
            origin_sha256=None,
        )
        last = {name: value for name, value in dataclasses.asdict(self.epochs[-1]).items() if name != "seconds"}
        history = {"run": self.identity, "computed": self.computed, "last": last}
        metadata = {**description.to_metadata(), METADATA_KEY: json.dumps(history, sort_keys=True)}
        write_tensors(self.path, tensors, metadata)
        self.checkpoint.unlink(missing_ok=True)
        self.result = TrainingResult(self.path, self.log, last)

    def _find_result(self) -> TrainingResult | None:
        """Return the result if this very run wrote it. Raise UsageError where another run did."""
        if not self.path.exists():
            return None
        try:
            history = json.loads(read_metadata(self.path)[METADATA_KEY])
            if history["run"] == json.loads(json.dumps(self.identity)):
                last = {f.name: history["last"][f.name] for f in dataclasses.fields(Epoch) if f.name != "seconds"}
                return TrainingResult(self.path, self.log, last)
        except (KeyError, TypeError, ValueError):
            pass  # no training wrote this file
        raise UsageError(f"{self.path} does not come from a training with these settings; name another --output")
