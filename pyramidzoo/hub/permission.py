"""Decide whether a set of weights may be published: its license must allow it, and somebody must have measured it."""

from __future__ import annotations

from collections.abc import Sequence

from pyramidzoo.catalog.weights_entry import Result, WeightsEntry
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.records import Record, make_result_fields


def merge_results(
    entry: WeightsEntry, records: Sequence[Record] = (), *, tensors_sha256: str | None = None
) -> tuple[Result, ...]:
    """Combine the results in the manifest with the results of evaluation records.

    A record is used only if its evaluation was strict, covered the whole split, and used the same tensors and the same
    preprocessing. It replaces the manifest's result for the same split and protocol. If several records have the same
    split and protocol, the newest one is used.

    Args:
        entry: The manifest's entry of the weights.
        records: The records of `pyramidzoo evaluate`. They may belong to any weights.
        tensors_sha256: The hash of the tensors in the file that is published. If it is None, the hash in the entry is
            used. If the entry has no hash either, records with the weights id of the entry are used.

    Returns:
        At most one result for each split and protocol: first the results of the manifest in their order (or the records
        that replaced them), then the other records.
    """
    expected_tensors_sha256 = tensors_sha256 or entry.tensors_sha256
    results = {(result.split, result.protocol): result for result in entry.results}
    for record in sorted(records, key=lambda record: record.date):
        if expected_tensors_sha256 is None:
            has_same_weights = record.weights == entry.id
        else:
            has_same_weights = record.tensors_sha256 == expected_tensors_sha256
        if (
            has_same_weights
            and record.strict
            and record.unofficial_reason is None
            and record.preprocessing_sha256 == entry.preprocessing.sha256()
        ):
            results[record.split, record.protocol] = Result(**make_result_fields(record))
    return tuple(results.values())


def explain_refusal(entry: WeightsEntry, results: Sequence[Result]) -> str | None:
    """Explain why these weights may not be published, and what the user can do about it.

    Args:
        entry: The manifest's entry of the weights.
        results: The results of the weights, as `merge_results` returns them.

    Returns:
        The reason as a sentence, or None if the weights may be published.
    """
    if not entry.license.redistributable:
        license_name = entry.license.weights
        license_text = {None: "is unknown", "none stated": "is not stated anywhere"}.get(
            license_name, f"is {license_name}"
        )
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
    """Check that the weights may be published.

    Args:
        entry: The manifest's entry of the weights.
        results: The results of the weights, as `merge_results` returns them.

    Raises:
        UsageError: If the license does not allow it, or the weights were not measured in fp32.
    """
    if reason := explain_refusal(entry, results):
        raise UsageError(f"{entry.id} is not published: {reason}")
