"""Transforms that turn an image into a network's input, in the way in which the weights were trained.

The sizes and constants come from the preprocessing in the manifest entry of the weights.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.errors import UsageError

INTERPOLATIONS = ("bilinear", "bicubic")  # Published protocols for large images use these two.

_MODES = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels.


class Normalize(nn.Module):
    """Normalises batches. The result equals that of torchvision's ToTensor and Normalize bit by bit.

    Args:
        preprocessing: The mean and standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor
    levels: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        # The result is equal bit by bit because the constants are float32 and the order is divide, subtract, divide.
        self.register_buffer("mean", _constants(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", _constants(preprocessing.std).view(-1, 1, 1), persistent=False)
        # 255 is a tensor, because CUDA would multiply by the reciprocal of a number. That may be off by a bit.
        self.register_buffer("levels", torch.tensor([255.0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into normalised float32 images of the same shape."""
        return images.to(torch.float32).div_(self.levels).sub_(self.mean).div_(self.std)


def _constants(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def eval_transform(preprocessing: Preprocessing | nn.Module | None, *, resize: bool = False) -> Callable[[Any], Tensor]:
    """Make a torchvision transform that prepares one image as the weights were trained.

    The transform takes three kinds of images:

    * Pillow images of all modes with at most 8 bits. They are converted to RGB, or to L for networks
      with one channel, as in evaluation.
    * uint8 arrays (H, W, C) and uint8 tensors (C, H, W). (H, W) is enough for one channel.
    * Floats from 0 to 1 in the same shapes, where nothing is resized or cropped.

    If the preprocessing has `resize` and `crop` (ImageNet), an image may have any size. Otherwise
    (CIFAR and other small images) it must have the size that the network was trained on.

    Args:
        preprocessing: A preprocessing, or a model with weights, whose preprocessing is used.
        resize: Resize images that do not have the network's size: the shorter side with bicubic
            interpolation and antialiasing, then a crop of the centre. It has no effect if the
            preprocessing has a `resize` of its own. The network never saw resized images, so it is
            less reliable, and no published error applies.

    Returns:
        The transform: an image to a float32 tensor (C, H, W). It raises UsageError for an image of
        another size (without `resize`), type, shape or range, and for 16-bit and float modes of Pillow,
        because a conversion to 8 bits would cut off the bright pixels.

    Raises:
        UsageError: There is no preprocessing, because `preprocessing` is None or a model without weights.
    """
    own = _find_preprocessing(preprocessing)
    from torchvision import transforms

    steps = [
        ToPicture(own, resize),
        *resize_steps(own),
        transforms.ToTensor(),
        transforms.Normalize(own.mean, own.std),
    ]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def _find_preprocessing(source: object) -> Preprocessing:
    """Get the preprocessing of a model, or the given preprocessing itself."""
    preprocessing = source if isinstance(source, Preprocessing) else getattr(source, "preprocessing", source)
    if isinstance(preprocessing, Preprocessing):
        return preprocessing
    if preprocessing is None:
        raise UsageError(
            "this model has no weights that would say how to prepare images; give the preprocessing of an entry, "
            "as in eval_transform(get_weights(ID).preprocessing)"
        )
    raise UsageError(
        f"{_describe_object(source)} is neither a preprocessing nor a model of this zoo; give "
        "model.preprocessing, or that of an "
        "entry, as in eval_transform(get_weights(ID).preprocessing)"
    )


@dataclass(frozen=True)
class ToPicture:
    """The first step of `eval_transform`: it checks an image and converts it for the next steps.

    It returns a Pillow image of mode RGB or L. Pillow has no images of floats or of other numbers of
    channels; these become arrays (H, W, C).

    Attributes:
        preprocessing: How the weights were trained.
        resize: See `eval_transform`.
    """

    preprocessing: Preprocessing
    resize: bool

    def __call__(self, image: Any) -> Any:
        """Check and convert one image. Raise UsageError, which says what is wrong and what to do."""
        from PIL import Image

        channels = self.preprocessing.input_size[0]
        if isinstance(image, Image.Image):
            return self._resize_to_network(_convert_mode(image, channels))
        if isinstance(image, Tensor):
            pixels = _tensor_to_array(image, channels)
        elif isinstance(image, np.ndarray):
            pixels = _check_array(image, channels)
        else:
            raise UsageError(
                f"{_describe_object(image)} is not an image; give a Pillow image (PIL.Image.open reads a file), a "
                "NumPy array or a "
                "tensor"
            )
        if pixels.dtype == np.uint8 and channels in _MODES:
            return self._resize_to_network(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))
        needs_resize = not self._has_fixed_size or (self.resize and pixels.shape[:2] != self._size)
        if needs_resize:
            raise UsageError(
                f"{_describe_array(image)} cannot be resized and cropped as these weights want it; give a Pillow "
                "image, or "
                "uint8 values from 0 to 255 in one or three channels"
            )
        self._check_size(pixels.shape[0], pixels.shape[1])
        return pixels

    @property
    def _size(self) -> tuple[int, int]:
        return self.preprocessing.input_size[1:]

    @property
    def _has_fixed_size(self) -> bool:
        """Tell whether images must have the network's size, because the preprocessing neither resizes nor crops."""
        return self.preprocessing.resize is None and self.preprocessing.crop is None

    def _check_size(self, height: int, width: int) -> None:
        if self._has_fixed_size and (height, width) != self._size:
            raise UsageError(
                f"the image has {height}x{width} pixels (height x width), and these weights were trained on images of "
                "{}x{}; resize it, or let eval_transform(..., resize=True) do it: the shorter side, bicubic, then a "
                "crop of the centre".format(*self._size)
            )

    def _resize_to_network(self, picture: Any) -> Any:
        """Resize and crop a Pillow image where it must have the network's size and `resize` allows it."""
        if not self.resize or not self._has_fixed_size or (picture.height, picture.width) == self._size:
            self._check_size(picture.height, picture.width)
            return picture
        from PIL import Image
        from torchvision import transforms

        (height, width), wanted_height, wanted_width = (picture.height, picture.width), *self._size
        if height * wanted_width <= width * wanted_height:  # torchvision's Resize rounds in the same way.
            size = width * wanted_height // height, wanted_height
        else:
            size = wanted_width, height * wanted_width // width
        return transforms.CenterCrop(self._size)(picture.resize(size, Image.Resampling.BICUBIC))


def _convert_mode(picture: Any, channels: int) -> Any:
    """Convert a Pillow image to the mode for a number of channels. Refuse modes that lose more than colours."""
    mode = picture.mode
    if 0 in picture.size:
        raise UsageError("the image is empty: it has {}x{} pixels".format(*picture.size))
    if channels not in _MODES:
        raise UsageError(f"these weights read {channels} channels, which no Pillow image has; give an array")
    if mode.startswith("I") or mode == "F":
        raise UsageError(
            f"the image has Pillow's mode {mode}: integers of more than 8 bits, or floats. Pillow would cut off "
            "everything above 255; scale the values to 0 to 255 first, for 16 bits by PIL.Image.fromarray("
            "(numpy.asarray(image) / 257).round().astype('uint8'))"
        )
    if mode == _MODES[channels]:
        return picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of transparency in a palette. No network reads it.
            if mode == "La":
                picture = picture.convert("LA")
            elif mode == "LAB":
                picture = picture.convert("RGB")
            return picture.convert(_MODES[channels])
    except ValueError as error:
        raise UsageError(
            f"Pillow cannot convert the image from mode {mode} to {_MODES[channels]} ({error}); convert it yourself"
        ) from error


def _tensor_to_array(image: Tensor, channels: int) -> NDArray[Any]:
    """Check a tensor (C, H, W) or (H, W) and convert it to an array (H, W, C)."""
    shape = tuple(image.shape)
    _check_one_image(image)
    if len(shape) == 3 and shape[0] != channels and shape[2] == channels:
        raise UsageError(
            f"{_describe_array(image)} has its channels last; a tensor has them first: image.permute(2, 0, 1)"
        )
    image = image.unsqueeze(0) if image.dim() == 2 else image
    _check_channels(image, image.shape[0], channels)
    values = image.detach().cpu()
    if values.dtype == torch.bfloat16:
        values = values.to(torch.float32)  # NumPy has no bfloat16.
    return _check_range(np.ascontiguousarray(values.permute(1, 2, 0).numpy()), image)


def _check_array(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Check an array (H, W, C) or (H, W), and add the axis of channels to the latter."""
    _check_one_image(image)
    if image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        raise UsageError(
            f"{_describe_array(image)} has its channels first; an array has them last: numpy.moveaxis(image, 0, "
            "-1), or "
            "torch.from_numpy(image), because a tensor has them first"
        )
    pixels = image[:, :, None] if image.ndim == 2 else image
    _check_channels(image, pixels.shape[2], channels)
    return _check_range(np.ascontiguousarray(pixels), image)


def _check_one_image(image: Any) -> None:
    shape = tuple(image.shape)
    if len(shape) not in (2, 3) or 0 in shape:
        batch = "; it takes one image at a time, so give each of a batch by itself" if len(shape) == 4 else ""
        raise UsageError(
            f"{_describe_array(image)} is not an image; an array has the shape (height, width, channels), a "
            "tensor (channels, "
            f"height, width){batch}"
        )


def _check_channels(image: Any, actual: int, expected: int) -> None:
    if actual != expected:
        raise UsageError(
            f"{_describe_array(image)} has {actual} channel{'s' * (actual != 1)}, and these weights read "
            f"{expected}; give a "
            "Pillow image (PIL.Image.fromarray(array)), whose mode says what its channels are, and it is converted"
        )


def _check_range(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """Accept uint8, and floats from 0 to 1, which become float32. Raise UsageError for everything else."""
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(
            f"{_describe_array(image)} has the type {image.dtype}; give uint8 values from 0 to 255, or floats "
            "from 0 to 1"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"{_describe_array(image)} has floats from {low:g} to {high:g}; they must be from 0 to 1, not "
            "normalised yet: "
            "divide values from 0 to 255 by 255, or give them as uint8"
        )
    return pixels.astype(np.float32)


def _describe_array(image: Any) -> str:
    return f"a{'n array' if isinstance(image, np.ndarray) else ' tensor'} of the shape {tuple(image.shape)}"


def _describe_object(value: object) -> str:
    name = type(value).__name__
    return f"the {name} {value!s:.200}" if isinstance(value, (str, os.PathLike)) else f"an object of the type {name}"


def resize_steps(preprocessing: Preprocessing) -> list[Callable[[Any], Any]]:
    """Make the steps of `eval_transform` that resize and crop a Pillow image to the network's size."""
    from torchvision import transforms

    steps: list[Callable[[Any], Any]] = []
    if preprocessing.resize is not None:
        steps.append(transforms.Resize(preprocessing.resize, interpolation=_interpolation_mode(preprocessing)))
    if preprocessing.crop is not None:
        steps.append(transforms.CenterCrop(preprocessing.crop))
    return steps


def tensor_resize_steps(preprocessing: Preprocessing) -> list[Callable[[Tensor], Tensor]]:
    """Make the same steps for uint8 tensors (C, H, W), with antialiasing.

    They are faster than Pillow's, but the pixels differ by a grey level or two.
    """
    from torchvision.transforms import v2

    steps: list[Callable[[Tensor], Tensor]] = []
    if preprocessing.resize is not None:
        steps.append(v2.Resize(preprocessing.resize, interpolation=_interpolation_mode(preprocessing), antialias=True))
    if preprocessing.crop is not None:
        steps.append(v2.CenterCrop(preprocessing.crop))
    return steps


def _interpolation_mode(preprocessing: Preprocessing) -> Any:
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation or "bilinear")


@dataclass(frozen=True)
class Override:
    """Changes to the preprocessing of weights, for a published protocol that differs from their own.

    Attributes:
        resize: Pixels of the shorter side after resizing; None keeps that of the weights.
        crop: Pixels of each side after cropping; None keeps that of the weights.
        interpolation: "bilinear" or "bicubic"; None keeps that of the weights.
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def apply_to(self, own: Preprocessing) -> Preprocessing:
        """Change a preprocessing.

        Args:
            own: The preprocessing of the weights.

        Returns:
            The changed preprocessing.

        Raises:
            UsageError: The crop is larger than the resized image.
        """
        changes = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if not changes:
            return own
        sizes = {"resize": own.resize, "crop": own.crop, **changes}
        crop = sizes["crop"] or 0
        if not 0 < crop <= (sizes["resize"] or 0):
            raise UsageError(
                f"no square of {sizes['crop']} can be cut from images whose shorter side is {sizes['resize']}; "
                "give --resize and --crop that fit each other"
            )
        return dataclasses.replace(own, **changes, input_size=(own.input_size[0], crop, crop))
