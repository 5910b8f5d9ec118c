"""Weights on this machine: `fetch`, `verify` and `convert`."""

from __future__ import annotations

import argparse
import sys

from pyramidzoo.architectures import architectures
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.formats import render
from pyramidzoo.manifest import Preprocessing, WeightsEntry, load_manifest


def select(patterns: list[str]) -> list[WeightsEntry]:
    """The entries that ids, `architecture.dataset` names and shell patterns mean. Raises UsageError."""
    manifest = load_manifest()
    chosen: dict[str, WeightsEntry] = {}
    for pattern in patterns:
        entries = manifest.match(pattern)
        if not entries:  # the default by its short name, or the error that says why there is nothing
            entries = [manifest.default_for(pattern) if pattern in architectures() else manifest.find(pattern)]
        for entry in entries:
            chosen[entry.id] = entry
    return list(chosen.values())


def run_fetch(args: argparse.Namespace) -> int:
    """Have each set of weights as a verified file on this machine, and print where."""
    from pyramidzoo.weights import fetch

    rows, codes = [], []
    for entry in select(args.weights):
        try:
            located = fetch(entry, force=args.force)
        except PyramidzooError as error:
            print(f"pyramidzoo: {error}", file=sys.stderr)
            codes.append(error.exit_code)
        else:
            rows.append(
                {"weights": entry.id, "from": located.place, "path": str(located.path), "sha256": located.sha256}
            )
    if rows or not codes:
        print(render(rows, args.format))
    return worst_exit_code(codes)


def run_verify(args: argparse.Namespace) -> int:
    """Hash again what is on this machine, and say what is good, altered, missing or unknown."""
    from pyramidzoo.weights import unknown_files, verify

    if bool(args.weights) == args.all:
        raise UsageError("name weights to verify, or give --all")
    entries = list(load_manifest().entries.values()) if args.all else select(args.weights)
    states = [verify(entry) for entry in entries] + (unknown_files(load_manifest()) if args.all else [])
    rows = [
        {"weights": s.name, "state": s.state, "path": str(s.path) if s.path else None, "detail": s.detail}
        for s in states
    ]
    print(render(rows, args.format))
    found = {state.state for state in states}
    codes = [4] if found & {"altered", "unknown"} else []
    if "missing" in found and not args.all:
        codes.append(5)
    return worst_exit_code(codes)


def run_convert(args: argparse.Namespace) -> int:
    """Turn a foreign checkpoint into a safetensors file that `evaluate` and `create_model` can read."""
    from pyramidzoo.convert import convert_file
    from pyramidzoo.evaluation.datasets import get_dataset

    if (args.mean is None) != (args.std is None):
        raise UsageError("--mean and --std belong together")
    if args.output.suffix != ".safetensors":
        raise UsageError(f"the output {args.output} must end in .safetensors")
    dataset = get_dataset(args.dataset)
    preprocessing = None
    if args.mean is not None:
        try:
            preprocessing = Preprocessing(dataset.image_size, tuple(args.mean), tuple(args.std))
        except ValueError as error:
            raise UsageError(f"--mean and --std: {error}") from error
    converted = convert_file(
        args.file,
        args.output,
        layout=args.layout,
        architecture=args.arch,
        dataset=args.dataset,
        num_classes=dataset.classes,
        preprocessing=preprocessing,
    )
    known = load_manifest().with_tensors(converted.tensors_sha256)
    row = {
        "path": str(converted.path),
        "architecture": args.arch,
        "origin sha256": converted.description.origin_sha256,
        "sha256": converted.sha256,
        "tensors sha256": converted.tensors_sha256,
        "same tensors as": known.id if known else None,
    }
    if args.format == "human":
        print("\n".join(f"{name}: {value or 'no weights of the manifest'}" for name, value in row.items()))
    else:
        print(render([row], args.format))
    return 0
