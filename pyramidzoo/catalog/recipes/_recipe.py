"""The record of a recipe: how a network is trained. With the seed, it is everything that decides the result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pyramidzoo.catalog.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum, a learning rate that falls, and random changes to the training images.

    Weight decay is on every parameter, BN's included, as in the authors' code of this era. The last epoch counts.

    Attributes:
        name: How the recipe is called on the command line.
        dataset: The dataset it trains on.
        preprocessing: How images become inputs, in training and in evaluation.
        epochs: Passes over the training images.
        batch_size: Images in a step.
        learning_rate: The learning rate of the first step.
        momentum: SGD's momentum.
        weight_decay: The factor of the L2 penalty.
        padding: How many pixels an image may be moved each way.
        steps: The training ends after so many steps instead of after `epochs` whole passes.
        nesterov: Whether the momentum is Nesterov's.
        schedule: "cosine" falls to zero along half a cosine, step by step; "steps" falls at each milestone;
            "one_cycle" rises in a straight line during the first quarter of the steps and falls in a straight line
            to zero during the rest.
        first_cosine_step: Where on the cosine the first step is. PyTorch counted it as 1 until version 1.1.
        milestones: After so many epochs (steps, where `steps` is set) the rate is multiplied by `decay`.
        decay: See `milestones`.
        warmup_steps: The first so many steps have the learning rate `warmup_rate`.
        warmup_rate: See `warmup_steps`.
        reset_momentum: Whether the momentum starts again at zero at each milestone.
        arguments: Arguments of the network beside those of its architecture, such as a rate of dropout.
        splits: The splits of the dataset that are trained on, one after the other.
        hold_out: So many training images, drawn at random, are left out.
        pad_with: What moves in: "black", "mean" (zero after normalization, the mean colour), or "reflect".
        flip: Whether half of the images, chosen at random, are mirrored left to right.
        drop_incomplete: Whether the incomplete last batch of an epoch is left out.
        cutout: The side in pixels of the square that is set to the mean colour; 0 for none. DeVries & Taylor 2017.
        random_erasing: The probability that a rectangle is filled with a random grey; 0 for none. Zhong et al. 2017.
        mixup: Alpha of the Beta distribution by which two images are mixed; 0 for none. Zhang et al. 2018.
        random_area: The least and the largest share of the image that is cut out and resized to the input size; None
            for no such crop. Its sides have a ratio from 3/4 to 4/3.
        color_jitter: The strength of random changes to brightness, contrast and saturation; 0 for none.
        lighting: The standard deviation of random changes along the main colours of ImageNet; 0 for none.
        source: The file, command or paper that the numbers come from.
        notes: Where the source is silent or contradicts itself, and what was chosen.
        rows: The published rows that the recipe answers, and the architecture of each. A row is "TABLE:ROW", or
            "TABLE:ROW BY" where two people published numbers of one row.
        quoted: Rows that print numbers of `rows` again, in the same form.
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
