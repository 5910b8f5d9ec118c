"""Decode image files, and resize and crop the images to the size that a network reads.

Pillow decodes the files. Published results were measured with Pillow, and other libraries decode some pixels
differently.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, features
from PIL import __version__ as pillow_version

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data.transforms import make_resize_steps, make_tensor_resize_steps
from pyramidzoo.errors import IntegrityError


def get_decoder_name() -> str:
    """Return the versions of Pillow and of its JPEG library, for records. Other versions may give other pixels."""
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {pillow_version}, {library}"


class Decoder:
    """Decodes image files, and resizes and crops the images. It does not normalise them.

    Grey images and images with a palette, an alpha channel or the colours CMYK become RGB images. The orientation in
    the EXIF data is ignored. torchvision's `pil_loader` does the same.

    Args:
        preprocessing: How images are resized and cropped.
        tensor_resize: Whether images are resized as tensors (faster) and not as Pillow images (as published).
        steps: Steps that change each Pillow image instead. A training uses them; `preprocessing` has no effect then.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        tensor_resize: bool,
        steps: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        self._tensor_resize = tensor_resize
        make_steps = make_tensor_resize_steps if tensor_resize else make_resize_steps
        self._steps: list[Callable[[Any], Any]] = [*(make_steps(preprocessing) if steps is None else steps)]

    def __call__(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """Decode one image.

        Args:
            content: The bytes of the image file.
            name: The name of the image, for error messages.

        Returns:
            Pixels (H, W, 3).

        Raises:
            IntegrityError: The image is damaged or truncated.
        """
        try:
            with _refuse_truncated_images():
                image: Any = Image.open(io.BytesIO(content)).convert("RGB")
            if self._tensor_resize:
                image = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            for step in self._steps:
                image = step(image)
            return image.permute(1, 2, 0).numpy() if self._tensor_resize else np.asarray(image)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise IntegrityError(f"{name} is damaged: {error}; get it again") from error


@contextlib.contextmanager
def _refuse_truncated_images() -> Iterator[None]:
    """Let Pillow raise an error for truncated images in the `with` block.

    Another library in this process may have told Pillow to fill truncated images with grey, by a global variable.
    """
    previous_setting = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data, which `Decoder` does not read.
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = previous_setting
