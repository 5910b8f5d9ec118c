"""The record of one evaluation: what is needed to trust its numbers, or to measure them again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.training_record import Training, make_training
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.evaluation.metrics import ERROR, PredictionChanges, error_percent, wilson_interval
from pyramidzoo.files import write_text
from pyramidzoo.json_records import InvalidRecordError, make_record

FORMAT = 1
FILE_NAME = "record.json"
_SUFFIX = f".{FILE_NAME}"  # of records that lie beside their weights, as NAME.record.json

# The flags of a record that make an evaluation not strict, and the words for each that people read.
# Each flag stands for a way to compute that is faster and changes logits slightly.
_WORDS_OF_NOT_STRICT_FLAGS = {
    "channels_last": "channels last",
    "optimized": "optimized",
    "compiled": "compiled",
    "cuda_graph": "CUDA graph",
    "tensor_resize": "resized as tensors",
}


@dataclass(frozen=True)
class ClaimCheck:
    """One published top-1 error, compared with ours. Both are in percent.

    Attributes:
        by: Who published it.
        published: The published error as its authors printed it.
        statistic: Name of the statistic that the authors used (`metrics.STATISTICS`).
        ours: Our error by the same statistic.
        verdict: "matched" or "different".
    """

    by: str
    published: str
    statistic: str
    ours: float
    verdict: str


@dataclass(frozen=True)
class Record:
    """The result of evaluating one set of weights on one split. The JSON file has the same names.

    Attributes:
        format: Version of the file format.
        weights: Weights id, or the name of a file of the user (`EvaluationTarget.name`).
        architecture: Name of the architecture.
        arguments: Arguments of the architecture that differ from its defaults.
        parameters: Number of parameters of the network.
        file_sha256: Hash of the weights file.
        tensors_sha256: Hash of the tensors of the network.
        preprocessing_sha256: Hash of the preprocessing that was used.
        dataset: Name of the dataset.
        split: Name of the split.
        protocol: What the network saw of each image, in words (`verdicts.describe_protocol`).
        dataset_fingerprint: Hash of the images and labels.
        images: Number of images.
        top1_correct: Number of correct top-1 predictions.
        top5_correct: Number of correct top-5 predictions.
        statistics: Top-1 errors in percent, by the name of the statistic.
        prediction_sha256: Hash of the predicted classes of all images.
        precision: Precision of the arithmetic, such as "fp32".
        device: Name of the device.
        flags: How the predictions were computed.
        versions: Versions of the software, by its name.
        command: The command line.
        date: Date and time of the evaluation, in UTC.
        duration_seconds: Time from the first batch to the last one, in the process that took
            longest. None if prediction files of an earlier run were reused.
        reused_files: How many prediction files of an earlier run were reused.
        recorded: The verdict of the comparison with the measurement in the manifest.
        recorded_detail: The reason for this verdict.
        manifest: Hash of the manifest that the verdicts come from, if `PYRAMIDZOO_MANIFEST` names
            one. None for the manifest of the zoo.
        against_strict: The differences from the strict predictions. None if they were not compared.
        claims: Published errors of these weights beside ours.
        training: How the network was trained. None if it is not known as data; the JSON then has no such field.
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
    against_strict: PredictionChanges | None
    claims: tuple[ClaimCheck, ...]
    training: Training | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.top1_correct <= self.top5_correct <= self.images > 0:
            raise InvalidRecordError("counts must satisfy 0 <= top1_correct <= top5_correct <= images, and images > 0")

    @property
    def strict(self) -> bool:
        """Whether the evaluation was strict. Claims are judged only if it was."""
        return is_strict(self.precision, self.flags)

    @property
    def arithmetic_text(self) -> str:
        """How the logits were computed, for people, such as "bf16, channels last".

        The precision comes first, then the words of each flag that makes the evaluation not strict.
        """
        words = [text for flag, text in _WORDS_OF_NOT_STRICT_FLAGS.items() if self.flags.get(flag)]
        return ", ".join([self.precision, *words])

    @property
    def unofficial_reason(self) -> str | None:
        """Why the evaluated images are not those of the official split. None if they are.

        Results on other images are compared with nothing, so there is no verdict.
        """
        return self.flags.get("not_the_split")

    @property
    def wrong(self) -> int:
        """Number of wrong top-1 predictions."""
        return self.images - self.top1_correct

    @property
    def top1_error(self) -> float:
        """Top-1 error in percent."""
        return error_percent(self.wrong, self.images)

    @property
    def top5_error(self) -> float:
        """Top-5 error in percent."""
        return error_percent(self.images - self.top5_correct, self.images)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the top-1 error, in percent."""
        return wilson_interval(self.wrong, self.images)

    @property
    def reproduced(self) -> bool:
        """Whether no verdict is "changed" or "different"."""
        return self.recorded != "changed" and all(claim.verdict != "different" for claim in self.claims)

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and the errors that follow from the counts, as a JSON object."""
        low, high = self.interval
        derived = {
            "wrong": self.wrong,
            "top1_error": self.top1_error,
            "top5_error": self.top5_error,
            "top1_error_interval": [low, high],
        }
        fields = dataclasses.asdict(self)
        if self.training is None:
            del fields["training"]
        return fields | derived


def is_strict(precision: str, flags: Mapping[str, Any]) -> bool:
    """Return whether an evaluation is strict: fp32, and no flag of a faster way to compute is set."""
    return precision == "fp32" and not any(flags.get(flag) for flag in _WORDS_OF_NOT_STRICT_FLAGS)


def make_result_fields(record: Record) -> dict[str, Any]:
    """Return the fields of a manifest's `Result`, taken from a record."""
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
    """Write a record file.

    Args:
        path: The file. If it is there already, it is replaced. A reader never sees an incomplete file.
        record: The record.

    Raises:
        UnavailableError: The file cannot be written.
    """
    write_text(path, json.dumps(record.to_json(), indent=1, sort_keys=True) + "\n")


def read_records(folder: Path) -> list[Record]:
    """Read all records in a folder and its subfolders: files called `record.json` or `NAME.record.json`.

    Args:
        folder: The folder.

    Returns:
        The records, sorted by the names of their weights.

    Raises:
        IntegrityError: A file is not a valid record.
        UnavailableError: A folder cannot be read.
    """
    paths = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=_raise_unreadable)
        for name in names
        if name == FILE_NAME or name.endswith(_SUFFIX)
    ]
    return sorted(map(_read_record, sorted(paths)), key=lambda record: record.weights)


def _raise_unreadable(error: OSError) -> None:
    """Turn an error of `os.walk`, which would ignore it otherwise, into an `UnavailableError`."""
    raise UnavailableError(f"cannot read {error.filename}: {error.strerror}") from error


def _read_record(path: Path) -> Record:
    """Read a record file. Raise IntegrityError if it is not a valid record."""
    names = {field.name for field in dataclasses.fields(Record)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, not {FORMAT}")
        # Older records do not have these.
        fields: dict[str, Any] = {"manifest": None, "against_strict": None, "training": None}
        fields |= {name: value for name, value in content.items() if name in names}
        if fields["against_strict"] is not None:
            moved = tuple(map(tuple, fields["against_strict"]["moved"]))
            fields["against_strict"] = make_record(PredictionChanges, fields["against_strict"] | {"moved": moved})
        if fields["training"] is not None:
            fields["training"] = make_training(fields["training"])
        fields["claims"] = tuple(make_record(ClaimCheck, claim) for claim in fields["claims"])
        return make_record(Record, fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a record ({error}); delete it and evaluate again") from error
