"""`train`: train networks by recipes, and continue trainings that were stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.commands._arguments import add_data_dir_argument, add_device_argument, path_argument
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import line_width, render, show

if TYPE_CHECKING:
    from pyramidzoo.catalog.recipes import Recipe
    from pyramidzoo.training.logged_run import Epoch, Task, TrainingResult
    from pyramidzoo.training.padded_widths import PadWidths
    from pyramidzoo.training.step import Precision
    from pyramidzoo.training.summary import SeedSummary

# On a GPU an epoch may take a second, and writing a checkpoint of each would take as long.
_GPU_CHECKPOINT_SECONDS = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    parser.add_argument("arch", nargs="+", metavar="ARCH", help="the architecture, such as wrn_16_1")
    parser.add_argument(
        "--recipe", nargs="+", metavar="NAME", help="recipes, such as he2015_cifar10, instead of --dataset"
    )
    parser.add_argument(
        "--dataset", default="digits", help="the dataset, whose own recipe is used (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="the folder for weights and logs"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the seed of initialization and order (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="several seeds, one network for each")
    parser.add_argument("--epochs", type=int, metavar="N", help="the number of epochs (default: the recipe's)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
        help="other values for settings of the recipe, such as learning_rate=0.05 milestones=60,80. They are recorded. "
        "The result is then not compared with published errors. `pyramidzoo recipes NAME` shows the settings",
    )
    parser.add_argument(
        "--precision", default="fp32", choices=("fp32", "bf16"), help="bf16 trains under autocast (default: fp32)"
    )
    parser.add_argument(
        "--algorithms",
        default="fixed",
        choices=("fixed", "fastest"),
        help="fixed gives the same bits each time; fastest takes what cuDNN finds fastest (default: fixed)",
    )
    parser.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="send each batch through the network in N parts, which saves memory. BN then normalizes over each part, "
        "so the result is another one, and it is recorded (default: %(default)s)",
    )
    parser.add_argument(
        "--grad-checkpointing",
        action="store_true",
        help="compute blocks again in the backward pass, which saves memory and takes longer; the result is the same",
    )
    parser.add_argument(
        "--pad-widths",
        default="auto",
        choices=("auto", "on", "off"),
        help="train PyramidNets with widths rounded up to multiples of 8. Only the last bits of the result differ. "
        "auto does it where it was measured to be faster: in bf16 on a CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--together",
        type=int,
        metavar="N",
        help="train at most N networks side by side; the others wait until one has ended. The results are the same "
        "(default: all; on a GPU all for which there is memory)",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="stop within this time; the same command continues the training"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        metavar="N",
        help="how many processes decode large images for each training (default: one for each core)",
    )
    add_data_dir_argument(parser)
    add_device_argument(parser)


@dataclass(frozen=True)
class TrainOptions(CommandOptions):
    """The options of `train`; `add_arguments` says what each means."""

    arch: tuple[str, ...]
    recipe: tuple[str, ...] | None
    dataset: str
    output: Path
    seed: int
    seeds: tuple[int, ...] | None
    epochs: int | None
    set: tuple[str, ...] | None
    precision: Precision
    algorithms: str
    together: int | None
    minutes: float | None
    accumulate: int
    grad_checkpointing: bool
    pad_widths: PadWidths
    jobs: int | None
    data_dir: Path | None
    device: str

    def __post_init__(self) -> None:
        for seed in self.all_seeds:
            if not 0 <= seed < 2**63:
                raise UsageError(f"--seed {seed} is not a number from 0 to 2**63 - 1")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs} trains nothing; it must be positive")
        if self.accumulate < 1:
            raise UsageError(f"--accumulate {self.accumulate} is not a number of parts; it must be positive")
        if self.together is not None and self.together < 1:
            raise UsageError(f"--together {self.together} trains nothing; it must be positive")
        if self.jobs is not None and self.jobs < 0:
            raise UsageError(f"-j {self.jobs}: the number of processes cannot be negative; 0 decodes in this one")
        if self.minutes is not None and not self.minutes > 0:  # written so that "nan" is refused too
            raise UsageError(f"--minutes {self.minutes} leaves no time; it must be positive")

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds to train with: `--seeds`, or else the one of `--seed`."""
        return (self.seed,) if self.seeds is None else self.seeds


def run(args: argparse.Namespace) -> int:
    """Run `train` and return the exit code. A line for each epoch goes to stderr."""
    options = TrainOptions.from_args(args)
    names = [get_architecture(name).name for name in options.arch]

    from pyramidzoo.catalog.recipes import apply_overrides
    from pyramidzoo.data.datasets import default_data_dir, get_dataset, open_split
    from pyramidzoo.evaluation.environment import count_usable_cores, keep_memory, pick_device
    from pyramidzoo.training.device_images import join_splits
    from pyramidzoo.training.logged_run import Task
    from pyramidzoo.training.loop import train_together
    from pyramidzoo.training.summary import summarize_seeds

    overrides = _parse_overrides(options)
    recipes, dataset, splits = _select_recipes(options)
    data_dir = options.data_dir or default_data_dir()
    images = join_splits([open_split(dataset, split, data_dir) for split in splits])
    test = open_split(dataset, get_dataset(dataset).splits[0], data_dir)
    recipes = [apply_overrides(recipe, overrides, len(images)) for recipe in recipes]
    tasks = [Task(name, recipe, seed, overrides) for name in names for recipe in recipes for seed in options.all_seeds]

    keep_memory()
    device = pick_device(options.device)
    results = train_together(
        tasks,
        images,
        test,
        device=device,
        output=options.output,
        precision=options.precision,
        fixed_algorithms=options.algorithms == "fixed",
        together=options.together,
        minutes=options.minutes,
        checkpoint_seconds=_GPU_CHECKPOINT_SECONDS if device.type == "cuda" else 0.0,
        accumulate=options.accumulate,
        grad_checkpointing=options.grad_checkpointing,
        pad_widths=options.pad_widths,
        workers=count_usable_cores() if options.jobs is None else options.jobs,
        report=_report_epoch_of_many if len(tasks) > 1 else _report_epoch,
    )
    errors = [None if result is None else result.last["test_error"] for result in results]
    _print_results(results, summarize_seeds(tasks, errors, len(test), accumulate=options.accumulate), options.format)
    return 0


def _parse_overrides(options: TrainOptions) -> dict[str, Any]:
    """Return the settings that differ from the recipes': those of `--set` and of `--epochs`."""
    from pyramidzoo.catalog.recipes import parse_overrides

    overrides = parse_overrides(options.set or ())
    if options.epochs is not None:
        if overrides.keys() & {"epochs", "steps"}:
            raise UsageError("--epochs and --set both give the length of the training; give one of them")
        overrides["epochs"] = options.epochs
    return overrides


def _select_recipes(options: TrainOptions) -> tuple[list[Recipe], str, tuple[str, ...]]:
    """Return the recipes, and the one dataset and the splits that they are for."""
    from pyramidzoo.catalog.recipes import get_recipe

    recipes = [get_recipe(name) for name in options.recipe or [options.dataset]]
    datasets = sorted({recipe.dataset for recipe in recipes})
    if len(datasets) > 1:
        raise UsageError(
            f"these recipes train on different datasets, {' and '.join(datasets)}; train them in separate commands"
        )
    splits = sorted({recipe.splits for recipe in recipes})
    if len(splits) > 1:
        raise UsageError("these recipes train on different splits; train them in separate commands")
    return recipes, datasets[0], splits[0]


def _report_epoch(task: Task, epoch: Epoch) -> None:
    from pyramidzoo.training.progress import print_line

    print_line(_describe_epoch(task, epoch))


def _report_epoch_of_many(task: Task, epoch: Epoch) -> None:
    from pyramidzoo.training.progress import print_line

    print_line(f"{task.stem}: {_describe_epoch(task, epoch)}")


def _describe_epoch(task: Task, epoch: Epoch) -> str:
    from pyramidzoo.training.progress import describe_time_left

    text = (
        f"epoch {epoch.epoch}/{task.recipe.epochs}: loss {epoch.loss:.4f}, training error {epoch.training_error:.2f} "
        f"%, test error {epoch.test_error:.2f} %, {epoch.seconds:.1f} s"
    )
    epochs_left = task.recipe.epochs - epoch.epoch
    # All trainings of a command run side by side, so the seconds of an epoch are those of all of them.
    return f"{text}, {describe_time_left(epochs_left * epoch.seconds)}" if epochs_left else text


def _print_results(results: Sequence[TrainingResult | None], summaries: Sequence[SeedSummary], format: str) -> None:
    """Print what was trained to the end, a summary over the seeds, and how many trainings have not ended."""
    finished = [result for result in results if result is not None]
    if format == "human":
        for result in finished:
            show(
                f"{result.path}: test error {result.last['test_error']:.2f} % after {result.last['epoch']} epochs\n"
                f"`pyramidzoo evaluate {result.path}` counts it, {result.log} has every epoch"
            )
        rows = [row for summary in summaries for row in _make_summary_rows(summary)]
        # A single seed without a published error needs no table: the line above says everything.
        has_several_seeds = any(len(summary.errors) > 1 for summary in summaries)
        if len(summaries) > 1 or has_several_seeds or any(summary.published for summary in summaries):
            show("\n" + render(rows, format, width=line_width()))
    else:
        show(render([{"path": str(result.path), "log": str(result.log), **result.last} for result in finished], format))
    if unfinished := len(results) - len(finished):
        print(
            f"the time was over for {unfinished} of {len(results)}; the same command continues the training",
            file=sys.stderr,
        )


def _make_summary_rows(summary: SeedSummary) -> list[dict[str, Any]]:
    """Return a line for each published number that the trainings answer, or one line if there is none."""
    changed = "".join(f" {key}={value}" for key, value in summary.overrides.items())
    cells = {
        "network": summary.architecture,
        "recipe": summary.recipe + changed,
        "errors": " ".join(f"{error:.2f}" for error in summary.errors.values()),
        "median": f"{summary.median:.2f}",
        "mean": f"{summary.mean:.2f}",
        "std": None if summary.deviation is None else f"{summary.deviation:.2f}",
    }
    if not summary.published:
        return [{**cells, "row": None, "published": None, "verdict": None}]
    return [
        {
            **cells,
            "row": f"{comparison.row} {comparison.by}",
            "published": f"{comparison.value} ({comparison.statistic})",
            "verdict": f"{comparison.verdict}: ours is {comparison.ours:.2f}",
        }
        for comparison in summary.published
    ]
