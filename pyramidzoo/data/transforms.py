"""From image to network input, as the weights were trained: the constants come from their manifest entry."""

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

INTERPOLATIONS = ("bilinear", "bicubic")  # what published protocols of large images use

_MODES = {1: "L", 3: "RGB"}  # Pillow's mode for each number of channels; evaluation decodes to RGB


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


def eval_transform(preprocessing: Preprocessing | nn.Module | None, *, resize: bool = False) -> Callable[[Any], Tensor]:
    """A torchvision transform: one image to a (C, H, W) float32 tensor, prepared as these weights were trained.

    It takes Pillow images of all modes with 8 bits or less, which are converted to RGB, or to L for networks with one
    channel, as evaluation does; uint8 arrays (H, W, C) and tensors (C, H, W), also (H, W) where there is one channel;
    and floats from 0 to 1 in the same shapes, where nothing is resized or cropped.

    With `resize` and `crop` in the preprocessing (ImageNet) an image may have any size. Without (CIFAR and all other
    small images) it must have the size that the network was trained on.

    Args:
        preprocessing: A preprocessing, or a model with weights, whose preprocessing is taken.
        resize: Resize images whose size is not that of the network: the shorter side with bicubic interpolation and
            antialiasing, then a crop of the centre. It changes nothing for images that have the size already, and
            nothing where the preprocessing has a `resize` of its own. The network never saw resized images, so it
            answers less reliably, and no published error holds for them.

    Returns:
        The transform. It raises UsageError for what it cannot prepare: other sizes without `resize`, 16-bit and float
        modes of Pillow (a conversion to 8 bits would cut off the bright pixels), other types, shapes and ranges.

    Raises:
        UsageError: There is no preprocessing: None, or a model without weights that say it.
    """
    wanted = _preprocessing_of(preprocessing)
    from torchvision import transforms

    steps = [
        ToPicture(wanted, resize),
        *sizing(wanted),
        transforms.ToTensor(),
        transforms.Normalize(wanted.mean, wanted.std),
    ]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def _preprocessing_of(source: object) -> Preprocessing:
    found = source if isinstance(source, Preprocessing) or source is None else getattr(source, "preprocessing", source)
    if isinstance(found, Preprocessing):
        return found
    if found is None:
        raise UsageError(
            "this model has no weights that would say how to prepare images; give the preprocessing of an entry, "
            "as in eval_transform(get_weights(ID).preprocessing)"
        )
    raise UsageError(
        f"{_kind(source)} is neither a preprocessing nor a model of this zoo; give model.preprocessing, or that of an "
        "entry, as in eval_transform(get_weights(ID).preprocessing)"
    )


@dataclass(frozen=True)
class ToPicture:
    """The first step of `eval_transform`: any image as the next steps take it, or a reason why not.

    It returns a Pillow image of mode RGB or L, or an array (H, W, C) where Pillow has no such image: floats, or another
    number of channels.
    """

    preprocessing: Preprocessing
    resize: bool

    def __call__(self, image: Any) -> Any:
        """Raises UsageError, which names what is wrong with the image and what to do."""
        from PIL import Image

        channels = self.preprocessing.input_size[0]
        if isinstance(image, Image.Image):
            return self._sized(_converted(image, channels))
        if isinstance(image, Tensor):
            pixels = _from_tensor(image, channels)
        elif isinstance(image, np.ndarray):
            pixels = _from_array(image, channels)
        else:
            raise UsageError(
                f"{_kind(image)} is no image; give a Pillow image (PIL.Image.open reads a file), a NumPy array or a "
                "tensor"
            )
        if pixels.dtype == np.uint8 and channels in _MODES:
            return self._sized(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))
        if (self._is_fixed and pixels.shape[:2] != self._size and self.resize) or not self._is_fixed:
            raise UsageError(
                f"{_described(image)} cannot be resized and cropped as these weights want it; give a Pillow image, or "
                "uint8 values from 0 to 255 in one or three channels"
            )
        self._require_size(pixels.shape[0], pixels.shape[1])
        return pixels

    @property
    def _size(self) -> tuple[int, int]:
        return self.preprocessing.input_size[1:]

    @property
    def _is_fixed(self) -> bool:
        """Whether the weights want images of exactly one size: nothing says how others become it."""
        return self.preprocessing.resize is None and self.preprocessing.crop is None

    def _require_size(self, height: int, width: int) -> None:
        if self._is_fixed and (height, width) != self._size:
            raise UsageError(
                f"the image has {height}x{width} pixels (height x width), and these weights were trained on images of "
                "{}x{}; resize it, or let eval_transform(..., resize=True) do it: the shorter side, bicubic, then a "
                "crop of the centre".format(*self._size)
            )

    def _sized(self, picture: Any) -> Any:
        """A Pillow image in the network's size, where the weights want one size and the caller allows resizing."""
        if not self.resize or not self._is_fixed or (picture.height, picture.width) == self._size:
            self._require_size(picture.height, picture.width)
            return picture
        from PIL import Image
        from torchvision import transforms

        (height, width), wanted_height, wanted_width = (picture.height, picture.width), *self._size
        if height * wanted_width <= width * wanted_height:  # rounded as torchvision's Resize does it
            size = width * wanted_height // height, wanted_height
        else:
            size = wanted_width, height * wanted_width // width
        return transforms.CenterCrop(self._size)(picture.resize(size, Image.Resampling.BICUBIC))


def _converted(picture: Any, channels: int) -> Any:
    """A Pillow image in the mode for that many channels. Raises UsageError where that would lose more than colours."""
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
            warnings.simplefilter("ignore")  # of transparency in a palette, which no network here reads
            if mode == "La":
                picture = picture.convert("LA")
            elif mode == "LAB":
                picture = picture.convert("RGB")
            return picture.convert(_MODES[channels])
    except ValueError as error:
        raise UsageError(
            f"Pillow cannot convert the image from mode {mode} to {_MODES[channels]} ({error}); convert it yourself"
        ) from error


def _from_tensor(image: Tensor, channels: int) -> NDArray[Any]:
    """A tensor (C, H, W) or (H, W) as an array (H, W, C). Raises UsageError."""
    shape = tuple(image.shape)
    _require_one_image(image)
    if len(shape) == 3 and shape[0] != channels and shape[2] == channels:
        raise UsageError(f"{_described(image)} has its channels last; a tensor has them first: image.permute(2, 0, 1)")
    image = image.unsqueeze(0) if image.dim() == 2 else image
    _require_channels(image, image.shape[0], channels)
    kept = image.detach().cpu()
    return _checked(np.ascontiguousarray(kept.permute(1, 2, 0).to(_torch_type(kept)).numpy()), image)


def _from_array(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """An array (H, W, C) or (H, W) as one with channels. Raises UsageError."""
    _require_one_image(image)
    if image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        raise UsageError(
            f"{_described(image)} has its channels first; an array has them last: numpy.moveaxis(image, 0, -1), or "
            "torch.from_numpy(image), because a tensor has them first"
        )
    pixels = image[:, :, None] if image.ndim == 2 else image
    _require_channels(image, pixels.shape[2], channels)
    return _checked(np.ascontiguousarray(pixels), image)


def _require_one_image(image: Any) -> None:
    shape = tuple(image.shape)
    if len(shape) not in (2, 3) or 0 in shape:
        batch = "; it takes one image at a time, so give each of a batch by itself" if len(shape) == 4 else ""
        raise UsageError(
            f"{_described(image)} is no image; an array has the shape (height, width, channels), a tensor (channels, "
            f"height, width){batch}"
        )


def _require_channels(image: Any, found: int, wanted: int) -> None:
    if found != wanted:
        raise UsageError(
            f"{_described(image)} has {found} channel{'s' * (found != 1)}, and these weights read {wanted}; give a "
            "Pillow image (PIL.Image.fromarray(array)), whose mode says what its channels are, and it is converted"
        )


def _checked(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """uint8 as it is, floats from 0 to 1 as float32. Raises UsageError for everything else."""
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise UsageError(
            f"{_described(image)} has the type {image.dtype}; give uint8 values from 0 to 255, or floats from 0 to 1"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"{_described(image)} has floats from {low:g} to {high:g}; they must be from 0 to 1, not normalised yet: "
            "divide values from 0 to 255 by 255, or give them as uint8"
        )
    return pixels.astype(np.float32)


def _torch_type(image: Tensor) -> torch.dtype:
    """The type in which NumPy can hold it with the same values: it has no bfloat16."""
    return torch.float32 if image.dtype == torch.bfloat16 else image.dtype


def _described(image: Any) -> str:
    return f"a{'n array' if isinstance(image, np.ndarray) else ' tensor'} of the shape {tuple(image.shape)}"


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"the {name} {value!s:.200}" if isinstance(value, (str, os.PathLike)) else f"an object of the type {name}"


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
