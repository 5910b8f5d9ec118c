"""`recipes`: list the recipes by which networks are trained."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

from pyramidzoo.catalog.recipes import Recipe, find_recipes
from pyramidzoo.text_output import line_width, render, show, wrap_text


@dataclass(frozen=True)
class RecipesOptions:
    """The options of `recipes`.

    Attributes:
        pattern: Which recipes.
        format: How to print them.
    """

    pattern: str
    format: str

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> RecipesOptions:
        """Make the options from parsed arguments."""
        return cls(args.pattern, args.format)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `recipes`."""
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="a shell pattern for the name, the dataset, an architecture or a row, such as 'wrn_*', cifar100 or H5:3",
    )


def run(args: argparse.Namespace) -> int:
    """Print the recipes. A single one is printed with its source, its notes and all settings."""
    options = RecipesOptions.from_args(args)
    recipes = find_recipes(options.pattern)
    if options.format == "json":
        show(json.dumps([_describe(recipe) for recipe in recipes], indent=1, ensure_ascii=False))
    elif options.format == "human" and len(recipes) == 1:
        show(_explain(recipes[0]))
    else:
        width = line_width() if options.format == "human" else None
        show(render([_row(recipe) for recipe in recipes], options.format, width=width))
    return 0


def _row(recipe: Recipe) -> dict[str, Any]:
    """One line of the list."""
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "length": length,
        "batch": recipe.batch_size,
        "learning rate": recipe.learning_rate,
        "published rows": [f"{row} {architecture}" for row, architecture in recipe.rows.items()],
    }


def _describe(recipe: Recipe) -> dict[str, Any]:
    """Everything about a recipe, for JSON."""
    return {
        "name": recipe.name,
        "dataset": recipe.dataset,
        "settings": {name: value for name, value in recipe.as_data().items() if name not in ("name", "dataset")},
        "rows": dict(recipe.rows),
        "quoted": dict(recipe.quoted),
        "source": recipe.source,
        "notes": list(recipe.notes),
    }


def _explain(recipe: Recipe) -> str:
    """A recipe in full, for people."""
    settings = _describe(recipe)["settings"]
    preprocessing = settings.pop("preprocessing")
    lines = [f"{recipe.name}: trains on {recipe.dataset}", ""]
    lines += [f"{name:20}{_plain(value)}" for name, value in settings.items()]
    lines += [f"{'mean':20}{_plain(preprocessing['mean'])}", f"{'std':20}{_plain(preprocessing['std'])}", ""]
    lines += [f"{'rows':20}{row}: {architecture}" for row, architecture in recipe.rows.items()]
    lines += [f"{'quoted in':20}{row}: {architecture}" for row, architecture in recipe.quoted.items()]
    lines += ["", wrap_text(f"Source: {recipe.source}", width=min(100, line_width()))]
    lines += [wrap_text(f"- {note}", width=min(100, line_width())) for note in recipe.notes]
    lines += ["", f"`pyramidzoo train ARCH --recipe {recipe.name} --output DIR` trains by it"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
