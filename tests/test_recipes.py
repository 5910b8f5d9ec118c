"""The recipes: each can be trained, names its source, and answers published rows that exist, once."""

from __future__ import annotations

import collections
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.published_tables import load_published_tables
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import get_dataset
from pyramidzoo.errors import UsageError
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.recipes import RECIPES, Recipe, get_recipe
from pyramidzoo.training.schedule import Schedule
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
SLOW = {"preresnet50_w4"}  # the largest network; the other networks of its recipe are trained in every run


def random_images(recipe: Recipe, images: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        name=recipe.dataset,
        split="train",
        classes=10,
        images=torch.randint(
            0, 256, (images, *recipe.preprocessing.input_size), dtype=torch.uint8, generator=generator
        ),
        labels=torch.randint(0, 10, (images,), generator=generator),
        fingerprint="0" * 64,
    )


PAIRS = [
    pytest.param(recipe.name, architecture, marks=[pytest.mark.slow] if architecture in SLOW else [])
    for recipe in RECIPES.values()
    for architecture in dict.fromkeys(recipe.rows.values() or ["wrn_16_1"])
]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_two_steps(name: str, architecture: str) -> None:
    recipe = dataclasses.replace(get_recipe(name), batch_size=4)
    run = TrainingRun(architecture, recipe, TrainingImages(random_images(recipe, 9), CPU), 0, CPU)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.start_epoch(run.draw_epoch())
    for step in range(2):
        run.run_step(step)
    loss, wrong = run.read_sums()
    assert 0 < loss < float("inf")
    assert 0 <= wrong <= 8
    # weight decay alone changes every weight
    changed = [not torch.equal(parameter, before[name]) for name, parameter in run.model.named_parameters()]
    assert all(changed)


def test_rows_are_published_and_answered_once() -> None:
    published_rows = {
        (f"{target['table']}:{target['row']}", target["architecture"], target["dataset"])
        for target in load_published_tables()["targets"]
    }
    answered = collections.Counter(row for recipe in RECIPES.values() for row in recipe.rows)
    assert [row for row, times in answered.items() if times > 1] == []
    for recipe in RECIPES.values():
        for row, architecture in recipe.rows.items():
            assert (row, architecture, recipe.dataset) in published_rows, (recipe.name, row)
            assert get_architecture(architecture).name == architecture


def test_rows_say_what_the_recipe_does() -> None:
    """The words of the printed rows, against the numbers of the recipes."""
    labels = {f"{target['table']}:{target['row']}": target["label"] for target in load_published_tables()["targets"]}
    for recipe in RECIPES.values():
        for row in recipe.rows:
            label = labels[row]
            assert ("Cutout" in label) == bool(recipe.cutout), row
            assert ("RandomErasing" in label) == bool(recipe.random_erasing), row
            assert ("Mixup" in label) == bool(recipe.mixup), row
            if row.startswith("H5:") and recipe.cutout:
                assert label.endswith(f"Cutout {recipe.cutout}"), row
            if "alpha=" in label:
                assert f"alpha={recipe.mixup:g}" in label, row
            if row.startswith("H6:"):
                assert ("Cosine annealing" in label) == (recipe.schedule == "cosine"), row


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_recipe_is_whole(recipe: Recipe) -> None:
    assert RECIPES[recipe.name] is recipe
    assert recipe.source
    assert "train" in get_dataset(recipe.dataset).splits
    assert recipe.preprocessing.resize is recipe.preprocessing.crop is None
    assert bool(recipe.milestones) == (recipe.schedule == "steps")
    assert list(recipe.milestones) == sorted(set(recipe.milestones))
    length = recipe.epochs if recipe.steps is None else recipe.steps
    assert all(0 < milestone < length for milestone in recipe.milestones)


@pytest.mark.parametrize(("images", "recipe"), [(50_000, "he2015_cifar10"), (60_000, "hysts_mnist")])
def test_the_number_of_epochs_belongs_to_the_steps(images: int, recipe: str) -> None:
    """64,000 steps are 164 epochs of 390 steps and 40 steps more."""
    schedule = Schedule(get_recipe(recipe), images)
    assert get_recipe(recipe).epochs == math.ceil(schedule.total_steps / schedule.steps_per_epoch)


def test_two_recipes_never_have_the_same_settings() -> None:
    """Else two names would be one training; names are left out of the comparison."""
    settings = [
        {name: value for name, value in recipe.as_data().items() if name != "name"} for recipe in RECIPES.values()
    ]
    assert all(settings.count(one) == 1 for one in settings)


def test_words_do_not_decide_what_settings_do() -> None:
    recipe = get_recipe("hysts_mnist_cutout12")
    reworded = dataclasses.replace(recipe, source="elsewhere", notes=(), rows={})
    assert reworded.as_data() == recipe.as_data()
    assert recipe.as_data()["name"] == "hysts_mnist_cutout12"
    changes = {
        "steps": 7,
        "nesterov": False,
        "schedule": "steps",
        "first_cosine_step": 0,
        "milestones": (3,),
        "decay": 0.2,
        "pad_with": "mean",
        "flip": True,
        "drop_incomplete": False,
        "cutout": 3,
        "random_erasing": 0.1,
        "mixup": 0.3,
        "epochs": 3,
        "batch_size": 3,
        "learning_rate": 0.3,
        "momentum": 0.3,
        "weight_decay": 0.3,
        "padding": 3,
    }
    for name, value in changes.items():
        assert dataclasses.replace(recipe, **{name: value}).as_data() != recipe.as_data(), name  # type: ignore[arg-type]
    others = {"name", "dataset", "preprocessing", "source", "notes", "rows"}
    assert {f.name for f in dataclasses.fields(Recipe)} == set(changes) | others


def test_another_number_of_epochs() -> None:
    """Milestones stay at their steps, so that a longer training falls where the recipe says."""
    recipe = get_recipe("he2015_cifar10").with_epochs(100, 50_000)
    assert (recipe.epochs, recipe.steps, recipe.milestones) == (100, 39_000, (32_000, 48_000))
    recipe = get_recipe("hysts_ablation").with_epochs(100, 50_000)
    assert (recipe.epochs, recipe.steps, recipe.milestones) == (100, None, (80, 120))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hysts_mnist_cutout11", "did you mean hysts_mnist_cutout1"),
        ("he2015", "did you mean he2015_cifar10?"),
        ("Digits", "did you mean digits?"),
        ("zzz", "the recipes are digits, hysts_mnist"),
    ],
)
def test_an_unknown_recipe(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"there is no recipe '{name}'; ") as raised:
        get_recipe(name)
    assert message in str(raised.value)


def test_the_docs_name_every_recipe() -> None:
    """The table of docs/training.md, word for word."""
    titles = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
    lines = Path(__file__).parents[1].joinpath("docs/training.md").read_text(encoding="utf-8").splitlines()
    table = [line.split(" | ")[:2] for line in lines if line.startswith("| `") and line.count(" | ") == 2]
    documented = [name.strip("| `") for name, dataset in table if dataset in titles.values()]
    assert documented == list(RECIPES)
    for recipe in RECIPES.values():
        answered = ""
        for row, architecture in recipe.rows.items():
            letter, number = row.split(":")
            answered += f"{', ' if answered else f'{letter}: '}{number} (`{architecture}`)"
        answered = answered or "none; the bundled weights are trained by it"
        assert f"| `{recipe.name}` | {titles[recipe.dataset]} | {answered} |" in lines
