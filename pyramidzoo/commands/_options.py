"""The base class of the typed records into which commands turn their parsed arguments."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound="CommandOptions")


@dataclass(frozen=True)
class CommandOptions:
    """The options that all commands have. Each command has a subclass with its own options.

    A subclass is a frozen dataclass. Each field has the name of a parsed argument. Its `__post_init__` raises
    UsageError for values that argparse cannot check, such as options that exclude each other.

    Attributes:
        format: The format of the printed data, one of `text_output.FORMATS`.
    """

    format: str

    @classmethod
    def from_args(cls: type[T], args: argparse.Namespace) -> T:
        """Make the options from the arguments that argparse has parsed. Lists become tuples.

        Args:
            args: The parsed arguments. Arguments that are no fields of the class are ignored.

        Raises:
            UsageError: Options exclude each other, or a value is not allowed.
        """
        values: dict[str, Any] = {field.name: getattr(args, field.name) for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)
