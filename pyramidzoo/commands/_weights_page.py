"""Everything known about one set of weights, as facts for programs and as a page for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.training_record import describe_training
from pyramidzoo.catalog.weights_entry import Claim, Result, WeightsEntry
from pyramidzoo.commands._cells import top1_error, weights_license
from pyramidzoo.files import package_path
from pyramidzoo.text_output import line_width, render_facts, wrap_text
from pyramidzoo.weights.cache import cache_paths
from pyramidzoo.weights.local import find_local_sources

_NO_HASH = "no hash is published: the hash of the first file that is downloaded is stored, and later ones must match it"


def weights_facts(entry: WeightsEntry) -> dict[str, Any]:
    """Return everything known about a set of weights, as JSON can hold it."""
    fields = {"weights" if name == "id" else name: value for name, value in plain_json(entry).items()}
    return fields | {
        "redistributable": entry.license.redistributable,
        "here": find_local_sources([entry]).get(entry.id),
    }


def weights_page(entry: WeightsEntry) -> str:
    """Return a page for people about a set of weights."""
    row = get_architecture(entry.architecture)
    default = f", the default for {entry.dataset}" if entry.default else ""
    title = f"{entry.id}: {row.name} trained on {entry.dataset}{default}"
    republish = "may be published again" if entry.license.redistributable else "not to be published again"
    pairs: list[tuple[str, Any]] = [
        ("network", f"{row.name}: {row.description}"),
        ("arguments", ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items())),
        ("classes", entry.num_classes),
        ("images", preprocessing_sentence(entry.preprocessing)),
        ("claims", [line for claim in entry.claims for line in _claim_lines(claim)] or "none known"),
        ("measured", [line for result in entry.results for line in _result_lines(result)] or "not yet"),
        ("license", [f"weights: {weights_license(entry)}, {republish}", f"code: {entry.license.code or 'unknown'}"]),
        ("training", describe_training(entry.training)),
        ("citation", entry.citation),
        ("published", _source_lines(entry)),
        ("tensors", entry.tensors_sha256 and f"sha256 {entry.tensors_sha256}"),
        ("here", _where_here(entry)),
        ("load", f'pyramidzoo.create_model("{row.name}", weights="{entry.dataset if entry.default else entry.tag}")'),
    ]
    return f"{wrap_text(title, width=page_width())}\n\n{render_facts(pairs, width=page_width())}"


def page_width() -> int:
    """Return the width of a page in columns: the terminal's, and at most 120."""
    return min(120, line_width())


def preprocessing_sentence(preprocessing: Preprocessing) -> str:
    """Say in words how an image becomes an input."""
    steps = [" x ".join(map(str, preprocessing.input_size))]
    if preprocessing.resize is not None:
        steps.append(f"resized to {preprocessing.resize} ({preprocessing.interpolation or 'bilinear'})")
    if preprocessing.crop is not None:
        steps.append(f"the middle {preprocessing.crop} cropped")
    mean, std = (" ".join(map(str, values)) for values in (preprocessing.mean, preprocessing.std))
    return f"{', '.join(steps)}; less the mean {mean}, divided by the std {std}"


def plain_json(value: Any) -> Any:
    """Turn records into what JSON can hold. `dataclasses.asdict` cannot: it fails on read-only mappings."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [plain_json(item) for item in value]
    if hasattr(value, "items"):
        return {key: plain_json(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _claim_lines(claim: Claim) -> list[str]:
    top5 = f", {claim.top5_error} % top-5" if claim.top5_error is not None else ""
    return [
        f"{claim.top1_error} % top-1 error{top5}, by {claim.by}: {claim.split}, {claim.protocol}; {claim.statistic}",
        f"in {claim.source}",
    ]


def _result_lines(result: Result) -> list[str]:
    wrong, wrong_top5 = result.images - result.top1_correct, result.images - result.top5_correct
    torch_version = result.versions.get("torch", "of an unknown version")
    return [
        f"{top1_error(result)} % top-1 error ({wrong:,} of {result.images:,} wrong), "
        f"{100 * wrong_top5 / result.images:.2f} % top-5 ({wrong_top5:,}): {result.split}, {result.protocol}",
        *(f"{name}: {value}" for name, value in result.statistics.items()),
        f"{result.date}, {result.precision} on {result.device}, torch {torch_version}",
        f"predictions sha256 {result.prediction_sha256}",
    ]


def _source_lines(entry: WeightsEntry) -> list[str]:
    """Say where the file is published, and which hash it must have."""
    lines = []
    if (bundled := entry.bundled) is not None:
        lines += [f"in this package, {bundled.bytes:,} bytes", f"sha256 {bundled.sha256}"]
    if (hub := entry.hub) is not None:
        lines += [hub.url, f"safetensors{_size(hub.bytes)}", f"sha256 {hub.sha256}" if hub.sha256 else _NO_HASH]
    if (origin := entry.origin) is not None:
        lines.append(origin.url)
        if origin.manual:
            lines.append(f"by hand: {origin.manual}")
        lines.append(f"{origin.format}{_size(origin.bytes)}, layout {origin.layout}")
        if origin.hash:
            lines.append(str(origin.hash))
        else:
            lines.append(_NO_HASH if origin.manual is None else "no hash is published")
    return lines


def _size(number: int | None) -> str:
    return "" if number is None else f", {number:,} bytes"


def _where_here(entry: WeightsEntry) -> str:
    """Say where the weights are on this machine, or how they can be had."""
    place = find_local_sources([entry]).get(entry.id)
    if place is None:
        if entry.origin and entry.origin.manual and not entry.hub:
            return "no, and no program can download it: `published` says how to get it by hand"
        return f"no; `pyramidzoo fetch {entry.id}` gets it"
    if entry.bundled:
        return str(package_path(entry.bundled.path))
    return str(cache_paths(entry)[0]) if place == "cache" else "in the cache of the Hub's client"
