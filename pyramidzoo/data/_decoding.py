"""Decoding: from the bytes of an image file to pixels of the size that a network reads.

Pillow decodes, because the published results were measured with it.
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
from pyramidzoo.data.transforms import resize_steps, tensor_resize_steps
from pyramidzoo.errors import IntegrityError


def decoder_name() -> str:
    """Name Pillow and its JPEG library with their versions. Another version may give other pixels."""
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {pillow_version}, {library}"


class Decoder:
    """Decodes images, and resizes and crops them. It does not normalise.

    As in torchvision's `pil_loader`, grey, palette, CMYK and alpha images are converted to RGB, and the
    orientation in the EXIF data is ignored.

    Args:
        preprocessing: The size to resize and crop to.
        tensor_resize: Resize tensors instead of Pillow images.
        steps: Change the Pillow image by these steps instead, as a training does.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        tensor_resize: bool,
        steps: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        self._tensor_resize = tensor_resize
        usual_steps = tensor_resize_steps if tensor_resize else resize_steps
        self._steps: list[Callable[[Any], Any]] = [*(usual_steps(preprocessing) if steps is None else steps)]

    def __call__(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """Decode one image.

        Args:
            content: The bytes of the image file.
            name: What the error message calls the image.

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
    """Let Pillow refuse truncated images. Other libraries tell it to fill them up, for the whole process.

    Pillow also warns of damaged EXIF data. Nobody reads them here, so the warnings are dropped.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
