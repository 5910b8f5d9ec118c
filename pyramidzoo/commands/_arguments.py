"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyramidzoo.files import user_path


def path_argument(text: str) -> Path:
    """A path as the user wrote it; an empty one is a variable not set, and would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return user_path(text)
