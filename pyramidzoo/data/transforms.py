"""Transforms that turn an image into a network's input, in the same way as when the weights were trained.

The sizes, means and standard deviations come from the preprocessing in the manifest entry of the weights.
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

from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing
from pyramidzoo.errors import UsageError

INTERPOLATIONS = ("bilinear", "bicubic")  # Published protocols for large images use these two.

_PILLOW_MODES = {1: "L", 3: "RGB"}  # Pillow's mode for images with this number of channels.


class Normalize(nn.Module):
    """Normalises batches of images. All bits of the result equal those of torchvision's ToTensor and Normalize.

    Args:
        preprocessing: The mean and standard deviation of each channel. If it is a `WhitenedPreprocessing`, the images
            must be whitened already. They are then returned as they are.
    """

    mean: Tensor
    std: Tensor
    highest_level: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.expects_whitened = isinstance(preprocessing, WhitenedPreprocessing)
        # torchvision computes in float32, and divides by 255, subtracts the mean, and divides by the standard
        # deviation. Another type or a combined formula would round in another way.
        self.register_buffer("mean", _make_float32_tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", _make_float32_tensor(preprocessing.std).view(-1, 1, 1), persistent=False)
        # 255 is a tensor and not a Python number. On a GPU, PyTorch replaces the division by a number by a
        # multiplication with its reciprocal. The last bit of that result may differ.
        self.register_buffer("highest_level", torch.tensor([255.0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, C, H, W) into normalised float32 images of the same shape."""
        if self.expects_whitened:
            if images.dtype != torch.float32:
                raise UsageError("these images are not whitened; whiten them with pyramidzoo.data.whitening")
            return images
        return images.to(torch.float32).div_(self.highest_level).sub_(self.mean).div_(self.std)


def _make_float32_tensor(values: tuple[float, ...]) -> Tensor:
    """Make a float32 tensor on the CPU, even if the user has chosen another default type or device."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


def eval_transform(preprocessing: Preprocessing | nn.Module | None, *, resize: bool = False) -> Callable[[Any], Tensor]:
    """Make a torchvision transform that prepares one image in the same way as when the weights were trained.

    The transform accepts these images:

    * Pillow images with at most 8 bits per channel. They are converted to the mode RGB, or to the mode L for a network
      with one channel, as in evaluation.
    * Arrays (H, W, C) and tensors (C, H, W) of the type uint8. If C is 1, the shape may be (H, W).
    * Arrays and tensors of the same shapes with floats from 0 to 1, if the image needs no resizing or cropping.

    If the preprocessing has `resize` and `crop` (ImageNet), an image may have any size. Otherwise (CIFAR and other
    small images) it must have the size of the images in training.

    Args:
        preprocessing: A preprocessing, or a model with weights, whose preprocessing is used.
        resize: Whether to resize images that do not have the size of the images in training. The shorter side is
            resized with bicubic interpolation and antialiasing, and then the centre is cropped. It has no effect if the
            preprocessing itself resizes images. The weights were not trained on resized images. So predictions are less
            reliable, and the published errors do not apply to them.

    Returns:
        The transform. It turns an image into a float32 tensor (C, H, W). It raises UsageError if the image has a wrong
        type, shape or range, or a wrong size while `resize` is false. It also raises UsageError for Pillow images of
        integers with more than 8 bits or of floats, because Pillow's conversion to 8 bits cuts off all values above
        255.

    Raises:
        UsageError: There is no preprocessing, because `preprocessing` is None or a model without weights. Or the
            weights were trained on whitened images.
    """
    found_preprocessing = _find_preprocessing(preprocessing)
    if isinstance(found_preprocessing, WhitenedPreprocessing):
        raise UsageError(
            "these weights were trained on whitened images, and whitening needs the training images; whiten uint8 "
            "images (N, C, H, W) with pyramidzoo.data.whitening.load_whitening(training_images).apply(images)"
        )
    from torchvision import transforms

    steps = [
        ToPicture(found_preprocessing, resize),
        *make_resize_steps(found_preprocessing),
        transforms.ToTensor(),
        transforms.Normalize(found_preprocessing.mean, found_preprocessing.std),
    ]
    composed: Callable[[Any], Tensor] = transforms.Compose(steps)
    return composed


def _find_preprocessing(preprocessing_or_model: object) -> Preprocessing:
    """Return the given preprocessing itself, or that of the given model. Raise UsageError if there is none."""
    preprocessing = preprocessing_or_model
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = getattr(preprocessing_or_model, "preprocessing", preprocessing_or_model)
    if isinstance(preprocessing, Preprocessing):
        return preprocessing
    if preprocessing is None:
        raise UsageError(
            "this model has no weights, so it is not known how to prepare images; give the preprocessing of an entry, "
            "as in eval_transform(get_weights(ID).preprocessing)"
        )
    raise UsageError(
        f"{_describe_object(preprocessing_or_model)} is neither a preprocessing nor a model of this zoo; give "
        "model.preprocessing, or the preprocessing of an entry, as in eval_transform(get_weights(ID).preprocessing)"
    )


@dataclass(frozen=True)
class ToPicture:
    """The first step of `eval_transform`: it checks an image, and converts it for the next steps.

    Most images become a Pillow image of the mode RGB or L. Images of floats, and images with other numbers of channels
    than 1 and 3, become an array (H, W, C), because Pillow cannot represent them.

    Attributes:
        preprocessing: How images were prepared when the weights were trained.
        resize: Whether to resize images of a wrong size; see `eval_transform`.
    """

    preprocessing: Preprocessing
    resize: bool

    def __call__(self, image: Any) -> Any:
        """Check and convert one image. The message of a UsageError says what is wrong and what the user can do."""
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
                "NumPy array or a tensor"
            )
        if pixels.dtype == np.uint8 and channels in _PILLOW_MODES:
            return self._resize_to_network(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels))
        needs_resize = not self._has_fixed_size or (self.resize and pixels.shape[:2] != self._network_size)
        if needs_resize:
            raise UsageError(
                f"{_describe_array(image)} cannot be resized and cropped as these weights need it; give a Pillow "
                "image, or uint8 values from 0 to 255 in one or three channels"
            )
        self._check_size(pixels.shape[0], pixels.shape[1])
        return pixels

    @property
    def _network_size(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return self.preprocessing.input_size[1:]

    @property
    def _has_fixed_size(self) -> bool:
        """Whether images must have the size of the network's input, because the preprocessing does not resize them."""
        return self.preprocessing.resize is None and self.preprocessing.crop is None

    def _check_size(self, height: int, width: int) -> None:
        """Raise UsageError if an image must have the size of the network's input and has another size."""
        if self._has_fixed_size and (height, width) != self._network_size:
            expected_height, expected_width = self._network_size
            raise UsageError(
                f"the image has {height}x{width} pixels (height x width), and these weights were trained on images of "
                f"{expected_height}x{expected_width}; resize it, or let eval_transform(..., resize=True) resize the "
                "shorter side (bicubic) and crop the centre"
            )

    def _resize_to_network(self, image: Any) -> Any:
        """Resize and crop a Pillow image to the size of the network's input, if `resize` is true.

        The image stays as it is if it has this size, or if the next steps of the transform resize it.
        """
        height, width = image.height, image.width
        if not self.resize or not self._has_fixed_size or (height, width) == self._network_size:
            self._check_size(height, width)
            return image
        from PIL import Image
        from torchvision import transforms

        network_height, network_width = self._network_size
        # The image is scaled until it just covers the input. Its longer side is rounded down, as in torchvision.
        if height * network_width <= width * network_height:  # the image is wider than the input, or has its shape
            new_size = width * network_height // height, network_height
        else:
            new_size = network_width, height * network_width // width
        resized_image = image.resize(new_size, Image.Resampling.BICUBIC)
        return transforms.CenterCrop(self._network_size)(resized_image)


def _convert_mode(image: Any, channels: int) -> Any:
    """Convert a Pillow image to the mode L or RGB, for a network with one or three channels.

    Raises UsageError for the modes of integers with more than 8 bits and of floats. Converting these would change the
    brightness.
    """
    mode = image.mode
    if 0 in image.size:
        raise UsageError("the image is empty: it has {}x{} pixels".format(*image.size))
    if channels not in _PILLOW_MODES:
        raise UsageError(f"these weights read {channels} channels, which no Pillow image has; give an array")
    if mode.startswith("I") or mode == "F":
        raise UsageError(
            f"the image has Pillow's mode {mode}: integers of more than 8 bits, or floats. Pillow would cut off "
            "everything above 255; scale the values to 0 to 255 first, for 16 bits by PIL.Image.fromarray("
            "(numpy.asarray(image) / 257).round().astype('uint8'))"
        )
    if mode == _PILLOW_MODES[channels]:
        return image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of transparency in a palette. It is not needed here.
            # Pillow converts these two modes to few other modes only, so their conversion may need two steps.
            if mode == "La":
                image = image.convert("LA")
            elif mode == "LAB":
                image = image.convert("RGB")
            return image.convert(_PILLOW_MODES[channels])
    except ValueError as error:
        raise UsageError(
            f"Pillow cannot convert the image from mode {mode} to {_PILLOW_MODES[channels]} ({error}); convert it "
            "yourself"
        ) from error


def _tensor_to_array(image: Tensor, channels: int) -> NDArray[Any]:
    """Check a tensor (C, H, W) or (H, W), and convert it to an array (H, W, C)."""
    shape = tuple(image.shape)
    _check_dimensions(image)
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
    """Check an array (H, W, C) or (H, W), and return it as an array (H, W, C)."""
    _check_dimensions(image)
    if image.ndim == 3 and image.shape[2] != channels and image.shape[0] == channels:
        raise UsageError(
            f"{_describe_array(image)} has its channels first; an array has them last: numpy.moveaxis(image, 0, "
            "-1), or torch.from_numpy(image), because a tensor has them first"
        )
    pixels = image[:, :, None] if image.ndim == 2 else image
    _check_channels(image, pixels.shape[2], channels)
    return _check_range(np.ascontiguousarray(pixels), image)


def _check_dimensions(image: Any) -> None:
    """Raise UsageError if an array or a tensor does not have two or three dimensions, or has no pixels."""
    shape = tuple(image.shape)
    if len(shape) not in (2, 3) or 0 in shape:
        batch_hint = "; give the images of a batch one after the other" if len(shape) == 4 else ""
        raise UsageError(
            f"{_describe_array(image)} is not an image; an array has the shape (height, width, channels), a "
            f"tensor (channels, height, width){batch_hint}"
        )


def _check_channels(image: Any, actual: int, expected: int) -> None:
    """Raise UsageError if an array or a tensor has another number of channels than the network's input."""
    if actual != expected:
        raise UsageError(
            f"{_describe_array(image)} has {actual} channel{'s' * (actual != 1)}, and these weights read "
            f"{expected}; give a Pillow image (PIL.Image.fromarray(array)), whose mode says what its channels are, and "
            "it is converted"
        )


def _check_range(pixels: NDArray[Any], image: Any) -> NDArray[Any]:
    """Require uint8 values, or floats from 0 to 1, which become float32.

    Args:
        pixels: The values to check.
        image: The user's array or tensor that they come from, for error messages.
    """
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
            "normalised yet: divide values from 0 to 255 by 255, or give them as uint8"
        )
    return pixels.astype(np.float32)


def _describe_array(image: Any) -> str:
    """Describe an array or a tensor by its shape, for error messages."""
    return f"a{'n array' if isinstance(image, np.ndarray) else ' tensor'} of the shape {tuple(image.shape)}"


def _describe_object(value: object) -> str:
    """Describe an object of a wrong type for error messages. The content of a text or a path is shown too."""
    type_name = type(value).__name__
    if isinstance(value, (str, os.PathLike)):
        return f"the {type_name} {value!s:.200}"
    return f"an object of the type {type_name}"


def make_resize_steps(preprocessing: Preprocessing) -> list[Callable[[Any], Any]]:
    """Make torchvision transforms that resize and crop a Pillow image as a preprocessing says.

    The list is empty if the preprocessing neither resizes nor crops.
    """
    from torchvision import transforms

    steps: list[Callable[[Any], Any]] = []
    if preprocessing.resize is not None:
        steps.append(transforms.Resize(preprocessing.resize, interpolation=_get_interpolation_mode(preprocessing)))
    if preprocessing.crop is not None:
        steps.append(transforms.CenterCrop(preprocessing.crop))
    return steps


def make_tensor_resize_steps(preprocessing: Preprocessing) -> list[Callable[[Tensor], Tensor]]:
    """Make torchvision transforms that resize and crop a uint8 tensor (C, H, W) as a preprocessing says.

    They are faster than those of `make_resize_steps`. The pixels may differ by one or two of the 256 levels.
    """
    from torchvision.transforms import v2

    steps: list[Callable[[Tensor], Tensor]] = []
    if preprocessing.resize is not None:
        steps.append(
            v2.Resize(preprocessing.resize, interpolation=_get_interpolation_mode(preprocessing), antialias=True)
        )
    if preprocessing.crop is not None:
        steps.append(v2.CenterCrop(preprocessing.crop))
    return steps


def _get_interpolation_mode(preprocessing: Preprocessing) -> Any:
    """Return torchvision's constant for the interpolation of a preprocessing. The default is bilinear."""
    from torchvision.transforms import InterpolationMode

    return InterpolationMode(preprocessing.interpolation or "bilinear")


@dataclass(frozen=True)
class Override:
    """Changes to the preprocessing of weights. They are needed if an error was published for another preprocessing.

    Attributes:
        resize: The shorter side after resizing, in pixels. None keeps the value of the weights.
        crop: Each side of the square that is cropped, in pixels. None keeps the value of the weights.
        interpolation: "bilinear" or "bicubic". None keeps the value of the weights.
    """

    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def apply_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """Apply the changes to a preprocessing.

        Args:
            preprocessing: The preprocessing of the weights.

        Returns:
            The changed preprocessing.

        Raises:
            UsageError: The cropped square would be larger than the resized image.
        """
        changes = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if not changes:
            return preprocessing
        new_values = {"resize": preprocessing.resize, "crop": preprocessing.crop, **changes}
        crop = new_values["crop"] or 0
        if not 0 < crop <= (new_values["resize"] or 0):
            raise UsageError(
                f"no square of {new_values['crop']} pixels can be cropped from images whose shorter side has "
                f"{new_values['resize']} pixels; give --resize and --crop that fit each other"
            )
        channels = preprocessing.input_size[0]
        return dataclasses.replace(preprocessing, **changes, input_size=(channels, crop, crop))
