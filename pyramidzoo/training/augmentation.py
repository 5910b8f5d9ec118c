"""Random changes to training images: the random draws of an epoch, and the tensor operations that use them.

All draws are made on the CPU, from one seeded generator. So they are the same on every device. A captured CUDA graph
cannot draw; it reads the draws from memory.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.data.transforms import Normalize

# The constants of hysts' code
_ERASING_ATTEMPTS = 20
_ERASING_AREA = (0.02, 0.4)  # share of the image
_ERASING_ASPECT = 0.3  # height over width lies between this and 1 / this


@dataclass(frozen=True)
class Draws:
    """The random draws of some images, one row for each image; None where the recipe does not need them.

    Attributes:
        index: which image it is, int64 (n).
        shift: pixels that the window moves down and right, from 0 to 2 * padding, int64 (n, 2).
        flip: whether the image is mirrored, bool (n).
        cutout: top and left of the square, which may lie partly outside, int64 (n, 2).
        erased: top, left, bottom and right of the erased rectangle, int64 (n, 4).
        erased_value: what fills it, float32 (n).
        partner: the place in the batch of the image that is mixed in, int64 (n).
        weight: the share of the image itself in the mixture, float32 (n), equal within a batch.
    """

    index: Tensor
    shift: Tensor | None = None
    flip: Tensor | None = None
    cutout: Tensor | None = None
    erased: Tensor | None = None
    erased_value: Tensor | None = None
    partner: Tensor | None = None
    weight: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the draws that are not None, by name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}

    def select(self, rows: Tensor) -> Draws:
        """Return the draws of some rows: an int64 tensor of places."""
        return Draws(**{name: tensor.index_select(0, rows) for name, tensor in self.tensors().items()})

    def copy_from(self, other: Draws) -> None:
        """Write the draws of another epoch over these."""
        for name, tensor in self.tensors().items():
            tensor.copy_(other.tensors()[name], non_blocking=True)

    def to(self, device: torch.device) -> Draws:
        """Return a copy on a device."""
        return Draws(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def choose_images(hold_out: int, images: int, seed: int) -> Tensor:
    """Choose the training images that are used, where some are left out at random.

    Args:
        hold_out: how many are left out.
        images: how many there are.
        seed: the seed of the run. A generator of its own draws, so that nothing else depends on this choice.

    Returns:
        Their places in rising order, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(images, generator=generator)[hold_out:].sort().values


def draw_epoch(recipe: Recipe, images: int, size: tuple[int, int], generator: torch.Generator) -> list[Draws]:
    """Draw everything that is random in one epoch.

    Args:
        recipe: which changes are made.
        images: how many training images there are.
        size: their height and width in pixels.
        generator: a generator on the CPU; it moves on.

    Returns:
        The draws of each batch, in the order of training.
    """
    order = torch.randperm(images, generator=generator)
    batches = list(torch.split(order, recipe.batch_size))[: recipe.steps_per_epoch(images)]
    return [_draw_batch(recipe, index, size, generator) for index in batches]


def join_draws(batches: list[Draws]) -> Draws:
    """Put the draws of several batches into one, in order."""
    columns = [batch.tensors() for batch in batches]
    return Draws(**{name: torch.cat([column[name] for column in columns]) for name in columns[0]})


def _draw_batch(recipe: Recipe, index: Tensor, size: tuple[int, int], generator: torch.Generator) -> Draws:
    n = len(index)
    draws: dict[str, Tensor] = {"index": index}
    if recipe.padding:
        draws["shift"] = torch.randint(0, 2 * recipe.padding + 1, (2, n), generator=generator).t()
    if recipe.flip:
        draws["flip"] = torch.rand(n, generator=generator) < 0.5
    if recipe.cutout:
        draws["cutout"] = _draw_squares(recipe.cutout, n, size, generator)
    if recipe.random_erasing:
        draws["erased"], draws["erased_value"] = _draw_rectangles(recipe.random_erasing, n, size, generator)
    if recipe.mixup:
        draws["partner"] = torch.randperm(n, generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        share = np.random.default_rng(seed).beta(recipe.mixup, recipe.mixup)
        draws["weight"] = torch.full((n,), share, dtype=torch.float32)
    return Draws(**draws)


def _draw_squares(side: int, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw the top left corners of cutout's squares, as hysts' code does.

    The centre is uniform over the image. For an even side it may also lie one pixel outside, below or to the right.
    """
    beyond = 1 - side % 2
    centres = [torch.randint(0, length + beyond, (n,), generator=generator) for length in size]
    return torch.stack(centres, 1) - side // 2


def _draw_rectangles(
    probability: float, n: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw random erasing's rectangles, as hysts' code does, and the value that fills each.

    A rectangle that does not fit into the image is drawn again, up to twenty times; then nothing is erased. The aspect
    ratio is uniform, not log-uniform as in the paper. A rectangle of no pixels stands for nothing.
    """
    height, width = size
    applies = torch.rand(n, generator=generator) <= probability
    share, aspect, top, left = torch.rand(4, n, _ERASING_ATTEMPTS, generator=generator, dtype=torch.float64)
    value = torch.rand(n, generator=generator)
    area = (_ERASING_AREA[0] + share * (_ERASING_AREA[1] - _ERASING_AREA[0])) * (height * width)
    ratio = _ERASING_ASPECT + aspect * (1 / _ERASING_ASPECT - _ERASING_ASPECT)
    rows, columns = (area * ratio).sqrt().long(), (area / ratio).sqrt().long()
    fits = (rows < height) & (columns < width)
    first_fit = fits.to(torch.uint8).argmax(1, keepdim=True)
    is_erased = fits.any(1) & applies
    top, left = (top * (height - rows)).long(), (left * (width - columns)).long()
    corners = torch.stack([top, left, top + rows, left + columns], 2)
    chosen = corners.gather(1, first_fit[..., None].expand(n, 1, 4))[:, 0]
    return chosen * is_erased[:, None], value


def prepare_batch(images: Tensor, draws: Draws, recipe: Recipe, normalize: Normalize) -> Tensor:
    """Make the inputs of one step.

    Args:
        images: all training images, uint8 (N, H, W, C).
        draws: the draws of this batch of n images, on the device of `images`.
        recipe: which changes are made.
        normalize: the recipe's normalization, on the same device.

    Returns:
        float32 (n, C, H, W) in memory as channels_last.
    """
    pixels, outside = _move_and_mirror(images, draws, recipe)
    if outside is not None and recipe.pad_with == "black":
        pixels = pixels.masked_fill(outside, 0)
    inputs: Tensor = normalize(pixels)
    if outside is not None and recipe.pad_with == "mean":
        inputs = inputs.masked_fill(outside, 0.0)
    height, width = images.shape[1:3]
    if draws.cutout is not None:
        corners = torch.cat([draws.cutout, draws.cutout + recipe.cutout], 1)
        inputs = inputs.masked_fill(_rectangle(corners, height, width), 0.0)
    if draws.erased is not None and draws.erased_value is not None:
        erased = _rectangle(draws.erased, height, width)
        inputs = torch.where(erased, draws.erased_value[:, None, None, None], inputs)
    if draws.partner is not None and draws.weight is not None:
        weight = draws.weight[:, None, None, None]
        inputs = inputs * weight + inputs[draws.partner] * (1 - weight)
    return inputs


def _move_and_mirror(images: Tensor, draws: Draws, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Gather the images of a batch, moved first and mirrored then.

    Returns:
        The pixels, uint8 (n, C, H, W), and which of them lie outside the image, bool (n, 1, H, W). None stands for no
        such pixel. A pixel outside has the value of the nearest pixel of the image.
    """
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=images.device).expand(len(draws.index), -1)
    columns = torch.arange(width, device=images.device).expand(len(draws.index), -1)
    outside = None
    if draws.flip is not None:  # the columns of the moved image are read in reverse
        columns = torch.where(draws.flip[:, None], width - 1 - columns, columns)
    if draws.shift is not None:
        rows = rows + (draws.shift[:, :1] - recipe.padding)
        columns = columns + (draws.shift[:, 1:] - recipe.padding)
        if recipe.pad_with == "reflect":
            rows, columns = _reflect(rows, height), _reflect(columns, width)
        else:
            inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
            outside = ~inside[:, None]
            rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pixels = images[draws.index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return pixels, outside


def compute_loss_and_errors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean cross-entropy of some images, and how many are wrong.

    Args:
        logits: (n, classes).
        labels: int64 (n).

    Returns:
        The loss and the number of wrong images, both without dimensions.
    """
    return F.cross_entropy(logits, labels), (logits.detach().argmax(1) != labels).sum()


def compute_mixed_loss_and_errors(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the mean cross-entropy of mixed images, and how many are wrong.

    A mixed image has the labels of both images, each with its share. It counts as wrong where the prediction is not
    the label with the larger share.

    Args:
        logits: (n, classes).
        labels: those of the images themselves, int64 (n).
        partner_labels: those of the images that are mixed in, int64 (n).
        weight: the share of the images themselves, float32 (n).

    Returns:
        The loss and the number of wrong images, both without dimensions.
    """
    losses = weight * F.cross_entropy(logits, labels, reduction="none")
    losses = losses + (1 - weight) * F.cross_entropy(logits, partner_labels, reduction="none")
    expected = torch.where(weight >= 0.5, labels, partner_labels)
    return losses.mean(), (logits.detach().argmax(1) != expected).sum()


def _reflect(places: Tensor, length: int) -> Tensor:
    """Fold places outside 0 .. length-1 back inside, without repeating the edge."""
    return (length - 1) - ((length - 1) - places.abs()).abs()


def _rectangle(corners: Tensor, height: int, width: int) -> Tensor:
    """Return a mask (n, 1, H, W) of the pixels from top, left to before bottom, right: int64 (n, 4)."""
    top, left, bottom, right = corners[:, :, None].unbind(1)
    rows = torch.arange(height, device=corners.device)
    columns = torch.arange(width, device=corners.device)
    vertical, horizontal = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (vertical[:, :, None] & horizontal[:, None, :])[:, None]
