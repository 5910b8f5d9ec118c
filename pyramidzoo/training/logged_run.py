"""A training run together with its files: the weights, the logs, and the checkpoint from which it continues."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.catalog.training_record import METADATA_KEY
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
from pyramidzoo.training.padded_widths import WIDTH_MULTIPLE, PadWidths, can_pad_widths
from pyramidzoo.training.progress import print_line
from pyramidzoo.training.schedule import Schedule
from pyramidzoo.training.step import Precision, TrainingRun

# A longer text of overrides is replaced by its hash: file systems allow 255 bytes in a name.
_LONGEST_OVERRIDES = 100


@dataclass(frozen=True)
class Epoch:
    """One line of the log.

    Attributes:
        epoch: Number of the epoch, from 1.
        learning_rate: Learning rate of its first step.
        loss: Mean loss over the training images, after the random changes.
        training_error: Error on the training images, after the random changes, in percent.
        test_error: Error on the test images at the end of the epoch, in percent.
        seconds: Time of the epoch in seconds, with the measurement of the test error.
    """

    epoch: int
    learning_rate: float
    loss: float
    training_error: float
    test_error: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The files of a training that has ended.

    Attributes:
        path: The file with the weights after the last epoch. An earlier epoch may have had a smaller test error.
        log: The log as a CSV file. A file of JSON lines beside it has the same lines.
        last: The last line of the log, without the seconds.
    """

    path: Path
    log: Path
    last: Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """One network to train.

    Attributes:
        architecture: Name of the architecture.
        recipe: How to train it. The overrides are already applied.
        seed: Seed of the initial weights and of all random draws.
        overrides: The settings that differ from the named recipe, by key (`parse_overrides`).
    """

    architecture: str
    recipe: Recipe
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_short_name(self) -> bool:
        """Whether the recipe has the name of its dataset, as `digits` has.

        Such a recipe is older than the others. Its files stay as they were: the seed is not in their names, the number
        of epochs is not recorded as an override, and there is no log of JSON lines.
        """
        return self.recipe.name == self.recipe.dataset

    @property
    def stem(self) -> str:
        """The name of its files without their suffix, such as "resnet20.he2015_cifar10.seed0".

        Overrides are in the name, except the number of epochs.
        """
        text = f"{self.architecture}.{self.recipe.name}{_overrides_in_name(self.overrides)}"
        return text if self.has_short_name else f"{text}.seed{self.seed}"


def _overrides_in_name(overrides: Mapping[str, Any]) -> str:
    """Return overrides as a part of a file name, such as ".cutout-16.learning_rate-0.05"."""
    parts = []
    for key in sorted(overrides.keys() - {"epochs"}):
        values = overrides[key] if isinstance(overrides[key], tuple) else (overrides[key],)
        parts.append("-".join([key.removeprefix("arguments."), *(str(value) for value in values)]))
    text = "".join(f".{part}" for part in parts)
    if len(text) <= _LONGEST_OVERRIDES and re.fullmatch(r"[\w.+-]*", text):
        return text
    return f".set-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class RunSettings:
    """How the runs of one command are computed, and where their files go.

    Attributes:
        device: The device that computes.
        output: The folder for the files.
        precision: "fp32", or "bf16" for autocast to bfloat16.
        fixed_algorithms: Whether cuDNN uses the same algorithms each time.
        checkpoint_seconds: Shortest time between two checkpoints of a run, in seconds.
        accumulate: Number of parts into which each batch is divided.
        grad_checkpointing: Whether the outputs inside blocks are computed again in the backward pass, to save memory.
        pad_widths: Whether the widths of PyramidNets are rounded up while they are trained. "auto" means: only where
            this was measured to be faster, in bf16 on a CPU.
    """

    device: torch.device
    output: Path
    precision: Precision = "fp32"
    fixed_algorithms: bool = True
    checkpoint_seconds: float = 0.0
    accumulate: int = 1
    grad_checkpointing: bool = False
    pad_widths: PadWidths = "off"

    def are_widths_padded(self, task: Task) -> bool:
        """Return whether the widths of this network are rounded up while it is trained."""
        if self.pad_widths != "auto":
            return self.pad_widths == "on"
        was_measured_faster = self.precision == "bf16" and self.device.type == "cpu"
        return was_measured_faster and can_pad_widths(task.architecture, task.recipe.arguments)

    def as_data(self, task: Task) -> dict[str, Any]:
        """Return the settings that change the result of a task, as JSON values. Default values are left out."""
        data: dict[str, Any] = {}
        if self.precision != "fp32":
            data["precision"] = self.precision
        if not self.fixed_algorithms:
            data["algorithms"] = "fastest"
        if self.accumulate > 1:
            data["accumulate"] = self.accumulate
        if self.are_widths_padded(task):
            data["pad_widths"] = WIDTH_MULTIPLE  # sums are computed in another order, so the last bits differ
        return data


class LoggedRun:
    """A training run that writes its log, its checkpoints and at the end its weights.

    Args:
        task: The network to train.
        data: The training images.
        settings: How it is computed, and where the files go.

    Attributes:
        result: The files of the finished training; None before its end.
        training: The run without its files. It exists from `open` to `close`.
        steps_in_epoch: Number of steps of the epoch that was started last.

    Raises:
        UsageError: The weights file exists, and a run with other settings wrote it.
    """

    training: TrainingRun

    def __init__(self, task: Task, data: TrainingImages | StreamedImages, settings: RunSettings) -> None:
        self.task, self.data, self.settings = task, data, settings
        self.path = settings.output / f"{task.stem}.safetensors"
        self.log = settings.output / f"{task.stem}.csv"
        self.json_log = settings.output / f"{task.stem}.jsonl"
        self.checkpoint = settings.output / f"{task.stem}.checkpoint"
        # Everything that decides the result. Files with other values belong to another run, and are not touched.
        self.identity: dict[str, Any] = {
            "architecture": task.architecture,
            "seed": task.seed,
            "data": data.fingerprint,
            **task.recipe.as_data(),
            **settings.as_data(task),
        }
        self.result = self._find_result()
        self.epochs: list[Epoch] = []
        self.computed: list[dict[str, Any]] = []  # the device and the versions, each with its first epoch
        self.steps_in_epoch = 0
        self._schedule = Schedule(task.recipe, len(data) - task.recipe.hold_out)

    @property
    def steps_left(self) -> int:
        """Number of steps until the end of the training."""
        return self._schedule.total_steps - self._done_steps

    @property
    def _done_steps(self) -> int:
        """Number of steps of the epochs that have ended."""
        return min(len(self.epochs) * self._schedule.steps_per_epoch, self._schedule.total_steps)

    def check_checkpoint(self) -> None:
        """Read the checkpoint if there is one. So an error is found before the run has its turn.

        Raises:
            IntegrityError: The checkpoint is damaged.
            UsageError: The checkpoint belongs to another run.
        """
        if checkpoint := load_checkpoint(self.checkpoint, self.identity):
            _, rest = checkpoint
            self.epochs = [Epoch(**line) for line in rest["epochs"]]

    def open(self) -> None:
        """Create the network, and continue from the checkpoint if there is one. A closed run can be opened again.

        Raises:
            IntegrityError: The checkpoint is damaged.
            UsageError: The checkpoint belongs to another run.
            NotWritableError: A file cannot be written.
        """
        task, device = self.task, self.settings.device
        self.epochs, self.computed = [], []
        self.training = TrainingRun(
            task.architecture,
            task.recipe,
            self.data,
            task.seed,
            device,
            self.settings.precision,
            accumulate=self.settings.accumulate,
            grad_checkpointing=self.settings.grad_checkpointing,
            pad_widths=self.settings.are_widths_padded(task),
        )
        if checkpoint := load_checkpoint(self.checkpoint, self.identity):
            self._restore(*checkpoint)
        self.generator_state = self.training.generator.get_state()
        self._next_draws: concurrent.futures.Future[list[Draws]] | None = None
        environment = {"device": device_name(device), "versions": versions()}
        if not self.computed or {**self.computed[-1], **environment} != self.computed[-1]:
            self.computed.append({"from_epoch": len(self.epochs) + 1, **environment})
        self.save()  # If the folder cannot be written to, this fails now and not after the first epoch.

    def _restore(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        self.epochs = [Epoch(**line) for line in rest["epochs"]]
        self.computed = rest["computed"]
        self.training.restore(tensors, self._done_steps)
        self.training.generator.set_state(tensors["order"])
        print_line(f"{self.task.stem}: going on after epoch {len(self.epochs)}")

    def close(self) -> None:
        """Free the memory of the network. What was not saved is lost."""
        if self.settings.device.type == "cuda":
            torch.cuda.synchronize(self.settings.device)  # Operations that are still queued need the memory.
        self._next_draws = None
        if hasattr(self, "training"):  # It is missing if there was no memory for the network.
            if self.training.stream is not None:
                self.training.stream.close()
            del self.training

    def start_epoch(self, executor: concurrent.futures.Executor) -> None:
        """Load the draws of the next epoch, and set `steps_in_epoch`.

        On a GPU the main thread only queues kernels. So a second thread can already draw the epoch after this one.

        Args:
            executor: Runs the second thread.
        """
        training = self.training
        self._began = time.perf_counter()
        self._rate = round(training.schedule.learning_rate(training.done_steps), 8)
        batches = self._next_draws.result() if self._next_draws else training.draw_epoch()
        self.generator_state = training.generator.get_state()
        self.steps_in_epoch = training.start_epoch(batches)
        self._images = sum(len(batch.index) for batch in batches[: self.steps_in_epoch])
        if training.captured is not None:
            self._next_draws = executor.submit(training.draw_epoch)

    def run_step(self, step: int) -> None:
        """Run one step of the epoch. `step` is its number in this epoch, from 0."""
        self.training.run_step(step)

    def finish_epoch(self, test: TestImages | StreamedTestImages) -> Epoch:
        """Measure the test error, and write the logs and a checkpoint. After the last epoch, write the weights.

        Raises:
            IntegrityError: The loss is not a number, or after the last epoch a weight is not.
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
                f"{self.task.stem}: the loss of epoch {epoch.epoch} is {epoch.loss}; lower the learning rate. "
                "The last checkpoint before that epoch stays in the output folder"
            )
        self.epochs.append(epoch)
        is_due = time.perf_counter() - self._saved >= self.settings.checkpoint_seconds
        if self.training.has_all_steps or is_due:
            self.save()
        self.write_weights_if_done()
        return epoch

    def save(self) -> None:
        """Write the logs and a checkpoint."""
        lines = [dataclasses.asdict(epoch) for epoch in self.epochs]
        if lines:
            write_text(self.log, render(lines, "csv") + "\n")
            if not self.task.has_short_name:
                write_text(self.json_log, "".join(self._json_line(line) + "\n" for line in lines))
        with self.training.on_stream():
            tensors = {name: tensor.cpu().contiguous() for name, tensor in self.training.state().items()}
        tensors["order"] = self.generator_state
        save_checkpoint(self.checkpoint, self.identity, tensors, {"epochs": lines, "computed": self.computed})
        self._saved = time.perf_counter()

    def _json_line(self, line: Mapping[str, Any]) -> str:
        """Return a line of the log as JSON, with the run in it, so that the logs of several runs can be joined."""
        task = self.task
        return json.dumps({"architecture": task.architecture, "recipe": task.recipe.name, "seed": task.seed, **line})

    def write_weights_if_done(self) -> None:
        """Write the weights, and delete the checkpoint, if all steps are done.

        Raises:
            IntegrityError: A weight is not a number.
        """
        if not self.training.has_all_steps:
            return
        self.result = self._find_result()  # Another process with the same command may have ended first.
        if self.result is not None:
            return
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.training.network_state().items()}
        check_finite(tensors, error_start=f"{self.task.stem} after epoch {len(self.epochs)}")
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
        if self.task.overrides and not (self.task.has_short_name and self.task.overrides.keys() == {"epochs"}):
            history["overrides"] = dict(self.task.overrides)
        metadata = {**description.to_metadata(), METADATA_KEY: json.dumps(history, sort_keys=True)}
        write_tensors(self.path, tensors, metadata)
        self.checkpoint.unlink(missing_ok=True)
        self.result = TrainingResult(self.path, self.log, last)

    def _find_result(self) -> TrainingResult | None:
        """Return the result if a run with these settings has written it. Raise UsageError if another run has."""
        if not self.path.exists():
            return None
        try:
            history = json.loads(read_metadata(self.path)[METADATA_KEY])
            if history["run"] == json.loads(json.dumps(self.identity)):
                last = {f.name: history["last"][f.name] for f in dataclasses.fields(Epoch) if f.name != "seconds"}
                return TrainingResult(self.path, self.log, last)
        except (KeyError, TypeError, ValueError):
            pass  # The file was not written by a training.
        raise UsageError(f"{self.path} does not come from a training with these settings; name another --output")
