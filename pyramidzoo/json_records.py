"""JSON objects into frozen records, every field present and of its declared type: nothing is coerced or guessed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from pyramidzoo.errors import UsageError

T = TypeVar("T")
_HEX = re.compile(r"[0-9a-f]*")


class InvalidRecord(UsageError):
    """What is wrong with a value. For who made the value in Python it is a usage error.

    Whoever reads a file catches it as the ValueError that it is, and raises an IntegrityError that says where it is.
    """


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# by the annotation as it is written; a field of any other type is left to the record's own __post_init__
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda v: isinstance(v, str) and v.isprintable(),
    "str | None": lambda v: v is None or (isinstance(v, str) and v.isprintable()),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "int | None": lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool)),
    "float": _number,
    "float | None": lambda v: v is None or _number(v),
    "tuple[float, ...]": lambda v: isinstance(v, tuple) and all(map(_number, v)),
    "Mapping[str, Any]": lambda v: isinstance(v, Mapping),
    "Mapping[str, str]": lambda v: isinstance(v, Mapping) and all(isinstance(x, str) for x in v.values()),
    "Mapping[str, float]": lambda v: isinstance(v, Mapping) and all(map(_number, v.values())),
}


def record(cls: type[T], content: Any) -> T:
    """A frozen record from a JSON object that has every field of the class and no other. Raises Invalid."""
    if not isinstance(content, Mapping):
        raise InvalidRecord(f"{cls.__name__} must be an object, not {type(content).__name__}")
    types = _types(cls)  # type: ignore[arg-type]
    if types.keys() != content.keys():
        missing, extra = sorted(types.keys() - content.keys()), sorted(content.keys() - types.keys())
        raise InvalidRecord(f"{cls.__name__} lacks {missing} and has unknown {shown(extra)}")
    for name, value in content.items():
        holds = _TYPES.get(types[name])
        if holds is not None and not holds(value):
            raise InvalidRecord(f"{name}: {shown(value)} is not of the type {types[name]}")
    return cls(**content)


@cache
def _types(cls: type) -> dict[str, str]:
    return {field.name: str(field.type) for field in dataclasses.fields(cls)}


def shown(value: Any) -> str:
    """A value for a message: in characters of any terminal, and not all of a long one."""
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def require_hex(value: Any, digits: int | range) -> None:
    """Raise Invalid unless the value is that many lower-case hex digits, or a number of them in that range."""
    allowed = digits if isinstance(digits, range) else range(digits, digits + 1)
    if not isinstance(value, str) or not _HEX.fullmatch(value) or len(value) not in allowed:
        number = f"{allowed[0]}" if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
        raise InvalidRecord(f"{shown(value)} is not {number} hex digits")
