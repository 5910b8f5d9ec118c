"""About fifty steps of our training, against literal loops that do what each author's code does, in float64.

The loops get the random draws of our run. They make inputs, learning rates, losses and updates in their own way: image
by image, and parameter by parameter. Inputs are float32 in the authors' code too, so both sides make float32 inputs and
go on in float64. What remains is the order of sums, about 1e-16 at each step.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.data._splits import ImageSet
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.recipes import Recipe, get_recipe
from pyramidzoo.training.schedule import Schedule
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
STEPS, BATCH = 50, 8


def small(name: str, **changes: Any) -> Recipe:
    """A recipe for images of 8x8 pixels in batches of 8, of which 83 images make ten, and an incomplete one."""
    recipe = get_recipe(name)
    preprocessing = dataclasses.replace(recipe.preprocessing, input_size=(recipe.preprocessing.input_size[0], 8, 8))
    return dataclasses.replace(recipe, preprocessing=preprocessing, batch_size=BATCH, **changes)


def make_images(channels: int) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (83, channels, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet("random", "train", 10, pixels, torch.randint(0, 10, (83,), generator=generator), "0" * 64)


class Ours:
    """All steps of our run, the network as it was before them, and the draws of each step."""

    def __init__(self, architecture: str, recipe: Recipe, images: ImageSet) -> None:
        self.run = TrainingRun(architecture, recipe, TrainingImages(images, CPU), 5, CPU, dtype=torch.float64)
        self.before = copy.deepcopy(self.run.model).train()
        self.draws: list[Draws] = []
        self.rates: list[float] = []
        while self.run.done_steps < self.run.schedule.total_steps:
            batches = self.run.draw_epoch()
            steps = self.run.start_epoch(batches)
            self.draws += batches[:steps]
            for step in range(steps):
                self.rates.append(self.run.schedule.learning_rate(self.run.done_steps))
                self.run.run_step(step)


def require_equal(ours: Ours, reference: nn.Module) -> None:
    """All parameters and all statistics of BN agree to 1e-9, and training has moved them by far more."""
    found, start = dict(ours.run.model.state_dict()), dict(ours.before.state_dict())
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-9)
        assert not torch.allclose(found[name].double(), start[name].double(), rtol=0, atol=1e-5), name


def update(
    model: nn.Module, loss: Tensor, rate: float, decay: float, momenta: dict[str, Tensor], *, nesterov: bool
) -> None:
    """SGD with momentum 0.9 as Torch7 and PyTorch define it, weight decay on all parameters, by hand."""
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + decay * parameter
            momenta[name] = 0.9 * momenta[name] + gradient if name in momenta else gradient.clone()
            parameter.sub_(rate * (gradient + 0.9 * momenta[name] if nesterov else momenta[name]))


def normalized(image: Tensor, recipe: Recipe) -> Tensor:
    """uint8 (C, H, W) to float32."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (recipe.preprocessing.mean, recipe.preprocessing.std))
    return (image.float() / 255 - mean) / std


def hysts_input(image: Tensor, draws: Draws, place: int, recipe: Recipe) -> Tensor:
    """dataloader.py of hysts: crop from a black border, flip, normalize, then cutout or random erasing."""
    if draws.shift is not None:
        down, right = draws.shift[place].tolist()
        image = F.pad(image, (4, 4, 4, 4))[:, down : down + 8, right : right + 8]
    if draws.flip is not None and draws.flip[place]:
        image = image.flip(2)
    pixels = normalized(image, recipe)
    if draws.cutout is not None:
        top, left = draws.cutout[place].tolist()
        bottom, right = top + recipe.cutout, left + recipe.cutout
        pixels[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 0
    if draws.erased is not None and draws.erased_value is not None:
        top, left, bottom, right = draws.erased[place].tolist()
        pixels[:, top:bottom, left:right] = draws.erased_value[place]
    return pixels


def train_as_hysts(ours: Ours, images: ImageSet, recipe: Recipe, rate_of: Callable[[int, int], float]) -> nn.Module:
    """train.py of hysts at b7ad09d. `rate_of` gets the epoch and the step of the scheduler, both counted from 1."""
    model, momenta = copy.deepcopy(ours.before), {}  # type: ignore[var-annotated]
    for number, draws in enumerate(ours.draws):
        epoch, global_step = number // 10 + 1, number + 1
        data = torch.stack(
            [hysts_input(images.images[i], draws, place, recipe) for place, i in enumerate(draws.index.tolist())]
        )
        targets = F.one_hot(images.labels[draws.index], 10).double()
        if draws.partner is not None and draws.weight is not None:
            share = draws.weight[:1]  # one for the whole batch, float32
            data = data * share + data[draws.partner] * (1 - share)
            targets = targets * share + targets[draws.partner] * (1 - share)
        rate = rate_of(epoch, global_step)  # the scheduler steps before the optimizer
        loss = -torch.sum(F.log_softmax(model(data.double()), dim=1) * targets) / len(data)
        update(model, loss, rate, 1e-4, momenta, nesterov=True)
    return model


def cosine(epoch: int, step: int) -> float:
    return 0.2 * 0.5 * (1 + math.cos(step / STEPS * math.pi))


def multistep(epoch: int, step: int) -> float:
    """MultiStepLR after `scheduler.step(epoch - 1)`, with milestones at 2 and 4."""
    return 0.2 * 0.1 ** ((epoch - 1 >= 2) + (epoch - 1 >= 4))


CASES: dict[str, tuple[dict[str, Any], Callable[[int, int], float], str]] = {
    "hysts_mnist_cutout12": ({"cutout": 4}, cosine, "preresnet20"),
    "hysts_mnist_mixup05": ({}, cosine, "preresnet20"),
    "hysts_ablation": ({"milestones": (2, 4)}, multistep, "preresnet20"),
    "hysts_ablation_erasing": ({"milestones": (2, 4)}, multistep, "preresnet20"),
}


@pytest.mark.parametrize("name", CASES)
def test_hysts(name: str) -> None:
    changes, rate_of, architecture = CASES[name]
    recipe = small(name, epochs=5, **changes)
    images = make_images(recipe.preprocessing.input_size[0])
    ours = Ours(architecture, recipe, images)
    assert len(ours.draws) == STEPS
    # the incomplete batch is left out
    assert all(len(draws.index) == BATCH for draws in ours.draws)
    require_equal(ours, train_as_hysts(ours, images, recipe, rate_of))


def test_he2015() -> None:
    """Section 4.2, with 48 steps in place of 64,000: the rate falls after 25 and 37, and the end is within an epoch."""
    recipe = small("he2015_cifar10", epochs=5, steps=STEPS - 2, milestones=(25, 37))
    images = make_images(3)
    ours = Ours("resnet20", recipe, images)
    assert len(ours.draws) == STEPS - 2
    model, momenta = copy.deepcopy(ours.before), {}  # type: ignore[var-annotated]
    for iteration, draws in enumerate(ours.draws):
        inputs = []
        for place, i in enumerate(draws.index.tolist()):
            assert draws.shift is not None
            assert draws.flip is not None
            down, right = draws.shift[place].tolist()
            # the border is the mean colour: zero, after normalization
            bordered = F.pad(normalized(images.images[i], recipe), (4, 4, 4, 4))
            pixels = bordered[:, down : down + 8, right : right + 8]
            inputs.append(pixels.flip(2) if draws.flip[place] else pixels)
        rate = 0.1 if iteration < 25 else 0.01 if iteration < 37 else 0.001
        loss = F.cross_entropy(model(torch.stack(inputs).double()), images.labels[draws.index])
        update(model, loss, rate, 1e-4, momenta, nesterov=False)
    require_equal(ours, model)


@pytest.mark.parametrize("name", ["hysts_mnist", "hysts_mnist_mixup1_80epochs", "hysts_ablation_cosine"])
def test_the_cosine_of_hysts_at_full_length(name: str) -> None:
    """LambdaLR with cosine_annealing of utils.py, stepped before the optimizer: the last step has rate zero."""
    recipe = get_recipe(name)
    images = 60_000 if recipe.dataset == "mnist" else 50_000
    total = recipe.epochs * (images // 128)
    schedule = make_schedule(recipe, total // recipe.epochs)
    found = [schedule.learning_rate(step) for step in range(total)]
    expected = [0.2 * 0.5 * (1 + math.cos(step / total * math.pi)) for step in range(1, total + 1)]
    # near the end the cosine is close to -1, and 1 + cos keeps what is left of its 16 digits
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert found[-1] == 0


def test_the_steps_of_he2015_at_full_length() -> None:
    schedule = make_schedule(get_recipe("he2015_cifar10"), 390)
    assert schedule.total_steps == 64_000
    found = [schedule.learning_rate(step) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-15)


def test_the_epochs_of_the_ablation_at_full_length() -> None:
    schedule = make_schedule(get_recipe("hysts_ablation"), 390)
    found = [schedule.learning_rate(epoch * 390 + step) for epoch in (0, 79, 80, 119, 120, 159) for step in (0, 389)]
    assert found == pytest.approx([0.2] * 4 + [0.02] * 4 + [0.002] * 4, rel=1e-15)


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The schedule of a recipe with so many steps in an epoch."""
    return Schedule(dataclasses.replace(recipe, batch_size=1), steps_per_epoch)
