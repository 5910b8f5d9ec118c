"""Make frozen records from JSON objects: every field must be there and have its declared type.

No value is converted, and no missing value is filled in.
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
_HEX = re.compile(r"[0-9a-f]*")


class InvalidRecordError(UsageError):
    """Says what is wrong with a value of a record.

    Someone who made the value in Python sees it as the UsageError that it is. Code that reads records from a file
    catches it, and raises an IntegrityError that names the place in the file.
    """


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Checks by the annotation as it is written. A field of any other type is checked by the record's own __post_init__.
_TYPE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda v: isinstance(v, str) and v.isprintable(),
    "str | None": lambda v: v is None or (isinstance(v, str) and v.isprintable()),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "int | None": lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool)),
    "float": _is_number,
    "float | None": lambda v: v is None or _is_number(v),
    "tuple[float, ...]": lambda v: isinstance(v, tuple) and all(map(_is_number, v)),
    "Mapping[str, Any]": lambda v: isinstance(v, Mapping),
    "Mapping[str, str]": lambda v: isinstance(v, Mapping) and all(isinstance(x, str) for x in v.values()),
    "Mapping[str, float]": lambda v: isinstance(v, Mapping) and all(map(_is_number, v.values())),
}


def make_record(cls: type[T], content: Any) -> T:
    """Make a frozen record from a JSON object that has every field of the class and no other.

    Args:
        cls: A dataclass.
        content: The JSON object.

    Returns:
        An instance of `cls`.

    Raises:
        InvalidRecord: If a field is missing, unknown or of another type than declared.
    """
    if not isinstance(content, Mapping):
        raise InvalidRecordError(f"{cls.__name__} must be an object, not {type(content).__name__}")
    types = _get_field_types(cls)  # type: ignore[arg-type]
    if types.keys() != content.keys():
        missing, extra = sorted(types.keys() - content.keys()), sorted(content.keys() - types.keys())
        raise InvalidRecordError(f"{cls.__name__} lacks {missing} and has unknown {describe_value(extra)}")
    for name, value in content.items():
        has_type = _TYPE_CHECKS.get(types[name])
        if has_type is not None and not has_type(value):
            raise InvalidRecordError(f"{name}: {describe_value(value)} is not of the type {types[name]}")
    return cls(**content)


@cache
def _get_field_types(cls: type) -> dict[str, str]:
    return {field.name: str(field.type) for field in dataclasses.fields(cls)}


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from the pairs of a JSON object in which no key occurs twice.

    Python's JSON reader silently keeps the last of several values for a key. Give this function to `json.loads` as
    `object_pairs_hook` to prevent it.

    Args:
        pairs: The keys and values of one object, in their order.

    Returns:
        The object as a dict.

    Raises:
        InvalidRecord: If a key occurs twice.
    """
    content = dict(pairs)
    if len(content) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        most_frequent = max(counts, key=counts.__getitem__)
        raise InvalidRecordError(f"{describe_value(most_frequent)} stands twice")
    return content


def describe_value(value: Any) -> str:
    """Write a value for a message, in ASCII characters, at most about 200 of them.

    Args:
        value: Any value, possibly from a damaged file.

    Returns:
        The beginning of its representation.
    """
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require_hex(value: Any, digits: int | range) -> None:
    """Require a string of lower-case hex digits.

    Args:
        value: The value to check.
        digits: How many digits it must have, or the range of allowed numbers of digits.

    Raises:
        InvalidRecord: If the value is anything else.
    """
    allowed = digits if isinstance(digits, range) else range(digits, digits + 1)
    if not isinstance(value, str) or not _HEX.fullmatch(value) or len(value) not in allowed:
        number = f"{allowed[0]}" if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
        raise InvalidRecordError(f"{describe_value(value)} is not {number} hex digits")
