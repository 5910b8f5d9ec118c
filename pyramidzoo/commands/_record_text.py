"""The record of one evaluation as text for people, and as a row of a table."""

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
_SHOWN_IMAGES = 8  # of those whose predictions differ from the strict ones


def record_row(record: Record) -> dict[str, Any]:
    """Return a record as a row with the columns `RECORD_COLUMNS`. The column "error" is for failures."""
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


def record_lines(record: Record) -> list[str]:
    """Return a record as lines for people: what was counted, and both verdicts."""
    low, high = record.interval
    lines = [f"{record.weights}: {record.dataset} {record.split}, {record.images:,} images, {record.device}"]
    if not record.protocol.startswith("full "):
        lines.append(f"  protocol       {record.protocol}")
    lines.append(
        f"  wrong          {record.wrong} (top-1 error {record.top1_error:.2f} %, 95 % within {low:.2f} to {high:.2f})"
    )
    if order := record.flags.get("class_order"):
        lines.append(f"  class order    {order}")
    lines += [
        f"  top-5 correct  {record.top5_correct} (top-5 error {record.top5_error:.2f} %)",
        f"  recorded       {record.recorded}: {record.recorded_detail}",
        *(_claim_line(claim) for claim in record.claims),
    ]
    if record.against_strict is not None:
        lines += _comparison_lines(record.against_strict)
    if reason := _why_nothing_is_judged(record):
        lines.append(f"  claim          {reason}")
    return lines


def _claim_line(claim: ClaimCheck) -> str:
    return (
        f"  claim          {claim.verdict}: {claim.by} published {claim.published} ({claim.statistic}), "
        f"ours is {claim.ours:.3f} by that statistic"
    )


def _comparison_lines(flips: PredictionChanges) -> list[str]:
    """Say which predictions differ from those of the strict evaluation."""
    lines = [
        f"  against strict {len(flips.moved)} predictions moved, {flips.lost} lost, {flips.gained} gained; "
        f"logits moved by at most {flips.largest_difference:.1e}"
    ]
    if flips.moved:
        images = [
            f"{index} ({strict} to {prediction}, label {label})"
            for index, label, strict, prediction in flips.moved[:_SHOWN_IMAGES]
        ]
        rest = ", ..." if len(flips.moved) > len(images) else ""
        lines.append(f"                 images {', '.join(images)}{rest}")
    return lines


def _why_nothing_is_judged(record: Record) -> str | None:
    if record.unofficial_reason:
        return f"none: {record.unofficial_reason}"
    if not record.strict:
        return f"not judged: {record.arithmetic_text} is not strict fp32, which verdicts are about"
    if not record.claims:
        return "none: no published error is known for these weights on this split"
    return None
