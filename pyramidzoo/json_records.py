"""Make frozen dataclasses ("records") from JSON objects, and check the names and the types of all fields.

An object must have every field of the dataclass. No value is converted to another type, and no default is used for a
missing field.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from pyramidzoo.errors import UsageError

T = TypeVar("T")
_HEX_DIGITS = re.compile(r"[0-9a-f]*")


class InvalidRecordError(UsageError):
    """A value cannot be a field of a record. The message says which value, and what is wrong with it.

    It is a UsageError for a user who makes a record in Python. Code that reads records from a file catches this error,
    and raises an IntegrityError that says where in the file the value is.
    """


def _is_text(value: Any) -> bool:
    """Decide whether a value is a string without line breaks and control characters."""
    return isinstance(value, str) and value.isprintable()


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # Python's bool is a subclass of int


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)  # Python's bool is a subclass of int


# The check of a field's value, by the field's annotation as it is written in the dataclass. A dataclass that has fields
# of other types checks those in its `__post_init__`.
_TYPE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "str | None": lambda value: value is None or _is_text(value),
    "bool": lambda value: isinstance(value, bool),
    "int": _is_integer,
    "int | None": lambda value: value is None or _is_integer(value),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_is_number, value)),
    "Mapping[str, Any]": lambda value: isinstance(value, Mapping),
    "Mapping[str, str]": lambda value: (
        isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())
    ),
    "Mapping[str, float]": lambda value: isinstance(value, Mapping) and all(map(_is_number, value.values())),
}


def make_record(cls: type[T], content: Any) -> T:
    """Make a frozen record from a JSON object that has every field of the class and no other.

    Args:
        cls: A frozen dataclass.
        content: The JSON object, as `json.loads` returns it.

    Returns:
        An instance of `cls`.

    Raises:
        InvalidRecordError: If `content` is not an object, a field is missing or unknown, or a value does not have the
            type that the dataclass declares for its field.
    """
    if not isinstance(content, Mapping):
        raise InvalidRecordError(f"{cls.__name__} must be an object, not {type(content).__name__}")
    types = _get_field_types(cls)  # type: ignore[arg-type]
    if types.keys() != content.keys():
        missing, extra = sorted(types.keys() - content.keys()), sorted(content.keys() - types.keys())
        raise InvalidRecordError(f"{cls.__name__} lacks {missing} and has unknown {describe_value(extra)}")
    for name, value in content.items():
        is_of_type = _TYPE_CHECKS.get(types[name])
        if is_of_type is not None and not is_of_type(value):
            raise InvalidRecordError(f"{name}: {describe_value(value)} is not of the type {types[name]}")
    return cls(**content)


@cache
def _get_field_types(cls: type) -> dict[str, str]:
    """Return the annotation of each field of a dataclass as text. The modules of records postpone annotations."""
    return {field.name: str(field.type) for field in dataclasses.fields(cls)}


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from the keys and values of a JSON object, and refuse an object in which a key occurs twice.

    If a key occurs twice, Python's JSON reader silently keeps only the last value. Pass this function to `json.loads`
    as `object_pairs_hook`, so that the reader raises an error in this case.

    Args:
        pairs: The keys and values of one object, in the order of the file.

    Returns:
        The object as a dict.

    Raises:
        InvalidRecordError: If a key occurs twice.
    """
    content = dict(pairs)
    if len(content) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        most_frequent_key = max(counts, key=counts.__getitem__)
        raise InvalidRecordError(f"the key {describe_value(most_frequent_key)} occurs more than once")
    return content


def describe_value(value: Any) -> str:
    """Write a value as text for an error message. The text is ASCII, on one line, and at most 203 characters long.

    A value from a damaged file may contain control characters and may be very long.

    Args:
        value: Any value.

    Returns:
        The value as `ascii` writes it. If that is longer than 200 characters, its first 200 characters and "...".
    """
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require_hex(value: Any, digits: int | range) -> None:
    """Raise an error unless a value is a string of lower-case hex digits, such as a hash.

    Args:
        value: The value to check.
        digits: How many digits it must have, or the range of allowed numbers of digits.

    Raises:
        InvalidRecordError: If the value is anything else.
    """
    allowed_lengths = digits if isinstance(digits, range) else range(digits, digits + 1)
    if not isinstance(value, str) or not _HEX_DIGITS.fullmatch(value) or len(value) not in allowed_lengths:
        shortest, longest = allowed_lengths[0], allowed_lengths[-1]
        number = str(shortest) if shortest == longest else f"{shortest} to {longest}"
        raise InvalidRecordError(f"{describe_value(value)} is not {number} hex digits in lower case")
