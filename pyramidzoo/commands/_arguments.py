"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyramidzoo.files import expand_user_path


def path_argument(text: str) -> Path:
    """Return the path that a user wrote.

    An empty text is refused. It comes from a shell variable that is not set, and would mean the working directory.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return expand_user_path(text)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")


def add_data_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--data-dir`."""
    parser.add_argument(
        "--data-dir", type=path_argument, metavar="D", help="the folder of the datasets (default: PYRAMIDZOO_DATA)"
    )
