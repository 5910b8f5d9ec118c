"""From image to network input, as the weights were trained: the constants come from their manifest entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.errors import UsageError
from pyramidzoo.manifest import Preprocessing

INTERPOLATIONS = ("bilinear", "bicubic")  # what published protocols of large images use


class Normalize(nn.Module):
    """uint8 images (N, C, H, W) to normalised floats, bitwise equal to torchvision's ToTensor and Normalize."""

    mean: Tensor
    std: Tensor
    levels: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        # float32 constants and the order divide, subtract, divide are what makes it bitwise equal
        self.register_buffer("mean", _constants(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", _constants(preprocessing.std).view(-1, 1, 1), persistent=False)
        # as a tensor: CUDA multiplies with the reciprocal of a number, which may be off by a bit
        self.register_buffer("levels", torch.tensor([255.0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).div_(self.levels).sub_(self.mean).div_(self.std)


def _constants(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def eval_transform(preprocessing: Preprocessing | None) -> Callable[[Any], Tensor]:
    """A torchvision transform: one PIL image to a (C, H, W) tensor, prepared as these weights were trained.

    Without `resize` and `crop` in the entry (all of CIFAR) the image keeps its size. Raises UsageError for None, which
    is the `preprocessing` of a model without weights.
    """
    if preprocessing is None:
        raise UsageError(
            "this model has no weights that would say how to prepare images; give the preprocessing of an entry, "
            "as in eval_transform(get_weights(ID).preprocessing)"
        )
    from torchvision import transforms

    steps = [*sizing(preprocessing), transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def sizing(preprocessing: Preprocessing) -> list[Callable[[Any], Any]]:
    """The steps of `eval_transform` that make one PIL image as large as the network wants it."""
    from torchvision import transforms

    steps: list[Callable[[Any], Any]] = []
    if preprocessing.resize is not None:
        steps.append(transforms.Resize(preprocessing.resize, interpolation=_mode(preprocessing)))
    if preprocessing.crop is not None:
        steps.append(transforms.CenterCrop(preprocessing.crop))
    return steps


def tensor_sizing(preprocessing: Preprocessing) -> list[Callable[[Tensor], Tensor]]:
    """The same for uint8 tensors (C, H, W), antialiased: faster than Pillow, and off by a grey level or two."""
    from torchvision.transforms import v2

    steps: list[Callable[[Tensor], Tensor]] = []
    if preprocessing.resize is not None:
        steps.append(v2.Resize(preprocessing.resize, interpolation=_mode(preprocessing), antialias=True))
    if preprocessing.crop is not None:
        steps.append(v2.CenterCrop(preprocessing.crop))
    return steps


def _mode(preprocessing: Preprocessing) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation or "bilinear")


@dataclass(frozen=True)
class Override:
    """Another published protocol than the weights' own: what is not None takes the place of theirs."""

    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def applied(self, own: Preprocessing) -> Preprocessing:
        """Their preprocessing, changed. Raises UsageError."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if not given:
            return own
        sizes = {"resize": own.resize, "crop": own.crop, **given}
        crop = sizes["crop"] or 0
        if not 0 < crop <= (sizes["resize"] or 0):
            raise UsageError(
                f"no square of {sizes['crop']} can be cut from images whose shorter side is {sizes['resize']}; "
                "give --resize and --crop that fit each other"
            )
        return dataclasses.replace(own, **given, input_size=(own.input_size[0], crop, crop))
