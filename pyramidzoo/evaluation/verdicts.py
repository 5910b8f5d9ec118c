"""Two verdicts, never mixed: against what was recorded for these weights, and against what was published."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pyramidzoo.catalog.weights_entry import Result

Recorded = Literal["exact", "changed", "none"]
Claimed = Literal["matched", "consistent", "different", "none"]


@dataclass(frozen=True)
class Measured:
    """What the verdicts compare: counts of one evaluation, and the hash of all its predictions."""

    images: int
    top1_correct: int
    top5_correct: int
    prediction_sha256: str


def recorded_verdict(measured: Measured, result: Result | None) -> tuple[Recorded, str]:
    """The verdict against the manifest's own measurement, and why.

    exact: the same counts and the same prediction hash; changed: anything else; none: nothing is recorded.
    """
    if result is None:
        return "none", "nothing is recorded for these weights on this split"
    then = (result.images, result.top1_correct, result.top5_correct)
    now = (measured.images, measured.top1_correct, measured.top5_correct)
    if then != now:
        wrong = result.images - result.top1_correct, measured.images - measured.top1_correct
        return "changed", (
            f"{wrong[0]} wrong and {result.top5_correct} top-5 correct are recorded, "
            f"{wrong[1]} and {measured.top5_correct} were measured"
        )
    if result.prediction_sha256 != measured.prediction_sha256:
        return "changed", "the counts are the recorded ones, but some predictions moved"
    return "exact", "the recorded counts and the recorded prediction of every image"


def flip_budget(images: int) -> int:
    """How many images may fall differently on another machine: 2 in 10,000, never more than 5 (ImageNet's 50,000)."""
    return min(2 * images // 10_000, 5)


def claim_verdict(published: Decimal, ours: float, images: int) -> Claimed:
    """The verdict on a published error of these very weights; `ours` is by the claim's own statistic, in percent.

    matched: equal at the printed rounding, but for the flip budget. A flip counts as 1 / images even where a statistic
    gives some images more weight, or those few could excuse anything.
    """
    rounding = Decimal(5).scaleb(int(published.as_tuple().exponent) - 1)
    allowed = float(rounding) + 100 * flip_budget(images) / images
    return "matched" if abs(ours - float(published)) <= allowed + 1e-9 else "different"


def paper_verdict(published: Decimal, spread: str | None, ours: float, interval: tuple[float, float]) -> Claimed:
    """The verdict on the published error of other weights of the same network: at best consistent, never reproduced.

    `ours` must lie inside the published spread ("± 0.20"), or the published error inside the Wilson `interval` of ours.
    """
    half = float(spread.removeprefix("± ")) if spread and spread.startswith("± ") else 0.0
    inside = interval[0] <= float(published) <= interval[1] or abs(ours - float(published)) <= half
    return "consistent" if inside else "different"
