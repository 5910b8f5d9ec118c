"""`fetch`: download, convert and verify weights, and print where they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._select import Selection, select_weights
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.text_output import render

if TYPE_CHECKING:
    from pyramidzoo.weights.fetch import WeightsFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fetch`."""
    parser.add_argument("weights", nargs="+", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    parser.add_argument(
        "--force", action="store_true", help="download and convert again, even if the file is on this machine"
    )
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=8,
        metavar="N",
        help="how many files are fetched at the same time (default: %(default)s)",
    )


@dataclass(frozen=True)
class FetchOptions(CommandOptions):
    """The options of `fetch`. The help texts in `add_arguments` explain them."""

    weights: tuple[str, ...]
    force: bool
    jobs: int

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"-j {self.jobs}: the number must be at least 1")


def run(args: argparse.Namespace) -> int:
    """Run `fetch` and return the exit code. If some weights cannot be fetched, the others are still fetched."""
    options = FetchOptions.from_args(args)
    selection = select_weights(options.weights)
    results: dict[str, WeightsFile | PyramidzooError] = {}
    for name, result in _fetch_selection(selection, options):
        results[name] = result
        if isinstance(result, PyramidzooError):
            print(f"pyramidzoo: {result}", file=sys.stderr)

    # The results came in the order in which the downloads ended. The rows are printed in the order of the arguments.
    rows, error_codes = [], []
    for name in [*(entry.id for entry in selection.entries), *map(str, selection.paths)]:
        result = results[name]
        if isinstance(result, PyramidzooError):
            error_codes.append(result.exit_code)
        else:
            rows.append({"weights": name, "from": result.source, "path": str(result.path), "sha256": result.sha256})
    if rows or not error_codes:
        print(render(rows, options.format))
    return worst_exit_code(error_codes)


def _fetch_selection(
    selection: Selection, options: FetchOptions
) -> Iterator[tuple[str, WeightsFile | PyramidzooError]]:
    """Fetch all selected weights. Yield each id or path, with the file or with the error, as soon as it is known."""
    from pyramidzoo.weights.fetch import locate_file
    from pyramidzoo.weights.fetch_all import fetch_all

    for path in selection.paths:
        try:
            yield str(path), locate_file(path)
        except PyramidzooError as error:
            yield str(path), error
    for entry, result in fetch_all(selection.entries, force=options.force, jobs=options.jobs):
        yield entry.id, result
