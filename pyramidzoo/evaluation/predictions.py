"""Predictions by sample index: write them to files, read them, and join those of a whole split.

They are joined only if every sample of the split was predicted exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyramidzoo.checkpoints.safetensors_file import read_sealed, write_sealed
from pyramidzoo.errors import IntegrityError, UnavailableError


@dataclass(frozen=True)
class Part:
    """Predictions for some samples of a split.

    Attributes:
        name: What error messages call these predictions: the file's path, or the range of samples.
        index: Index of each sample, int64 (n).
        labels: Labels, int64 (n).
        logits: Logits, float32 (n, classes).
    """

    name: str
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Predictions for a whole split, in the order of the sample indices.

    Attributes:
        labels: Labels, int64 (N).
        logits: Logits, float32 (N, classes).
    """

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def write_predictions(path: Path, part: Part, unit: Mapping[str, Any]) -> None:
    """Write a prediction file. It contains a hash of its content, so that damage is found.

    Args:
        path: The file.
        part: The predictions.
        unit: The unit of work that was predicted: its range of samples, and everything that
            predictions depend on (`planning.Unit`).

    Raises:
        UnavailableError: The file cannot be written. No incomplete file is left then.
    """
    tensors = {
        "index": torch.from_numpy(part.index),
        "label": torch.from_numpy(part.labels),
        "logits": torch.from_numpy(part.logits),
    }
    write_sealed(path, tensors, {"unit": _to_canonical_json(unit)})


def read_predictions(path: Path, unit: Mapping[str, Any]) -> Part:
    """Read a prediction file.

    Args:
        path: The file.
        unit: The unit of work whose predictions it must hold.

    Returns:
        The predictions.

    Raises:
        IntegrityError: The file is damaged, or it belongs to another unit.
        UnavailableError: The file cannot be read.
    """
    content = read_sealed(path)
    if content.metadata.get("unit") != _to_canonical_json(unit):
        raise IntegrityError(f"{path} was replaced by another run with other settings; run again")
    n = len(content.tensors.get("index", ()))
    # For each tensor: its dtype, its number of dimensions and its length.
    expected = {"index": (torch.int64, 1, n), "label": (torch.int64, 1, n), "logits": (torch.float32, 2, n)}
    if {name: (tensor.dtype, tensor.dim(), len(tensor)) for name, tensor in content.tensors.items()} != expected:
        raise IntegrityError(f"{path} does not hold predictions; delete it and run again")
    index, labels, logits = (content.tensors[name].numpy() for name in ("index", "label", "logits"))
    return Part(str(path), index, labels, logits)


def is_valid(path: Path, unit: Mapping[str, Any]) -> bool:
    """Return whether a file holds undamaged predictions of exactly this unit."""
    try:
        read_predictions(path, unit)
    except (IntegrityError, UnavailableError):
        return False
    return True


def reduce_predictions(parts: Iterable[Part], images: int) -> Predictions:
    """Join the predictions of all parts of a split.

    Args:
        parts: The parts, in any order.
        images: Number of samples in the split.

    Returns:
        The predictions of the whole split.

    Raises:
        IntegrityError: Some logits are not finite, or an index is missing, is there twice or is out
            of range.
    """
    labels: NDArray[np.int64] = np.zeros(images, np.int64)
    logits: NDArray[np.float32] | None = None
    times_seen: NDArray[np.int64] = np.zeros(images, np.int64)
    for part in parts:
        if len(part.index) and not 0 <= part.index.min() <= part.index.max() < images:
            raise IntegrityError(f"{part.name}: indices outside 0 .. {images - 1}; they belong to another split")
        if not np.isfinite(part.logits).all():
            raise IntegrityError(
                f"{part.name}: some logits are NaN or infinite; a lower precision can overflow, so try fp32"
            )
        if logits is None:
            logits = np.zeros((images, part.logits.shape[1]), np.float32)
        np.add.at(times_seen, part.index, 1)  # `times_seen[part.index] += 1` would count a repeated index once.
        labels[part.index], logits[part.index] = part.labels, part.logits
    missing, repeated = np.flatnonzero(times_seen == 0), np.flatnonzero(times_seen > 1)
    if logits is None or len(missing) or len(repeated):
        examples = [int(index) for index in [*missing[:3], *repeated[:3]]]
        raise IntegrityError(
            f"{len(missing)} of {images} samples were not predicted, and {len(repeated)} were predicted more than once "
            f"(the first ones: {examples}); there is no number"
        )
    return Predictions(labels, logits)


def _to_canonical_json(unit: Mapping[str, Any]) -> str:
    """Write a unit as JSON. Equal units give equal texts, because the keys are sorted."""
    return json.dumps(unit, sort_keys=True, separators=(",", ":"))
