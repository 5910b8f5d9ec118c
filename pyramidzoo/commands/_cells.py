"""Texts about weights that several commands print in tables."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import Result, WeightsEntry


def get_weights_license(entry: WeightsEntry) -> str:
    """Return the license of the weights, or "unknown" if the manifest does not name it."""
    return entry.license.weights or "unknown"


def compute_top1_error(result: Result) -> str:
    """Return the top-1 error of a measurement in percent, with two digits after the point."""
    return f"{100 * (result.images - result.top1_correct) / result.images:.2f}"
