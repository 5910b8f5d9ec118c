"""Cells that the tables of several commands have."""

from __future__ import annotations

from pyramidzoo.catalog.manifest import Result, WeightsEntry


def license_of(entry: WeightsEntry) -> str:
    """The licence of the weights, "unknown" where nobody can tell."""
    return entry.license.weights or "unknown"


def top1_error(result: Result) -> str:
    """Of all images of the split, in percent."""
    return f"{100 * (result.images - result.top1_correct) / result.images:.2f}"
