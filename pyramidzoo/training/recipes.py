"""How networks are trained, a recipe for each data set: with the seed, everything that decides the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyramidzoo.errors import UsageError
from pyramidzoo.manifest import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum, the learning rate falling to zero along a half cosine, step by step.

    `padding` is how many pixels an image may be moved each way, zeros moving in. Weight decay is on every
    parameter, BN's included, as in the authors' code of this era.
    """

    dataset: str
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    padding: int


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe(
        dataset="digits",
        preprocessing=Preprocessing((1, 8, 8), (0.3075,), (0.377,)),  # of the training images
        epochs=100,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        padding=1,
    ),
}


def get_recipe(dataset: str) -> Recipe:
    """The recipe for a data set. Raises UsageError."""
    if dataset not in RECIPES:
        raise UsageError(f"there is no recipe for {dataset!r}; there are recipes for {', '.join(RECIPES)}")
    return RECIPES[dataset]
