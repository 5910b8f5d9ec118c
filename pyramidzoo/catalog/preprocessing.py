"""How an image becomes the input of a network, as a record, and the check that a normalization is plausible."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyramidzoo.json_records import InvalidRecordError, describe_value, make_record

WHITENINGS = ("gcn_zca",)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input that a set of weights was trained with.

    Attributes:
        input_size: Channels, height and width of the input; height and width in pixels.
        mean: Mean of each channel, of pixel values from 0 to 1. Each mean lies within [0, 1].
        std: Standard deviation of each channel, of pixel values from 0 to 1. Each deviation lies within (0, 1].
        resize: Length of the shorter side after resizing, in pixels; None if the image is not resized.
        crop: Side of the square that is cut out of the center, in pixels; None if the image is not cropped.
        interpolation: "bilinear" or "bicubic"; None if the image is not resized.

    Raises:
        InvalidRecordError: If a size or a normalization is impossible. InvalidRecord is a UsageError. Code that reads a
            record from a file turns it into an IntegrityError that names the file.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or not all(isinstance(n, int) and n > 0 for n in self.input_size):
            raise InvalidRecordError("input_size must be three positive integers: channels, height, width")
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise InvalidRecordError("input_size, mean and std do not have the same number of channels")
        require_plausible_normalization(self.mean, self.std)

    def sha256(self) -> str:
        """Compute the hash of all fields.

        The fields are written as JSON with sorted names and without spaces, so that equal fields give equal text.

        Returns:
            64 hex digits. Equal hashes mean equal preprocessing.
        """
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class WhitenedPreprocessing(Preprocessing):
    """The preprocessing of weights that were trained on whitened images.

    Whitening replaces the normalization. So each mean is 0 and each standard deviation is 1. This is a class of its own
    and not a field of `Preprocessing`, so that the JSON and the hashes of all other weights have no field for it.

    Attributes:
        whitening: "gcn_zca": global contrast normalization and ZCA, fitted on the training split (`data/whitening.py`).

    Raises:
        InvalidRecordError: As for `Preprocessing`. Or if the whitening is unknown, or the other fields do not go with
            it.
    """

    whitening: str = "gcn_zca"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whitening not in WHITENINGS:
            raise InvalidRecordError(f"whitening {describe_value(self.whitening)} is unknown; known: {WHITENINGS[0]}")
        if any(self.mean) or set(self.std) != {1.0}:
            raise InvalidRecordError("whitening replaces the normalization, so each mean must be 0 and each std 1")
        if self.resize is not None or self.crop is not None:
            raise InvalidRecordError("images that are resized or cropped cannot be whitened")


def make_preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    """Make a preprocessing from the fields of a JSON object, whose lists are tuples already.

    Args:
        fields: The fields. If `whitening` is one of them, the result is a `WhitenedPreprocessing`.

    Returns:
        The preprocessing.

    Raises:
        InvalidRecordError: A field is missing, unknown or wrong.
    """
    return make_record(WhitenedPreprocessing if "whitening" in fields else Preprocessing, fields)


def require_plausible_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Require a mean and a standard deviation that pixel values from 0 to 1 can have.

    A mean or a standard deviation above 1 was most likely measured on pixel values from 0 to 255. The error message
    then shows the numbers divided by 255. Nothing is converted here.

    Args:
        mean: The mean of each channel.
        std: The standard deviation of each channel.

    Raises:
        InvalidRecordError: If a mean does not lie within [0, 1], or a standard deviation does not lie within (0, 1].
            NaN and infinity lie in neither interval.
    """
    problems = []
    if not all(0 <= value <= 1 for value in mean):
        problems.append(f"the mean {_format_numbers(mean)} is not within 0 to 1")
    if not all(0 < value <= 1 for value in std):
        problems.append(f"the standard deviation {_format_numbers(std)} is not above 0 and at most 1")
    if not problems:
        return
    problem = " and ".join(problems)
    values = (*mean, *std)
    if any(value > 1 for value in values) and all(0 <= value <= 255 for value in values) and min(std) > 0:
        raise InvalidRecordError(
            f"{problem}; values from 0 to 255 must be divided by 255, which gives the mean "
            f"{_format_numbers(_scale_to_one(mean))} and the standard deviation {_format_numbers(_scale_to_one(std))}"
        )
    raise InvalidRecordError(
        f"{problem}; give those of values from 0 to 1 (values from 0 to 255 must be divided by 255)"
    )


def _scale_to_one(values: Sequence[float]) -> list[float]:
    """Divide all values by 255 if one of them is above 1. Otherwise they are of pixel values from 0 to 1 already."""
    return [value / 255 for value in values] if max(values) > 1 else list(values)


def _format_numbers(values: Sequence[float]) -> str:
    """Write numbers as a user types them after the option `--mean`: with spaces between them.

    A damaged file may contain a number with very many digits. So each number is cut after 40 characters.
    """
    return " ".join(f"{value!r:.40}" for value in values)
