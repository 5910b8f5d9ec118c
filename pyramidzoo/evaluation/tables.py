"""The published tables beside what was measured.

Records and the manifest are the only sources of measurements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import torch

from pyramidzoo.catalog.answered_rows import answers_number, describe_difference, find_quoted_number
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.catalog.manifest import Manifest
from pyramidzoo.catalog.published_tables import (
    UNPUBLISHED_TABLE,
    PublishedNumber,
    get_table_title,
    load_published_tables,
)
from pyramidzoo.catalog.training_record import Training, get_record
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.data.datasets import DATASETS
from pyramidzoo.evaluation.metrics import ERROR, error_percent, wilson_interval
from pyramidzoo.evaluation.records import ClaimCheck, Record
from pyramidzoo.evaluation.verdicts import check_claims, find_recorded_result, paper_verdict
from pyramidzoo.models import build

OTHER_TRAINING = "same network, other training"
_TRAINING_COLUMNS = ("training", "counted")  # They are left out if the training of no network is known.


@dataclass(frozen=True)
class Measurement:
    """The measured error of one set of weights, from a record or from the manifest.

    Attributes:
        weights: Weights id, or the name of another file.
        architecture: Name of the architecture.
        parameters: Number of parameters of the network; None if it is not known.
        dataset: Name of the dataset.
        split: Name of the split.
        images: Number of images.
        wrong: Number of wrong top-1 predictions.
        recorded: The verdict against the manifest's own measurement, or "as recorded" for that
            measurement itself.
        strict: Whether the arithmetic was strict. If not, no claim is judged.
        claims: Published errors of these weights beside ours.
        is_whole_split: Whether all images of the published split were evaluated.
        training: How the network was trained; None if it is not known as data, as for the weights
            of the tables' authors.
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
    is_whole_split: bool = True
    training: Training | None = None


def measurements_from_records(records: Iterable[Record]) -> list[Measurement]:
    """Take the measurements from records.

    Args:
        records: The records.

    Returns:
        One measurement for each record. If its arithmetic was not strict, the verdict names the
        arithmetic.
    """
    return [
        Measurement(
            weights=record.weights,
            architecture=record.architecture,
            parameters=record.parameters,
            dataset=record.dataset,
            split=record.split,
            images=record.images,
            wrong=record.wrong,
            recorded=record.recorded if record.strict else f"{record.recorded} (not strict: {record.arithmetic_text})",
            strict=record.strict,
            claims=record.claims,
            is_whole_split=record.unofficial_reason is None,
            training=record.training,
        )
        for record in records
    ]


def measurements_from_manifest(manifest: Manifest) -> list[Measurement]:
    """Take the measurements from the strict results that the manifest has recorded.

    Args:
        manifest: The manifest.

    Returns:
        One measurement for each entry that has such a result on the split of the published numbers.
    """
    measurements = []
    for entry in manifest.entries.values():
        split = _get_published_split(entry.dataset)
        result = find_recorded_result(entry, split)
        if result is None:
            continue
        wrong = result.images - result.top1_correct
        statistics = {ERROR: error_percent(wrong, result.images), **result.statistics}
        arguments = {**entry.arguments, "in_chans": entry.preprocessing.input_size[0]}
        measurements.append(
            Measurement(
                weights=entry.id,
                architecture=entry.architecture,
                parameters=count_parameters(entry.architecture, entry.dataset, arguments),
                dataset=entry.dataset,
                split=split,
                images=result.images,
                wrong=wrong,
                recorded="as recorded",
                strict=True,
                claims=check_claims(entry, split, statistics, result.images),
                training=get_record(entry.training),
            )
        )
    return measurements


def make_table_rows(table: str, manifest: Manifest, measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Make the lines of one table.

    A published row becomes one line for each set of weights that was measured, or one line that
    says why there is none. Columns that are named after people hold the errors that they published,
    in percent, as top-1 / top-5.

    A network whose training is known fills only the rows of its recipe. In every other row of the
    same network and dataset it has a line below the others, "same network, other training", which
    is not counted. If any training is known, all lines have the columns "training" and "counted".

    Args:
        table: Id of the table.
        manifest: The manifest, for weights that were not measured.
        measurements: What was measured.

    Returns:
        The lines in the order of the published rows: cells by the name of the column.

    Raises:
        UsageError: There is no such table.
    """
    get_table_title(table)  # Raises UsageError if there is no such table.
    if table == UNPUBLISHED_TABLE:
        lines = _make_lines_without_published_row(measurements)
    else:
        lines = _make_lines_of_table(table, manifest, measurements)
    if any(measurement.training for measurement in measurements):
        return lines
    return [{name: cell for name, cell in line.items() if name not in _TRAINING_COLUMNS} for line in lines]


def _make_lines_of_table(table: str, manifest: Manifest, measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return the lines of a table of published rows."""
    numbers = [number for number in load_published_tables()["targets"] if number["table"] == table]
    people = list(dict.fromkeys(number["by"] for number in numbers))
    rows: dict[tuple[int, str], list[PublishedNumber]] = {}
    for number in numbers:
        rows.setdefault((number["row"], number["dataset"]), []).append(number)
    lines = []
    for (_, dataset), row in rows.items():
        first_cells: dict[str, Any] = {"row": row[0]["label"], "data set": dataset}
        for person in people:
            first_cells[person] = _format_published_numbers([number for number in row if number["by"] == person])
        for architecture in dict.fromkeys(number["architecture"] for number in row):
            of_network = [number for number in row if number["architecture"] == architecture]
            lines += [first_cells | cells for cells in _make_network_lines(of_network, manifest, measurements)]
    return lines


def _make_network_lines(
    numbers: list[PublishedNumber], manifest: Manifest, measurements: Sequence[Measurement]
) -> list[dict[str, Any]]:
    """Return the cells for one network in one row.

    They are one line for each measurement that answers the row, or one line that says why there is
    none. Below it is one line for each measurement of the same network after another training.
    """
    counted, others = [], []
    for measurement in measurements:
        if not _has_published(measurement, numbers):
            continue
        answered = _find_answered(measurement, numbers)
        if answered:
            counted.append(_make_measured_cells(measurement, answered))
        else:
            others.append(_make_other_training_cells(measurement, numbers))
    if not counted:
        network = numbers[0]["architecture"], numbers[0]["dataset"]
        entries = [entry for entry in manifest.entries.values() if (entry.architecture, entry.dataset) == network]
        counted = [_make_unmeasured_cells(numbers, entries)]
    return counted + others


def _find_answered(measurement: Measurement, numbers: Sequence[PublishedNumber]) -> list[PublishedNumber]:
    """Return the published numbers of a network that a measurement is compared with.

    Where the training is not known, these are all numbers of this network.
    """
    training = measurement.training
    if training is None:
        return list(numbers)
    return [number for number in numbers if answers_number(number, measurement.architecture, training)]


def _has_published(measurement: Measurement, numbers: Iterable[PublishedNumber]) -> bool:
    """Return whether any of the published numbers is about this network on these images."""
    measured = measurement.architecture, measurement.dataset, measurement.split
    return measurement.is_whole_split and any(
        (number["architecture"], number["dataset"], _get_published_split(number["dataset"])) == measured
        for number in numbers
    )


def _get_published_split(dataset: str) -> str:
    """Return the split that the published numbers of a dataset were measured on.

    For ImageNet it is the validation.
    """
    return DATASETS[dataset].splits[0] if dataset in DATASETS else "test"


def _make_lines_without_published_row(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    lines = []
    for measurement in measurements:
        if not _has_published(measurement, load_published_tables()["targets"]):
            images = "" if measurement.is_whole_split else f", {measurement.images:,} images"
            first_cells = {"row": None, "data set": f"{measurement.dataset} {measurement.split}{images}"}
            lines.append(first_cells | _make_measured_cells(measurement, []) | {"counted": None})
    return lines


def count_parameters(architecture: str | None, dataset: str, arguments: Mapping[str, Any]) -> int | None:
    """Count the parameters of a network that has the classes of a dataset.

    Args:
        architecture: Name of the architecture; None for one that the zoo does not have.
        dataset: Name of the dataset.
        arguments: Arguments of the architecture.

    Returns:
        The exact number; None if the zoo does not have the architecture or the dataset.
    """
    if architecture not in architectures() or dataset not in DATASETS:
        return None
    parameters, features = _count_without_classifier(architecture, tuple(arguments.items()))
    return parameters + DATASETS[dataset].classes * (features + 1)


@cache
def _count_without_classifier(architecture: str, arguments: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    """Return the number of parameters without the classifier, and of the features it reads."""
    with torch.device("meta"):
        model = build(get_architecture(architecture), **{"num_classes": 0, **dict(arguments)})
    return sum(parameter.numel() for parameter in model.parameters()), model.head_hidden_size


def _format_published_numbers(numbers: list[PublishedNumber]) -> str:
    """Return what one person published in one row, as top-1 / top-5.

    Several top-1 errors are printed with their spread.
    """
    parts = []
    for number in numbers:
        text = ("~" if number["approximate"] else "") + number["value"]
        text += "" if number["unit"] == "%" else f" {number['unit']}"
        if sum(other["metric"] == number["metric"] for other in numbers) > 1:
            text += f" ({number['spread']})"
        parts.append(text + (" (doubtful)" if number["doubt"] else ""))
    has_one_metric = len({number["metric"] for number in numbers}) == 1
    return (", " if has_one_metric else " / ").join(parts)


def _make_measured_cells(measurement: Measurement, numbers: Sequence[PublishedNumber]) -> dict[str, Any]:
    """Return the cells of a measurement, with a verdict for each published number that it is compared with."""
    low, high = wilson_interval(measurement.wrong, measurement.images)
    ours = error_percent(measurement.wrong, measurement.images)
    verdicts = [f"{c.by} {c.published}: {c.verdict}, {c.ours:.3f} by its statistic" for c in measurement.claims]
    claimed_by = {claim.by for claim in measurement.claims}
    for number in numbers:
        # Who has a claim about these very weights is not compared a second time, with other
        # weights.
        if number["metric"] == "top1_error" and number["by"] not in claimed_by:
            verdict = paper_verdict(Decimal(number["value"]), number["spread"], ours, (low, high))
            whose = "other weights" if measurement.training is None else "trained by the recipe of this row"
            verdicts.append(f"{number['by']} {number['value']}: {verdict}, {whose}")
    return {
        "network": measurement.architecture,
        "parameters": measurement.parameters,
        "weights": measurement.weights,
        "training": measurement.training and f"{measurement.training.recipe}, seed {measurement.training.seed}",
        "ours": f"{ours:.2f}",
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "recorded": measurement.recorded,
        "claim": (verdicts or "none") if measurement.strict else "not judged",
        "counted": measurement.strict,
        "elsewhere": None,
    }


def _make_other_training_cells(measurement: Measurement, numbers: Sequence[PublishedNumber]) -> dict[str, Any]:
    """Return the cells of a line below a row: the same network, but not trained by the recipe of the row."""
    training = measurement.training
    assert training is not None  # Where no training is known, the measurement is compared with all numbers.
    claim = f"{OTHER_TRAINING}: recipe {training.recipe}"
    if difference := describe_difference(training):
        claim += f", {difference}"
    quoted = [find_quoted_number(number, measurement.architecture, training) for number in numbers]
    if row := next(filter(None, quoted), None):
        claim = f"not counted: this row quotes row {row}, and the number is counted there"
    return _make_measured_cells(measurement, []) | {"claim": claim, "counted": False}


def _make_unmeasured_cells(numbers: Sequence[PublishedNumber], entries: list[WeightsEntry]) -> dict[str, Any]:
    """Return the cells of a network without a measurement.

    The column "weights" says why there is none. The column "elsewhere" names weights of this network that the manifest
    does not have, and where they were published.
    """
    first = numbers[0]
    architecture, dataset = first["architecture"], first["dataset"]
    if architecture is None:
        weights = f"no weights: {first['variant']}"
    elif entries:
        weights = f"not measured: {', '.join(map(_name_with_claims, entries))}"
    else:
        weights = "no weights"
    return {
        "network": architecture or first["network"],
        "parameters": count_parameters(architecture, dataset, first["arguments"]),
        "weights": weights,
        "training": None,
        "ours": None,
        "95 % interval": None,
        "recorded": "none",
        "claim": "none",
        "counted": None,
        "elsewhere": load_published_tables()["elsewhere"].get(architecture or "", {}).get(dataset),
    }


def _name_with_claims(entry: WeightsEntry) -> str:
    """Return an entry's id, and the errors that were published of these very weights."""
    claims = []
    for claim in entry.claims:
        errors = (claim.top1_error, claim.top5_error)
        claims.append(" / ".join(str(error) for error in errors if error is not None))
    return f"{entry.id} ({', '.join(claims)})" if claims else entry.id
