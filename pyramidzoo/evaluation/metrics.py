"""From logits to counts, from counts to errors and their intervals. Errors are in percent."""

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
    """How many classes come before each label (N); 0 is a top-1 hit, below 5 a top-5 hit. Ties go to the lower index.

    Logits (N, classes) must be finite, as the reducer's are.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ranks: NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(axis=1).astype(np.int64)
    return ranks


def prediction_sha256(logits: NDArray[np.float32]) -> str:
    """sha256 over the predicted classes, little-endian int64 in index order. Ties go to the lower index."""
    return hashlib.sha256(logits.argmax(axis=1).astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Flips:
    """What became of strict predictions in another arithmetic, for the same weights and images.

    `moved` has (index, label, strict class, class) of every image whose predicted class is another; `lost` of them were
    right in strict arithmetic, `gained` are right now. `largest_difference` is that of any logit, `prediction_sha256`
    that of the strict predictions.
    """

    prediction_sha256: str
    lost: int
    gained: int
    moved: tuple[tuple[int, int, int, int], ...]
    largest_difference: float


def flips(strict: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Flips:
    """Compare logits (N, classes) with those of strict arithmetic, in index order."""
    before, after = strict.argmax(axis=1), logits.argmax(axis=1)
    (index,) = np.nonzero(before != after)
    moved = np.stack([index, labels[index], before[index], after[index]], axis=1)
    return Flips(
        prediction_sha256=prediction_sha256(strict),
        lost=int((before[index] == labels[index]).sum()),
        gained=int((after[index] == labels[index]).sum()),
        moved=tuple(tuple(row) for row in moved.tolist()),
        largest_difference=float(np.abs(strict - logits).max()),
    )


def error_percent(wrong: int, images: int) -> float:
    return 100 * wrong / images


def wilson_interval(wrong: int, images: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an error, in percent: what another test set of this size might give."""
    z, p = 1.959963984540054, wrong / images
    centre = p + z * z / (2 * images)
    half = z * sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 100 / (1 + z * z / images)
    return max(0.0, (centre - half) * scale), min(100.0, (centre + half) * scale)


def _error(correct: NDArray[np.bool_]) -> float:
    return error_percent(int((~correct).sum()), len(correct))


def _mean_of_batch_errors(correct: NDArray[np.bool_]) -> float:
    """The unweighted mean over consecutive batches of 128: a short last batch weighs as much as a full one."""
    starts = range(0, len(correct), 128)
    return float(np.mean([_error(correct[start : start + 128]) for start in starts]))


STATISTICS: Mapping[str, Callable[[NDArray[np.bool_]], float]] = {
    ERROR: _error,
    MEAN_OF_BATCH_ERRORS: _mean_of_batch_errors,
}
