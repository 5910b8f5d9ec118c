"""Describe one set of weights for `info`: as named facts for programs, and as a page of text for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing
from pyramidzoo.catalog.training_record import describe_training
from pyramidzoo.catalog.weights_entry import Claim, Result, WeightsEntry
from pyramidzoo.commands._cells import compute_top1_error, get_weights_license
from pyramidzoo.files import package_path
from pyramidzoo.text_output import line_width, render_facts, wrap_text
from pyramidzoo.weights.cache import cache_paths
from pyramidzoo.weights.local import find_local_sources

_NO_HASH = (
    "no hash is published: the hash of the first downloaded file is stored, and all later files must have the same hash"
)


def collect_weights_facts(entry: WeightsEntry) -> dict[str, Any]:
    """Return everything that is known about a set of weights, by name and ready for JSON.

    These are the fields of the entry (its id is called "weights"), whether the weights may be published again, and
    where their file is on this machine.
    """
    fields = {"weights" if name == "id" else name: value for name, value in make_plain_json(entry).items()}
    return fields | {
        "redistributable": entry.license.redistributable,
        "here": find_local_sources([entry]).get(entry.id),
    }


def write_weights_page(entry: WeightsEntry) -> str:
    """Return a page of text about a set of weights."""
    architecture = get_architecture(entry.architecture)
    default = f", the default for {entry.dataset}" if entry.default else ""
    title = f"{entry.id}: {architecture.name} trained on {entry.dataset}{default}"
    permission = "may be published again" if entry.license.redistributable else "must not be published again"
    weights_name = entry.dataset if entry.default else entry.tag
    pairs: list[tuple[str, Any]] = [
        ("network", f"{architecture.name}: {architecture.description}"),
        ("arguments", ", ".join(f"{name}={value!r}" for name, value in entry.arguments.items())),
        ("classes", entry.num_classes),
        ("images", describe_preprocessing(entry.preprocessing)),
        ("claims", [line for claim in entry.claims for line in _write_claim_lines(claim)] or "none known"),
        ("measured", [line for result in entry.results for line in _write_result_lines(result)] or "not yet"),
        (
            "license",
            [f"weights: {get_weights_license(entry)}, {permission}", f"code: {entry.license.code or 'unknown'}"],
        ),
        ("training", describe_training(entry.training)),
        ("citation", entry.citation),
        ("published", _write_source_lines(entry)),
        ("tensors", entry.tensors_sha256 and f"sha256 {entry.tensors_sha256}"),
        ("here", _describe_local_file(entry)),
        ("load", f'pyramidzoo.create_model("{architecture.name}", weights="{weights_name}")'),
    ]
    return f"{wrap_text(title, width=get_page_width())}\n\n{render_facts(pairs, width=get_page_width())}"


def get_page_width() -> int:
    """Return the longest line of a page, in characters: the width of the terminal, but at most 120."""
    return min(120, line_width())


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Describe in words how an image is turned into the input of a network."""
    steps = [" x ".join(map(str, preprocessing.input_size))]
    if preprocessing.resize is not None:
        steps.append(f"resized to {preprocessing.resize} ({preprocessing.interpolation or 'bilinear'})")
    if preprocessing.crop is not None:
        steps.append(f"the middle {preprocessing.crop} cropped")
    if isinstance(preprocessing, WhitenedPreprocessing):
        steps.append("global contrast normalization and ZCA whitening, fitted on the training images")
        return ", ".join(steps)
    mean, std = (" ".join(map(str, values)) for values in (preprocessing.mean, preprocessing.std))
    return f"{', '.join(steps)}; less the mean {mean}, divided by the std {std}"


def make_plain_json(value: Any) -> Any:
    """Turn a record, and all values in it, into dicts, lists, strings, numbers and None, which JSON can represent.

    `dataclasses.asdict` cannot be used, because it fails for read-only mappings.
    """
    if dataclasses.is_dataclass(value):
        return {field.name: make_plain_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [make_plain_json(item) for item in value]
    if hasattr(value, "items"):
        return {key: make_plain_json(item) for key, item in value.items()}
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _write_claim_lines(claim: Claim) -> list[str]:
    """Return the lines about a published error: the error and how it was measured, and where it was published."""
    top5_text = f", {claim.top5_error} % top-5" if claim.top5_error is not None else ""
    return [
        f"{claim.top1_error} % top-1 error{top5_text}, by {claim.by}: {claim.split}, {claim.protocol}; "
        f"{claim.statistic}",
        f"in {claim.source}",
    ]


def _write_result_lines(result: Result) -> list[str]:
    """Return the lines about an error that this project measured: errors, statistics, date and device, and a hash."""
    wrong_top1, wrong_top5 = result.images - result.top1_correct, result.images - result.top5_correct
    torch_version = result.versions.get("torch", "of an unknown version")
    return [
        f"{compute_top1_error(result)} % top-1 error ({wrong_top1:,} of {result.images:,} wrong), "
        f"{100 * wrong_top5 / result.images:.2f} % top-5 ({wrong_top5:,}): {result.split}, {result.protocol}",
        *(f"{name}: {value}" for name, value in result.statistics.items()),
        f"{result.date}, {result.precision} on {result.device}, torch {torch_version}",
        f"predictions sha256 {result.prediction_sha256}",
    ]


def _write_source_lines(entry: WeightsEntry) -> list[str]:
    """Return the lines about the places where the file is published: the address, the size and the hash of each."""
    lines = []
    if (bundled := entry.bundled) is not None:
        lines += [f"in this package, {bundled.bytes:,} bytes", f"sha256 {bundled.sha256}"]
    if (hub := entry.hub) is not None:
        lines += [hub.url, f"safetensors{_format_size(hub.bytes)}", f"sha256 {hub.sha256}" if hub.sha256 else _NO_HASH]
    if (origin := entry.origin) is not None:
        lines.append(origin.url)
        if origin.manual:
            lines.append(f"to be downloaded by hand: {origin.manual}")
        lines.append(f"{origin.format}{_format_size(origin.bytes)}, layout {origin.layout}")
        if origin.hash:
            lines.append(str(origin.hash))
        else:
            lines.append(_NO_HASH if origin.manual is None else "no hash is published")
    return lines


def _format_size(byte_count: int | None) -> str:
    """Return a comma and the size of a file, to be appended to its format. Return "" if the size is unknown."""
    return "" if byte_count is None else f", {byte_count:,} bytes"


def _describe_local_file(entry: WeightsEntry) -> str:
    """Say where the file of the weights is on this machine, or how the user can get it."""
    local_source = find_local_sources([entry]).get(entry.id)
    if local_source is None:
        if entry.origin and entry.origin.manual and not entry.hub:
            return "no; no program can download the file: `published` says how to download it by hand"
        return f"no; `pyramidzoo fetch {entry.id}` gets the file"
    if entry.bundled:
        return str(package_path(entry.bundled.path))
    return str(cache_paths(entry)[0]) if local_source == "cache" else "in the cache of the Hub's client"
