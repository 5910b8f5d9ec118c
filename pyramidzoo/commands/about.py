"""Everything known about one network or one set of weights: `info`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyramidzoo.bench.speed_table import packaged_speed
from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture, near_matches
from pyramidzoo.catalog.manifest import Claim, Preprocessing, Result, WeightsEntry, load_manifest
from pyramidzoo.commands.catalogue import license_of, top1_error
from pyramidzoo.commands.here import places
from pyramidzoo.errors import UsageError
from pyramidzoo.files import names_a_file, packaged, user_path, weights_file
from pyramidzoo.text_output import facts, line_width, render, wrapped
from pyramidzoo.weights.cache import cache_paths


def run_info(args: argparse.Namespace) -> int:
    """Everything known about one architecture, one set of weights, or a file."""
    if names_a_file(args.name):
        found = _file_facts(user_path(args.name))
        print(_shown(args.format, found, lambda: facts([(k, v) for k, v in found.items() if v not in (None, {})])))
        return 0
    if args.name in architectures():
        row = get_architecture(args.name)
        entries = load_manifest().of_architecture(row.name)
        found = _architecture_facts(row, entries)
        print(_shown(args.format, found, lambda: _architecture_page(row, found, entries)))
        return 0
    if "." not in args.name:
        candidates = [*architectures(), *load_manifest().entries]
        raise UsageError(f"nothing is called {args.name!r}; {near_matches(args.name, candidates)}")
    entry = load_manifest().find(args.name)
    print(_shown(args.format, _weights_facts(entry), lambda: _weights_page(entry)))
    return 0


def _shown(format: str, found: dict[str, Any], page: Callable[[], str]) -> str:
    if format == "json":
        return json.dumps(found, indent=1, ensure_ascii=False)
    if format == "human":
        return page()
    return render([{"field": name, "value": _inline(value)} for name, value in found.items()], format)


def _file_facts(path: Path) -> dict[str, Any]:
    """What a safetensors file, or the one in a folder, says of itself, and of which entry it is."""
    from pyramidzoo.checkpoints.description import Description
    from pyramidzoo.checkpoints.hashes import cached_file_hash
    from pyramidzoo.checkpoints.loading import read_weights
    from pyramidzoo.checkpoints.tensor_hash import tensors_sha256

    path = weights_file(path)
    content = read_weights(path)
    description = Description.of(path, content.metadata)
    sha256, tensors = cached_file_hash(path), tensors_sha256(content.tensors)
    entry = load_manifest().with_file(sha256) or load_manifest().with_tensors(tensors)
    said = {} if description is None else _plain(description)
    if said:
        said["preprocessing"] = _prepared(description.preprocessing) if description else None
    return {
        "path": str(path),
        **said,
        "tensors": len(content.tensors),
        "sha256": sha256,
        "tensors_sha256": tensors,
        "same_tensors_as": entry.id if entry else "no weights of the manifest",
    }


def _architecture_facts(row: Architecture, entries: list[WeightsEntry]) -> dict[str, Any]:
    import torch

    from pyramidzoo.bench.counting import multiply_adds
    from pyramidzoo.models import build

    with torch.device("meta"):
        model = build(row).eval()
    return {
        "architecture": row.name,
        "description": row.description,
        "source": row.source,
        "family": row.family,
        "arguments": dict(row.arguments),
        "dataset": row.dataset,
        "input": f"(N, 3, {row.input_size}, {row.input_size})",
        "classes": row.num_classes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": multiply_adds(model, (3, row.input_size, row.input_size)),
        "speed": packaged_speed(row.name),
        "features": model.num_features,
        "stages": [
            {"module": f["module"], "channels": f["num_chs"], "reduction": f["reduction"]} for f in model.feature_info
        ],
        "weights": [_weights_facts(entry) for entry in entries],
    }


def _architecture_page(row: Architecture, found: dict[str, Any], entries: list[WeightsEntry]) -> str:
    arguments = ", ".join(f"{name}={value!r}" for name, value in found["arguments"].items())
    size, width = row.input_size, min(120, line_width())
    default = next((entry for entry in entries if entry.default and entry.dataset == row.dataset), None)
    load = f'pyramidzoo.create_model("{row.name}"' + (", pretrained=True)" if default else ")")
    pairs = [
        ("source", row.source),
        ("built as", f"{row.builder}({arguments}) in pyramidzoo.models.{row.family}"),
        ("images", f"3 x {size} x {size} and {row.num_classes:,} classes, as published for {row.dataset}"),
        ("parameters", found["parameters"]),
        ("multiply-adds", f"{found['multiply_adds']:,} for an image of {size} x {size}"),
        ("images/s", _speed(found["speed"])),
        ("features", f"{found['features']:,} channels before the classifier"),
        ("stages", [f"{s['module']}: {s['channels']} channels at 1/{s['reduction']}" for s in found["stages"]]),
        ("load", load),
    ]
    page = f"{wrapped(f'{row.name}: {row.description}', width=width)}\n\n{facts(pairs, width=width)}\n\n"
    if not entries:
        return f"{page}No weights are known; `pyramidzoo convert` makes a file of your own."
    here = places(entries)
    short = _short_protocols(entries)
    rows = [
        {
            "weights": entry.tag,
            "published %": [str(claim.top1_error) for claim in entry.claims],
            "measured %": [top1_error(result) for result in entry.results],
            "licence": license_of(entry),
            "re-publish": entry.license.redistributable,
            "here": here.get(entry.id),
            "protocol": [short[protocol] for protocol in _protocols(entry)],
        }
        for entry in entries
    ]
    hint = f"`pyramidzoo info {entries[0].id}` has the rest of that one."
    table = render(rows, "human", width=line_width())
    protocols = facts([(label, protocol) for protocol, label in short.items() if label != protocol], width=width)
    return "\n\n".join(part for part in (f"{page}{table}", protocols, hint) if part)


def _speed(found: dict[str, Any] | None) -> list[str]:
    """A line for each batch size, and what it was measured on; nothing where nobody measured."""
    if found is None:
        return []
    lines = [
        f"{', '.join(f'{speed:,} {variant}' for variant, speed in speeds.items())}, batch {batch}"
        for batch, speeds in found["images_per_second"].items()
    ]
    return [*lines, f"on {found['device']}, torch {found['versions']['torch']}, {found['date']}"]


def _protocols(entry: WeightsEntry) -> list[str]:
    """How errors of these weights were counted, each way once."""
    ways = [claim.protocol for claim in entry.claims] + [result.protocol for result in entry.results]
    return list(dict.fromkeys(ways))


def _short_protocols(entries: list[WeightsEntry]) -> dict[str, str]:
    """All protocols of some weights, and what stands for each in a narrow column."""
    short: dict[str, str] = {}
    for protocol in (protocol for entry in entries for protocol in _protocols(entry)):
        cropped = re.fullmatch(r"resize (\d+), center crop (\d+), one pass", protocol)
        full = re.fullmatch(r"full (\d+x\d+) image, one pass", protocol)
        label = f"{cropped[2]} of {cropped[1]}" if cropped else f"full {full[1]}" if full else protocol
        short[protocol] = label
    return short


def _weights_facts(entry: WeightsEntry) -> dict[str, Any]:
    plain = {"weights" if name == "id" else name: value for name, value in _plain(entry).items()}
    return plain | {"redistributable": entry.license.redistributable, "here": places([entry]).get(entry.id)}


def _weights_page(entry: WeightsEntry) -> str:
    row, width = get_architecture(entry.architecture), min(120, line_width())
    default = f", the default for {entry.dataset}" if entry.default else ""
    tag = entry.dataset if entry.default else entry.tag
    again = "may be published again" if entry.license.redistributable else "not to be published again"
    pairs: list[tuple[str, Any]] = [
        ("network", f"{row.name}: {row.description}"),
        ("arguments", ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items())),
        ("classes", entry.num_classes),
        ("images", _prepared(entry.preprocessing)),
        ("claims", [line for claim in entry.claims for line in _claimed(claim)] or "none known"),
        ("measured", [line for result in entry.results for line in _measured(result)] or "not yet"),
        ("licence", [f"weights: {license_of(entry)}, {again}", f"code: {entry.license.code or 'unknown'}"]),
        ("training", entry.training),
        ("citation", entry.citation),
        ("published", _published(entry)),
        ("tensors", entry.tensors_sha256 and f"sha256 {entry.tensors_sha256}"),
        ("here", _here(entry)),
        ("load", f'pyramidzoo.create_model("{row.name}", weights="{tag}")'),
    ]
    title = wrapped(f"{entry.id}: {row.name} trained on {entry.dataset}{default}", width=width)
    return f"{title}\n\n{facts(pairs, width=width)}"


def _prepared(preprocessing: Preprocessing) -> str:
    """How an image becomes an input, as a sentence."""
    steps = [" x ".join(map(str, preprocessing.input_size))]
    if preprocessing.resize is not None:
        steps.append(f"resized to {preprocessing.resize} ({preprocessing.interpolation or 'bilinear'})")
    if preprocessing.crop is not None:
        steps.append(f"the middle {preprocessing.crop} cropped")
    mean, std = (" ".join(map(str, values)) for values in (preprocessing.mean, preprocessing.std))
    return f"{', '.join(steps)}; less the mean {mean}, divided by the std {std}"


def _claimed(claim: Claim) -> list[str]:
    top5 = f", {claim.top5_error} % top-5" if claim.top5_error is not None else ""
    return [
        f"{claim.top1_error} % top-1 error{top5}, by {claim.by}: {claim.split}, {claim.protocol}; {claim.statistic}",
        f"in {claim.source}",
    ]


def _measured(result: Result) -> list[str]:
    wrong, wrong5 = result.images - result.top1_correct, result.images - result.top5_correct
    torch = result.versions.get("torch", "of an unknown version")
    return [
        f"{top1_error(result)} % top-1 error ({wrong:,} of {result.images:,} wrong), "
        f"{100 * wrong5 / result.images:.2f} % top-5 ({wrong5:,}): {result.split}, {result.protocol}",
        *(f"{name}: {value}" for name, value in result.statistics.items()),
        f"{result.date}, {result.precision} on {result.device}, torch {torch}",
        f"predictions sha256 {result.prediction_sha256}",
    ]


def _published(entry: WeightsEntry) -> list[str]:
    """Where the bytes are and what vouches for them."""
    lines = []
    if (bundled := entry.bundled) is not None:
        lines += [f"in this package, {bundled.bytes:,} bytes", f"sha256 {bundled.sha256}"]
    if (hub := entry.hub) is not None:
        lines += [hub.url, f"safetensors{_bytes(hub.bytes)}", _vouched(hub.sha256 and f"sha256 {hub.sha256}")]
    if (origin := entry.origin) is not None:
        lines += [origin.url] + ([f"by hand: {origin.manual}"] if origin.manual else [])
        lines += [f"{origin.format}{_bytes(origin.bytes)}, layout {origin.layout}"]
        lines += [_vouched(origin.hash, by_hand=origin.manual is not None)]
    return lines


def _bytes(number: int | None) -> str:
    return "" if number is None else f", {number:,} bytes"


def _vouched(published: object, *, by_hand: bool = False) -> str:
    """The published hash, or what stands in for one."""
    if published:
        return str(published)
    return "no hash is published" + ("" if by_hand else ": the first file that comes is noted, and binds")


def _here(entry: WeightsEntry) -> str:
    where = places([entry]).get(entry.id)
    if where is None and entry.origin and entry.origin.manual and not entry.hub:
        return "no, and no program can get it: see `published`"
    if where is None:
        return f"no; `pyramidzoo fetch {entry.id}` gets it"
    if entry.bundled:
        return str(packaged(entry.bundled.path))
    return str(cache_paths(entry)[0]) if where == "cache" else "in the cache of the Hub's client"


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
