"""The changes to training images, each against a loop over single images that does what the authors' code does."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.training.augmentation import Draws, compute_mixed_loss_and_errors, draw_epoch, join_draws, prepare_batch

PLAIN = dataclasses.replace(
    get_recipe("he2015_cifar10"),
    batch_size=20,
    padding=0,
    flip=False,
    preprocessing=Preprocessing((3, 10, 12), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
)


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (60, 10, 12, 3), dtype=torch.uint8, generator=generator)  # (N, H, W, C)


def prepare(images: Tensor, recipe: Recipe, seed: int = 0) -> list[tuple[Draws, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    normalize = Normalize(recipe.preprocessing)
    batches = draw_epoch(recipe, len(images), (images.shape[1], images.shape[2]), generator)
    return [(draws, prepare_batch(images, draws, recipe, normalize)) for draws in batches]


def normalized(image: Tensor, recipe: Recipe) -> Tensor:
    """One image (H, W, C) as the network gets it, without any change: (C, H, W)."""
    result: Tensor = Normalize(recipe.preprocessing)(image.permute(2, 0, 1)[None])[0]
    return result


def test_without_changes_it_is_normalization(images: Tensor) -> None:
    for draws, pixels in prepare(images, PLAIN):
        for place, index in enumerate(draws.index.tolist()):
            assert torch.equal(pixels[place], normalized(images[index], PLAIN))


@pytest.mark.parametrize("pad_with", ["black", "mean", "reflect"])
def test_crop_and_flip(images: Tensor, pad_with: Any) -> None:
    recipe = dataclasses.replace(PLAIN, padding=4, flip=True, pad_with=pad_with)
    for draws, pixels in prepare(images, recipe):
        assert draws.shift is not None
        assert draws.flip is not None
        for place, index in enumerate(draws.index.tolist()):
            image = images[index].permute(2, 0, 1)[None]
            if pad_with == "black":
                padded = Normalize(recipe.preprocessing)(F.pad(image, (4, 4, 4, 4)))
            elif pad_with == "mean":
                padded = F.pad(Normalize(recipe.preprocessing)(image), (4, 4, 4, 4))
            else:
                padded = F.pad(Normalize(recipe.preprocessing)(image), (4, 4, 4, 4), mode="reflect")
            down, right = draws.shift[place].tolist()
            window = padded[0, :, down : down + 10, right : right + 12]
            assert torch.equal(pixels[place], window.flip(2) if draws.flip[place] else window)


def test_every_shift_and_both_directions_occur() -> None:
    recipe = dataclasses.replace(PLAIN, padding=2, flip=True, batch_size=1000)
    (draws,) = draw_epoch(recipe, 1000, (10, 12), torch.Generator().manual_seed(0))
    assert draws.shift is not None
    assert draws.flip is not None
    counts = torch.bincount(draws.shift[:, 0] * 5 + draws.shift[:, 1], minlength=25)
    # 40 expected in each of 25 places; chi squared with 24 degrees of freedom is above 60 once in 17,000 seeds
    assert float(((counts - 40) ** 2 / 40).sum()) < 60
    assert abs(int(draws.flip.sum()) - 500) < 64  # four standard deviations


@pytest.mark.parametrize("side", [3, 4, 10, 16])
def test_cutout(images: Tensor, side: int) -> None:
    """hysts' transforms.cutout: centres from 0 to the size (one more for an even side), the square cut off outside."""
    recipe = dataclasses.replace(PLAIN, cutout=side)
    centres = set()
    for seed in range(10):
        for draws, pixels in prepare(images, recipe, seed):
            assert draws.cutout is not None
            for place, index in enumerate(draws.index.tolist()):
                cy, cx = (draws.cutout[place] + side // 2).tolist()
                centres.add((cy, cx))
                expected = normalized(images[index], recipe).clone()
                top, left = cy - side // 2, cx - side // 2
                expected[:, max(0, top) : min(10, top + side), max(0, left) : min(12, left + side)] = 0
                assert torch.equal(pixels[place], expected)
    even = 1 - side % 2
    assert {cy for cy, _ in centres} == set(range(10 + even))
    assert {cx for _, cx in centres} == set(range(12 + even))


def erase_as_hysts(size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int] | None:
    """One draw of hysts' transforms.random_erasing: top, left, bottom, right, or None."""
    height, width = size
    if random.random() > 0.5:
        return None
    for _ in range(20):
        area = random.uniform(0.02, 0.4) * height * width
        aspect = random.uniform(0.3, 1 / 0.3)
        rows, columns = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        if columns < width and rows < height:
            left, top = random.integers(0, width - columns), random.integers(0, height - rows)
            return int(top), int(left), int(top) + rows, int(left) + columns
    return None


def test_random_erasing(images: Tensor) -> None:
    recipe = dataclasses.replace(PLAIN, random_erasing=0.5)
    for draws, pixels in prepare(images, recipe):
        assert draws.erased is not None
        assert draws.erased_value is not None
        for place, index in enumerate(draws.index.tolist()):
            expected = normalized(images[index], recipe).clone()
            top, left, bottom, right = draws.erased[place].tolist()
            expected[:, top:bottom, left:right] = draws.erased_value[place]
            assert torch.equal(pixels[place], expected)


def test_random_erasing_is_distributed_as_in_the_authors_code() -> None:
    n, random = 20_000, np.random.default_rng(0)
    recipe = dataclasses.replace(PLAIN, random_erasing=0.5, batch_size=n)
    (draws,) = draw_epoch(recipe, n, (28, 28), torch.Generator().manual_seed(0))
    assert draws.erased is not None
    ours = draws.erased.numpy()
    ours = ours[(ours[:, 2] > ours[:, 0]) & (ours[:, 3] > ours[:, 1])]
    drawn = [corners for corners in (erase_as_hysts((28, 28), random) for _ in range(n)) if corners is not None]
    theirs = np.array([corners for corners in drawn if corners[2] > corners[0] and corners[3] > corners[1]])
    assert abs(len(ours) - len(theirs)) < 4 * math.sqrt(2 * n * 0.25)
    for column in range(4):  # two-sample Kolmogorov-Smirnov; 1.95 is exceeded once in a thousand seeds
        grid = np.arange(-1, 30)
        a = np.searchsorted(np.sort(ours[:, column]), grid, side="right") / len(ours)
        b = np.searchsorted(np.sort(theirs[:, column]), grid, side="right") / len(theirs)
        assert np.abs(a - b).max() < 1.95 * math.sqrt(1 / len(ours) + 1 / len(theirs))


def test_mixup_mixes_images_and_labels(images: Tensor) -> None:
    recipe = dataclasses.replace(PLAIN, mixup=1.0)
    labels = torch.arange(60) % 7
    generator = torch.Generator().manual_seed(1)
    for draws, pixels in prepare(images, recipe):
        assert draws.partner is not None
        assert draws.weight is not None
        share = float(draws.weight[0])
        assert bool((draws.weight == share).all())
        own = torch.stack([normalized(images[index], recipe) for index in draws.index])
        expected = (
            own * draws.weight[:, None, None, None] + own[draws.partner] * (1 - draws.weight)[:, None, None, None]
        )
        assert torch.equal(pixels, expected)
        logits = torch.randn(20, 7, generator=generator, dtype=torch.float64)
        batch = labels[draws.index]
        soft = F.one_hot(batch, 7) * share + F.one_hot(batch[draws.partner], 7) * (1 - share)
        loss, wrong = compute_mixed_loss_and_errors(logits, batch, batch[draws.partner], draws.weight)
        assert loss.item() == pytest.approx(float(-(F.log_softmax(logits, 1) * soft).sum() / 20), rel=1e-7)
        assert int(wrong) == int((logits.argmax(1) != soft.argmax(1)).sum())


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_mixup_shares_follow_the_beta_distribution(alpha: float) -> None:
    recipe = dataclasses.replace(PLAIN, mixup=alpha, batch_size=2)
    shares = [float(draws.weight[0]) for draws in draw_epoch(recipe, 8000, (10, 12), torch.Generator().manual_seed(0))]
    variance = 1 / (4 * (2 * alpha + 1))
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * math.sqrt(variance / 4000))
    assert np.var(shares) == pytest.approx(variance, rel=0.08)


def test_an_epoch_has_every_image_once() -> None:
    for drop, expected in ((False, 65), (True, 60)):
        recipe = dataclasses.replace(PLAIN, drop_incomplete=drop)
        batches = draw_epoch(recipe, 65, (10, 12), torch.Generator().manual_seed(0))
        index = join_draws(batches).index.tolist()
        assert len(batches) == recipe.steps_per_epoch(65)
        assert len(set(index)) == len(index) == expected
