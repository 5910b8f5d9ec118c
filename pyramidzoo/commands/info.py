"""`info`: show everything known about an architecture, a set of weights, or a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.architectures import architectures, get_architecture, suggest_names
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.training_record import make_training, read_training
from pyramidzoo.commands._architecture_page import collect_architecture_facts, write_architecture_page
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._weights_page import (
    collect_weights_facts,
    describe_preprocessing,
    make_plain_json,
    write_weights_page,
)
from pyramidzoo.errors import UsageError
from pyramidzoo.files import expand_user_path, find_weights_file, is_path
from pyramidzoo.text_output import render, render_facts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    parser.add_argument(
        "name", metavar="NAME", help="an architecture (wrn_16_1), an id (wrn_16_1.cifar10_ferles) or a file"
    )


@dataclass(frozen=True)
class InfoOptions(CommandOptions):
    """The options of `info`. The help text in `add_arguments` explains the argument."""

    name: str


def run(args: argparse.Namespace) -> int:
    """Run `info` and return the exit code."""
    options = InfoOptions.from_args(args)
    print(_describe(options.name, options.format))
    return 0


def _describe(name: str, format: str) -> str:
    """Describe an architecture, a set of weights or a file: as a page for people, or as facts for programs.

    Args:
        name: The architecture, the weights id, or the path of the file.
        format: One of `text_output.FORMATS`. "human" gives a page.

    Raises:
        UsageError: No architecture and no weights have this name.
    """
    if is_path(name):
        file_facts = _collect_file_facts(expand_user_path(name))
        return _write_file_page(file_facts) if format == "human" else _write_facts(file_facts, format)
    manifest = load_manifest()
    if name in architectures():
        architecture = get_architecture(name)
        entries = manifest.list_entries(architecture.name)
        if format == "human":
            return write_architecture_page(architecture, entries)
        return _write_facts(collect_architecture_facts(architecture, entries), format)
    if "." not in name:
        raise UsageError(f"nothing is called {name!r}; {suggest_names(name, [*architectures(), *manifest.entries])}")
    entry = manifest.find(name)
    return write_weights_page(entry) if format == "human" else _write_facts(collect_weights_facts(entry), format)


def _write_facts(facts_by_name: Mapping[str, Any], format: str) -> str:
    """Write named facts as one JSON object, or as a table with a row for each fact."""
    if format == "json":
        return json.dumps(facts_by_name, indent=1, ensure_ascii=False)
    rows = [
        {
            "field": name,
            "value": json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value),
        }
        for name, value in facts_by_name.items()
    ]
    return render(rows, format)


def _collect_file_facts(path: Path) -> dict[str, Any]:
    """Return the description that a safetensors file contains, its hashes, and the entry that has the same tensors.

    Args:
        path: The file, or the folder that contains it.
    """
    from pyramidzoo.checkpoints.description import Description
    from pyramidzoo.checkpoints.hashes import cached_file_hash
    from pyramidzoo.checkpoints.loading import read_weights
    from pyramidzoo.checkpoints.tensor_hash import tensors_sha256

    path = find_weights_file(path)
    content = read_weights(path)
    description = Description.from_file(path, content.metadata)
    description_facts: dict[str, Any] = {}
    if description is not None:
        description_facts = make_plain_json(description)
        description_facts["preprocessing"] = describe_preprocessing(description.preprocessing)
    file_sha256, tensors_hash = cached_file_hash(path), tensors_sha256(content.tensors)
    manifest = load_manifest()
    entry = manifest.find_by_file_hash(file_sha256) or manifest.find_by_tensors_hash(tensors_hash)
    if description is not None and entry is None and (training := read_training(content.metadata, path)) is not None:
        description_facts["training"] = make_plain_json(training)
    return {
        "path": str(path),
        **description_facts,
        "tensors": len(content.tensors),
        "sha256": file_sha256,
        "tensors_sha256": tensors_hash,
        "same_tensors_as": entry.id if entry else "no weights of the manifest",
    }


def _write_file_page(file_facts: Mapping[str, Any]) -> str:
    """Write the facts about a file as a page for people. Facts that are not known are left out."""
    pairs = {name: value for name, value in file_facts.items() if value not in (None, {})}
    if "training" in pairs:
        pairs["training"] = make_training(pairs["training"]).describe()
    return render_facts(pairs.items())
