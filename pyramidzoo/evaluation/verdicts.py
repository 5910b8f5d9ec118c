"""Judge a measurement: compare it with what was recorded, and with what was published.

These are two different verdicts, and they are never mixed. `recorded` compares with the manifest's
own measurement of the same tensors. `claim` compares with an error that somebody published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import Result, WeightsEntry
from pyramidzoo.evaluation.records import ClaimCheck

RecordedVerdict = Literal["exact", "changed", "none"]
ClaimVerdict = Literal["matched", "consistent", "different", "none"]


@dataclass(frozen=True)
class Counts:
    """What one evaluation counted.

    Attributes:
        images: Number of images.
        top1_correct: How many of them have the label as the predicted class.
        top5_correct: How many of them have the label among the five classes with the largest
            logits.
        prediction_sha256: Hash of the predicted classes of all images
            (`metrics.prediction_sha256`).
    """

    images: int
    top1_correct: int
    top5_correct: int
    prediction_sha256: str


def describe_protocol(preprocessing: Preprocessing, weights_preprocessing: Preprocessing | None = None) -> str:
    """Describe what a network sees of each test image.

    The words are those of the manifest's claims and results. The interpolation is not part of these
    words, because the weights fix it. It is named only if another one is used.

    Args:
        preprocessing: The preprocessing that the evaluation uses.
        weights_preprocessing: The preprocessing that belongs to the weights, if it can be another
            one.

    Returns:
        The description, such as "resize 256, center crop 224, one pass".
    """
    if preprocessing.resize is None and preprocessing.crop is None:
        return "full {}x{} image, one pass".format(*preprocessing.input_size[1:])
    text = f"resize {preprocessing.resize}, center crop {preprocessing.crop}, one pass"
    if weights_preprocessing is not None and preprocessing.interpolation != weights_preprocessing.interpolation:
        return f"{text}, {preprocessing.interpolation}"
    return text


def find_recorded_result(entry: WeightsEntry | None, split: str, protocol: str | None = None) -> Result | None:
    """Find the manifest's strict measurement of an entry on a split.

    Args:
        entry: The manifest's entry; None for weights that have no entry.
        split: Name of the split.
        protocol: The protocol in words; None for the protocol that belongs to the weights.

    Returns:
        The result, or None if there is none.
    """
    if entry is None:
        return None
    key = split, protocol or describe_protocol(entry.preprocessing), "fp32"
    for result in entry.results:
        if (result.split, result.protocol, result.precision) == key:
            return result
    return None


def recorded_verdict(counts: Counts, result: Result | None) -> tuple[RecordedVerdict, str]:
    """Compare with the manifest's own measurement of the same tensors.

    Args:
        counts: What was counted now.
        result: What the manifest has recorded; None if nothing is recorded.

    Returns:
        The verdict and the reason for it. "exact": the counts and the prediction hash are equal.
        "changed": any of them is not. "none": nothing is recorded.
    """
    if result is None:
        return "none", "nothing is recorded for these weights on this split"
    recorded = (result.images, result.top1_correct, result.top5_correct)
    if recorded != (counts.images, counts.top1_correct, counts.top5_correct):
        return "changed", (
            f"{result.images - result.top1_correct} wrong and {result.top5_correct} top-5 correct are recorded, "
            f"{counts.images - counts.top1_correct} and {counts.top5_correct} were measured"
        )
    if result.prediction_sha256 != counts.prediction_sha256:
        return "changed", "the counts are the recorded ones, but some predictions moved"
    return "exact", "the recorded counts and the recorded prediction of every image"


def check_claims(
    entry: WeightsEntry | None,
    split: str,
    statistics: Mapping[str, float],
    images: int,
    protocol: str | None = None,
) -> tuple[ClaimCheck, ...]:
    """Compare with the errors that were published of these very weights.

    Only errors on this split and by this protocol count.

    Args:
        entry: The manifest's entry; None for weights that have no entry, and so no claims.
        split: Name of the split.
        statistics: Our top-1 errors in percent, by the name of the statistic.
        images: Number of images.
        protocol: The protocol in words; None for the protocol that belongs to the weights.

    Returns:
        One check for each claim. It uses the claim's own statistic.
    """
    if entry is None:
        return ()
    protocol = protocol or describe_protocol(entry.preprocessing)
    checks = []
    for claim in entry.claims:
        if (claim.split, claim.protocol) == (split, protocol):
            ours = statistics[claim.statistic]
            verdict = claim_verdict(claim.top1_error, ours, images)
            checks.append(ClaimCheck(claim.by, str(claim.top1_error), claim.statistic, ours, verdict))
    return tuple(checks)


def flip_budget(images: int) -> int:
    """Return how many predictions may differ on another machine.

    It is 2 in 10,000 images, and never more than 5: ImageNet's 50,000 images may have 5.
    """
    return min(2 * images // 10_000, 5)


def claim_verdict(published: Decimal, ours: float, images: int) -> ClaimVerdict:
    """Compare with a published error of these very weights.

    A difference of the flip budget is allowed beyond the rounding of the published number. Each
    flip counts as 1 / images. A statistic can give some images more weight; if it did so here, few
    images could excuse any difference.

    Args:
        published: The published top-1 error in percent. Its number of digits tells how it was
            rounded.
        ours: Our top-1 error in percent, by the statistic of the claim.
        images: Number of images.

    Returns:
        "matched" if both are equal within the rounding and the flip budget, else "different".
    """
    rounding = Decimal(5).scaleb(int(published.as_tuple().exponent) - 1)
    allowed = float(rounding) + 100 * flip_budget(images) / images
    return "matched" if abs(ours - float(published)) <= allowed + 1e-9 else "different"


def paper_verdict(published: Decimal, spread: str | None, ours: float, interval: tuple[float, float]) -> ClaimVerdict:
    """Compare with the published error of other weights of the same network.

    Other weights can never be reproduced, so the best verdict is "consistent".

    Args:
        published: The published top-1 error in percent.
        spread: What was published about the spread of runs, such as "± 0.20"; other texts give no
            range.
        ours: Our top-1 error in percent.
        interval: The Wilson interval of our error, in percent.

    Returns:
        "consistent" if the published error lies in our interval, or ours lies in the published
        spread, else "different".
    """
    half_width = float(spread.removeprefix("± ")) if spread and spread.startswith("± ") else 0.0
    in_interval = interval[0] <= float(published) <= interval[1]
    in_spread = abs(ours - float(published)) <= half_width
    return "consistent" if in_interval or in_spread else "different"
