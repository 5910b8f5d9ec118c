"""The UCI handwritten digits: 1,797 grey images of 8x8 pixels, which are part of this package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.data._sources import InMemorySource
from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import file_hash, package_path

FILE = "bundled/digits.safetensors"
SHA256 = "9d412babda8b82c749c4847b9049c80ba204cf826da9872559c6fdef6b14a663"
TRAINING_IMAGES = 898


@dataclass(frozen=True, kw_only=True)
class Digits(InMemorySource):
    """The source of the handwritten digits, in the version that scikit-learn contains.

    The grey levels 0 to 16 of the original images become 0 to 255. The first 898 images are the training split, and the
    other 899 are the test split. scikit-learn's example "Recognizing hand-written digits" splits them in the same way.

    Source: E. Alpaydin & C. Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0.
    """

    title: str = "the UCI digits"
    classes: int = 10
    image_size: tuple[int, int, int] = (1, 8, 8)
    splits: tuple[str, ...] = ("test", "train")

    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the digits from the file in this package; see `InMemorySource.read`."""
        path = package_path(FILE)
        sha256 = file_hash(path)
        if sha256 != SHA256:
            raise IntegrityError(f"{path} is altered: its sha256 is {sha256}, not {SHA256}; reinstall pyramidzoo")
        tensors = read_tensors(path)
        rows = slice(TRAINING_IMAGES) if split == "train" else slice(TRAINING_IMAGES, None)
        levels = tensors["images"][rows].numpy()
        pixels = (levels.astype(np.uint16) * 255 + 8) // 16  # levels * 255 / 16, rounded to the nearest integer
        return pixels.astype(np.uint8), tensors["labels"][rows].numpy().astype(np.int64)


DIGITS = Digits()
