"""The learning rate of each step of a recipe."""

from __future__ import annotations

import math

from pyramidzoo.catalog.recipes import Recipe


class Schedule:
    """The learning rates of a training.

    Args:
        recipe: The recipe.
        images: Number of training images that are used.

    Attributes:
        steps_per_epoch: Number of steps in one pass over the images.
        total_steps: Number of steps in the whole training.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self.recipe = recipe
        self.steps_per_epoch = recipe.steps_per_epoch(images)
        self.total_steps = recipe.steps or recipe.epochs * self.steps_per_epoch
        self._cosine = cosine_rates(recipe.learning_rate, self.total_steps) if recipe.schedule == "cosine" else []

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 at the start of the training."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.warmup_rate
        if recipe.schedule == "cosine":
            return self._cosine[step + recipe.first_cosine_step]
        if recipe.schedule == "one_cycle":
            return recipe.learning_rate * one_cycle_factor(step, self.total_steps)
        return recipe.learning_rate * recipe.decay ** self.passed_milestones(step)

    def passed_milestones(self, step: int) -> int:
        """Return how many milestones lie at or before a step.

        Milestones are counted in steps if the recipe counts its length in steps, else in epochs.
        """
        place = step if self.recipe.steps is not None else step // self.steps_per_epoch
        return sum(place >= milestone for milestone in self.recipe.milestones)

    def starts_after_milestone(self, step: int) -> bool:
        """Return whether a step is the first one after a milestone."""
        return step > 0 and self.passed_milestones(step) > self.passed_milestones(step - 1)


def cosine_rates(first: float, steps: int) -> list[float]:
    """Return learning rates that fall along half a cosine, from `first` to zero.

    Each rate is computed from the rate before it, as in `torch.optim.lr_scheduler.CosineAnnealingLR`. So the results
    are equal to the last bit.

    Args:
        first: The first learning rate.
        steps: Number of steps.

    Returns:
        One rate for each step, and one more, which is zero.
    """
    rates = [first]
    for step in range(1, steps + 1):
        factor = (1 + math.cos(math.pi * step / steps)) / (1 + math.cos(math.pi * (step - 1) / steps))
        rates.append(factor * rates[-1])
    return rates


def one_cycle_factor(step: int, steps: int) -> float:
    """Return the learning rate of a step in a one-cycle schedule, as a fraction of the highest rate.

    It rises in a straight line during the first quarter of the steps. Then it falls in a straight line towards zero.
    The last step still has a rate above zero.
    """
    rise = max(1, steps // 4)
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)
