"""`verify`: compute the hashes of the weights on this machine again, and compare them with the manifest."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._select import select_weights
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError, worst_exit_code
from pyramidzoo.text_output import render

if TYPE_CHECKING:
    from pyramidzoo.weights.verify import FileStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    parser.add_argument("weights", nargs="*", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    parser.add_argument(
        "--all", action="store_true", help="verify all weights of the manifest, and all other files in the cache"
    )


@dataclass(frozen=True)
class VerifyOptions(CommandOptions):
    """The options of `verify`. The help texts in `add_arguments` explain them."""

    weights: tuple[str, ...]
    all: bool

    def __post_init__(self) -> None:
        if bool(self.weights) == self.all:
            raise UsageError("name the weights to verify, or give --all, but not both")


def run(args: argparse.Namespace) -> int:
    """Run `verify`: print for each file whether it is good, altered, missing or unknown, and return the exit code."""
    options = VerifyOptions.from_args(args)
    statuses = _verify_all() if options.all else _verify_named_weights(options.weights)
    shown_statuses = statuses
    if options.all and options.format == "human":
        # Most weights of the manifest were never fetched. Their lines would hide the others, so only their number is
        # printed.
        shown_statuses = [status for status in statuses if status.state != "missing"]
        missing_count = len(statuses) - len(shown_statuses)
        weights_count = len(load_manifest().entries)
        print(
            f"pyramidzoo: {missing_count} of {weights_count} sets of weights are not on this machine", file=sys.stderr
        )
    rows = [
        {
            "weights": status.name,
            "state": status.state,
            "path": str(status.path) if status.path else None,
            "detail": status.detail,
        }
        for status in shown_statuses
    ]
    print(render(rows, options.format))
    return _choose_exit_code({status.state for status in statuses}, may_be_missing=options.all)


def _verify_all() -> list[FileStatus]:
    """Verify all weights of the manifest. Also list the files in the cache that belong to no weights."""
    from pyramidzoo.weights.verify import find_unknown_files, verify

    manifest = load_manifest()
    return [verify(entry) for entry in manifest.entries.values()] + find_unknown_files(manifest)


def _verify_named_weights(names: tuple[str, ...]) -> list[FileStatus]:
    """Verify the weights and the files that the user named."""
    from pyramidzoo.weights.verify import verify, verify_file

    selection = select_weights(names)
    return [verify(entry) for entry in selection.entries] + [verify_file(path) for path in selection.paths]


def _choose_exit_code(states: set[str], *, may_be_missing: bool) -> int:
    """Choose the exit code by the states of all verified files.

    Args:
        states: The states that occurred, as in `FileStatus.state`.
        may_be_missing: Whether a missing file is no error. With `--all`, most files are missing.
    """
    error_codes = []
    if states & {"altered", "unknown"}:
        error_codes.append(IntegrityError.exit_code)
    if "missing" in states and not may_be_missing:
        error_codes.append(UnavailableError.exit_code)
    return worst_exit_code(error_codes)
