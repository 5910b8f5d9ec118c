"""Weights on this machine: `fetch`, `verify` and `convert`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.files import expand_user_path, is_path
from pyramidzoo.text_output import render, render_facts

if TYPE_CHECKING:
    from pyramidzoo.weights.fetch import WeightsFile

_WILD = re.compile(r"[*?\[]")


def select(patterns: list[str]) -> list[WeightsEntry]:
    """The entries that ids, architectures, `architecture.dataset` names and shell patterns mean. Raises UsageError.

    An architecture means one entry, its default, as with `create_model(pretrained=True)`; a pattern may mean several.
    """
    manifest = load_manifest()
    chosen: dict[str, WeightsEntry] = {}
    for name in patterns:
        if name in architectures():
            entries = [manifest.default_for(name)]
        else:  # where a pattern fits nothing, `find` says what it resembles
            entries = (manifest.match(name) if _WILD.search(name) else []) or [manifest.find(name)]
        for entry in entries:
            chosen[entry.id] = entry
    return list(chosen.values())


def split(names: list[str]) -> tuple[list[WeightsEntry], list[Path]]:
    """The entries and the files or folders that names mean, each once: with a slash or a suffix it is a path."""
    paths = [Path(os.path.normpath(expand_user_path(name))) for name in names if is_path(name)]
    return select([name for name in names if not is_path(name)]), list(dict.fromkeys(paths))


def run_fetch(args: argparse.Namespace) -> int:
    """Have each set of weights as a verified file here, and print where; a failure does not stop the rest."""
    from pyramidzoo.weights.fetch import fetch_all, locate_file

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
            rows.append({"weights": name, "from": result.place, "path": str(result.path), "sha256": result.sha256})
    if rows or not codes:
        print(render(rows, args.format))
    return worst_exit_code(codes)


def run_verify(args: argparse.Namespace) -> int:
    """Hash again what is on this machine, and say what is good, altered, missing or unknown."""
    from pyramidzoo.weights.fetch import unknown_files, verify, verify_file

    if bool(args.weights) == args.all:
        raise UsageError("name weights to verify, or give --all")
    entries, files = split(args.weights)
    if args.all:
        entries = list(load_manifest().entries.values())
    states = [verify(entry) for entry in entries] + [verify_file(path) for path in files]
    states += unknown_files(load_manifest()) if args.all else []
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


def run_convert(args: argparse.Namespace) -> int:
    """Turn a foreign checkpoint into a safetensors file that `evaluate` and `create_model` can read."""
    from pyramidzoo.convert.conversion import convert_file

    if args.output.suffix != ".safetensors":
        raise UsageError(f"the output {args.output} must end in .safetensors")
    classes, image_size = _data_set(args.dataset)
    converted = convert_file(
        args.file,
        args.output,
        layout=args.layout,
        architecture=args.arch,
        dataset=args.dataset,
        num_classes=classes,
        preprocessing=_preprocessing(args, image_size),
        force=args.force,
    )
    description = converted.description
    if args.layout is None or args.arch is None:
        print(
            f"pyramidzoo: recognised {args.file} as {description.architecture} in the layout {description.layout}",
            file=sys.stderr,
        )
    known = load_manifest().with_tensors(converted.tensors_sha256, dataset=args.dataset)
    if known and known.dataset != args.dataset:
        print(
            f"pyramidzoo: --force: {args.output} says {args.dataset}, although it holds the tensors of {known.id}, "
            f"which were trained on {known.dataset}",
            file=sys.stderr,
        )
    row = {
        "path": str(converted.path),
        "architecture": description.architecture,
        "layout": description.layout,
        "origin sha256": description.origin_sha256,
        "sha256": converted.sha256,
        "tensors sha256": converted.tensors_sha256,
        "same tensors as": known.id if known else None,
    }
    if args.format == "human":
        print(render_facts([(name, value or "no weights of the manifest") for name, value in row.items()]))
    else:
        print(render([row], args.format))
    return 0


def _data_set(name: str) -> tuple[int, tuple[int, int, int]]:
    """Classes and image size. Raises UsageError."""
    from pyramidzoo.data.datasets import get_dataset

    source = get_dataset(name)
    return source.classes, source.image_size


def _preprocessing(args: argparse.Namespace, image_size: tuple[int, int, int]) -> Preprocessing | None:
    """The user's own constants; large images are resized and cropped as nearly everybody does."""
    if (args.mean is None) != (args.std is None):
        raise UsageError("--mean and --std belong together")
    if args.mean is None:
        return None
    large = image_size[1] > 64
    try:
        return Preprocessing(
            image_size,
            tuple(args.mean),
            tuple(args.std),
            resize=256 if large else None,
            crop=image_size[1] if large else None,
            interpolation="bilinear" if large else None,
        )
    except ValueError as error:
        raise UsageError(f"--mean and --std: {error}") from error
