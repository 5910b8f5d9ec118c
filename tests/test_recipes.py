"""The recipes: each can be trained, names its source, and answers published rows that exist, once."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from training_tools import require_two_steps

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.preprocessing import WhitenedPreprocessing
from pyramidzoo.catalog.published_tables import PublishedNumber, load_published_tables
from pyramidzoo.catalog.recipes import RECIPES, Recipe, get_recipe
from pyramidzoo.cli import main
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import get_dataset
from pyramidzoo.data.whitening import Whitening, whiten_split
from pyramidzoo.errors import UsageError
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.schedule import Schedule
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")


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


# A small network of each recipe is trained in every run; the others take minutes.
SMALL = {"preresnet20", "resnet20", "resnet20_fattorib", "wrn_16_1", "preresnet56", "preresnet56_norelu1_lastbn"}
TRAINABLE = [recipe for recipe in RECIPES.values() if recipe.dataset != "imagenet1k"]
PAIRS = [
    pytest.param(recipe.name, architecture, marks=[] if architecture in SMALL else [pytest.mark.slow])
    for recipe in TRAINABLE
    for architecture in dict.fromkeys([*recipe.rows.values(), "wrn_16_1"])
]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_two_steps(name: str, architecture: str) -> None:
    recipe = dataclasses.replace(get_recipe(name), batch_size=4, hold_out=0)
    images = random_images(recipe, 9)
    if isinstance(recipe.preprocessing, WhitenedPreprocessing):  # a real fit would take seconds
        size = images.images[0].numel()
        images = whiten_split(images, Whitening(torch.zeros(size), torch.eye(size)))
    require_two_steps(TrainingRun(architecture, recipe, TrainingImages(images, CPU), 0, CPU))


def easy_images(recipe: Recipe, images: int) -> ImageSet:
    """Random images with a bright square, whose place in the image is the class."""
    noise = random_images(recipe, images)
    _, height, width = recipe.preprocessing.input_size
    side = min(height, width) // 4
    pixels = noise.images // 4
    for image, label in zip(pixels, noise.labels.tolist(), strict=True):
        top, left = label // 4 * side, label % 4 * side
        image[:, top : top + side, left : left + side] = 255
    return dataclasses.replace(noise, images=pixels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("digits", "wrn_16_1"),
        ("quick_cifar10", "resnet20"),
        ("hysts_mnist", "preresnet20"),
        ("he2015_cifar10", "resnet20"),
        ("pyramidnet_cifar10", "pyramidnet110_a48"),
        ("wrn_cifar10", "wrn_16_1"),
        ("densenet_cifar10", "densenet_bc_40_k12"),
    ],
)
def test_the_smallest_network_of_each_source_learns(name: str, architecture: str) -> None:
    """Three epochs of 512 images that are easy to tell apart, in batches of 32. Guessing would leave 90 % wrong."""
    recipe = get_recipe(name)
    rate = recipe.learning_rate * 32 / recipe.batch_size
    recipe = recipe.replace(batch_size=32, epochs=3, steps=None, learning_rate=rate, flip=False)
    run = TrainingRun(architecture, recipe, TrainingImages(easy_images(recipe, 512), CPU), 0, CPU)
    losses, wrong = [], 0
    for _ in range(3):
        for step in range(run.start_epoch(run.draw_epoch())):
            run.run_step(step)
        loss, wrong = run.read_sums()
        losses.append(loss / 512)
    assert losses[2] < losses[0] < math.inf
    assert wrong < 0.8 * 512  # the standard deviation of guessing is 1.3 % of the images


def find_recipes_of(target: PublishedNumber) -> list[str]:
    """The recipes that answer a published number."""
    answers = []
    for recipe in RECIPES.values():
        for row, architecture in {**recipe.rows, **recipe.quoted}.items():
            place, _, publisher = row.partition(" ")
            if (
                place == f"{target['table']}:{target['row']}"
                and architecture == target["architecture"]
                and recipe.dataset == target["dataset"]
                and publisher in ("", target["by"])
            ):
                answers.append(recipe.name)
    return answers


def test_each_published_row_has_one_recipe() -> None:
    """All but the COCO row, whose detector is not in its repository."""
    targets = [target for target in load_published_tables()["targets"] if target["metric"] != "mAP"]
    assert {len(find_recipes_of(target)) for target in targets} == {1}


def test_each_row_of_a_recipe_is_published() -> None:
    published = {
        (f"{target['table']}:{target['row']}", target["architecture"], target["dataset"])
        for target in load_published_tables()["targets"]
    }
    for recipe in RECIPES.values():
        for row, architecture in {**recipe.rows, **recipe.quoted}.items():
            assert (row.partition(" ")[0], architecture, recipe.dataset) in published, (recipe.name, row)
            assert get_architecture(architecture).name == architecture


def test_one_trained_network_fills_one_row() -> None:
    """A recipe answers one row for each architecture. Rows that only quote a number are listed apart."""
    for recipe in RECIPES.values():
        assert len(set(recipe.rows.values())) == len(recipe.rows), recipe.name


def test_dropout_is_that_of_the_published_row() -> None:
    arguments = {
        (f"{target['table']}:{target['row']}", target["dataset"]): target["arguments"]
        for target in load_published_tables()["targets"]
    }
    for recipe in RECIPES.values():
        for row in recipe.rows:
            expected = arguments[row.partition(" ")[0], recipe.dataset].get("drop_rate")
            if row != "P3:3":  # the table says dropout in its label
                assert recipe.arguments.get("drop_rate") == expected, (recipe.name, row)


def test_rows_say_what_the_recipe_does() -> None:
    """The words of the printed rows, against the numbers of the recipes."""
    labels = {f"{target['table']}:{target['row']}": target["label"] for target in load_published_tables()["targets"]}
    for recipe in RECIPES.values():
        for row in recipe.rows:
            label = labels[row.partition(" ")[0]]
            assert ("Cutout" in label) == bool(recipe.cutout), row
            assert ("RandomErasing" in label) == bool(recipe.random_erasing), row
            assert ("Mixup" in label) == bool(recipe.mixup), row
            if row.startswith(("H2:", "H3:", "H4:", "H5:")) and recipe.cutout:
                assert f"Cutout {recipe.cutout}" in label, row
            if "epochs" in label:
                assert f"{recipe.epochs} epochs" in label, row
            if "Mixup (alpha=" in label:
                assert f"alpha={recipe.mixup:g}" in label, row
            if row.startswith("H6:"):
                assert ("Cosine annealing" in label) == (recipe.schedule == "cosine"), row


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_recipe_is_whole(recipe: Recipe) -> None:
    assert RECIPES[recipe.name] is recipe
    assert recipe.source
    if recipe.dataset != "imagenet1k":
        assert set(recipe.splits) <= set(get_dataset(recipe.dataset).splits)
    assert (recipe.preprocessing.resize is None) == (recipe.dataset != "imagenet1k")
    assert bool(recipe.milestones) == (recipe.schedule == "steps")
    assert list(recipe.milestones) == sorted(set(recipe.milestones))
    length = recipe.epochs if recipe.steps is None else recipe.steps
    # fattorib's code lowers the rate after the last epoch too
    assert all(0 < milestone <= length for milestone in recipe.milestones)


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
        "warmup_steps": 3,
        "warmup_rate": 0.3,
        "reset_momentum": True,
        "arguments": {"drop_rate": 0.3},
        "splits": ("train", "extra"),
        "hold_out": 3,
        "random_area": (0.1, 1.0),
        "color_jitter": 0.3,
        "lighting": 0.3,
    }
    for name, value in changes.items():
        assert dataclasses.replace(recipe, **{name: value}).as_data() != recipe.as_data(), name  # type: ignore[arg-type]
    others = {"name", "dataset", "preprocessing", "source", "notes", "rows", "quoted"}
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
        ("he2015", "did you mean he2015_cifar10"),
        ("Digits", "did you mean digits?"),
        ("zzz", "`pyramidzoo recipes` lists them"),
    ],
)
def test_an_unknown_recipe(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"there is no recipe '{name}'; ") as raised:
        get_recipe(name)
    assert message in str(raised.value)


def test_the_docs_name_every_group_of_recipes() -> None:
    """The table of docs/training.md has a pattern for each group, and the number of its recipes."""
    text = Path(__file__).parents[1].joinpath("docs/training.md").read_text(encoding="utf-8")
    groups = dict(re.findall(r"^\| `([\w*]+)` \| (\d+) \|", text, flags=re.MULTILINE))
    counts = {pattern: sum(fnmatchcase(name, pattern) for name in RECIPES) for pattern in groups}
    assert counts == {pattern: int(count) for pattern, count in groups.items()}
    assert sum(counts.values()) == len(RECIPES)


def test_the_command_lists_and_explains_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "wrn_cifar10*", "--format", "csv"]) == 0
    out = capsys.readouterr().out
    assert "wrn_cifar10_dropout" in out
    assert "W2:1 wrn_40_10" in out
    assert main(["recipes", "hysts_shakeshake_cifar10_cutout"]) == 0
    out = capsys.readouterr().out
    assert "1,800 epochs" in out
    assert "The command says 300" in out.replace("\n", " ")
    assert main(["recipes", "--format", "json"]) == 0
    assert [recipe["name"] for recipe in json.loads(capsys.readouterr().out)] == list(RECIPES)
    assert main(["recipes", "wrn_cifar11"]) == 2
    assert "did you mean wrn_cifar10" in capsys.readouterr().err
