"""Encoded images into uint8 pixels of the size a network reads: Pillow decodes, as it did for the published numbers."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, features
from PIL import __version__ as pillow_version

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data.transforms import sizing, tensor_sizing
from pyramidzoo.errors import IntegrityError


def decoder_name() -> str:
    """Pillow and the library behind it: another version may give other pixels."""
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {pillow_version}, {library}"


class Decoder:
    """From the bytes of one image to uint8 pixels (H, W, 3), resized and cropped but not normalised.

    Three channels come as torchvision's `pil_loader` makes them: grey, palette, CMYK and alpha are converted, and the
    orientation that EXIF may ask for is not applied.
    """

    def __init__(self, preprocessing: Preprocessing, *, tensor_resize: bool) -> None:
        self._tensor = tensor_resize
        self._steps: list[Callable[[Any], Any]] = [*(tensor_sizing if tensor_resize else sizing)(preprocessing)]

    def __call__(self, content: bytes, what: str) -> NDArray[np.uint8]:
        """Raises IntegrityError, which says `what` image is damaged: none is ever left out, or half grey."""
        try:
            with _whole_images_only():
                image = Image.open(io.BytesIO(content)).convert("RGB")
            if not self._tensor:
                return np.asarray(reduce(_apply, self._steps, image))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            return reduce(_apply, self._steps, pixels).permute(1, 2, 0).numpy()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise IntegrityError(f"{what} is damaged: {error}; get it again") from error


def _apply(image: Any, step: Callable[[Any], Any]) -> Any:
    return step(image)


@contextlib.contextmanager
def _whole_images_only() -> Iterator[None]:
    """Other libraries let Pillow fill up truncated images for the whole process; and it warns of EXIF nobody reads."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
