"""The graphs, one family a file: no weights, no URLs, no lists of names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramidzoo.architectures import Architecture
    from pyramidzoo.models._contract import ImageClassifier


def build(architecture: Architecture, **arguments: Any) -> ImageClassifier:
    """A network of the table, randomly initialised; only its own family is imported.

    `arguments` (num_classes, in_chans, drop_rate, ...) come on top of the table's. Raises TypeError for an argument the
    family does not have, ValueError for a value it cannot take.
    """
    module = importlib.import_module(f"pyramidzoo.models.{architecture.family}")
    fixed = architecture.arguments.keys() & arguments.keys()
    if fixed:
        raise TypeError(f"{architecture.name} fixes {', '.join(sorted(fixed))}: another value is another architecture")
    if arguments.get("in_chans", 1) < 1:
        raise ValueError(f"in_chans is {arguments['in_chans']}; images have at least one channel")
    settings = {"num_classes": architecture.num_classes, **architecture.arguments, **arguments}
    model: ImageClassifier = getattr(module, architecture.builder)(**settings)
    return model
