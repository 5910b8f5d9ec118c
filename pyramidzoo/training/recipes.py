"""Recipes: how a network is trained. With the seed, a recipe is everything that decides the result."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum, a learning rate that falls, and random changes to the training images.

    Weight decay is on every parameter, BN's included, as in the authors' code of this era. The last epoch counts.

    Attributes:
        name: how the recipe is called on the command line.
        dataset: the dataset it trains on.
        preprocessing: how images become inputs, in training and in evaluation.
        epochs: passes over the training images.
        batch_size: images in a step.
        learning_rate: the learning rate of the first step.
        momentum: SGD's momentum.
        weight_decay: the factor of the L2 penalty.
        padding: how many pixels an image may be moved each way.
        steps: the training ends after so many steps instead of after `epochs` whole passes.
        nesterov: whether the momentum is Nesterov's.
        schedule: "cosine" falls to zero along half a cosine, step by step; "steps" falls at each milestone.
        first_cosine_step: where on the cosine the first step is. PyTorch counted it as 1 until version 1.1.
        milestones: after so many epochs (steps, where `steps` is set) the rate is multiplied by `decay`.
        decay: see `milestones`.
        pad_with: what moves in: "black", "mean" (zero after normalization, the mean colour), or "reflect".
        flip: whether half of the images, chosen at random, are mirrored left to right.
        drop_incomplete: whether the incomplete last batch of an epoch is left out.
        cutout: the side in pixels of the square that is set to the mean colour; 0 for none. DeVries & Taylor 2017.
        random_erasing: the probability that a rectangle is filled with a random grey; 0 for none. Zhong et al. 2017.
        mixup: alpha of the Beta distribution by which two images are mixed; 0 for none. Zhang et al. 2018.
        source: the file, command or paper that the numbers come from.
        notes: where the source is silent or contradicts itself, and what was chosen.
        rows: the published rows that the recipe answers, "TABLE:ROW", and the architecture of each.
    """

    name: str
    dataset: str
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    padding: int
    steps: int | None = None
    nesterov: bool = True
    schedule: Literal["cosine", "steps"] = "cosine"
    first_cosine_step: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    pad_with: Literal["black", "mean", "reflect"] = "black"
    flip: bool = False
    drop_incomplete: bool = False
    cutout: int = 0
    random_erasing: float = 0.0
    mixup: float = 0.0
    source: str = ""
    notes: tuple[str, ...] = ()
    rows: Mapping[str, str] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """Return what decides the result, as JSON can hold it.

        Fields that have their default value are left out. So a file that was written before a field existed still
        equals its recipe. For the same reason the name is left out where it is the name of the dataset.
        """
        left_out = {"source", "notes", "rows"}
        if self.name == self.dataset:
            left_out.add("name")
        data = dataclasses.asdict(dataclasses.replace(self, rows={}))
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {name: value for name, value in data.items() if name not in left_out and value != defaults[name]}

    def with_epochs(self, epochs: int, images: int) -> Recipe:
        """Return the recipe with another number of passes over so many images.

        The milestones stay where they are: at epochs, or at steps where the recipe counts its length in steps.
        """
        steps = None if self.steps is None else epochs * self.steps_per_epoch(images)
        return dataclasses.replace(self, epochs=epochs, steps=steps)

    def steps_per_epoch(self, images: int) -> int:
        """Return the steps of one pass over so many images."""
        full_batches, rest = divmod(images, self.batch_size)
        return full_batches if self.drop_incomplete or not rest else full_batches + 1


_DIGITS = Recipe(
    name="digits",
    dataset="digits",
    preprocessing=Preprocessing((1, 8, 8), (0.3075,), (0.377,)),  # mean and standard deviation of the training images
    epochs=100,
    batch_size=64,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    padding=1,
    source="our own; no constant was chosen by looking at test images",
)

_HYSTS_SOURCE = "hysts/pytorch_image_classification at b7ad09d (2018-11-06)"
_HYSTS_NOTES = (
    "Batch size 128, momentum 0.9 with Nesterov and weight decay 1e-4 are the defaults in configs/resnet_preact.json.",
    "Most printed rows are medians of three or five runs; one run has one seed.",
)

# Table H5: MNIST, a learning rate of 0.2 along a cosine, no cropping and no flipping.
_HYSTS_MNIST = Recipe(
    name="hysts_mnist",
    dataset="mnist",
    preprocessing=Preprocessing((1, 28, 28), (0.1307,), (0.3081,)),
    epochs=40,
    batch_size=128,
    learning_rate=0.2,
    momentum=0.9,
    weight_decay=1e-4,
    first_cosine_step=1,
    padding=0,
    drop_incomplete=True,
    source=_HYSTS_SOURCE,
    notes=(
        *_HYSTS_NOTES,
        "The scheduler stepped before the optimizer, so that the first step has the second value of the cosine and the "
        "last step has the learning rate zero.",
    ),
    rows={"H5:1": "preresnet20", "H5:14": "preresnet50"},
)

# Table H6: six forms of preresnet56 on CIFAR-10, a learning rate of 0.2 that falls at two milestones.
_HYSTS_ABLATION = Recipe(
    name="hysts_ablation",
    dataset="cifar10",
    preprocessing=Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    epochs=160,
    batch_size=128,
    learning_rate=0.2,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(80, 120),
    padding=4,
    flip=True,
    drop_incomplete=True,
    source=_HYSTS_SOURCE,
    notes=_HYSTS_NOTES,
    rows={
        "H6:1": "preresnet56_sharedpreact",
        "H6:2": "preresnet56",
        "H6:3": "preresnet56_norelu1",
        "H6:4": "preresnet56_lastbn",
        "H6:5": "preresnet56_norelu1_lastbn",
        "H6:6": "preresnet56_norelu1_lastbn_sharedpreact",
    },
)

# Section 4.2 of the paper, whose numbers table F1 quotes.
_HE2015_CIFAR10 = Recipe(
    name="he2015_cifar10",
    dataset="cifar10",
    # The mean 125.3, 123.0, 113.9 and the standard deviation 63.0, 62.1, 66.7 of the authors' later code are those of
    # pixels from 0 to 255.
    preprocessing=Preprocessing(
        (3, 32, 32),
        (125.3 / 255, 123.0 / 255, 113.9 / 255),
        (63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    epochs=165,
    steps=64_000,
    batch_size=128,
    learning_rate=0.1,
    momentum=0.9,
    nesterov=False,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(32_000, 48_000),
    padding=4,
    pad_with="mean",
    flip=True,
    drop_incomplete=True,
    source="He et al. 2015, Deep Residual Learning for Image Recognition (arXiv:1512.03385), section 4.2",
    notes=(
        "The paper subtracts the mean of each pixel. The mean and standard deviation of each channel are used "
        "here, as in the authors' later code.",
        "The paper does not say whether the 64,000 steps use 45,000 or 50,000 images. All 50,000 are used here.",
        "The paper does not say what the last batch of an epoch is. Incomplete batches are left out here.",
    ),
    rows={"F1:1": "resnet20", "F1:2": "resnet32", "F1:3": "resnet44", "F1:4": "resnet56"},
)


def _change_mnist(name: str, rows: Mapping[str, str], **changes: Any) -> Recipe:
    """Make another recipe of table H5."""
    return dataclasses.replace(_HYSTS_MNIST, name=f"hysts_mnist_{name}", rows=rows, **changes)


def _change_ablation(name: str, row: str, **changes: Any) -> Recipe:
    """Make another recipe of table H6. These rows train the best form of the network."""
    rows = {row: "preresnet56_norelu1_lastbn"}
    return dataclasses.replace(_HYSTS_ABLATION, name=f"hysts_ablation_{name}", rows=rows, **changes)


_CUTOUT12_ROWS = {
    "H5:5": "preresnet20",
    "H5:13": "preresnet20_w4",
    "H5:15": "preresnet50",
    "H5:16": "preresnet50_w4",
}
_RECIPES = (
    _DIGITS,
    _HYSTS_MNIST,
    _change_mnist("cutout6", {"H5:2": "preresnet20"}, cutout=6),
    _change_mnist("cutout8", {"H5:3": "preresnet20"}, cutout=8),
    _change_mnist("cutout10", {"H5:4": "preresnet20"}, cutout=10),
    _change_mnist("cutout12", _CUTOUT12_ROWS, cutout=12),
    _change_mnist("cutout14", {"H5:6": "preresnet20"}, cutout=14),
    _change_mnist("cutout16", {"H5:7": "preresnet20"}, cutout=16),
    _change_mnist("erasing", {"H5:8": "preresnet20"}, random_erasing=0.5),
    _change_mnist("mixup1", {"H5:9": "preresnet20"}, mixup=1.0),
    _change_mnist("mixup1_80epochs", {"H5:10": "preresnet20"}, mixup=1.0, epochs=80),
    _change_mnist("mixup05", {"H5:11": "preresnet20"}, mixup=0.5),
    _change_mnist("mixup05_80epochs", {"H5:12": "preresnet20"}, mixup=0.5, epochs=80),
    _HYSTS_ABLATION,
    _change_ablation("cosine", "H6:7", schedule="cosine", milestones=(), first_cosine_step=1),
    _change_ablation("cutout", "H6:8", cutout=16),
    _change_ablation("erasing", "H6:9", random_erasing=0.5),
    _change_ablation(
        "mixup",
        "H6:10",
        mixup=1.0,
        epochs=300,
        notes=(
            *_HYSTS_NOTES,
            "The row says 300 epochs, but the command names neither epochs nor milestones. The default milestones, 80 "
            "and 120 (configs/resnet_preact.json), are kept here; the run of the table may have had others.",
        ),
    ),
    _HE2015_CIFAR10,
)
RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Args:
        name: a name in `RECIPES`.

    Raises:
        UsageError: no recipe has this name. The message has the most similar names.
    """
    if name in RECIPES:
        return RECIPES[name]
    similar = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.5) or [
        recipe.name for recipe in RECIPES.values() if recipe.dataset == name
    ]
    hint = f"did you mean {', '.join(similar)}?" if similar else f"the recipes are {', '.join(RECIPES)}"
    raise UsageError(f"there is no recipe {name!r}; {hint}")
