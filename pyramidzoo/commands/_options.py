"""The options of a command as a typed record."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound="CommandOptions")


@dataclass(frozen=True)
class CommandOptions:
    """The base of all options: a frozen dataclass whose fields have the names of the parsed arguments.

    A subclass checks in `__post_init__` what argparse cannot check, and raises UsageError.

    Attributes:
        format: How data are printed, one of `text_output.FORMATS`.
    """

    format: str

    @classmethod
    def from_args(cls: type[T], args: argparse.Namespace) -> T:
        """Take the options from parsed arguments. Lists become tuples.

        Raises:
            UsageError: Options exclude each other, or a value makes no sense.
        """
        values: dict[str, Any] = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)
