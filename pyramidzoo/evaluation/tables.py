"""The published tables, every row of them, beside what was measured; records and the manifest are the only sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import torch

from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.catalog.manifest import Manifest
from pyramidzoo.catalog.published_tables import OTHERS, get_table_title, load_published_tables
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.data.datasets import DATASETS
from pyramidzoo.evaluation.harness import check_claims, recorded_result
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.records import ClaimCheck, Record
from pyramidzoo.evaluation.verdicts import paper_verdict
from pyramidzoo.models import build


@dataclass(frozen=True)
class Measurement:
    """One set of weights, measured: from a record, or (`recorded` "as recorded") from the manifest's own results.

    `whole` is whether it was on the whole split, as published rows are.
    """

    weights: str
    architecture: str
    parameters: int | None
    dataset: str
    split: str
    images: int
    wrong: int
    recorded: str
    strict: bool
    claims: tuple[ClaimCheck, ...]
    whole: bool = True


def from_records(records: Iterable[Record]) -> list[Measurement]:
    """What records say. Arithmetic that was not strict is named behind the verdict, and its claims are not judged."""
    return [
        Measurement(
            weights=r.weights,
            architecture=r.architecture,
            parameters=r.parameters,
            dataset=r.dataset,
            split=r.split,
            images=r.images,
            wrong=r.wrong,
            recorded=r.recorded if r.strict else f"{r.recorded} (not strict: {r.arithmetic})",
            strict=r.strict,
            claims=r.claims,
            whole=r.not_the_split is None,
        )
        for r in records
    ]


def from_manifest(manifest: Manifest) -> list[Measurement]:
    """What the manifest's own strict results say."""
    found = []
    for entry in manifest.entries.values():
        split = _published_split(entry.dataset)
        result = recorded_result(entry, split)
        if result is None:
            continue
        wrong, channels = result.images - result.top1_correct, entry.preprocessing.input_size[0]
        statistics = {ERROR: error_percent(wrong, result.images), **result.statistics}
        found.append(
            Measurement(
                weights=entry.id,
                architecture=entry.architecture,
                parameters=parameters(entry.architecture, entry.dataset, {**entry.arguments, "in_chans": channels}),
                dataset=entry.dataset,
                split=split,
                images=result.images,
                wrong=wrong,
                recorded="as recorded",
                strict=True,
                claims=check_claims(entry, split, statistics, result.images),
            )
        )
    return found


def table_rows(table: str, manifest: Manifest, known: Iterable[Measurement]) -> list[dict[str, Any]]:
    """The lines of one table: its rows in order, one line for each set of weights, or for their lack.

    Columns named after people hold the errors they published, in percent, top-1 / top-5. Raises UsageError.
    """
    get_table_title(table)
    if table == OTHERS:
        return _rowless(known)
    targets = [target for target in load_published_tables()["targets"] if target["table"] == table]
    people = list(dict.fromkeys(target["by"] for target in targets))
    groups: dict[tuple[int, str], list[Any]] = {}
    for target in targets:
        groups.setdefault((target["row"], target["dataset"]), []).append(target)
    lines = []
    for (_, dataset), group in groups.items():
        head: dict[str, Any] = {"row": group[0]["label"], "data set": dataset}
        for person in people:
            head[person] = _printed([target for target in group if target["by"] == person])
        for architecture in dict.fromkeys(target["architecture"] for target in group):
            own = [target for target in group if target["architecture"] == architecture]
            measured = [m for m in known if _has_row(m, own)]
            there = [e for e in manifest.entries.values() if (e.architecture, e.dataset) == (architecture, dataset)]
            cells = [_measured_cells(m, own) for m in measured] or [_unmeasured_cells(architecture, own, there)]
            lines += [head | part for part in cells]
    return lines


def _has_row(measurement: Measurement, targets: list[Any]) -> bool:
    """Whether published rows are about this network on these images."""
    here = (measurement.architecture, measurement.dataset, measurement.split)
    return measurement.whole and any(
        (target["architecture"], target["dataset"], _published_split(target["dataset"])) == here for target in targets
    )


def _published_split(dataset: str) -> str:
    """Where every published number on a data set was measured: ImageNet's validation images serve as its test."""
    return DATASETS[dataset].splits[0] if dataset in DATASETS else "test"


def _rowless(known: Iterable[Measurement]) -> list[dict[str, Any]]:
    return [
        {"row": None, "data set": f"{m.dataset} {m.split}" + ("" if m.whole else f", {m.images:,} images")}
        | _measured_cells(m, [])
        for m in known
        if not _has_row(m, load_published_tables()["targets"])
    ]


def parameters(architecture: str | None, dataset: str, arguments: Mapping[str, Any]) -> int | None:
    """The exact parameter count of a network with that data set's classes; None where the zoo has no such network."""
    if architecture not in architectures() or dataset not in DATASETS:
        return None
    trunk, features = _trunk(architecture, tuple(arguments.items()))
    return trunk + DATASETS[dataset].classes * (features + 1)


@cache
def _trunk(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    """Parameters without the classifier, and the features that the classifier reads."""
    with torch.device("meta"):
        model = build(get_architecture(architecture), **{"num_classes": 0, **dict(arguments)})
    return sum(parameter.numel() for parameter in model.parameters()), model.head_hidden_size


def _with_claim(entry: WeightsEntry) -> str:
    """An id and the error published for those very weights."""
    errors = [" / ".join(str(e) for e in (c.top1_error, c.top5_error) if e is not None) for c in entry.claims]
    return f"{entry.id} ({', '.join(errors)})" if errors else entry.id


def _printed(targets: list[Any]) -> str:
    """What one person published in one row: top-1 / top-5; several top-1 values are told apart by their spread."""
    parts = []
    for target in targets:
        text = ("~" if target["approximate"] else "") + target["value"]
        text += "" if target["unit"] == "%" else f" {target['unit']}"
        if sum(other["metric"] == target["metric"] for other in targets) > 1:
            text += f" ({target['spread']})"
        parts.append(text + (" (doubtful)" if target["doubt"] else ""))
    alone = len({target["metric"] for target in targets}) == 1
    return (", " if alone else " / ").join(parts)


def _measured_cells(measurement: Measurement, targets: list[Any]) -> dict[str, Any]:
    low, high = wilson_interval(measurement.wrong, measurement.images)
    ours = error_percent(measurement.wrong, measurement.images)
    claims = [f"{c.by} {c.published}: {c.verdict}, {c.ours:.3f} by its statistic" for c in measurement.claims]
    own = {claim.by for claim in measurement.claims}
    papers = [
        f"{target['by']} {target['value']}: "
        f"{paper_verdict(Decimal(target['value']), target['spread'], ours, (low, high))}, other weights"
        for target in targets
        if target["metric"] == "top1_error" and target["by"] not in own
    ]
    return {
        "network": measurement.architecture,
        "parameters": measurement.parameters,
        "weights": measurement.weights,
        "ours": f"{ours:.2f}",
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "recorded": measurement.recorded,
        "claim": ([*claims, *papers] or "none") if measurement.strict else "not judged",
        "elsewhere": None,
    }


def _unmeasured_cells(architecture: str | None, targets: list[Any], weights: list[WeightsEntry]) -> dict[str, Any]:
    """A line without a number says why there is none, and where weights could come from."""
    dataset = targets[0]["dataset"]
    elsewhere = load_published_tables()["elsewhere"].get(architecture or "", {}).get(dataset)
    if architecture is None:
        state = f"no weights: {targets[0]['variant']}"
    elif weights:
        state = f"not measured: {', '.join(map(_with_claim, weights))}"
    else:
        state = "no weights"
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
