"""`curves`: draw error and loss of trainings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._options import CommandOptions


@dataclass(frozen=True)
class CurvesOptions(CommandOptions):
    """The options of `curves`; `add_arguments` says what each means."""

    logs: tuple[Path, ...]
    output: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `curves`."""
    parser.add_argument(
        "logs",
        nargs="+",
        type=path_argument,
        metavar="LOG",
        help=".csv or .jsonl files of `train`, beside the weights",
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="FILE", help="the figure: a .png, .svg or .pdf file"
    )


def run(args: argparse.Namespace) -> int:
    """Draw the logs into one figure and print its path."""
    from pyramidzoo.training.curves import draw_curves, read_log

    options = CurvesOptions.from_args(args)
    draw_curves([read_log(path) for path in options.logs], options.output)
    print(options.output)
    return 0
