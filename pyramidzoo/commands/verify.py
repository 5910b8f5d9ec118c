"""`verify`: hash the weights on this machine again, and compare them with the manifest."""

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
    """The options of `verify`; `add_arguments` says what each means."""

    weights: tuple[str, ...]
    all: bool

    def __post_init__(self) -> None:
        if bool(self.weights) == self.all:
            raise UsageError("name weights to verify, or give --all")


def run(args: argparse.Namespace) -> int:
    """Run `verify`: print what is good, altered, missing or unknown, and return the exit code."""
    options = VerifyOptions.from_args(args)
    statuses = _verify_everything() if options.all else _verify_named(options.weights)
    shown = statuses
    if options.all and options.format == "human":
        # Hundreds of weights that were never fetched would hide the lines that matter.
        shown = [status for status in statuses if status.state != "missing"]
        count = len(load_manifest().entries)
        print(f"pyramidzoo: {len(statuses) - len(shown)} of {count} are not on this machine", file=sys.stderr)
    rows = [
        {
            "weights": status.name,
            "state": status.state,
            "path": str(status.path) if status.path else None,
            "detail": status.detail,
        }
        for status in shown
    ]
    print(render(rows, options.format))
    return _exit_code({status.state for status in statuses}, missing_is_fine=options.all)


def _verify_everything() -> list[FileStatus]:
    """Verify all weights of the manifest, and what else lies in the cache."""
    from pyramidzoo.weights.verify import find_unknown_files, verify

    manifest = load_manifest()
    return [verify(entry) for entry in manifest.entries.values()] + find_unknown_files(manifest)


def _verify_named(names: tuple[str, ...]) -> list[FileStatus]:
    from pyramidzoo.weights.verify import verify, verify_file

    selection = select_weights(names)
    return [verify(entry) for entry in selection.entries] + [verify_file(path) for path in selection.paths]


def _exit_code(states: set[str], *, missing_is_fine: bool) -> int:
    codes = []
    if states & {"altered", "unknown"}:
        codes.append(IntegrityError.exit_code)
    if "missing" in states and not missing_is_fine:
        codes.append(UnavailableError.exit_code)
    return worst_exit_code(codes)
