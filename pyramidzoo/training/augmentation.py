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

# The constants of random erasing in hysts' code
_ERASING_ATTEMPTS = 20
_ERASING_AREA = (0.02, 0.4)  # share of the image
_ERASING_ASPECT = 0.3  # height over width lies between this and 1 / this


@dataclass(frozen=True)
class Draws:
    """The random numbers that decide how some images are changed: one row for each image.

    A field is None if the recipe makes no such change.

    Attributes:
        index: Place of the image among all training images, int64 (n).
        shift: Where the crop begins in the padded image: row and column, from 0 to 2 * padding, int64 (n, 2).
        flip: Whether the image is mirrored left to right, bool (n).
        cutout: Top row and left column of the cutout square, which may lie partly outside, int64 (n, 2).
        erased: Top, left, bottom and right of the rectangle of random erasing, int64 (n, 4). Bottom and right are the
            first row and column after it.
        erased_value: The grey that fills this rectangle, as a normalized value, float32 (n).
        partner: Mixup: place in the batch of the other image, int64 (n).
        weight: Mixup: share of the image itself, from 0 to 1, float32 (n). It is equal within a batch.
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
        """Return the fields that are not None, by name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}

    def select(self, rows: Tensor) -> Draws:
        """Return the draws of the images in some rows.

        Args:
            rows: Numbers of the rows, int64 (n).
        """
        return Draws(**{name: tensor.index_select(0, rows) for name, tensor in self.tensors().items()})

    def copy_from(self, other: Draws) -> None:
        """Copy the values of another epoch's draws into these tensors, in place.

        A captured CUDA graph reads these very tensors, so they cannot be replaced by new ones.

        Args:
            other: Draws with the same fields and shapes.
        """
        for name, tensor in self.tensors().items():
            tensor.copy_(other.tensors()[name], non_blocking=True)

    def to(self, device: torch.device) -> Draws:
        """Return a copy on a device."""
        return Draws(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def choose_images(hold_out: int, images: int, seed: int) -> Tensor:
    """Choose which training images are used, if a recipe leaves some out at random.

    Args:
        hold_out: Number of images that are left out.
        images: Number of training images.
        seed: The seed of the training. The choice has its own random generator, so it does not change other draws.

    Returns:
        Their places in rising order, int64.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(images, generator=generator)[hold_out:].sort().values


def draw_epoch(recipe: Recipe, images: int, size: tuple[int, int], generator: torch.Generator) -> list[Draws]:
    """Draw everything that is random in one epoch.

    Args:
        recipe: Says which changes are made.
        images: Number of training images.
        size: Height and width of the images in pixels.
        generator: A random generator on the CPU. Its state changes.

    Returns:
        The draws of each batch, in the order of training.
    """
    order = torch.randperm(images, generator=generator)
    batches = list(torch.split(order, recipe.batch_size))[: recipe.steps_per_epoch(images)]
    return [_draw_batch(recipe, index, size, generator) for index in batches]


def join_draws(batches: list[Draws]) -> Draws:
    """Concatenate the draws of several batches, in order."""
    fields = [batch.tensors() for batch in batches]
    return Draws(**{name: torch.cat([tensors[name] for tensors in fields]) for name in fields[0]})


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
    """Draw the top left corners of cutout's squares, int64 (n, 2).

    The centre of a square is uniform over the image. As in hysts' code, the centre of a square with an even side may
    also lie one pixel below the image or one pixel to the right of it.
    """
    extra_places = 1 if side % 2 == 0 else 0
    centres = [torch.randint(0, length + extra_places, (n,), generator=generator) for length in size]
    return torch.stack(centres, 1) - side // 2


def _draw_rectangles(
    probability: float, n: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the rectangles of random erasing, as hysts' code does.

    A rectangle that does not fit into the image is drawn again, at most twenty times. If none fits, nothing is erased.
    Here all twenty attempts are drawn at once, and the first one that fits is taken. The aspect ratio is uniform; in
    the paper it is log-uniform.

    Returns:
        The corners of each rectangle, int64 (n, 4), and the value that fills it, float32 (n). If nothing is erased, all
        four corners are 0.
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
    """Gather the images of one batch, change them at random, and normalize them.

    Args:
        images: All training images, uint8 (N, H, W, C); float32 if they are whitened.
        draws: The draws of this batch of n images, on the device of `images`.
        recipe: Says which changes are made.
        normalize: The normalization of the recipe, on the same device.

    Returns:
        The inputs, float32 (n, C, H, W) in memory as channels_last.
    """
    pixels, outside = _shift_and_mirror(images, draws, recipe)
    if outside is not None and recipe.pad_with == "black":
        pixels = pixels.masked_fill(outside, 0)
    inputs: Tensor = normalize(pixels)
    if outside is not None and recipe.pad_with == "mean":
        inputs = inputs.masked_fill(outside, 0.0)
    height, width = images.shape[1:3]
    if draws.cutout is not None:
        corners = torch.cat([draws.cutout, draws.cutout + recipe.cutout], 1)
        inputs = inputs.masked_fill(_make_rectangle_mask(corners, height, width), 0.0)
    if draws.erased is not None and draws.erased_value is not None:
        erased = _make_rectangle_mask(draws.erased, height, width)
        inputs = torch.where(erased, draws.erased_value[:, None, None, None], inputs)
    if draws.partner is not None and draws.weight is not None:
        weight = draws.weight[:, None, None, None]
        inputs = inputs * weight + inputs[draws.partner] * (1 - weight)
    return inputs


def _shift_and_mirror(images: Tensor, draws: Draws, recipe: Recipe) -> tuple[Tensor, Tensor | None]:
    """Gather the images of a batch, shift them, and then mirror them.

    For each pixel of the result, the row and the column are computed from which it is read.

    Returns:
        The pixels (n, C, H, W), of the type of `images`, and a mask of the pixels that were read outside of the image,
        bool (n, 1, H, W). The mask is None if there is no such pixel. A pixel that lies outside has the value of the
        nearest pixel inside.
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
            rows, columns = _reflect_places(rows, height), _reflect_places(columns, width)
        else:
            inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
            outside = ~inside[:, None]
            rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    pixels = images[draws.index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return pixels, outside


def compute_loss_and_errors(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean cross-entropy of some images, and the number of wrong predictions.

    Args:
        logits: Logits, float (n, classes).
        labels: Class of each image, int64 (n).

    Returns:
        The loss and the number of wrong predictions, each a tensor without dimensions.
    """
    return F.cross_entropy(logits, labels), (logits.detach().argmax(1) != labels).sum()


def compute_mixed_loss_and_errors(
    logits: Tensor, labels: Tensor, partner_labels: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the mean cross-entropy of images that mixup made, and the number of wrong predictions.

    The loss of an image is the weighted sum of the losses for its two labels. A prediction is wrong if it is not the
    label with the larger weight.

    Args:
        logits: Logits, float (n, classes).
        labels: Class of the first image of each pair, int64 (n).
        partner_labels: Class of the second image of each pair, int64 (n).
        weight: Share of the first image, float32 (n).

    Returns:
        The loss and the number of wrong predictions, each a tensor without dimensions.
    """
    losses = weight * F.cross_entropy(logits, labels, reduction="none")
    losses = losses + (1 - weight) * F.cross_entropy(logits, partner_labels, reduction="none")
    expected = torch.where(weight >= 0.5, labels, partner_labels)
    return losses.mean(), (logits.detach().argmax(1) != expected).sum()


def _reflect_places(places: Tensor, length: int) -> Tensor:
    """Mirror places below 0 and above length - 1 at the edge of the image. The edge itself is not repeated.

    For length 4 the places -2 -1 0 1 2 3 4 5 become 2 1 0 1 2 3 2 1.
    """
    return (length - 1) - ((length - 1) - places.abs()).abs()


def _make_rectangle_mask(corners: Tensor, height: int, width: int) -> Tensor:
    """Return a mask of the pixels in rectangles, bool (n, 1, H, W).

    Args:
        corners: Top, left, bottom and right of each rectangle, int64 (n, 4). Bottom and right are not part of it.
        height: H, the height of the images.
        width: W, the width of the images.
    """
    top, left, bottom, right = corners[:, :, None].unbind(1)
    rows = torch.arange(height, device=corners.device)
    columns = torch.arange(width, device=corners.device)
    vertical, horizontal = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (vertical[:, :, None] & horizontal[:, None, :])[:, None]
