"""Which published numbers a trained network answers.

A training answers the rows of its recipe if it was done exactly by the recipe as it is today. Every other training is
another training of the same network, and its number is no answer to a published one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pyramidzoo.catalog.published_tables import PublishedNumber
from pyramidzoo.catalog.recipes import RECIPES, Recipe
from pyramidzoo.catalog.training_record import Training
from pyramidzoo.json_records import describe_value

_LENGTHS = {"epochs", "steps"}  # An override of one of them changes the other one, too.


def answers_number(number: PublishedNumber, architecture: str, training: Training) -> bool:
    """Return whether a trained network answers a published number.

    Args:
        number: The published number.
        architecture: Name of the architecture of the trained network.
        training: How the network was trained.

    Returns:
        True if the number is in a row of the training's recipe for this architecture, and the training was done exactly
        by this recipe.
    """
    return describe_difference(training) is None and is_number_of_recipe(number, architecture, RECIPES[training.recipe])


def is_number_of_recipe(number: PublishedNumber, architecture: str, recipe: Recipe) -> bool:
    """Return whether a published number is in one of the rows that a recipe answers.

    Args:
        number: The published number.
        architecture: Name of the architecture that is trained.
        recipe: The recipe.

    Returns:
        True if `recipe.rows` has the row of the number for this architecture.
    """
    return _names_number(recipe.rows, recipe, number, architecture)


def find_quoted_number(number: PublishedNumber, architecture: str, training: Training) -> str | None:
    """Find the row that a trained network answers, where a published number only repeats the number of that row.

    Args:
        number: The published number that repeats another one.
        architecture: Name of the architecture of the trained network.
        training: How the network was trained.

    Returns:
        The row that counts the network, such as "P1:4". None if the number does not repeat that row.
    """
    recipe = RECIPES.get(training.recipe)
    if recipe is None or describe_difference(training) is not None:
        return None
    if not _names_number(recipe.quoted, recipe, number, architecture):
        return None
    return next((row for row, answered in recipe.rows.items() if answered == architecture), None)


def _names_number(rows: Mapping[str, str], recipe: Recipe, number: PublishedNumber, architecture: str) -> bool:
    """Return whether rows in the form of `Recipe.rows` contain a published number of an architecture."""
    if (number["architecture"], number["dataset"]) != (architecture, recipe.dataset):
        return False
    row = f"{number['table']}:{number['row']}"
    return architecture in (rows.get(row), rows.get(f"{row} {number['by']}"))


def describe_difference(training: Training) -> str | None:
    """Say how a training differs from the recipe that has its name today.

    Precision, algorithms and devices are no difference: they change how sums are rounded, and no setting.

    Args:
        training: How the network was trained.

    Returns:
        The differences in words; None if there is none.
    """
    recipe = RECIPES.get(training.recipe)
    if recipe is None:
        return "no recipe has this name"
    differences = [
        f"{name}={describe_value(value)}"
        for name, value in training.overrides.items()
        if not _is_own_value(recipe, name, value)
    ]
    today = _to_json(recipe)
    then = json.loads(json.dumps(dict(training.recipe_data)))
    explained = {name.partition(".")[0] for name in training.overrides}
    if explained & _LENGTHS:
        explained |= _LENGTHS
    changed = sorted(name for name in (today.keys() | then.keys()) - explained if _differs(today, then, name))
    if changed:
        differences.append(f"not the recipe's {', '.join(changed)}")
    # Batch normalization then uses the images of one part, not of the whole batch.
    if training.accumulate > 1:
        differences.append(f"each batch in {training.accumulate} parts")
    # An override that the recipe has anyway is no difference. But the settings must really be those of the recipe.
    if not differences and today != then:
        differences.append("not the recipe's settings")
    return ", ".join(differences) or None


def _is_own_value(recipe: Recipe, name: str, value: Any) -> bool:
    """Return whether an override changes no setting, because the recipe has this value anyway."""
    value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples, and recipes have no lists.
    field, _, argument = name.partition(".")
    if argument:
        value = {**recipe.arguments, argument: value}
    if field not in {known.name for known in dataclasses.fields(recipe)} or (argument and field != "arguments"):
        return False
    try:
        return bool(_to_json(recipe.replace(**{field: value})) == _to_json(recipe))
    except (TypeError, ValueError, AttributeError):
        return False  # No recipe can have this value.


def _to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe as JSON has them, with lists instead of tuples."""
    settings: dict[str, Any] = json.loads(json.dumps(recipe.as_data()))
    return settings


def _differs(today: Mapping[str, Any], then: Mapping[str, Any], name: str) -> bool:
    missing = object()
    return bool(today.get(name, missing) != then.get(name, missing))
