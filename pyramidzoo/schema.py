"""JSON objects into frozen records, every field present and of its declared type: nothing is coerced or guessed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Invalid(ValueError):
    """What is wrong with a value; whoever reads the file adds where it stands."""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# by the annotation as it is written; a field of any other type is left to the record's own __post_init__
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda v: isinstance(v, str),
    "str | None": lambda v: v is None or isinstance(v, str),
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
        raise Invalid(f"{cls.__name__} must be an object, not {type(content).__name__}")
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if fields.keys() != content.keys():
        missing, extra = sorted(fields.keys() - content.keys()), sorted(content.keys() - fields.keys())
        raise Invalid(f"{cls.__name__} lacks {missing} and has unknown {extra}")
    for name, value in content.items():
        holds = _TYPES.get(fields[name].type)
        if holds is not None and not holds(value):
            raise Invalid(f"{name}: {value!r} is not of the type {fields[name].type}")
    return cls(**content)


def require_hex(value: Any, digits: int) -> None:
    """Raise Invalid unless the value is that many lower-case hex digits."""
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
        raise Invalid(f"{value!r} is not {digits} hex digits")
