"""Prediction files, keyed by sample index, and the reducer that gives no number unless it saw each index once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramidzoo.containers import read_metadata, read_tensors, write_tensors
from pyramidzoo.errors import IntegrityError, UnavailableError


@dataclass(frozen=True)
class Predictions:
    """A whole split in index order: labels int64 (N), logits float32 (N, classes)."""

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def write_predictions(path: Path, *, start: int, labels: Tensor, logits: Tensor, unit: Mapping[str, Any]) -> None:
    """Write the samples start, start+1, ... with what they are predictions of (`unit`) and a hash over their content.

    Raises UnavailableError where the file cannot be written; then nothing is left there.
    """
    tensors = {
        "index": torch.arange(start, start + len(labels), dtype=torch.int64),
        "label": labels.to("cpu", torch.int64),
        "logits": logits.to("cpu", torch.float32),
    }
    write_tensors(path, tensors, {"unit": _canonical(unit), "content_sha256": _content_hash(tensors)})


def is_valid(path: Path, unit: Mapping[str, Any]) -> bool:
    """Whether a file holds undamaged predictions of exactly this unit, so that the work need not be done again."""
    try:
        metadata = read_metadata(path)
        return metadata.get("unit") == _canonical(unit) and metadata.get("content_sha256") == _content_hash(
            read_tensors(path)
        )
    except (IntegrityError, UnavailableError):
        return False


def reduce_predictions(units: Mapping[Path, Mapping[str, Any]], images: int) -> Predictions:
    """All predictions of a split of `images` samples, from files that must be of exactly the units given.

    Raises IntegrityError where a file is damaged, is of another unit or holds logits that are not finite, or where any
    index is missing, doubled or out of range: there is no number then.
    """
    labels: NDArray[np.int64] = np.zeros(images, np.int64)
    logits: NDArray[np.float32] | None = None
    seen: NDArray[np.int64] = np.zeros(images, np.int64)
    for path, unit in units.items():
        metadata, tensors = read_metadata(path), read_tensors(path)
        if metadata.get("unit") != _canonical(unit):
            raise IntegrityError(f"{path} was replaced by another run with other settings; run again")
        if metadata.get("content_sha256") != _content_hash(tensors):
            raise IntegrityError(f"{path} is damaged: its content does not match its hash; delete it and run again")
        index, part = tensors["index"].numpy(), tensors["logits"].numpy()
        if len(index) and not 0 <= index.min() <= index.max() < images:
            raise IntegrityError(f"{path} holds indices outside 0 .. {images - 1}; it belongs to another split")
        if not np.isfinite(part).all():
            raise IntegrityError(f"{path}: some logits are NaN or infinite; lower precision can overflow, try fp32")
        if logits is None:
            logits = np.zeros((images, part.shape[1]), np.float32)
        np.add.at(seen, index, 1)
        labels[index], logits[index] = tensors["label"].numpy(), part
    missing, doubled = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
    if logits is None or len(missing) or len(doubled):
        raise IntegrityError(
            f"{len(missing)} of {images} samples were not predicted and {len(doubled)} more than once "
            f"(first: {[*missing[:3], *doubled[:3]]}); no number is given"
        )
    return Predictions(labels, logits)


def _canonical(unit: Mapping[str, Any]) -> str:
    return json.dumps(unit, sort_keys=True, separators=(",", ":"))


def _content_hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in ("index", "label", "logits"):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
