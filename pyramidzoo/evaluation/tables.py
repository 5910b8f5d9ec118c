"""The published tables, every row of them, beside what was measured; records and the manifest are the only sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

import torch

from pyramidzoo.architectures import architectures, get_architecture
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.harness import check_claims, recorded_result
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.records import ClaimCheck, Record
from pyramidzoo.evaluation.verdicts import paper_verdict
from pyramidzoo.manifest import Manifest
from pyramidzoo.models import build

_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "mnist": 10, "fashion_mnist": 10, "imagenet1k": 1000}
_SPLIT = "test"  # where every published number here was measured; ImageNet's validation images serve as its test


@dataclass(frozen=True)
class Measurement:
    """One set of weights, measured: from a record, or (`recorded` "as recorded") from the manifest's own results."""

    weights: str
    architecture: str
    dataset: str
    images: int
    wrong: int
    recorded: str
    claims: tuple[ClaimCheck, ...]


@cache
def published() -> Mapping[str, Any]:
    """The published rows (`targets.json`): "tables", "targets" in order, and "elsewhere": other people's weights."""
    document: Mapping[str, Any] = json.loads(
        resources.files("pyramidzoo.evaluation").joinpath("targets.json").read_text(encoding="utf-8")
    )
    return document


def table_ids() -> list[str]:
    return [table["id"] for table in published()["tables"]]


def measurements(manifest: Manifest, records: Iterable[Record]) -> list[Measurement]:
    """What is known of all weights: records first, the manifest's results for the rest."""
    found = [
        Measurement(r.weights, r.architecture, r.dataset, r.images, r.wrong, r.recorded, r.claims)
        for r in records
        if r.split == _SPLIT
    ]
    measured = {measurement.weights for measurement in found}
    for entry in manifest.entries.values():
        result = recorded_result(entry, _SPLIT)
        if entry.id in measured or result is None:
            continue
        wrong = result.images - result.top1_correct
        statistics = {ERROR: error_percent(wrong, result.images), **result.statistics}
        claims = check_claims(entry, _SPLIT, statistics, result.images)
        found.append(
            Measurement(entry.id, entry.architecture, entry.dataset, result.images, wrong, "as recorded", claims)
        )
    return found


def table_rows(table: str, manifest: Manifest, known: Iterable[Measurement]) -> list[dict[str, Any]]:
    """The lines of one published table: its rows in order, one line for each set of weights, or for their lack.

    Columns named after people hold the errors they published, in percent, top-1 / top-5. Raises UsageError.
    """
    if table not in table_ids():
        raise UsageError(f"no table is called {table!r}; the tables are {', '.join(table_ids())}")
    targets = [target for target in published()["targets"] if target["table"] == table]
    people = list(dict.fromkeys(target["by"] for target in targets))
    groups: dict[tuple[int, str], list[Any]] = {}
    for target in targets:
        groups.setdefault((target["row"], target["dataset"]), []).append(target)
    lines = []
    for (_, dataset), group in groups.items():
        head: dict[str, Any] = {"row": group[0]["label"], "data set": dataset}
        for person in people:
            head[person] = " / ".join(_printed(target) for target in group if target["by"] == person)
        for architecture in dict.fromkeys(target["architecture"] for target in group):
            measured = [m for m in known if (m.architecture, m.dataset) == (architecture, dataset)]
            own = [target for target in group if target["architecture"] == architecture]
            names = [e.id for e in manifest.entries.values() if (e.architecture, e.dataset) == (architecture, dataset)]
            cells = [_measured_cells(m, own) for m in measured] or [_unmeasured_cells(architecture, own, names)]
            lines += [head | part for part in cells]
    return lines


def parameters(architecture: str | None, dataset: str, arguments: Mapping[str, Any]) -> int | None:
    """The exact parameter count of a network with that data set's classes; None where the zoo has no such network."""
    if architecture not in architectures() or dataset not in _CLASSES:
        return None
    trunk, features = _trunk(architecture, tuple(arguments.items()))
    return trunk + _CLASSES[dataset] * (features + 1)


@cache
def _trunk(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    """Parameters without the classifier, and the features that the classifier reads."""
    with torch.device("meta"):
        model = build(get_architecture(architecture), **{"num_classes": 0, **dict(arguments)})
    return sum(parameter.numel() for parameter in model.parameters()), model.num_features


def _printed(target: Mapping[str, Any]) -> str:
    return ("~" if target["approximate"] else "") + target["value"] + (" (doubtful)" if target["doubt"] else "")


def _measured_cells(measurement: Measurement, targets: list[Any]) -> dict[str, Any]:
    low, high = wilson_interval(measurement.wrong, measurement.images)
    claims = [f"{c.by} {c.published}: {c.verdict}, {c.ours:.3f} by its statistic" for c in measurement.claims]
    own = {claim.by for claim in measurement.claims}
    papers = [
        f"{target['by']} {target['value']}: {paper_verdict(Decimal(target['value']), (low, high))}, other weights"
        for target in targets
        if target["metric"] == "top1_error" and target["by"] not in own
    ]
    return {
        "network": measurement.architecture,
        "parameters": parameters(measurement.architecture, measurement.dataset, targets[0]["arguments"]),
        "weights": measurement.weights,
        "ours": f"{error_percent(measurement.wrong, measurement.images):.2f}",
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "recorded": measurement.recorded,
        "claim": [*claims, *papers],
        "elsewhere": None,
    }


def _unmeasured_cells(architecture: str | None, targets: list[Any], weights: list[str]) -> dict[str, Any]:
    """A line without a number says why there is none, and where weights could come from."""
    dataset = targets[0]["dataset"]
    elsewhere = published()["elsewhere"].get(architecture, {}).get(dataset)
    if architecture is None:
        state = f"no weights: {targets[0]['variant']}"
    elif weights:
        state = f"not measured: {', '.join(weights)}"
    else:
        state = "no weights" if architecture in architectures() else "no weights, and no such network here yet"
    return {
        "network": architecture or targets[0]["network"],
        "parameters": parameters(architecture, dataset, targets[0]["arguments"]),
        "weights": state,
        "ours": None,
        "95 % interval": None,
        "recorded": "none",
        "claim": "none",
        "elsewhere": elsewhere,
    }
