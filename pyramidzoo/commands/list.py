"""`list`: list architectures and weights."""

from __future__ import annotations

import argparse
import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pyramidzoo.catalog.architectures import Architecture, architectures, list_models, suggest_names
from pyramidzoo.catalog.manifest import Manifest, load_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.commands._cells import top1_error, weights_license
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import line_width, render
from pyramidzoo.weights.local import find_local_sources

_REDISTRIBUTABLE = "redistributable"
_Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern, such as 'wrn_*'")
    parser.add_argument("--weights", action="store_true", help="print one line for each set of weights")
    parser.add_argument("--family", help="only this family, such as pyramidnet")
    parser.add_argument("--dataset", help="only what has weights of this dataset, such as cifar100")
    parser.add_argument(
        "--license", help="only what has weights under this license: MIT, 'BSD*', or redistributable for all such ones"
    )
    parser.add_argument("--origin", help="only what has weights from there: akamaster, pytorchcv, or a repository")
    parser.add_argument("--local", action="store_true", help="only what has weights on this machine; nothing is hashed")


@dataclass(frozen=True)
class ListOptions(CommandOptions):
    """The options of `list`; `add_arguments` says what each means."""

    pattern: str
    weights: bool
    family: str | None
    dataset: str | None
    license: str | None
    origin: str | None
    local: bool

    @property
    def filters_weights(self) -> bool:
        """Whether an option narrows the weights, and not the architectures alone."""
        return any((self.dataset, self.license, self.origin, self.local))


def run(args: argparse.Namespace) -> int:
    """Run `list` and return the exit code."""
    options = ListOptions.from_args(args)
    manifest = load_manifest()
    if options.family is not None:
        families = {row.family for row in architectures().values()}
        _require_known("family", options.family, families, plural="families")
    names = list_models(options.pattern)
    # A pattern of ids fits no architecture.
    rows = _weights_rows(manifest, options) if options.weights or not names else _rows(names, manifest, options)
    if not rows:
        raise UsageError(_why_empty(options, manifest))
    print(render(rows, options.format, width=line_width()))
    return 0


def _weights_rows(manifest: Manifest, options: ListOptions) -> list[_Row]:
    """Return a row for each set of weights that fits, in the order of the architectures."""
    entries = [entry for entry in _matching_entries(manifest, options) if _is_of_family(entry.architecture, options)]
    position = {name: k for k, name in enumerate(architectures())}
    # The sort is stable: the weights of one architecture keep the manifest's order.
    entries.sort(key=lambda entry: position[entry.architecture])
    here = find_local_sources(entries)
    make_row = _short_weights_row if options.format == "human" else _weights_row
    return [make_row(entry, here.get(entry.id)) for entry in entries]


def _rows(names: Iterable[str], manifest: Manifest, options: ListOptions) -> list[_Row]:
    """Return a row for each of these architectures that fits, with the tags of the weights that fit."""
    if options.filters_weights:
        tags: dict[str, list[str]] = {}
        for entry in _matching_entries(manifest, options):
            tags.setdefault(entry.architecture, []).append(entry.tag)
    else:
        tags = {name: manifest.list_tags(name) for name in names}
    make_row = _short_architecture_row if options.format == "human" else _architecture_row
    return [
        make_row(architectures()[name], tags[name]) for name in names if name in tags and _is_of_family(name, options)
    ]


# Filters


def _matching_entries(manifest: Manifest, options: ListOptions) -> list[WeightsEntry]:
    """Return the entries that fit the pattern and all filters on weights.

    Raises:
        UsageError: A filter has a value that fits no weights at all.
    """
    all_entries = list(manifest.entries.values())
    entries = manifest.match(options.pattern)
    if options.dataset:
        _require_known("dataset", options.dataset, {entry.dataset for entry in all_entries})
        entries = [entry for entry in entries if entry.dataset == options.dataset]
    if options.license:
        if options.license != _REDISTRIBUTABLE:
            licenses = {weights_license(entry) for entry in all_entries}
            _require_known("license", options.license, licenses, more=f" (or {_REDISTRIBUTABLE})")
        entries = [entry for entry in entries if _has_license(entry, options.license)]
    if options.origin:
        if not any(_fits(_origins(entry), options.origin) for entry in all_entries):
            owners = {_origin_suffix(entry).partition("_")[0] for entry in all_entries}
            _require_known("origin", options.origin, owners, more=", and repositories such as owner/name")
        entries = [entry for entry in entries if _fits(_origins(entry), options.origin)]
    if options.local:
        here = find_local_sources(entries)
        entries = [entry for entry in entries if entry.id in here]
    return entries


def _is_of_family(architecture: str, options: ListOptions) -> bool:
    return options.family is None or _fits({architectures()[architecture].family}, options.family)


def _has_license(entry: WeightsEntry, pattern: str) -> bool:
    if pattern == _REDISTRIBUTABLE:
        return entry.license.redistributable
    return _fits({weights_license(entry)}, pattern)


def _origins(entry: WeightsEntry) -> set[str]:
    """Return the names of an origin: the end of the id, and the owner and the repository that publish the weights."""
    suffix = _origin_suffix(entry)
    names = {suffix, suffix.partition("_")[0]}  # The weights "tv_v1" are of "tv".
    if entry.hub:
        names |= {entry.hub.repo_id, entry.hub.repo_id.partition("/")[0]}
    if entry.origin:
        host, _, path = entry.origin.url.partition("://")[2].partition("/")
        if re.search(r"github|huggingface\.co", host):
            owner, repository = [*path.split("/"), ""][:2]
            names |= {owner, f"{owner}/{repository}"}
        else:
            names.add(host)
    return names


def _origin_suffix(entry: WeightsEntry) -> str:
    """Return the end of the id that names the origin. Where the id has none, the architecture's name holds it."""
    suffix = entry.tag.removeprefix(entry.dataset).removeprefix("_")
    return suffix or entry.architecture.rpartition("_")[2]


def _fits(names: Iterable[str], pattern: str) -> bool:
    """Whether one of the names fits a shell pattern, in upper or lower case."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)


# Errors


def _require_known(kind: str, value: str, names: set[str], *, plural: str | None = None, more: str = "") -> None:
    """Raise UsageError if a filter's value fits no known name."""
    if _fits(names, value):
        return
    close = difflib.get_close_matches(value, sorted(names), n=3)
    question = f"did you mean {' or '.join(close)}? The " if close else "the "
    raise UsageError(
        f"no {kind} is called {value!r}; {question}{plural or kind + 's'} are {', '.join(sorted(names))}{more}"
    )


def _why_empty(options: ListOptions, manifest: Manifest) -> str:
    filters = [
        f"--{name} {value}"
        for name in ("family", "dataset", "license", "origin")
        if (value := getattr(options, name)) is not None
    ]
    if options.local:
        filters.append("--local")
    pattern = options.pattern
    if filters:
        return f"nothing matches {pattern!r} and {' and '.join(filters)} at once; leave one of them out"
    if pattern in architectures():
        return f"{pattern} has no weights in the manifest"
    return f"nothing matches {pattern!r}; {suggest_names(pattern, [*architectures(), *manifest.entries])}"


# Rows


def _short_architecture_row(row: Architecture, tags: list[str]) -> _Row:
    return {"architecture": row.name, "weights": _count_datasets(tags), "description": row.description}


def _architecture_row(row: Architecture, tags: list[str]) -> _Row:
    return {
        "architecture": row.name,
        "family": row.family,
        "input size": row.input_size,
        "weights": tags,
        "description": row.description,
        "source": row.source,
    }


def _count_datasets(tags: list[str]) -> str:
    """Name each dataset once, with the number of its weights: "cifar10 (3), svhn"."""
    counts = Counter(tag.partition("_")[0] for tag in tags)
    return ", ".join(f"{dataset} ({number})" if number > 1 else dataset for dataset, number in counts.items())


def _short_weights_row(entry: WeightsEntry, place: str | None) -> _Row:
    return {
        "weights": entry.id,
        "error %": [top1_error(result) for result in entry.results[:1]],
        "published %": [str(claim.top1_error) for claim in entry.claims[:1]],
        "license": weights_license(entry),
        "here": place,
    }


def _weights_row(entry: WeightsEntry, place: str | None) -> _Row:
    return {
        "weights": entry.id,
        "architecture": entry.architecture,
        "family": architectures()[entry.architecture].family,
        "data set": entry.dataset,
        "default": entry.default,
        "measured error": [f"{top1_error(result)} ({result.split})" for result in entry.results],
        "published error": [f"{claim.top1_error} ({claim.by}, {claim.split})" for claim in entry.claims],
        "licence": entry.license.weights,
        _REDISTRIBUTABLE: entry.license.redistributable,
        "here": place,
    }
