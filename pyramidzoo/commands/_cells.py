"""Facts about weights as the commands print them."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import Result, WeightsEntry


def weights_license(entry: WeightsEntry) -> str:
    """Return the license of the weights, or "unknown" where nobody knows it."""
    return entry.license.weights or "unknown"


def top1_error(result: Result) -> str:
    """Return the top-1 error over all images of the split, in percent with two digits."""
    return f"{100 * (result.images - result.top1_correct) / result.images:.2f}"
