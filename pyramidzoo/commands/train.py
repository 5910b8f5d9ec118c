"""`train`: train networks by recipes; resumes where it stopped."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import render, show

if TYPE_CHECKING:
    from pyramidzoo.training.loop import Epoch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train`."""
    parser.add_argument("arch", nargs="+", metavar="ARCH", help="the architecture, such as wrn_16_1")
    parser.add_argument(
        "--recipe", nargs="+", metavar="NAME", help="recipes, such as he2015_cifar10, instead of --dataset"
    )
    parser.add_argument("--dataset", default="digits", help="the data set and its recipe (default: %(default)s)")
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR", help="where weights and log are written"
    )
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and order (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="several seeds, one network for each")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="bf16: autocast (default: fp32)")
    parser.add_argument(
        "--algorithms",
        default="fixed",
        choices=("fixed", "fastest"),
        help="fixed: the same bits each time; fastest: what cuDNN finds fastest (default: fixed)",
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="stop in time; the same command goes on")
    parser.add_argument(
        "--data-dir", type=path_argument, metavar="D", help="folder of the data sets (default: PYRAMIDZOO_DATA)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")


def run(args: argparse.Namespace) -> int:
    """Train networks by recipes and seeds; one line for each epoch goes to stderr."""
    names = [get_architecture(name).name for name in args.arch]
    seeds = args.seeds if args.seeds is not None else [args.seed]
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"--seed {seed} is not a number from 0 to 2**63 - 1")
    if args.epochs is not None and args.epochs < 1:
        raise UsageError(f"--epochs {args.epochs} trains nothing; it must be positive")
    if args.minutes is not None and not args.minutes > 0:  # not a number is refused too
        raise UsageError(f"--minutes {args.minutes} leaves no time; it must be positive")

    from pyramidzoo.data.datasets import default_data_dir, load_dataset
    from pyramidzoo.evaluation.environment import keep_memory, pick_device
    from pyramidzoo.training.loop import Task, train_together
    from pyramidzoo.training.recipes import get_recipe

    recipes = [get_recipe(name) for name in args.recipe or [args.dataset]]
    datasets = sorted({recipe.dataset for recipe in recipes})
    if len(datasets) > 1:
        raise UsageError(
            f"these recipes train on different datasets, {' and '.join(datasets)}; train them in separate commands"
        )
    data_dir = args.data_dir or default_data_dir()
    images, test = (load_dataset(datasets[0], split, data_dir) for split in ("train", "test"))
    if args.epochs is not None:
        recipes = [recipe.with_epochs(args.epochs, len(images)) for recipe in recipes]
    tasks = [Task(name, recipe, seed) for name in names for recipe in recipes for seed in seeds]

    def report(task: Task, epoch: Epoch) -> None:
        whose = f"{task.stem}: " if len(tasks) > 1 else ""
        print(
            f"{whose}epoch {epoch.epoch}/{task.recipe.epochs}: loss {epoch.loss:.4f}, "
            f"training error {epoch.training_error:.2f} %, test error {epoch.test_error:.2f} %, {epoch.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    keep_memory()
    device = pick_device(args.device)
    # on a GPU an epoch takes a second, and writing a checkpoint of each would take as long
    interval = 20.0 if device.type == "cuda" else 0.0
    results = train_together(
        tasks,
        images,
        test,
        device=device,
        output=args.output,
        precision=args.precision,
        fixed_algorithms=args.algorithms == "fixed",
        minutes=args.minutes,
        checkpoint_seconds=interval,
        report=report,
    )
    rows = [{"path": str(done.path), "log": str(done.log), **done.last} for done in results if done is not None]
    if args.format == "human":
        for done in filter(None, results):
            show(
                f"{done.path}: test error {done.last['test_error']:.2f} % after {done.last['epoch']} epochs\n"
                f"`pyramidzoo evaluate {done.path}` counts it, {done.log} has every epoch"
            )
    else:
        show(render(rows, args.format))
    if None in results:
        print(f"the time was over for {results.count(None)} of {len(tasks)}; the same command goes on", file=sys.stderr)
    return 0
