"""Prediction files, keyed by sample index, and the reducer that gives no number unless it saw each index once."""

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
    """Some samples of a split, under a name for messages: index and labels int64 (n), logits float32 (n, classes)."""

    name: str
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]

    @property
    def start(self) -> int:
        return int(self.index[0])


@dataclass(frozen=True)
class Predictions:
    """A whole split in index order: labels int64 (N), logits float32 (N, classes)."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def write_predictions(path: Path, part: Part, unit: Mapping[str, Any]) -> None:
    """Write a part with what it holds predictions of (`unit`) and a hash over its content.

    Raises UnavailableError where the file cannot be written; then nothing is left there.
    """
    tensors = {
        "index": torch.from_numpy(part.index),
        "label": torch.from_numpy(part.labels),
        "logits": torch.from_numpy(part.logits),
    }
    write_sealed(path, tensors, {"unit": _canonical(unit)})


def read_predictions(path: Path, unit: Mapping[str, Any]) -> Part:
    """The part in a file. Raises IntegrityError where it is damaged or not of exactly this unit, UnavailableError."""
    content = read_sealed(path)
    if content.metadata.get("unit") != _canonical(unit):
        raise IntegrityError(f"{path} was replaced by another run with other settings; run again")
    found = {name: (tensor.dtype, tensor.dim(), len(tensor)) for name, tensor in content.tensors.items()}
    n = len(content.tensors.get("index", ()))
    if found != {"index": (torch.int64, 1, n), "label": (torch.int64, 1, n), "logits": (torch.float32, 2, n)}:
        raise IntegrityError(f"{path} does not hold predictions; delete it and run again")
    index, labels, logits = (content.tensors[name].numpy() for name in ("index", "label", "logits"))
    return Part(str(path), index, labels, logits)


def is_valid(path: Path, unit: Mapping[str, Any]) -> bool:
    """Whether a file holds undamaged predictions of exactly this unit, so that the work need not be done again."""
    try:
        read_predictions(path, unit)
    except (IntegrityError, UnavailableError):
        return False
    return True


def reduce_predictions(parts: Iterable[Part], images: int) -> Predictions:
    """All predictions of a split of `images` samples.

    Raises IntegrityError where a part holds logits that are not finite, or where any index is missing, doubled or out
    of range: there is no number then.
    """
    labels: NDArray[np.int64] = np.zeros(images, np.int64)
    logits: NDArray[np.float32] | None = None
    seen: NDArray[np.int64] = np.zeros(images, np.int64)
    for part in parts:
        if len(part.index) and not 0 <= part.index.min() <= part.index.max() < images:
            raise IntegrityError(f"{part.name}: indices outside 0 .. {images - 1}; they belong to another split")
        if not np.isfinite(part.logits).all():
            raise IntegrityError(
                f"{part.name}: some logits are NaN or infinite; lower precision can overflow, try fp32"
            )
        if logits is None:
            logits = np.zeros((images, part.logits.shape[1]), np.float32)
        np.add.at(seen, part.index, 1)
        labels[part.index], logits[part.index] = part.labels, part.logits
    missing, doubled = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
    if logits is None or len(missing) or len(doubled):
        raise IntegrityError(
            f"{len(missing)} of {images} samples were not predicted and {len(doubled)} more than once "
            f"(first: {[int(k) for k in [*missing[:3], *doubled[:3]]]}); no number is given"
        )
    return Predictions(labels, logits)


def _canonical(unit: Mapping[str, Any]) -> str:
    return json.dumps(unit, sort_keys=True, separators=(",", ":"))
