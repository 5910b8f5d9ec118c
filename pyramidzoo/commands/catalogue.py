"""What there is: `list` and `info`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from pyramidzoo.architectures import Architecture, architectures, get_architecture, list_models, near_matches
from pyramidzoo.errors import UsageError
from pyramidzoo.formats import render
from pyramidzoo.manifest import WeightsEntry, load_manifest


def run_list(args: argparse.Namespace) -> int:
    """Architectures and their weights; with --weights, one line for each set of weights."""
    manifest = load_manifest()
    names = list_models(args.pattern)
    if args.weights or args.dataset or not names:  # a pattern of ids matches no architecture
        rows = [_weights_row(e) for e in manifest.match(args.pattern) if args.dataset in (None, e.dataset)]
    else:
        rows = [_architecture_row(architectures()[name]) for name in names]
    if not rows:
        if args.dataset:
            known = sorted({entry.dataset for entry in manifest.entries.values()})
            raise UsageError(f"no weights match {args.pattern!r} and the data set {args.dataset!r}; there are {known}")
        raise UsageError(f"nothing matches {args.pattern!r}; {near_matches(args.pattern, architectures())}")
    print(render(rows, args.format))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Everything known about one architecture or one set of weights."""
    if args.name in architectures():
        facts = _architecture_facts(get_architecture(args.name))
    elif "." in args.name:
        entry = load_manifest().find(args.name)
        facts = {"weights": entry.id, **_plain(entry)}
        del facts["id"]
    else:
        candidates = [*architectures(), *load_manifest().entries]
        raise UsageError(f"nothing is called {args.name!r}; {near_matches(args.name, candidates)}")
    if args.format == "json":
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    elif args.format == "human":
        print("\n".join(_indented(facts)))
    else:
        print(render([{"field": name, "value": _inline(value)} for name, value in facts.items()], args.format))
    return 0


def _architecture_row(row: Architecture) -> dict[str, Any]:
    tags = [entry.tag for entry in load_manifest().of_architecture(row.name)]
    return {"architecture": row.name, "family": row.family, "weights": tags, "description": row.description}


def _weights_row(entry: WeightsEntry) -> dict[str, Any]:
    errors = [f"{100 * (r.images - r.top1_correct) / r.images:.2f} ({r.split})" for r in entry.results]
    return {
        "weights": entry.id,
        "data set": entry.dataset,
        "default": entry.default,
        "measured error": errors,
        "published error": [f"{claim.top1_error} ({claim.by})" for claim in entry.claims],
        "licence": entry.license.weights,
    }


def _architecture_facts(row: Architecture) -> dict[str, Any]:
    import torch

    from pyramidzoo.models import build

    with torch.device("meta"):
        model = build(row)
    return {
        "architecture": row.name,
        "description": row.description,
        "source": row.source,
        "family": row.family,
        "arguments": dict(row.arguments),
        "input": f"(N, 3, {row.input_size}, {row.input_size})",
        "classes": row.num_classes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "features": model.num_features,
        "stages": [f"{f['module']}: {f['num_chs']} channels at 1/{f['reduction']}" for f in model.feature_info],
        "weights": [entry.id for entry in load_manifest().of_architecture(row.name)],
    }


def _plain(value: Any) -> Any:
    """Records to what JSON can hold, without dataclasses.asdict, which cannot copy read-only mappings."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _inline(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _indented(facts: dict[str, Any], depth: int = 0) -> list[str]:
    lines, pad = [], "  " * depth
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{pad}{name}:", *_indented(value, depth + 1)]
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for item in value:
                lines += [f"{pad}{name}:", *_indented(item, depth + 1)]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            text = f"{shown:,}" if isinstance(shown, int) and not isinstance(shown, bool) else str(shown)
            lines.append(f"{pad}{name}: {'none' if shown in (None, '', {}) else text}")
    return lines
