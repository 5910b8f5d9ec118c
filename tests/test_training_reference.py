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

from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.device_images import TrainingImages
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


class TorchSgd:
    """optim.sgd of Torch7, line by line: its state is a table that a new one can replace."""

    def __init__(self, decay: float, *, nesterov: bool = True) -> None:
        self.decay, self.nesterov = decay, nesterov
        self.state: dict[str, Tensor] = {}

    def step(self, model: nn.Module, loss: Tensor, rate: float) -> None:
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, x in model.named_parameters():
                assert x.grad is not None
                dfdx = x.grad + self.decay * x
                if name not in self.state:
                    self.state[name] = torch.zeros_like(dfdx) + dfdx
                else:
                    self.state[name] = self.state[name] * 0.9 + dfdx
                dfdx = dfdx + 0.9 * self.state[name] if self.nesterov else self.state[name]
                x.add_(dfdx, alpha=-rate)


def fb_input(image: Tensor, draws: Draws, place: int, recipe: Recipe, mode: str = "constant") -> Tensor:
    """datasets/cifar10.lua of fb.resnet.torch: normalize, flip, pad with zeros (WRN: reflect), crop.

    The image is flipped before it is cropped, so a window of a flipped image lies where ours lies from the right.
    """
    assert draws.shift is not None
    assert draws.flip is not None
    down, right = draws.shift[place].tolist()
    pixels = normalized(image, recipe)
    if draws.flip[place]:
        pixels, right = pixels.flip(2), 8 - right
    return F.pad(pixels[None], (4, 4, 4, 4), mode=mode)[0][:, down : down + 8, right : right + 8]


def train_as_torch7(
    ours: Ours, images: ImageSet, recipe: Recipe, rate_of: Callable[[int, int], float], mode: str = "constant"
) -> nn.Module:
    """train.lua of fb.resnet.torch. `rate_of` gets the epoch and the batch in it, both counted from 1."""
    model, sgd = copy.deepcopy(ours.before), TorchSgd(recipe.weight_decay)
    epoch, batch, last_rate = 1, 0, None
    for draws in ours.draws:
        batch += 1
        rate = rate_of(epoch, batch)
        if recipe.reset_momentum and last_rate not in (None, rate):
            sgd.state = {}  # state.optim = tablex.deepcopy(opt), in the hook onStartEpoch
        last_rate = rate
        inputs = [
            fb_input(images.images[i], draws, place, recipe, mode) for place, i in enumerate(draws.index.tolist())
        ]
        sgd.step(model, F.cross_entropy(model(torch.stack(inputs).double()), images.labels[draws.index]), rate)
        if batch == ours.run.schedule.steps_per_epoch:
            epoch, batch = epoch + 1, 0
    return model


def falls(epochs: tuple[int, ...], factor: float, rate: float = 0.1) -> Callable[[int, int], float]:
    """The rate is multiplied by a factor at the start of these epochs, counted from 1."""
    return lambda epoch, batch: rate * factor ** sum(epoch >= each for each in epochs)


def shake_cosine(epoch: int, batch: int) -> float:
    """learningRateCosine of xgastaldi/shake-shake with one cycle: five epochs of eleven batches."""
    return 0.5 * 0.2 * (1 + math.cos(math.pi * ((epoch - 1) * 11 + batch) / (5 * 11)))


TORCH7 = {
    # the incomplete last batch of 3 images is used: 11 batches in an epoch
    "pyramidnet_cifar10": ({"milestones": (1, 3)}, falls((2, 4), 0.1), "constant", 11),
    "densenet_cifar10": ({"milestones": (1, 3)}, falls((2, 4), 0.1), "constant", 11),
    "shakeshake_cifar10": ({}, shake_cosine, "constant", 11),
    # it is skipped
    "wrn_cifar10": ({"milestones": (1, 3)}, falls((2, 4), 0.2), "reflect", 10),
}


@pytest.mark.parametrize("name", TORCH7)
def test_torch7(name: str) -> None:
    changes, rate_of, mode, steps_per_epoch = TORCH7[name]
    recipe = small(name, epochs=5, **changes)
    images = make_images(3)
    ours = Ours("wrn_16_1" if name.startswith("wrn") else "resnet20", recipe, images)
    assert len(ours.draws) == 5 * steps_per_epoch
    require_equal(ours, train_as_torch7(ours, images, recipe, rate_of, mode))


def test_the_momentum_of_wrn_starts_again() -> None:
    """Without the reset the parameters are others, by far more than the tolerance."""
    recipe = small("wrn_cifar10", epochs=5, milestones=(1, 3))
    images = make_images(3)
    ours = Ours("wrn_16_1", recipe, images)
    kept = train_as_torch7(
        ours, images, dataclasses.replace(recipe, reset_momentum=False), falls((2, 4), 0.2), "reflect"
    )
    with pytest.raises(AssertionError):
        require_equal(ours, kept)


def test_fattorib() -> None:
    """Train_Model.train: SGD without Nesterov, black borders, the rate falls after an epoch; images are left out."""
    recipe = small("fattorib_cifar10", epochs=5, milestones=(2, 4), hold_out=20)
    images = make_images(3)
    ours = Ours("resnet20_fattorib", recipe, images)
    assert ours.run.used_images is not None
    used = set(ours.run.used_images.tolist())
    assert len(used) == 63
    assert {int(i) for draws in ours.draws for i in draws.index} == used
    assert [len(draws.index) for draws in ours.draws[:8]] == [8] * 7 + [7]
    model = copy.deepcopy(ours.before)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    remaining = iter(ours.draws)
    for epoch in range(5):
        for _ in range(8):
            draws = next(remaining)
            batch = [
                hysts_input(images.images[i], draws, place, recipe) for place, i in enumerate(draws.index.tolist())
            ]
            optimizer.zero_grad()
            F.cross_entropy(model(torch.stack(batch).double()), images.labels[draws.index]).backward()
            optimizer.step()
        if epoch + 1 in (2, 4):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * group["lr"]
    require_equal(ours, model)


@pytest.mark.parametrize("name", ["he2016_cifar10", "he2016_cifar100"])
def test_the_warm_up_at_full_length(name: str) -> None:
    schedule = make_schedule(get_recipe(name), 390)
    found = [schedule.learning_rate(step) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert found == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.001], rel=1e-15)


@pytest.mark.parametrize(
    ("name", "epochs", "factor"),
    [
        ("pyramidnet_cifar10", (150, 225), 0.1),
        ("pyramidnet_cifar100", (150, 225), 0.1),
        ("densenet_cifar10", (150, 225), 0.1),
        ("resnext_cifar10", (148, 223), 0.1),
        ("he2016_cifar10_batch64", (81, 122), 0.1),
        ("wrn_cifar10", (60, 120, 160), 0.2),
        ("wrn_svhn", (80, 120), 0.1),
        ("fb_imagenet", (31, 61), 0.1),
    ],
)
def test_the_epochs_of_torch7_at_full_length(name: str, epochs: tuple[int, ...], factor: float) -> None:
    """Torch7 counts epochs from 1, and compares before the epoch."""
    recipe = get_recipe(name)
    schedule = make_schedule(recipe, 10)
    rate_of = falls(epochs, factor, recipe.learning_rate)
    for epoch in range(1, recipe.epochs + 1):
        for batch in (0, 9):
            step = (epoch - 1) * 10 + batch
            assert schedule.learning_rate(step) == pytest.approx(rate_of(epoch, batch + 1), rel=1e-12)
            assert schedule.starts_after_milestone(step) == (epoch in epochs and batch == 0)


def test_one_cycle() -> None:
    """It rises to the highest rate at the end of the first quarter, and falls to nearly nothing."""
    schedule = make_schedule(dataclasses.replace(get_recipe("quick_cifar10"), epochs=4), 100)
    rates = [schedule.learning_rate(step) for step in range(400)]
    assert rates[99] == max(rates) == pytest.approx(0.2)
    assert rates[0] == pytest.approx(0.002)
    assert rates[399] == pytest.approx(0.2 / 301)
    assert rates[:100] == sorted(rates[:100])
    assert rates[99:] == sorted(rates[99:], reverse=True)


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
