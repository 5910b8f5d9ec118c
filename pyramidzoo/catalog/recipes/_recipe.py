"""The record of a recipe: how a network is trained. A recipe and a seed together decide the result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: SGD with momentum, a falling learning rate, and random changes to the images.

    Weight decay applies to every parameter, also to those of BN, as in the authors' code. The weights after the last
    epoch are the result.

    Attributes:
        name: Name of the recipe.
        dataset: Name of the dataset.
        preprocessing: How images become inputs, in training and in evaluation.
        epochs: Number of passes over the training images.
        batch_size: Number of images in a step.
        learning_rate: Learning rate at the start (after a warm-up); for "one_cycle" the highest one.
        momentum: Momentum of SGD.
        weight_decay: Factor of the L2 penalty.
        padding: Number of pixels that are added at each side before an image is cropped to its old size at random.
        steps: If it is set, the training ends after this number of steps.
        nesterov: Whether the momentum is Nesterov's.
        schedule: How the learning rate changes. "cosine": it falls to zero along half a cosine, step by step.
            "steps": it falls at each milestone. "one_cycle": it rises in a straight line during the first quarter of
            the steps, and then falls in a straight line to zero.
        first_cosine_step: Number of the cosine's value that the first step has, 0 or 1. With PyTorch before version
            1.1 it usually was 1.
        milestones: Numbers of epochs after which the learning rate is multiplied by `decay`. If `steps` is set, they
            are numbers of steps.
        decay: See `milestones`.
        warmup_steps: Number of steps at the start that have the learning rate `warmup_rate`.
        warmup_rate: See `warmup_steps`.
        reset_momentum: Whether the momentum is set to zero at each milestone.
        arguments: Arguments of the network in addition to those of its architecture, such as a dropout rate.
        splits: Names of the splits of the dataset that are used for training.
        hold_out: Number of training images that are not used. They are chosen at random.
        pad_with: The pixels that `padding` adds: "black", "mean" (zero after normalization), or "reflect" (the image
            is mirrored at its edge).
        flip: Whether each image is mirrored left to right with probability 1/2.
        drop_incomplete: Whether the last batch of an epoch is left out if it is incomplete.
        cutout: Side in pixels of a square that is set to zero after normalization; 0 for none. DeVries & Taylor 2017.
        random_erasing: Probability that a rectangle of an image is filled with a random grey; 0 for none. Zhong et al.
            2017.
        mixup: Parameter alpha of the Beta distribution that mixes two images; 0 for none. Zhang et al. 2018.
        random_area: Smallest and largest fraction of the image's area for a random crop, which is resized to the
            input size; None for no such crop. The ratio of its sides lies between 3/4 and 4/3.
        color_jitter: Strength of random changes to brightness, contrast and saturation; 0 for none.
        lighting: Standard deviation of random changes along the principal components of ImageNet's colours; 0 for none.
        source: The file, command or paper from which the settings are taken.
        notes: What the source does not say, or says twice in different ways, and what was chosen.
        rows: The published rows that the recipe answers: the architecture by the row. A row is "TABLE:ROW", such as
            "P3:1". If two people published numbers in one row, it is "TABLE:ROW BY", such as "H1:2 paper".
        quoted: Rows that repeat numbers of `rows`, in the same form.
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
    schedule: Literal["cosine", "steps", "one_cycle"] = "cosine"
    first_cosine_step: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_steps: int = 0
    warmup_rate: float = 0.0
    reset_momentum: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ("train",)
    hold_out: int = 0
    pad_with: Literal["black", "mean", "reflect"] = "black"
    flip: bool = False
    drop_incomplete: bool = False
    cutout: int = 0
    random_erasing: float = 0.0
    mixup: float = 0.0
    random_area: tuple[float, float] | None = None
    color_jitter: float = 0.0
    lighting: float = 0.0
    source: str = ""
    notes: tuple[str, ...] = ()
    rows: Mapping[str, str] = field(default_factory=dict)
    quoted: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges of the settings.

        Raises:
            ValueError: A value is out of its range. The message names it.
        """
        for name, least in (("epochs", 1), ("batch_size", 1), ("steps", 1), ("padding", 0), ("cutout", 0)):
            self._check_at_least(name, least)
        for name in ("warmup_steps", "hold_out", "weight_decay", "warmup_rate", "mixup", "color_jitter", "lighting"):
            self._check_at_least(name, 0)
        for name in ("learning_rate", "decay"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} is not a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} is not between 0 and 1")
        if not 0 <= self.random_erasing <= 1:
            raise ValueError(f"random_erasing {self.random_erasing} is no probability")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above zero")
        if list(self.milestones) != sorted(set(self.milestones)) or any(place < 1 for place in self.milestones):
            raise ValueError(f"milestones {self.milestones} do not rise from 1 on")
        if self.first_cosine_step not in (0, 1):
            raise ValueError(f"first_cosine_step {self.first_cosine_step} is neither 0 nor 1")
        if not self.splits:
            raise ValueError("splits is empty")
        if isinstance(self.preprocessing, WhitenedPreprocessing) and self.splits != ("train",):
            raise ValueError("whitening is fitted on the split train, so splits must be train")
        if self.random_area is not None and not 0 < self.random_area[0] <= self.random_area[1] <= 1:
            raise ValueError(f"random_area {self.random_area} is no range of shares")

    def _check_at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} {value} is not a number of at least {least}")

    def as_data(self) -> dict[str, Any]:
        """Return what decides the result, as JSON can hold it.

        Fields that have their default value are left out. So a file that was written before a field existed still
        equals its recipe. For the same reason the name is left out where it is the name of the dataset.
        """
        left_out = {"source", "notes", "rows", "quoted"}
        if self.name == self.dataset:
            left_out.add("name")
        data = dataclasses.asdict(dataclasses.replace(self, rows={}, quoted={}, arguments=dict(self.arguments)))
        defaults: dict[str, Any] = {
            f.name: {} if f.name == "arguments" else f.default for f in dataclasses.fields(self)
        }
        return {name: value for name, value in data.items() if name not in left_out and value != defaults[name]}

    def replace(self, **changes: Any) -> Recipe:
        """Return a recipe with other values of some fields."""
        return dataclasses.replace(self, **changes)

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
