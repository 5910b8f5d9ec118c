"""The training loop: it trains networks by recipes and seeds, and writes their weights and logs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.preprocessing import WhitenedPreprocessing
from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.data._encoded import EncodedSet
from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.data.whitening import load_whitening, whiten_split
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.engine import report_out_of_memory
from pyramidzoo.files import make_folder
from pyramidzoo.models import get_model_class
from pyramidzoo.training.device_images import TestImages, TrainingImages
from pyramidzoo.training.image_stream import StreamedImages, StreamedTestImages
from pyramidzoo.training.logged_run import Epoch, LoggedRun, RunSettings, Task, TrainingResult
from pyramidzoo.training.padded_widths import PadWidths, can_pad_widths
from pyramidzoo.training.progress import TrainingProgress
from pyramidzoo.training.run_queue import RunQueue
from pyramidzoo.training.step import Precision

# Completes the sentence "cuda:0 has no memory for ...".
_MEMORY_ADVICE = (
    "these trainings; train fewer of them at once (--together N), or use --grad-checkpointing (the result is the same) "
    "or --accumulate N (the result is another one). The same command continues from the last checkpoints"
)


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

    The weights and the logs are written to `output` under the name `Task.stem`. Until the end there is also a
    checkpoint. After an interruption the same call continues from it. On the same machine, the result is then the same
    to the last bit as without the interruption.

    Args:
        architecture: Name of the architecture.
        recipe: How to train it.
        images: The training images.
        test: The test images. Their error is measured after each epoch, and decides nothing.
        seed: Seed of the initial weights and of all random draws.
        device: The device that computes.
        output: The folder for the files.
        report: Is called at the end of each epoch.

    Returns:
        The files.

    Raises:
        UsageError: `output` has weights or a checkpoint of another run under this name, or the recipe is not for these
            images.
        IntegrityError: The checkpoint is damaged, or the loss or a weight became NaN or infinite.
        NotWritableError: A file cannot be written.
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
    together: int | None = None,
    minutes: float | None = None,
    checkpoint_seconds: float = 0.0,
    accumulate: int = 1,
    grad_checkpointing: bool = False,
    pad_widths: PadWidths = "off",
    workers: int = 0,
    report: Callable[[Task, Epoch], None] = lambda task, epoch: None,
) -> list[TrainingResult | None]:
    """Train several networks on the same images, side by side. On a GPU each network has its own stream.

    Args:
        tasks: The networks to train. The result of each does not depend on the others.
        images: The training images.
        test: The test images. Their error is measured after each epoch, and decides nothing.
        device: The device that computes.
        output: The folder for the files. Their names are `Task.stem` and a suffix.
        precision: "fp32", or "bf16" for autocast to bfloat16.
        fixed_algorithms: Whether cuDNN uses the same algorithms each time. If not, it uses the fastest ones that it
            finds, and two runs of the same command differ in their last bits.
        together: The largest number of networks that are trained side by side. The others wait until one has ended.
            None means: as many as the device has memory for. The result of each network is the same.
        minutes: The time limit. No epoch begins that would probably end after it. The same call continues later.
        checkpoint_seconds: Shortest time between two checkpoints of a run, in seconds.
        accumulate: Number of parts into which each batch is divided (see `TrainingRun`). It changes the result.
        grad_checkpointing: Whether the outputs inside blocks are computed again in the backward pass instead of being
            kept in memory. The result is the same.
        pad_widths: Whether the widths of PyramidNets are rounded up while they are trained (see `PaddedWidths`).
            "auto" means: only where this was measured to be faster, in bf16 on a CPU. The last bits of the result
            differ.
        workers: Number of processes that decode the images of each run, if the images are too large for memory. 0
            decodes in this process. The result is the same.
        report: Is called with the task and the epoch at the end of each epoch.

    Returns:
        The files of each task, in order; None for a task that has not ended in time.

    Raises:
        UsageError: `output` has weights or a checkpoint of another run under one of the names, two tasks would write
            files of the same name, a recipe is not for these images, or `pad_widths` is "on" and the widths of a
            network cannot be padded.
        IntegrityError: A checkpoint or an image is damaged, or a loss or a weight became NaN or infinite. In the last
            case the other runs are completed first.
        NotWritableError: A file cannot be written.
        UnavailableError: The device has too little memory, an image cannot be read, or a class has no images.
    """
    began = time.perf_counter()
    _check_tasks(tasks, images, test)
    _check_widths(tasks, pad_widths)
    if any(isinstance(task.recipe.preprocessing, WhitenedPreprocessing) for task in tasks):
        whitening = load_whitening(images)
        images, test = whiten_split(images, whitening), whiten_split(test, whitening)
    training_images, test_images = _open_images(images, test, device, workers)
    settings = RunSettings(
        device, output, precision, fixed_algorithms, checkpoint_seconds, accumulate, grad_checkpointing, pad_widths
    )
    runs = [LoggedRun(task, training_images, settings) for task in tasks]
    queue = RunQueue(runs, together)
    make_folder(output)
    with (
        strict_arithmetic(deterministic=fixed_algorithms),
        torch.enable_grad(),
        concurrent.futures.ThreadPoolExecutor(1) as executor,
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(report_out_of_memory(device, _MEMORY_ADVICE))
        queue.start_waiting_runs()
        for run in queue.waiting:
            run.check_checkpoint()
        slowest_epoch = 0.0
        progress = stack.enter_context(TrainingProgress(queue.steps_left))
        while queue.active and (minutes is None or time.perf_counter() - began + slowest_epoch <= minutes * 60):
            epoch_began = time.perf_counter()
            _train_epoch(queue, executor, progress)
            for run in tuple(queue.active):
                queue.finish(run, lambda run: report(run.task, run.finish_epoch(test_images)))
            slowest_epoch = max(slowest_epoch, time.perf_counter() - epoch_began)
            queue.start_waiting_runs()
            progress.set_steps_left(queue.steps_left)  # Runs that failed have no steps left.
        for run in queue.active:  # the time is over
            run.save()
    if failures := queue.failures:
        raise failures[0] if len(failures) == 1 else IntegrityError("; ".join(map(str, failures)))
    return [run.result for run in runs]


def _train_epoch(queue: RunQueue, executor: concurrent.futures.Executor, progress: TrainingProgress) -> None:
    """Train one epoch of each active run: the first step of each run, then the second one of each, and so on."""
    # A run for which there is no memory leaves `queue.active`. So these loops go over copies of it.
    for run in tuple(queue.active):
        queue.run_or_postpone(run, LoggedRun.start_epoch, executor)
    for step in range(max(run.steps_in_epoch for run in queue.active)):
        for run in tuple(queue.active):
            if step < run.steps_in_epoch and queue.run_or_postpone(run, LoggedRun.run_step, step):
                progress.advance(1)


def _open_images(
    images: Split, test: Split, device: torch.device, workers: int
) -> tuple[TrainingImages | StreamedImages, TestImages | StreamedTestImages]:
    """Put the images on the device. Images that are too large for memory stay in their files."""
    if isinstance(images, EncodedSet) and isinstance(test, EncodedSet):
        return StreamedImages(images, device, workers), StreamedTestImages(test, device, workers)
    assert isinstance(images, ImageSet)
    assert isinstance(test, ImageSet)
    return TrainingImages(images, device), TestImages(test, device)


def _check_tasks(tasks: Sequence[Task], images: Split, test: Split) -> None:
    """Raise UsageError if the tasks cannot be trained together, or if a recipe is not for these images."""
    stems = [task.stem for task in tasks]
    if len({isinstance(task.recipe.preprocessing, WhitenedPreprocessing) for task in tasks}) > 1:
        raise UsageError(
            "some of these recipes train on whitened images, and others do not; train them in separate commands"
        )
    for task in tasks:
        recipe = task.recipe
        if stems.count(task.stem) > 1:
            raise UsageError(
                f"{stems.count(task.stem)} of these trainings would write {task.stem}.safetensors; "
                "give each an --output of its own"
            )
        _check_arguments(task)
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
    """Raise UsageError if a recipe has a random change that is not made to images of this kind."""
    only_large = ("random_area", "color_jitter", "lighting")
    only_small = ("padding", "cutout", "random_erasing", "mixup", "hold_out")
    wrong_names = [name for name in (only_small if is_streamed else only_large) if getattr(recipe, name)]
    if wrong_names:
        kind = "in memory" if is_streamed else "in files, such as ImageNet's"
        raise UsageError(f"recipe {recipe.name} has {', '.join(wrong_names)}, which is only for images {kind}")
    if is_streamed and recipe.random_area is None:
        raise UsageError(f"recipe {recipe.name} has no random_area, which a training on {recipe.dataset} needs")


def _check_arguments(task: Task) -> None:
    """Raise UsageError if the recipe gives the network an argument that it cannot take from a recipe."""
    network_class = get_model_class(get_architecture(task.architecture))
    # the dataset decides the other two
    allowed = network_class.overridable_arguments - {"num_classes", "in_chans"}
    unknown = sorted(task.recipe.arguments.keys() - allowed)
    if unknown:
        raise UsageError(
            f"{task.architecture} takes no argument {unknown[0]} from a recipe; it takes {', '.join(sorted(allowed))}"
        )


def _check_widths(tasks: Sequence[Task], pad_widths: PadWidths) -> None:
    """Raise UsageError if widths must be padded, but those of a network cannot be."""
    for task in tasks:
        if pad_widths == "on" and not can_pad_widths(task.architecture, task.recipe.arguments):
            raise UsageError(
                f"the widths of {task.architecture} with recipe {task.recipe.name} cannot be padded; "
                "only those of PyramidNets without dropout can"
            )
