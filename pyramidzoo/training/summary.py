"""Summarize the test errors of several seeds, and compare them with the published error."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pyramidzoo.catalog.answered_rows import is_number_of_recipe
from pyramidzoo.catalog.published_tables import PublishedNumber, load_published_tables
from pyramidzoo.evaluation.metrics import wilson_interval
from pyramidzoo.evaluation.verdicts import ClaimVerdict, paper_verdict
from pyramidzoo.training.logged_run import Task


@dataclass(frozen=True)
class PublishedComparison:
    """A published error beside ours.

    Attributes:
        row: The row that has the number, such as "H5:3".
        by: Who published it.
        value: The published error in percent, with its printed digits.
        statistic: How it was formed, such as "median of 3 runs".
        ours: Our error in percent by that statistic. If the statistic is of one run and we have several, it is our
            median.
        verdict: "consistent" if the published error lies in the Wilson interval of ours (95 %), or ours lies in the
            published spread. Else "different".
    """

    row: str
    by: str
    value: str
    statistic: str
    ours: float
    verdict: ClaimVerdict


@dataclass(frozen=True)
class SeedSummary:
    """The test errors of one network and one recipe, over all seeds that were trained to the end.

    Attributes:
        architecture: Name of the architecture.
        recipe: Name of the recipe.
        overrides: The settings that differ from the recipe.
        errors: Test error in percent after the last epoch, by seed.
        median: The median of the errors.
        mean: The mean of the errors.
        deviation: The standard deviation of the errors (divided by n - 1); None for one seed.
        published: The published errors that this recipe answers. Empty if the training was not exactly that of the
            recipe.
    """

    architecture: str
    recipe: str
    overrides: Mapping[str, object]
    errors: Mapping[int, float]
    median: float
    mean: float
    deviation: float | None
    published: tuple[PublishedComparison, ...]


def summarize_seeds(
    tasks: Sequence[Task], errors: Sequence[float | None], images: int, *, accumulate: int = 1
) -> list[SeedSummary]:
    """Summarize trainings: one summary for each network and recipe.

    Args:
        tasks: The trainings.
        errors: Test error of each in percent; None for a training that has not ended.
        images: Number of test images.
        accumulate: Number of parts of each batch. If there are several, the training is not that of the recipe.

    Returns:
        The summaries, in the order of the tasks. A network without any error has none.
    """
    errors_by_network: dict[tuple[str, str], dict[int, float]] = {}
    first_tasks: dict[tuple[str, str], Task] = {}
    for task, error in zip(tasks, errors, strict=True):
        key = task.architecture, task.recipe.name
        first_tasks.setdefault(key, task)
        if error is not None:
            errors_by_network.setdefault(key, {})[task.seed] = error
    return [
        _summarize(first_tasks[key], errors_by_seed, images, is_by_recipe=accumulate == 1)
        for key, errors_by_seed in errors_by_network.items()
    ]


def _summarize(task: Task, errors: Mapping[int, float], images: int, *, is_by_recipe: bool) -> SeedSummary:
    values = list(errors.values())
    return SeedSummary(
        architecture=task.architecture,
        recipe=task.recipe.name,
        overrides=task.overrides,
        errors=dict(errors),
        median=statistics.median(values),
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else None,
        published=_compare_with_published(task, values, images) if is_by_recipe and not task.overrides else (),
    )


def _compare_with_published(task: Task, errors: Sequence[float], images: int) -> tuple[PublishedComparison, ...]:
    """Compare errors with each published number that the recipe answers for this network."""
    comparisons = []
    for number in load_published_tables()["targets"]:
        is_answered = is_number_of_recipe(number, task.architecture, task.recipe)
        if is_answered and number["metric"] == "top1_error":
            ours = _statistic_of(number["statistic"])(errors)
            interval = wilson_interval(round(ours * images / 100), images)
            comparisons.append(
                PublishedComparison(
                    row=f"{number['table']}:{number['row']}",
                    by=number["by"],
                    value=number["value"],
                    statistic=_describe_statistic(number),
                    ours=ours,
                    verdict=paper_verdict(Decimal(number["value"]), number["spread"], ours, interval),
                )
            )
    return tuple(comparisons)


def _statistic_of(name: str) -> Callable[[Sequence[float]], float]:
    """Return the function for a published statistic. For a single run and for an unknown statistic it is the median."""
    if name.startswith("mean") and "batches" not in name:
        return statistics.fmean
    return min if name == "best" else statistics.median


def _describe_statistic(number: PublishedNumber) -> str:
    """Return how the published number was formed, such as "median of 3 runs" or "mean ± std, ± 0.20"."""
    statistic, spread = number["statistic"], number["spread"]
    if spread is None or spread == statistic:
        return statistic
    return spread if "run" in spread else f"{statistic}, {spread}"
