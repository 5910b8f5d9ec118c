"""The record of one evaluation: everything needed to believe it, or to do it again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.evaluation.metrics import ERROR, Flips, error_percent, wilson_interval
from pyramidzoo.files import write_text
from pyramidzoo.json_records import InvalidRecordError, make_record

FORMAT = 1
FILE_NAME = "record.json"

# flags of what is faster and gives slightly other logits, and how they are called
_LOOSE = {
    "channels_last": "channels last",
    "optimized": "optimized",
    "compiled": "compiled",
    "cuda_graph": "CUDA graph",
    "tensor_resize": "resized as tensors",
}


@dataclass(frozen=True)
class ClaimCheck:
    """One published error beside ours by the same statistic, in percent."""

    by: str
    published: str
    statistic: str
    ours: float
    verdict: str


@dataclass(frozen=True)
class Record:
    """Counts, hashes, circumstances and verdicts of one set of weights on one split.

    `statistics` are top-1 errors in percent; `flags` how it was computed; `duration_seconds` the time from the first
    batch to the last, in the process that took longest, null where `reused_files` of an earlier run's predictions were
    taken over; `manifest` the sha256 of the one that `PYRAMIDZOO_MANIFEST` named, whose verdicts these are, null where
    it was the zoo's own; `against_strict` what moved where strict arithmetic was run beside it, null where it was not.
    """

    format: int
    weights: str
    architecture: str
    arguments: Mapping[str, Any]
    parameters: int
    file_sha256: str
    tensors_sha256: str
    preprocessing_sha256: str
    dataset: str
    split: str
    protocol: str
    dataset_fingerprint: str
    images: int
    top1_correct: int
    top5_correct: int
    statistics: Mapping[str, float]
    prediction_sha256: str
    precision: str
    device: str
    flags: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str
    date: str
    duration_seconds: float | None
    reused_files: int
    recorded: str
    recorded_detail: str
    manifest: str | None
    against_strict: Flips | None
    claims: tuple[ClaimCheck, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.top1_correct <= self.top5_correct <= self.images > 0:
            raise InvalidRecordError("counts must satisfy 0 <= top1_correct <= top5_correct <= images, and images > 0")

    @property
    def strict(self) -> bool:
        """Whether it was computed in the arithmetic, and from the pixels, that verdicts are about."""
        return is_strict(self.precision, self.flags)

    @property
    def arithmetic(self) -> str:
        """How it was computed, in a few words."""
        return ", ".join([self.precision, *(text for flag, text in _LOOSE.items() if self.flags.get(flag))])

    @property
    def not_the_split(self) -> str | None:
        """Why these images are not the split as it was published, if they are not: then nothing can be compared."""
        return self.flags.get("not_the_split")

    @property
    def wrong(self) -> int:
        return self.images - self.top1_correct

    @property
    def top1_error(self) -> float:
        return error_percent(self.wrong, self.images)

    @property
    def top5_error(self) -> float:
        return error_percent(self.images - self.top5_correct, self.images)

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.wrong, self.images)

    @property
    def reproduced(self) -> bool:
        """Whether no verdict speaks against it."""
        return self.recorded != "changed" and all(claim.verdict != "different" for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        """All fields, and the derived errors beside the counts."""
        low, high = self.interval
        derived = {
            "wrong": self.wrong,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "top1_error_interval": [low, high],
        }
        return dataclasses.asdict(self) | derived


def is_strict(precision: str, flags: Mapping[str, Any]) -> bool:
    """Whether verdicts are about what was computed like this."""
    return precision == "fp32" and not any(flags.get(flag) for flag in _LOOSE)


def result_of(record: Record) -> dict[str, Any]:
    """A record reduced to what the manifest keeps: the fields of a `Result`."""
    return {
        "split": record.split,
        "protocol": record.protocol,
        "images": record.images,
        "top1_correct": record.top1_correct,
        "top5_correct": record.top5_correct,
        "statistics": {name: round(value, 6) for name, value in record.statistics.items() if name != ERROR},
        "prediction_sha256": record.prediction_sha256,
        "precision": record.precision,
        "device": record.device,
        "versions": dict(record.versions),
        "date": record.date[:10],
    }


def write_record(path: Path, record: Record) -> None:
    """Replace a record file as a whole. Raises UnavailableError."""
    write_text(path, json.dumps(record.to_json(), indent=1, sort_keys=True) + "\n")


def read_records(folder: Path) -> list[Record]:
    """All records below a folder, sorted by weights. Raises IntegrityError for a damaged one, UnavailableError."""

    def unreadable(error: OSError) -> None:
        raise UnavailableError(f"cannot read {error.filename}: {error.strerror}") from error

    found = [Path(place, FILE_NAME) for place, _, names in os.walk(folder, onerror=unreadable) if FILE_NAME in names]
    return sorted(map(_read, sorted(found)), key=lambda record: record.weights)


def _read(path: Path) -> Record:
    names = {field.name for field in dataclasses.fields(Record)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, not {FORMAT}")
        later = {"manifest": None, "against_strict": None}  # fields that older records lack
        kept = later | {name: value for name, value in content.items() if name in names}
        if kept["against_strict"] is not None:
            moved = tuple(map(tuple, kept["against_strict"]["moved"]))
            kept["against_strict"] = make_record(Flips, kept["against_strict"] | {"moved": moved})
        kept["claims"] = tuple(make_record(ClaimCheck, claim) for claim in kept["claims"])
        return make_record(Record, kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a record ({error}); delete it and evaluate again") from error
