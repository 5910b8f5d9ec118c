"""Overrides: other values for settings of a recipe, as `train --set KEY=VALUE` takes them."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pyramidzoo.catalog.recipes._recipe import Recipe
from pyramidzoo.errors import UsageError

# These say what a recipe is and which images it is for, not how it trains.
_FIXED_FIELDS = {"name", "dataset", "splits", "preprocessing", "source", "notes", "rows", "quoted"}
_ARGUMENTS = "arguments"
_ARGUMENT_PREFIX = "arguments."
_TYPES = typing.get_type_hints(Recipe)

OVERRIDABLE_FIELDS = tuple(name for name in _TYPES if name not in _FIXED_FIELDS)


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Parse overrides.

    Args:
        texts: Each is "KEY=VALUE". KEY is a field of `Recipe`, or "arguments.NAME" for an argument of the network.
            VALUE is a number, a word, true, false or null; a list is written with commas, as "60,120,160".

    Returns:
        The values by key, in the order of the texts. Lists are tuples.

    Raises:
        UsageError: A text has another form, a key is unknown or given twice, or a value has the wrong type.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text!r} has no value; write it as KEY=VALUE, such as learning_rate=0.05")
        _check_key(key)
        if key in overrides:
            raise UsageError(f"--set {key} is given twice")
        expected = Any if key.startswith(_ARGUMENT_PREFIX) else _TYPES[key]
        parsed = _parse_value(value)
        if _is_tuple_type(expected) and not isinstance(parsed, tuple) and parsed is not None:
            parsed = (parsed,)  # a list of one value
        if not _has_type(parsed, expected):
            raise UsageError(f"--set {key}={value}: {value!r} is not {_describe_type(expected)}")
        overrides[key] = float(parsed) if expected is float else parsed
    return overrides


def apply_overrides(recipe: Recipe, overrides: Mapping[str, Any], images: int) -> Recipe:
    """Return a recipe with other values of some settings.

    The length can be given as `epochs`. For a recipe that counts its length in steps, it can also be given as `steps`.

    Args:
        recipe: The recipe as it is named.
        overrides: The values by key, from `parse_overrides`.
        images: Number of training images, before `hold_out` of them are left out.

    Returns:
        The changed recipe, under the same name.

    Raises:
        UsageError: A value is out of its range, or does not go with the others.
    """
    changes = {key: value for key, value in overrides.items() if not key.startswith(_ARGUMENT_PREFIX)}
    arguments = {
        key.removeprefix(_ARGUMENT_PREFIX): value
        for key, value in overrides.items()
        if key.startswith(_ARGUMENT_PREFIX)
    }
    if arguments:
        changes[_ARGUMENTS] = {**recipe.arguments, **arguments}
    try:
        changed = recipe.replace(**changes)
        used_images = images - changed.hold_out
        if "steps" in overrides:
            _check_steps(recipe, overrides)
            changed = changed.replace(epochs=math.ceil(overrides["steps"] / changed.steps_per_epoch(used_images)))
        elif "epochs" in overrides:
            changed = changed.with_epochs(changed.epochs, used_images)
    except ValueError as error:
        raise UsageError(f"--set does not fit recipe {recipe.name}: {error}") from error
    return changed


def _check_steps(recipe: Recipe, overrides: Mapping[str, Any]) -> None:
    """Raise ValueError if the length cannot be given in steps. Milestones count in the unit of the length."""
    if recipe.steps is None or overrides["steps"] is None:
        raise ValueError("its length is counted in epochs; set epochs" if recipe.steps is None else "steps is null")
    if "epochs" in overrides:
        raise ValueError("epochs and steps both give the length; set one of them")


def _check_key(key: str) -> None:
    """Raise UsageError if no setting has this key."""
    if key in OVERRIDABLE_FIELDS and key != _ARGUMENTS:
        return
    if key.startswith(_ARGUMENT_PREFIX) and key.removeprefix(_ARGUMENT_PREFIX).isidentifier():
        return
    if key in _FIXED_FIELDS:
        raise UsageError(f"--set cannot change {key}; it says what the recipe is for")
    names = [name for name in OVERRIDABLE_FIELDS if name != _ARGUMENTS]
    similar = difflib.get_close_matches(key, names, n=3)
    if similar:
        hint = f"did you mean {' or '.join(similar)}?"
    else:
        hint = f"the settings are {', '.join(names)}, and arguments.NAME for an argument of the network"
    raise UsageError(f"--set: a recipe has no setting {key!r}; {hint}")


def _parse_value(text: str) -> Any:
    """Parse a value: JSON where it is JSON, a tuple where it has commas, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return tuple(map(_parse_value, text.split(","))) if "," in text else text
    return tuple(value) if isinstance(value, list) else value


def _has_type(value: Any, expected: Any) -> bool:
    """Return whether a value has the type that a field of `Recipe` is declared with."""
    origin, parts = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return not isinstance(value, dict)
    if origin is Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_has_type(element, parts[0]) for element in value)
        return len(value) == len(parts) and all(map(_has_type, value, parts))
    if isinstance(value, bool):  # in Python a bool is also an int
        return expected is bool
    return isinstance(value, (int, float) if expected is float else expected)


def _is_tuple_type(expected: Any) -> bool:
    """Return whether a field takes a tuple, or a tuple and nothing else but None."""
    parts = [part for part in typing.get_args(expected) if part is not type(None)]
    return typing.get_origin(expected) is tuple or (len(parts) == 1 and typing.get_origin(parts[0]) is tuple)


def _describe_type(expected: Any) -> str:
    """Return a type in words, for a message."""
    origin, parts = typing.get_origin(expected), typing.get_args(expected)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe_type, parts))
    if origin is tuple:
        return f"a list of {'several' if parts[-1] is Ellipsis else len(parts)} values with commas between them"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}
    return words.get(expected, "a value")
