"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyramidzoo.files import expand_user_path


def path_argument(text: str) -> Path:
    """Turn an argument of the command line into a path. Give this function to argparse as `type`.

    An empty argument is an error. It usually comes from a shell variable that is not set. Without this error, it would
    mean the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return expand_user_path(text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--device` to a command."""
    parser.add_argument("--device", default="auto", help="auto (default: a GPU if there is one), cpu, cuda, cuda:1")


def add_data_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option `--data-dir` to a command."""
    parser.add_argument(
        "--data-dir",
        type=path_argument,
        metavar="D",
        help="the folder that contains the datasets (default: the variable PYRAMIDZOO_DATA)",
    )
