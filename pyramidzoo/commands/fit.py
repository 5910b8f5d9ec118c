"""New weights: `train`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING

from pyramidzoo.architectures import get_architecture
from pyramidzoo.errors import UsageError
from pyramidzoo.formats import render, show

if TYPE_CHECKING:
    from pyramidzoo.training.loop import Epoch


def run_train(args: argparse.Namespace) -> int:
    """Train one network by the recipe of its data set; one line for each epoch goes to stderr."""
    name = get_architecture(args.arch).name
    if not 0 <= args.seed < 2**63:
        raise UsageError(f"--seed {args.seed} is not a number from 0 to 2**63 - 1")
    if args.epochs is not None and args.epochs < 1:
        raise UsageError(f"--epochs {args.epochs} trains nothing; it must be positive")

    from pyramidzoo.evaluation.datasets import default_data_dir, load_dataset
    from pyramidzoo.evaluation.environment import keep_memory, pick_device
    from pyramidzoo.training.loop import train
    from pyramidzoo.training.recipes import get_recipe

    recipe = get_recipe(args.dataset)
    if args.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=args.epochs)
    data_dir = args.data_dir or default_data_dir()
    images, test = (load_dataset(recipe.dataset, split, data_dir) for split in ("train", "test"))

    def report(epoch: Epoch) -> None:
        print(
            f"epoch {epoch.epoch}/{recipe.epochs}: loss {epoch.loss:.4f}, training error {epoch.training_error:.2f} %, "
            f"test error {epoch.test_error:.2f} %, {epoch.seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    keep_memory()
    device = pick_device(args.device)
    trained = train(name, recipe, images, test, seed=args.seed, device=device, output=args.output, report=report)
    row = {"path": str(trained.path), "log": str(trained.log), **trained.last}
    if args.format == "human":
        show(
            f"{trained.path}: test error {trained.last['test_error']:.2f} % after {trained.last['epoch']} epochs\n"
            f"`pyramidzoo evaluate {trained.path}` counts it, {trained.log} has every epoch"
        )
    else:
        show(render([row], args.format))
    return 0
