"""`recipes`: list the recipes by which networks are trained."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import dataclass
from typing import Any

from pyramidzoo.catalog.recipes import OVERRIDABLE_FIELDS, Recipe, find_recipes
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.text_output import line_width, render, show, wrap_text


@dataclass(frozen=True)
class RecipesOptions(CommandOptions):
    """The options of `recipes`; `add_arguments` says what each means."""

    pattern: str


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
        show(json.dumps([_make_json_object(recipe) for recipe in recipes], indent=1, ensure_ascii=False))
    elif options.format == "human" and len(recipes) == 1:
        show(_write_page(recipes[0]))
    else:
        width = line_width() if options.format == "human" else None
        show(render([_make_row(recipe) for recipe in recipes], options.format, width=width))
    return 0


def _make_row(recipe: Recipe) -> dict[str, Any]:
    """Return the line of a recipe in the list."""
    length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs} epochs"
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "length": length,
        "batch": recipe.batch_size,
        "learning rate": recipe.learning_rate,
        "published rows": [f"{row} {architecture}" for row, architecture in recipe.rows.items()],
    }


def _make_json_object(recipe: Recipe) -> dict[str, Any]:
    """Return everything about a recipe, for JSON."""
    return {
        "name": recipe.name,
        "dataset": recipe.dataset,
        "settings": {name: value for name, value in recipe.as_data().items() if name not in ("name", "dataset")},
        "rows": dict(recipe.rows),
        "quoted": dict(recipe.quoted),
        "source": recipe.source,
        "notes": list(recipe.notes),
    }


def _write_page(recipe: Recipe) -> str:
    """Write everything about a recipe for people: its settings, the published rows, the source and the notes.

    There are two kinds of rows. "answers" are the rows of the published tables that this recipe reproduces. "quoted in"
    are rows of other tables, which print the same published numbers once more.
    """
    settings = {name: getattr(recipe, name) for name in OVERRIDABLE_FIELDS}
    preprocessing = recipe.as_data()["preprocessing"]
    shown = ("whitening",) if "whitening" in preprocessing else ("mean", "std")
    facts = [(name, value) for name, value in settings.items() if value]
    facts += [("not used", ", ".join(name for name, value in settings.items() if not value))]
    facts += [(name, preprocessing[name]) for name in shown]
    facts += [("answers", f"{row}: {architecture}") for row, architecture in recipe.rows.items()]
    facts += [("quoted in", f"{row}: {architecture}") for row, architecture in recipe.quoted.items()]
    width = min(100, line_width())
    lines = [f"{recipe.name}: trains on {recipe.dataset}", ""]
    for name, value in facts:
        text = f"{name:20}{_write_value(value)}"
        lines.append(textwrap.fill(text, width=width, subsequent_indent=" " * 20, break_on_hyphens=False))
    lines += ["", wrap_text(f"Source: {recipe.source}", width=width)]
    lines += [wrap_text(f"- {note}", width=width) for note in recipe.notes]
    lines += ["", f"To use it: `pyramidzoo train ARCH --recipe {recipe.name} --output DIR`"]
    return "\n".join(lines)


def _write_value(value: Any) -> str:
    """Write a value as people read it: lists without brackets, numbers without needless digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_write_value(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_write_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
