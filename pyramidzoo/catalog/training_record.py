"""How a network was trained, as data: the same record stands in the manifest and in records of evaluations.

`train` writes it into the metadata of a weights file, in another form. Only the standard library is needed here.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.errors import IntegrityError
from pyramidzoo.json_records import InvalidRecordError, describe_value, make_record, require_hex

METADATA_KEY = "training"  # of the metadata of a weights file

# The settings of a run that are not settings of its recipe. Everything else in `run` is the recipe.
_NOT_OF_THE_RECIPE = {
    "architecture",
    "seed",
    "data",
    "precision",
    "algorithms",
    "accumulate",
    "pad_widths",
    "overrides",
}


@dataclass(frozen=True)
class TrainingPart:
    """What the epochs of a training were computed on, from one epoch to the next part.

    Attributes:
        from_epoch: Number of the first epoch of this part, from 1.
        device: Name of the device.
        versions: Versions of the software, by name.
    """

    from_epoch: int
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Training:
    """How a network was trained. The JSON has the same names.

    Attributes:
        recipe: Name of the recipe.
        recipe_data: The settings of the recipe when it was used (`Recipe.as_data`), as JSON has them.
        overrides: Settings that the command changed, by name. It is empty if none was changed.
        seed: The seed of the initialization and of all random draws.
        precision: The precision of the training, such as "fp32" or "bf16".
        algorithms: "fixed", or "fastest" if cuDNN could take other algorithms in each run.
        accumulate: In how many parts each batch went through the network.
        data_fingerprint: Hash of the training images and their labels.
        parts: The devices and versions, in the order of the epochs.
        hours: Time of all epochs in hours; None if it is not known. If several trainings ran side by side, it is the
            time of all of them together.
    """

    recipe: str
    recipe_data: Mapping[str, Any]
    overrides: Mapping[str, Any]
    seed: int
    precision: str
    algorithms: str
    accumulate: int
    data_fingerprint: str
    parts: tuple[TrainingPart, ...]
    hours: float | None

    def __post_init__(self) -> None:
        require_hex(self.data_fingerprint, 64)
        if not self.parts or not all(isinstance(part, TrainingPart) for part in self.parts):
            raise InvalidRecordError("parts: at least one device and its versions are needed")
        if self.accumulate < 1 or (self.hours is not None and not self.hours >= 0):
            raise InvalidRecordError(
                f"accumulate is {describe_value(self.accumulate)}, and hours is {describe_value(self.hours)}"
            )

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, each once, in the order of the epochs."""
        return tuple(dict.fromkeys(part.device for part in self.parts))

    def to_json(self) -> dict[str, Any]:
        """Return all fields as a JSON object."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """Return a sentence without its period: recipe, overrides, seed, precision, devices, torch and hours."""
        words = [f"recipe {self.recipe}"]
        words += [f"{name}={describe_value(value)} instead of the recipe's" for name, value in self.overrides.items()]
        words += [f"seed {self.seed}", self.precision]
        if self.algorithms != "fixed":
            words.append(f"{self.algorithms} algorithms")
        if self.accumulate > 1:
            words.append(f"each batch in {self.accumulate} parts")
        torch_versions = dict.fromkeys(part.versions.get("torch", "of an unknown version") for part in self.parts)
        words.append(f"on {' and '.join(self.devices)} (torch {' and '.join(torch_versions)})")
        if self.hours is not None:
            words.append(f"{self.hours:.1f} hours")
        return ", ".join(words)


def get_record(training: str | Training | None) -> Training | None:
    """Return the record of a training; None where an entry of the manifest has only words, or nothing."""
    return training if isinstance(training, Training) else None


def describe_training(training: str | Training | None) -> str | None:
    """Return in words what an entry of the manifest has about a training."""
    return training.describe() if isinstance(training, Training) else training


def make_training(content: Any) -> Training:
    """Make the record of a training from a JSON object that has its form.

    Args:
        content: The JSON object.

    Returns:
        The record.

    Raises:
        InvalidRecordError: A field is missing, unknown or of the wrong type; the message names the field.
    """
    if isinstance(content, Mapping) and "parts" in content:
        parts = content["parts"]
        if not isinstance(parts, (list, tuple)):
            raise InvalidRecordError(f"parts: {describe_value(parts)} is not a list")
        content = {**content, "parts": tuple(make_record(TrainingPart, part) for part in parts)}
    return make_record(Training, content)


def read_training(metadata: Mapping[str, str], path: Path) -> Training | None:
    """Read how a network was trained from the metadata of its weights file.

    Older files do not have all settings. They were written when a setting that they lack could only have its default.
    The hours are not in the metadata, because two runs of a command must give the same bytes. They are taken from the
    log beside the file, if the log is there.

    Args:
        metadata: The metadata of a safetensors file.
        path: The file, for messages.

    Returns:
        The record, or None if `train` did not write this file.

    Raises:
        IntegrityError: The metadata do not describe a training.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        history = json.loads(text)
        run = history["run"]
        return make_training(
            {
                "recipe": run["name"] if "name" in run else run["dataset"],
                "recipe_data": {name: value for name, value in run.items() if name not in _NOT_OF_THE_RECIPE},
                "overrides": run["overrides"] if "overrides" in run else history.get("overrides", {}),
                "seed": run["seed"],
                "precision": run.get("precision", "fp32"),
                "algorithms": run.get("algorithms", "fixed"),
                "accumulate": run.get("accumulate", 1),
                "data_fingerprint": run["data"],
                "parts": history["computed"],
                "hours": history["hours"] if "hours" in history else _sum_hours(path.with_suffix(".csv"), history),
            }
        )
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: its metadata do not describe its training ({error}); get the file again"
        ) from error


def _sum_hours(log: Path, history: Mapping[str, Any]) -> float | None:
    """Return the hours of all epochs in a log; None if there is no log of this training.

    Args:
        log: The CSV file that `train` wrote beside the weights.
        history: What the metadata of the weights say about the training. The last epoch in it must be the last line of
            the log.
    """
    try:
        with log.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
        is_same_training = all(
            float(lines[-1][name]) == history["last"][name] for name in ("epoch", "loss", "test_error")
        )
        return round(sum(float(line["seconds"]) for line in lines) / 3600, 4) if is_same_training else None
    except (OSError, ValueError, TypeError, KeyError, IndexError, csv.Error):
        return None
