"""Decide whether a set of weights may be published: its license must allow it, and somebody must have measured it."""

from __future__ import annotations

from collections.abc import Sequence

from pyramidzoo.catalog.weights_entry import Result, WeightsEntry
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.records import Record, result_of


def merge_results(
    entry: WeightsEntry, records: Sequence[Record] = (), *, tensors_sha256: str | None = None
) -> tuple[Result, ...]:
    """Combine the results in the manifest with the results of evaluation records.

    A record counts only if it is strict, covers the whole split, and was made from the same tensors with the same
    preprocessing. It replaces the manifest's result of the same split and protocol; the newest record wins.

    Args:
        entry: The weights.
        records: The records of `pyramidzoo evaluate`, of any weights.
        tensors_sha256: The hash of the tensors in the file at hand. Without it the entry's own hash is taken. If the
            entry has none either, a record is accepted by its weights id.

    Returns:
        At most one result for each split and protocol: the manifest's first, in its order.
    """
    expected_tensors = tensors_sha256 or entry.tensors_sha256
    results = {(result.split, result.protocol): result for result in entry.results}
    for record in sorted(records, key=lambda record: record.date):
        if expected_tensors is None:
            is_same_weights = record.weights == entry.id
        else:
            is_same_weights = record.tensors_sha256 == expected_tensors
        if (
            is_same_weights
            and record.strict
            and record.unofficial_reason is None
            and record.preprocessing_sha256 == entry.preprocessing.sha256()
        ):
            results[record.split, record.protocol] = Result(**result_of(record))
    return tuple(results.values())


def explain_refusal(entry: WeightsEntry, results: Sequence[Result]) -> str | None:
    """Explain why these weights cannot be published, and what would change that.

    Args:
        entry: The weights.
        results: Their results, as `merge_results` returns them.

    Returns:
        The reason as a sentence, or None if the weights can be published.
    """
    if not entry.license.redistributable:
        name = entry.license.weights
        license_text = {None: "is unknown", "none stated": "is not stated anywhere"}.get(name, f"is {name}")
        return (
            f"the license of the weights {license_text}, so others may not publish them; if the authors allow it, put "
            "their license into the entry of the manifest"
        )
    if not any(result.precision == "fp32" for result in results):
        return (
            "the weights were not measured; measure them with `pyramidzoo evaluate --output DIR`, then publish with "
            "--records DIR"
        )
    return None


def require_permission(entry: WeightsEntry, results: Sequence[Result]) -> None:
    """Check that the weights can be published.

    Args:
        entry: The weights.
        results: Their results, as `merge_results` returns them.

    Raises:
        UsageError: If the license does not allow it, or nothing was measured.
    """
    if reason := explain_refusal(entry, results):
        raise UsageError(f"{entry.id} is not published: {reason}")
