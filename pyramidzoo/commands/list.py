"""`list`: list architectures and weights."""

from __future__ import annotations

import argparse
import difflib
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from pyramidzoo.catalog.architectures import Architecture, architectures, list_models, near_matches
from pyramidzoo.catalog.manifest import Manifest, WeightsEntry, load_manifest
from pyramidzoo.commands._cells import license_of, top1_error
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import line_width, render
from pyramidzoo.weights.local import find_local_sources

REDISTRIBUTABLE = "redistributable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `list`."""
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern, such as 'wrn_*'")
    parser.add_argument("--weights", action="store_true", help="one line for each set of weights")
    parser.add_argument("--family", help="only this family, such as pyramidnet")
    parser.add_argument("--dataset", help="only what has weights of this data set, such as cifar100")
    parser.add_argument("--license", help="only what has weights under it: MIT, 'BSD*', or all that is redistributable")
    parser.add_argument("--origin", help="only what has weights from there: akamaster, pytorchcv, or a repository")
    parser.add_argument("--local", action="store_true", help="only what has weights on this machine; nothing is hashed")


def run(args: argparse.Namespace) -> int:
    """Architectures, or with --weights one line for each set of weights; filters narrow either."""
    manifest = load_manifest()
    if args.family is not None:
        _require("family", args.family, {row.family for row in architectures().values()}, plural="families")
    names, human = list_models(args.pattern), args.format == "human"
    if args.weights or not names:  # a pattern of ids matches no architecture
        position = {name: k for k, name in enumerate(architectures())}
        entries = [entry for entry in _matching(manifest, args) if _of_family(entry.architecture, args.family)]
        entries.sort(key=lambda entry: position[entry.architecture])  # stable: the manifest's order within a network
        here = find_local_sources(entries)
        rows = [_weights_row(entry, here.get(entry.id), human=human) for entry in entries]
    else:
        tags = {name: manifest.tags(name) for name in names}
        if any((args.dataset, args.license, args.origin, args.local)):
            tags = _by_architecture(_matching(manifest, args))
        rows = [
            _architecture_row(architectures()[name], tags[name], human=human)
            for name in names
            if name in tags and _of_family(name, args.family)
        ]
    if not rows:
        raise UsageError(_nothing(args, manifest))
    print(render(rows, args.format, width=line_width()))
    return 0


def origins(entry: WeightsEntry) -> set[str]:
    """Whose weights these are: the last part of the id, and the owner and the repository that publish them."""
    found = {suffix(entry), suffix(entry).partition("_")[0]}  # tv_v1 is tv's
    if entry.hub:
        found |= {entry.hub.repo_id, entry.hub.repo_id.partition("/")[0]}
    if entry.origin:
        host, _, path = entry.origin.url.partition("://")[2].partition("/")
        if re.search(r"github|huggingface\.co", host):
            owner, repository = [*path.split("/"), ""][:2]
            found |= {owner, f"{owner}/{repository}"}
        else:
            found.add(host)
    return found


def suffix(entry: WeightsEntry) -> str:
    """The end of the id; of the architecture's name where the id has none, which is only where that name holds it."""
    tag = entry.tag.removeprefix(entry.dataset).removeprefix("_")
    return tag or entry.architecture.rpartition("_")[2]


def _matching(manifest: Manifest, args: argparse.Namespace) -> list[WeightsEntry]:
    """The entries that fit the pattern and all filters on weights. Raises UsageError for a value that never fits."""
    every = list(manifest.entries.values())
    entries = manifest.match(args.pattern)
    if args.dataset:
        _require("data set", args.dataset, {entry.dataset for entry in every})
        entries = [entry for entry in entries if entry.dataset == args.dataset]
    if args.license:
        if args.license != REDISTRIBUTABLE:
            _require("licence", args.license, {license_of(entry) for entry in every}, more=f" (or {REDISTRIBUTABLE})")
        entries = [entry for entry in entries if _licensed(entry, args.license)]
    if args.origin:
        known = {suffix(entry).partition("_")[0] for entry in every}
        if not any(_fits(origins(entry), args.origin) for entry in every):
            _require("origin", args.origin, known, more=", and repositories such as owner/name")
        entries = [entry for entry in entries if _fits(origins(entry), args.origin)]
    if args.local:
        here = find_local_sources(entries)
        entries = [entry for entry in entries if entry.id in here]
    return entries


def _licensed(entry: WeightsEntry, pattern: str) -> bool:
    return entry.license.redistributable if pattern == REDISTRIBUTABLE else _fits({license_of(entry)}, pattern)


def _fits(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for name in names)


def _require(kind: str, value: str, known: set[str], *, plural: str | None = None, more: str = "") -> None:
    """Raise UsageError where no known name fits a filter's value."""
    if _fits(known, value):
        return
    close = difflib.get_close_matches(value, sorted(known), n=3)
    meant = f"did you mean {' or '.join(close)}? The " if close else "the "
    raise UsageError(
        f"no {kind} is called {value!r}; {meant}{plural or kind + 's'} are {', '.join(sorted(known))}{more}"
    )


def _of_family(architecture: str, family: str | None) -> bool:
    return family is None or _fits({architectures()[architecture].family}, family)


def _by_architecture(entries: Iterable[WeightsEntry]) -> dict[str, list[str]]:
    tags: dict[str, list[str]] = {}
    for entry in entries:
        tags.setdefault(entry.architecture, []).append(entry.tag)
    return tags


def _nothing(args: argparse.Namespace, manifest: Manifest) -> str:
    """Why a list is empty."""
    given = [
        f"--{name} {value}"
        for name in ("family", "dataset", "license", "origin")
        if (value := getattr(args, name)) is not None
    ] + ["--local"] * args.local
    if given:
        return f"nothing matches {args.pattern!r} and {' and '.join(given)} at once; leave one of them out"
    if args.pattern in architectures():
        return f"{args.pattern} has no weights in the manifest"
    return f"nothing matches {args.pattern!r}; {near_matches(args.pattern, [*architectures(), *manifest.entries])}"


def _architecture_row(row: Architecture, tags: list[str], *, human: bool) -> dict[str, Any]:
    if human:
        return {"architecture": row.name, "weights": _counted(tags), "description": row.description}
    return {
        "architecture": row.name,
        "family": row.family,
        "input size": row.input_size,
        "weights": tags,
        "description": row.description,
        "source": row.source,
    }


def _counted(tags: list[str]) -> str:
    """The data sets of some tags, each once: "cifar10 (3), svhn"."""
    counts = Counter(tag.partition("_")[0] for tag in tags)
    return ", ".join(f"{dataset} ({number})" if number > 1 else dataset for dataset, number in counts.items())


def _weights_row(entry: WeightsEntry, here: str | None, *, human: bool) -> dict[str, Any]:
    if human:
        return {
            "weights": entry.id,
            "error %": [top1_error(result) for result in entry.results[:1]],
            "published %": [str(claim.top1_error) for claim in entry.claims[:1]],
            "licence": license_of(entry),
            "here": here,
        }
    return {
        "weights": entry.id,
        "architecture": entry.architecture,
        "family": architectures()[entry.architecture].family,
        "data set": entry.dataset,
        "default": entry.default,
        "measured error": [f"{top1_error(result)} ({result.split})" for result in entry.results],
        "published error": [f"{claim.top1_error} ({claim.by}, {claim.split})" for claim in entry.claims],
        "licence": entry.license.weights,
        REDISTRIBUTABLE: entry.license.redistributable,
        "here": here,
    }
