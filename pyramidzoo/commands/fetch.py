"""`fetch`: download, convert and verify weights, and print where they are."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pyramidzoo.commands._select import split
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.text_output import render

if TYPE_CHECKING:
    from pyramidzoo.weights.fetch import WeightsFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fetch`."""
    parser.add_argument("weights", nargs="+", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    parser.add_argument("--force", action="store_true", help="download and make the file anew")
    parser.add_argument(
        "-j", "--jobs", type=int, default=8, metavar="N", help="downloads at once (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Have each set of weights as a verified file here, and print where; a failure does not stop the rest."""
    from pyramidzoo.weights.fetch import locate_file
    from pyramidzoo.weights.fetch_all import fetch_all

    if args.jobs < 1:
        raise UsageError(f"-j {args.jobs}: at least one download at a time is needed")
    entries, files = split(args.weights)
    found: dict[str, WeightsFile | PyramidzooError] = {}
    for path in files:
        try:
            found[str(path)] = locate_file(path)
        except PyramidzooError as error:
            found[str(path)] = error
            print(f"pyramidzoo: {error}", file=sys.stderr)
    for entry, result in fetch_all(entries, force=args.force, jobs=args.jobs):
        found[entry.id] = result
        if isinstance(result, PyramidzooError):
            print(f"pyramidzoo: {result}", file=sys.stderr)
    rows, codes = [], []
    for name in [*(entry.id for entry in entries), *map(str, files)]:
        result = found[name]
        if isinstance(result, PyramidzooError):
            codes.append(result.exit_code)
        else:
            rows.append({"weights": name, "from": result.source, "path": str(result.path), "sha256": result.sha256})
    if rows or not codes:
        print(render(rows, args.format))
    return worst_exit_code(codes)
