"""The training loop: networks of the table, recipes and seeds go in, and files that describe themselves come out."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pyramidzoo.data._encoded import EncodedSet
from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.files import make_folder
from pyramidzoo.training.device_images import TestImages, TrainingImages
from pyramidzoo.training.image_stream import StreamedImages, StreamedTestImages
from pyramidzoo.training.logged_run import Epoch, LoggedRun, RunSettings, Task, TrainingResult
from pyramidzoo.training.recipes import Recipe
from pyramidzoo.training.step import Precision


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
) -> TrainingResult:
    """Train one network from a seed, in strict fp32.

    The weights and the log stay in `output`, under the name `Task.stem`. Until the end there is a checkpoint. After an
    interruption the same call goes on from it, and on the same machine the result is the same to the last bit.

    Args:
        architecture: a name in the table.
        recipe: how to train it.
        images: the training images.
        test: the images that are measured after each epoch. They decide nothing.
        seed: of the initialization and of all random draws.
        device: where it is computed.
        output: the folder of the files.
        report: is called with each epoch when it ends.

    Returns:
        The files.

    Raises:
        UsageError: `output` holds weights or a checkpoint of another run under these names, or the recipe is not made
            for these images.
        IntegrityError: the checkpoint is damaged, or the loss or a weight is not a number any more.
        NotWritableError: a file cannot be written.
    """
    task = Task(architecture, recipe, seed)
    (result,) = train_together(
        [task], images, test, device=device, output=output, report=lambda task, epoch: report(epoch)
    )
    assert result is not None  # without a time limit it ends
    return result


def train_together(
    tasks: Sequence[Task],
    images: Split,
    test: Split,
    *,
    device: torch.device,
    output: Path,
    precision: Precision = "fp32",
    fixed_algorithms: bool = True,
    minutes: float | None = None,
    checkpoint_seconds: float = 0.0,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    workers: int = 0,
    report: Callable[[Task, Epoch], None] = lambda task, epoch: None,
) -> list[TrainingResult | None]:
    """Train several networks on the same images, side by side. On a GPU each has a stream of its own.

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
        accumulate: in how many parts a batch goes through the network, one after the other. Batch normalization then
            normalizes over each part, so the result is another one.
        grad_checkpointing: whether blocks are computed again in the backward pass instead of being kept in memory. The
            result is the same.
        workers: how many processes decode the images of each run where the images are too large for memory; 0 decodes
            in this process. The result is the same.
        report: is called with each epoch when it ends.

    Returns:
        The files of each task, in order; None where the time was over before its end.

    Raises:
        UsageError: `output` holds weights or a checkpoint of another run under these names; two tasks would write files
            of the same name; a recipe is not made for these images.
        IntegrityError: a checkpoint or an image is damaged, or a loss or a weight is not a number any more. In the last
            case the other runs end first.
        UnavailableError: an image cannot be read, or images of a class are missing.
        NotWritableError: a file cannot be written.
    """
    began = time.perf_counter()
    _check_tasks(tasks, images, test)
    training_images, test_images = _open_images(images, test, device, workers)
    settings = RunSettings(
        device, output, precision, fixed_algorithms, checkpoint_seconds, accumulate, grad_checkpointing
    )
    runs = [LoggedRun(task, training_images, settings) for task in tasks]
    make_folder(output)
    failures: list[IntegrityError] = []
    with (
        strict_arithmetic(fixed=fixed_algorithms),
        torch.enable_grad(),
        concurrent.futures.ThreadPoolExecutor(1) as executor,
    ):
        active = [run for run in runs if run.result is None]
        for run in active:
            run.open()
        # A run may have been interrupted after its last step, before its weights were written.
        active = _apply(LoggedRun.write_weights_if_done, active, failures)
        slowest_epoch = 0.0
        while active and (minutes is None or time.perf_counter() - began + slowest_epoch <= minutes * 60):
            epoch_began = time.perf_counter()
            steps = [run.start_epoch(executor) for run in active]
            for step in range(max(steps)):
                for run, count in zip(active, steps, strict=True):
                    if step < count:
                        run.training.run_step(step)
            active = _apply(lambda run: report(run.task, run.finish_epoch(test_images)), active, failures)
            slowest_epoch = max(slowest_epoch, time.perf_counter() - epoch_began)
        for run in active:  # the time is over
            run.save()
    if failures:
        raise failures[0] if len(failures) == 1 else IntegrityError("; ".join(map(str, failures)))
    return [run.result for run in runs]


def _apply(
    action: Callable[[LoggedRun], None], runs: Sequence[LoggedRun], failures: list[IntegrityError]
) -> list[LoggedRun]:
    """Apply an action to each run, and collect the failures. Return the runs that neither failed nor ended."""
    active = []
    for run in runs:
        try:
            action(run)
        except IntegrityError as error:
            failures.append(error)
        else:
            if run.result is None:
                active.append(run)
    return active


def _open_images(
    images: Split, test: Split, device: torch.device, workers: int
) -> tuple[TrainingImages | StreamedImages, TestImages | StreamedTestImages]:
    """Put the images on the device, or let them be decoded batch by batch where they are too large for memory."""
    if isinstance(images, EncodedSet) and isinstance(test, EncodedSet):
        return StreamedImages(images, device, workers), StreamedTestImages(test, device, workers)
    assert isinstance(images, ImageSet)
    assert isinstance(test, ImageSet)
    return TrainingImages(images, device), TestImages(test, device)


def _check_tasks(tasks: Sequence[Task], images: Split, test: Split) -> None:
    """Raise UsageError where two tasks would write the same file, or a recipe is not made for these images."""
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
            split.check_preprocessing(recipe.preprocessing, f"recipe {recipe.name}")
        _check_changes(recipe, is_streamed=isinstance(images, EncodedSet))
        used = len(images) - recipe.hold_out
        if used < 1 or recipe.steps_per_epoch(used) == 0:
            left_out = f" after {recipe.hold_out} are left out" if recipe.hold_out else ""
            raise UsageError(
                f"recipe {recipe.name} takes {recipe.batch_size} images a step; there are {max(used, 0)}{left_out}"
            )


def _check_changes(recipe: Recipe, *, is_streamed: bool) -> None:
    """Raise UsageError where a recipe asks for changes that images of this kind do not get."""
    of_streams = {name: getattr(recipe, name) for name in ("random_area", "color_jitter", "lighting")}
    of_memory = {name: getattr(recipe, name) for name in ("padding", "cutout", "random_erasing", "mixup", "hold_out")}
    if wrong := [name for name, value in (of_memory if is_streamed else of_streams).items() if value]:
        kind = "large" if is_streamed else "small"
        raise UsageError(f"recipe {recipe.name} has {', '.join(wrong)}, which no training on {kind} images has")
    if is_streamed and recipe.random_area is None:
        raise UsageError(f"recipe {recipe.name} has no random_area, which every training on large images needs")
