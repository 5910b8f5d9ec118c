"""Judge a measurement: compare it with a recorded measurement, and with published errors.

These are two different verdicts, and they are never mixed. The verdict `recorded` compares with the
zoo's own measurement of the same tensors, which is in the manifest. The verdict `claim` compares
with an error that somebody published.
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
    """The counts of one evaluation.

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
    """Describe in words which pixels of a test image the network gets.

    The manifest's claims and results use the same words. The interpolation is named only if it is
    not the one that belongs to the weights.

    Args:
        preprocessing: The preprocessing that the evaluation uses.
        weights_preprocessing: The preprocessing that belongs to the weights; None if it is the
            same one.

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
    """Find the strict measurement of an entry on a split among the entry's results in the manifest.

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
    """Compare counts with the measurement of the same tensors that is recorded in the manifest.

    Args:
        counts: The counts of the evaluation that is judged.
        result: The recorded measurement; None if nothing is recorded.

    Returns:
        The verdict and the reason for it. "exact": all counts and the prediction hash are equal.
        "changed": a count or the prediction hash differs. "none": nothing is recorded.
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
    """Compare our errors with the errors that were published for exactly these weights.

    Only the entry's claims for this split and this protocol are compared.

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
    """Return how many predictions may differ from a published result, because machines round differently.

    It is 2 for each 10,000 images, but at most 5. So it is 2 for CIFAR's 10,000 test images and 5
    for ImageNet's 50,000 validation images.
    """
    return min(2 * images // 10_000, 5)


def claim_verdict(published: Decimal, ours: float, images: int) -> ClaimVerdict:
    """Compare our error with an error that was published for exactly these weights.

    Two differences are allowed: the rounding of the published number, which is half of its last
    digit, and the flip budget. Each flip counts as 1 / images, for every statistic. The mean of
    batch errors gives more weight to the images of a short last batch, but a flip does not count
    more there, so that a few flips cannot excuse a large difference.

    Args:
        published: The published top-1 error in percent. Its number of digits tells how it was
            rounded.
        ours: Our top-1 error in percent, by the statistic of the claim.
        images: Number of images.

    Returns:
        "matched" if the difference is at most the sum of the two allowed ones, else "different".
    """
    half_of_last_digit = Decimal(5).scaleb(int(published.as_tuple().exponent) - 1)
    allowed = float(half_of_last_digit) + 100 * flip_budget(images) / images
    # 1e-9 is for the rounding of the subtraction.
    return "matched" if abs(ours - float(published)) <= allowed + 1e-9 else "different"


def paper_verdict(published: Decimal, spread: str | None, ours: float, interval: tuple[float, float]) -> ClaimVerdict:
    """Compare our error with a published error that belongs to other weights of the same network.

    For example, a paper gives the error of a network that its authors trained, and we have weights
    that somebody else trained. Then equal errors would be chance, so the best verdict is
    "consistent".

    Args:
        published: The published top-1 error in percent.
        spread: The published spread of several training runs, such as "± 0.20". Any other text, such
            as "median of 5 runs", means that no spread was published.
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
