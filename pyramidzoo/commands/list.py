"""`list`: list architectures, or sets of weights."""

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
from pyramidzoo.commands._cells import compute_top1_error, get_weights_license
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import line_width, render
from pyramidzoo.weights.local import find_local_sources

_REDISTRIBUTABLE = "redistributable"  # the value of --license for all licenses that allow to publish weights again
_Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern, such as 'wrn_*'")
    parser.add_argument(
        "--weights", action="store_true", help="list sets of weights; without this option, architectures are listed"
    )
    parser.add_argument("--family", help="list only architectures of this family, such as pyramidnet")
    parser.add_argument("--dataset", help="list only weights that were trained on this dataset, such as cifar100 (*)")
    parser.add_argument(
        "--license",
        help="list only weights with this license: MIT, 'BSD*', or redistributable for all licenses that allow to "
        "publish the weights again (*)",
    )
    parser.add_argument(
        "--origin",
        help="list only weights that these authors published: akamaster, pytorchcv, or the name of a repository (*)",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="list only weights whose file is on this machine; its hash is not checked (*)",
    )
    parser.epilog = "(*) Without --weights, the architectures that have such weights are listed."


@dataclass(frozen=True)
class ListOptions(CommandOptions):
    """The options of `list`. The help texts in `add_arguments` explain them."""

    pattern: str
    weights: bool
    family: str | None
    dataset: str | None
    license: str | None
    origin: str | None
    local: bool

    @property
    def filters_weights(self) -> bool:
        """Whether an option selects some of the weights."""
        return any((self.dataset, self.license, self.origin, self.local))


def run(args: argparse.Namespace) -> int:
    """Run `list` and return the exit code."""
    options = ListOptions.from_args(args)
    manifest = load_manifest()
    if options.family is not None:
        families = {architecture.family for architecture in architectures().values()}
        _require_known_value("family", options.family, families, plural="families")
    names = list_models(options.pattern)
    # If the pattern matches no architecture, it may match weights ids, which are longer.
    if options.weights or not names:
        rows = _make_weights_rows(manifest, options)
    else:
        rows = _make_architecture_rows(names, manifest, options)
    if not rows:
        raise UsageError(_explain_empty_list(options, manifest))
    print(render(rows, options.format, width=line_width()))
    return 0


def _make_weights_rows(manifest: Manifest, options: ListOptions) -> list[_Row]:
    """Return a row for each selected set of weights, in the order of the table of architectures."""
    entries = [entry for entry in _select_entries(manifest, options) if _is_in_family(entry.architecture, options)]
    position_by_architecture = {name: position for position, name in enumerate(architectures())}
    # The sort is stable, so the weights of one architecture keep the manifest's order.
    entries.sort(key=lambda entry: position_by_architecture[entry.architecture])
    local_sources = find_local_sources(entries)
    make_row = _make_short_weights_row if options.format == "human" else _make_weights_row
    return [make_row(entry, local_sources.get(entry.id)) for entry in entries]


def _make_architecture_rows(names: Iterable[str], manifest: Manifest, options: ListOptions) -> list[_Row]:
    """Return a row for each selected architecture, with the tags of its selected weights.

    If an option selects weights, architectures without selected weights are left out.

    Args:
        names: The names of the architectures that match the pattern.
        manifest: The manifest in use.
        options: The options of the command.
    """
    if options.filters_weights:
        tags_by_architecture: dict[str, list[str]] = {}
        for entry in _select_entries(manifest, options):
            tags_by_architecture.setdefault(entry.architecture, []).append(entry.tag)
    else:
        tags_by_architecture = {name: manifest.list_tags(name) for name in names}
    make_row = _make_short_architecture_row if options.format == "human" else _make_architecture_row
    return [
        make_row(architectures()[name], tags_by_architecture[name])
        for name in names
        if name in tags_by_architecture and _is_in_family(name, options)
    ]


# Options that select weights


def _select_entries(manifest: Manifest, options: ListOptions) -> list[WeightsEntry]:
    """Return the entries that match the pattern, the dataset, the license, the origin, and `--local`.

    Raises:
        UsageError: The value of an option matches no weights of the whole manifest.
    """
    all_entries = list(manifest.entries.values())
    entries = manifest.match(options.pattern)
    if options.dataset:
        _require_known_value("dataset", options.dataset, {entry.dataset for entry in all_entries})
        entries = [entry for entry in entries if entry.dataset == options.dataset]
    if options.license:
        if options.license != _REDISTRIBUTABLE:
            licenses = {get_weights_license(entry) for entry in all_entries}
            _require_known_value("license", options.license, licenses, more=f" (or {_REDISTRIBUTABLE})")
        entries = [entry for entry in entries if _has_license(entry, options.license)]
    if options.origin:
        if not any(_has_match(_list_origin_names(entry), options.origin) for entry in all_entries):
            # The message lists only the short names of the origins.
            short_names = {_get_origin_suffix(entry).partition("_")[0] for entry in all_entries}
            _require_known_value("origin", options.origin, short_names, more=", and repositories such as owner/name")
        entries = [entry for entry in entries if _has_match(_list_origin_names(entry), options.origin)]
    if options.local:
        local_sources = find_local_sources(entries)
        entries = [entry for entry in entries if entry.id in local_sources]
    return entries


def _is_in_family(architecture_name: str, options: ListOptions) -> bool:
    """Decide whether an architecture is in the family that `--family` names. Without this option, all are."""
    return options.family is None or _has_match({architectures()[architecture_name].family}, options.family)


def _has_license(entry: WeightsEntry, license_pattern: str) -> bool:
    """Decide whether the license of the weights matches the value of `--license`."""
    if license_pattern == _REDISTRIBUTABLE:
        return entry.license.redistributable
    return _has_match({get_weights_license(entry)}, license_pattern)


def _list_origin_names(entry: WeightsEntry) -> set[str]:
    """Return all names by which `--origin` can select an entry.

    These are the end of its id, and the owners and the names of the repositories that publish the weights. An address
    that is not on GitHub or Hugging Face has the name of its host.
    """
    suffix = _get_origin_suffix(entry)
    names = {suffix, suffix.partition("_")[0]}  # For weights of torchvision, the suffix is "tv_v1" and the origin "tv".
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


def _get_origin_suffix(entry: WeightsEntry) -> str:
    """Return the part of an id that names the origin: what follows the dataset, or else the end of the architecture.

    For example, it is "zoo" in wrn_16_1.digits_zoo, and "fattorib" in resnet20_fattorib.cifar10.
    """
    suffix = entry.tag.removeprefix(entry.dataset).removeprefix("_")
    return suffix or entry.architecture.rpartition("_")[2]


def _has_match(names: Iterable[str], pattern: str) -> bool:
    """Decide whether one of the names matches a shell pattern. Upper and lower case are the same."""
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)


# Errors


def _require_known_value(kind: str, value: str, names: set[str], *, plural: str | None = None, more: str = "") -> None:
    """Raise UsageError if the value of an option matches no name. The message shows similar names and all names.

    Args:
        kind: What the option selects, such as "dataset".
        value: The value of the option, which may be a shell pattern.
        names: All names that the value can match.
        plural: The plural of `kind`. None appends an "s".
        more: Text for the end of the message, about values that are allowed besides the names.
    """
    if _has_match(names, value):
        return
    similar_names = difflib.get_close_matches(value, sorted(names), n=3)
    question = f"did you mean {' or '.join(similar_names)}? The " if similar_names else "the "
    raise UsageError(
        f"no {kind} is called {value!r}; {question}{plural or kind + 's'} are {', '.join(sorted(names))}{more}"
    )


def _explain_empty_list(options: ListOptions, manifest: Manifest) -> str:
    """Return the message for options that select nothing."""
    filters = [
        f"--{name} {value}"
        for name in ("family", "dataset", "license", "origin")
        if (value := getattr(options, name)) is not None
    ]
    if options.local:
        filters.append("--local")
    pattern = options.pattern
    if filters:
        return f"nothing matches {pattern!r} and {' and '.join(filters)} at the same time; leave one of them out"
    if pattern in architectures():
        return f"{pattern} has no weights in the manifest"
    return f"nothing matches {pattern!r}; {suggest_names(pattern, [*architectures(), *manifest.entries])}"


# Rows


def _make_short_architecture_row(architecture: Architecture, tags: list[str]) -> _Row:
    """Return a row for people, which fits a terminal."""
    return {
        "architecture": architecture.name,
        "weights": _summarise_tags(tags),
        "description": architecture.description,
    }


def _make_architecture_row(architecture: Architecture, tags: list[str]) -> _Row:
    """Return a row for programs, with everything that the table of architectures says."""
    return {
        "architecture": architecture.name,
        "family": architecture.family,
        "input size": architecture.input_size,
        "weights": tags,
        "description": architecture.description,
        "source": architecture.source,
    }


def _summarise_tags(tags: list[str]) -> str:
    """Name each dataset once. If it has several sets of weights, add their number: "cifar10 (3), svhn"."""
    counts = Counter(tag.partition("_")[0] for tag in tags)
    return ", ".join(f"{dataset} ({number})" if number > 1 else dataset for dataset, number in counts.items())


def _make_short_weights_row(entry: WeightsEntry, local_source: str | None) -> _Row:
    """Return a row for people, which fits a terminal. `local_source` says where the file is on this machine."""
    return {
        "weights": entry.id,
        "error %": [compute_top1_error(result) for result in entry.results[:1]],
        "published %": [str(claim.top1_error) for claim in entry.claims[:1]],
        "license": get_weights_license(entry),
        "here": local_source,
    }


def _make_weights_row(entry: WeightsEntry, local_source: str | None) -> _Row:
    """Return a row for programs, with all measured and all published error rates.

    `local_source` says where the file is on this machine.
    """
    return {
        "weights": entry.id,
        "architecture": entry.architecture,
        "family": architectures()[entry.architecture].family,
        "data set": entry.dataset,
        "default": entry.default,
        "measured error": [f"{compute_top1_error(result)} ({result.split})" for result in entry.results],
        "published error": [f"{claim.top1_error} ({claim.by}, {claim.split})" for claim in entry.claims],
        "licence": entry.license.weights,
        _REDISTRIBUTABLE: entry.license.redistributable,
        "here": local_source,
    }
