"""Metrics: count correct predictions, and compute errors and their intervals.

Errors are in percent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

ERROR = "error"
MEAN_OF_BATCH_ERRORS = "mean of batch errors, batch size 128"


def label_ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each label.

    The rank is the number of classes that come before the label when they are sorted by logit.
    Rank 0 is a correct top-1 prediction, and a rank below 5 a correct top-5 prediction. If two
    logits are equal, the class with the lower index comes first.

    Args:
        logits: Finite logits (N, classes).
        labels: Labels (N).

    Returns:
        The ranks (N).
    """
    label_logits = np.take_along_axis(logits, labels[:, None], axis=1)
    has_lower_index = np.arange(logits.shape[1]) < labels[:, None]
    comes_before = (logits > label_logits) | ((logits == label_logits) & has_lower_index)
    ranks: NDArray[np.int64] = comes_before.sum(axis=1).astype(np.int64)
    return ranks


def prediction_sha256(logits: NDArray[np.float32]) -> str:
    """Return the hash of the predicted classes.

    Args:
        logits: Logits (N, classes) in index order. If two logits are equal, the lower index is
            predicted.

    Returns:
        The sha256 over the classes as little-endian int64.
    """
    return hashlib.sha256(logits.argmax(axis=1).astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class PredictionChanges:
    """How predictions in another arithmetic differ from strict predictions of the same images.

    Attributes:
        prediction_sha256: Hash of the strict predictions.
        lost: How many predictions are correct in strict arithmetic and wrong in the other one.
        gained: How many predictions are wrong in strict arithmetic and correct in the other one.
        moved: (index, label, strict class, other class) of every image whose predicted class
            differs.
        largest_difference: Largest absolute difference between a logit and the strict logit.
    """

    prediction_sha256: str
    lost: int
    gained: int
    moved: tuple[tuple[int, int, int, int], ...]
    largest_difference: float


def compare_predictions(
    strict_logits: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> PredictionChanges:
    """Compare predictions of another arithmetic with strict predictions.

    Args:
        strict_logits: Logits (N, classes) of strict arithmetic, in index order.
        logits: Logits (N, classes) of the other arithmetic, in index order.
        labels: Labels (N).

    Returns:
        The differences.
    """
    strict_classes, classes = strict_logits.argmax(axis=1), logits.argmax(axis=1)
    (index,) = np.nonzero(strict_classes != classes)
    moved = np.stack([index, labels[index], strict_classes[index], classes[index]], axis=1)
    return PredictionChanges(
        prediction_sha256=prediction_sha256(strict_logits),
        lost=int((strict_classes[index] == labels[index]).sum()),
        gained=int((classes[index] == labels[index]).sum()),
        moved=tuple(tuple(row) for row in moved.tolist()),
        largest_difference=float(np.abs(strict_logits - logits).max()),
    )


def error_percent(wrong: int, images: int) -> float:
    """Return the error in percent."""
    return 100 * wrong / images


def wilson_interval(wrong: int, images: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of an error.

    It shows which errors another test set of the same size could give. For a share p of wrong
    predictions among n images, and z = 1.96, its ends are
    (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        wrong: Number of wrong predictions.
        images: Number of images.

    Returns:
        The lower and the upper end, in percent.
    """
    # z is the 97.5 % quantile of the normal distribution.
    z, p = 1.959963984540054, wrong / images
    center = p + z * z / (2 * images)
    half_width = z * sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 100 / (1 + z * z / images)  # The factor 100 makes percent.
    return max(0.0, (center - half_width) * scale), min(100.0, (center + half_width) * scale)


def _compute_error(is_correct: NDArray[np.bool_]) -> float:
    """Return the error in percent of predictions, given for each whether it is correct."""
    return error_percent(int((~is_correct).sum()), len(is_correct))


def _compute_mean_of_batch_errors(is_correct: NDArray[np.bool_]) -> float:
    """Return the mean of the errors, in percent, of batches of 128 images.

    The last batch counts as much as the others, although it can have fewer images. Some authors
    published this number.
    """
    starts = range(0, len(is_correct), 128)
    return float(np.mean([_compute_error(is_correct[start : start + 128]) for start in starts]))


# For each statistic, by name: the function that computes it, in percent, from whether each prediction is correct.
STATISTICS: Mapping[str, Callable[[NDArray[np.bool_]], float]] = {
    ERROR: _compute_error,
    MEAN_OF_BATCH_ERRORS: _compute_mean_of_batch_errors,
}
