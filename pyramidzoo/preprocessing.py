"""From image to network input, as the weights were trained: the constants come from their manifest entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.errors import UsageError
from pyramidzoo.manifest import Preprocessing


class Normalize(nn.Module):
    """uint8 images (N, C, H, W) to normalised floats, bitwise equal to torchvision's ToTensor and Normalize."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        # float32 constants and the order divide, subtract, divide are what makes it bitwise equal
        self.register_buffer("mean", _constants(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", _constants(preprocessing.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)


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

    steps: list[Callable[[Any], Any]] = []
    if preprocessing.resize is not None:
        mode = transforms.InterpolationMode(preprocessing.interpolation or "bilinear")
        steps.append(transforms.Resize(preprocessing.resize, interpolation=mode))
    if preprocessing.crop is not None:
        steps.append(transforms.CenterCrop(preprocessing.crop))
    steps += [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed
