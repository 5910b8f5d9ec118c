"""Write the record of an evaluation as lines of text for people, and as a row of a table for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramidzoo.evaluation.metrics import PredictionChanges
    from pyramidzoo.evaluation.records import ClaimCheck, Record

RECORD_COLUMNS = (
    "weights",
    "data set",
    "split",
    "images",
    "wrong",
    "top5_correct",
    "top1_error",
    "interval_low",
    "interval_high",
    "recorded",
    "claim",
    "published",
    "ours_by_statistic",
    "moved",
    "error",
)
_SHOWN_IMAGES = 8  # of the images whose predictions differ from the strict evaluation, so many are listed


def make_record_row(record: Record) -> dict[str, Any]:
    """Return a record as a row with the columns `RECORD_COLUMNS`.

    The column "error" is None. `evaluate` fills it for weights whose evaluation failed.
    """
    low, high = record.interval
    return {
        "weights": record.weights,
        "data set": record.dataset,
        "split": record.split,
        "images": record.images,
        "wrong": record.wrong,
        "top5_correct": record.top5_correct,
        "top1_error": f"{record.top1_error:.2f}",
        "interval_low": f"{low:.2f}",
        "interval_high": f"{high:.2f}",
        "recorded": record.recorded,
        "claim": [claim.verdict for claim in record.claims] or "none",
        "published": [f"{claim.published} ({claim.by}, {claim.statistic})" for claim in record.claims],
        "ours_by_statistic": [f"{claim.ours:.3f}" for claim in record.claims],
        "moved": len(record.against_strict.moved) if record.against_strict else None,
        "error": None,
    }


def make_record_lines(record: Record) -> list[str]:
    """Return a record as lines of text: what was evaluated, the counts, and the two verdicts.

    One verdict compares the counts with those that this project recorded. The other one compares the error with the
    published error ("claim").
    """
    low, high = record.interval
    lines = [f"{record.weights}: {record.dataset} {record.split}, {record.images:,} images, {record.device}"]
    if not record.protocol.startswith("full "):
        lines.append(f"  protocol       {record.protocol}")
    lines.append(
        f"  wrong          {record.wrong} (top-1 error {record.top1_error:.2f} %, 95 % within {low:.2f} to {high:.2f})"
    )
    if class_order := record.flags.get("class_order"):
        lines.append(f"  class order    {class_order}")
    lines += [
        f"  top-5 correct  {record.top5_correct} (top-5 error {record.top5_error:.2f} %)",
        f"  recorded       {record.recorded}: {record.recorded_detail}",
        *(_make_claim_line(claim) for claim in record.claims),
    ]
    if record.against_strict is not None:
        lines += _make_comparison_lines(record.against_strict)
    if reason := _explain_missing_claim_verdict(record):
        lines.append(f"  claim          {reason}")
    return lines


def _make_claim_line(claim: ClaimCheck) -> str:
    """Return the line about one published error, and about our error by the authors' statistic."""
    return (
        f"  claim          {claim.verdict}: {claim.by} published {claim.published} ({claim.statistic}), "
        f"ours is {claim.ours:.3f} by that statistic"
    )


def _make_comparison_lines(changes: PredictionChanges) -> list[str]:
    """Return the lines that compare an evaluation with the strict evaluation of the same weights.

    They say how many predictions differ, by how much the logits differ, and which images are concerned.
    """
    lines = [
        f"  against strict {len(changes.moved)} predictions moved, {changes.lost} lost, {changes.gained} gained; "
        f"logits moved by at most {changes.largest_difference:.1e}"
    ]
    if changes.moved:
        images = [
            f"{index} ({strict_prediction} to {prediction}, label {label})"
            for index, label, strict_prediction, prediction in changes.moved[:_SHOWN_IMAGES]
        ]
        ellipsis = ", ..." if len(changes.moved) > len(images) else ""
        lines.append(f"                 images {', '.join(images)}{ellipsis}")
    return lines


def _explain_missing_claim_verdict(record: Record) -> str | None:
    """Say why a record has no verdict about published errors. Return None if it has one."""
    if record.unofficial_reason:
        return f"none: {record.unofficial_reason}"
    if not record.strict:
        return f"not judged: {record.arithmetic_text} is not strict fp32, which verdicts are about"
    if not record.claims:
        return "none: no published error is known for these weights on this split"
    return None
