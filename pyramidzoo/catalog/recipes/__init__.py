"""The recipes by name. Each module of this folder has those of one source."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from pyramidzoo.catalog.recipes import hysts, other_authors, own, pyramidnet, resnet, wide_resnet
from pyramidzoo.catalog.recipes._overrides import OVERRIDABLE_FIELDS, apply_overrides, parse_overrides
from pyramidzoo.catalog.recipes._recipe import Recipe
from pyramidzoo.errors import UsageError

__all__ = [
    "OVERRIDABLE_FIELDS",
    "RECIPES",
    "Recipe",
    "apply_overrides",
    "find_recipes",
    "get_recipe",
    "parse_overrides",
]

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for module in (own, hysts, resnet, pyramidnet, wide_resnet, other_authors)
    for recipe in module.make_recipes()
}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Args:
        name: A name in `RECIPES`.

    Returns:
        The recipe.

    Raises:
        UsageError: No recipe has this name. The message has the most similar names.
    """
    if name in RECIPES:
        return RECIPES[name]
    similar = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5) or [
        recipe.name for recipe in RECIPES.values() if recipe.dataset == name
    ]
    hint = f"did you mean {', '.join(similar)}?" if similar else "`pyramidzoo recipes` lists them"
    raise UsageError(f"there is no recipe {name!r}; {hint}")


def find_recipes(pattern: str = "*") -> list[Recipe]:
    """Return the recipes that a shell pattern fits.

    Args:
        pattern: It is compared with the name of the recipe, its dataset, and the architectures and rows it answers.

    Returns:
        The recipes, in the order of `RECIPES`.

    Raises:
        UsageError: It fits none.
    """
    matching_recipes = [
        recipe
        for recipe in RECIPES.values()
        if any(
            fnmatchcase(text, pattern) for text in (recipe.name, recipe.dataset, *recipe.rows.values(), *recipe.rows)
        )
    ]
    if not matching_recipes:
        similar = difflib.get_close_matches(pattern, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "`pyramidzoo recipes` lists all of them"
        raise UsageError(f"no recipe fits {pattern!r}; {hint}")
    return matching_recipes
