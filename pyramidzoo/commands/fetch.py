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
    parser.add_argument("--force", action="store_true", help="download and convert again what is here already")
    parser.add_argument(
        "-j", "--jobs", type=int, default=8, metavar="N", help="how many downloads run at once (default: %(default)s)"
    )


@dataclass(frozen=True)
class FetchOptions(CommandOptions):
    """The options of `fetch`; `add_arguments` says what each means."""

    weights: tuple[str, ...]
    force: bool
    jobs: int

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"-j {self.jobs}: at least one download at a time is needed")


def run(args: argparse.Namespace) -> int:
    """Run `fetch` and return the exit code. A failure does not stop the rest."""
    options = FetchOptions.from_args(args)
    selection = select_weights(options.weights)
    results: dict[str, WeightsFile | PyramidzooError] = {}
    for name, result in _fetch(selection, options):
        results[name] = result
        if isinstance(result, PyramidzooError):
            print(f"pyramidzoo: {result}", file=sys.stderr)

    rows, codes = [], []
    for name in [*(entry.id for entry in selection.entries), *map(str, selection.paths)]:
        result = results[name]
        if isinstance(result, PyramidzooError):
            codes.append(result.exit_code)
        else:
            rows.append({"weights": name, "from": result.source, "path": str(result.path), "sha256": result.sha256})
    if rows or not codes:
        print(render(rows, options.format))
    return worst_exit_code(codes)


def _fetch(selection: Selection, options: FetchOptions) -> Iterator[tuple[str, WeightsFile | PyramidzooError]]:
    """Yield the name of each selected thing, with its file or with the reason why there is none."""
    from pyramidzoo.weights.fetch import locate_file
    from pyramidzoo.weights.fetch_all import fetch_all

    for path in selection.paths:
        try:
            yield str(path), locate_file(path)
        except PyramidzooError as error:
            yield str(path), error
    for entry, result in fetch_all(selection.entries, force=options.force, jobs=options.jobs):
        yield entry.id, result
