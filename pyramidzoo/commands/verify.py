"""`verify`: hash local weights again and compare them with the manifest."""

from __future__ import annotations

import argparse
import sys

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands._select import split
from pyramidzoo.errors import UsageError, worst_exit_code
from pyramidzoo.text_output import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    parser.add_argument("weights", nargs="*", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    parser.add_argument("--all", action="store_true", help="all of the manifest, and what else lies in the cache")


def run(args: argparse.Namespace) -> int:
    """Hash again what is on this machine, and say what is good, altered, missing or unknown."""
    from pyramidzoo.weights.verify import find_unknown_files, verify, verify_file

    if bool(args.weights) == args.all:
        raise UsageError("name weights to verify, or give --all")
    entries, files = split(args.weights)
    if args.all:
        entries = list(load_manifest().entries.values())
    states = [verify(entry) for entry in entries] + [verify_file(path) for path in files]
    states += find_unknown_files(load_manifest()) if args.all else []
    shown = states
    if args.all and args.format == "human":  # hundreds that were never fetched would hide what matters
        shown = [state for state in states if state.state != "missing"]
        print(f"pyramidzoo: {len(states) - len(shown)} of {len(entries)} are not on this machine", file=sys.stderr)
    rows = [
        {"weights": s.name, "state": s.state, "path": str(s.path) if s.path else None, "detail": s.detail}
        for s in shown
    ]
    print(render(rows, args.format))
    found = {state.state for state in states}
    codes = [4] if found & {"altered", "unknown"} else []
    if "missing" in found and not args.all:
        codes.append(5)
    return worst_exit_code(codes)
