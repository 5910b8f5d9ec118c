"""SVHN, the Street View House Numbers in 32x32 pixels, read from the Matlab files that their authors published."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.data._sources import OfficialFiles
from pyramidzoo.errors import UnavailableError


@dataclass(frozen=True, kw_only=True)
class Svhn(OfficialFiles):
    """The source of SVHN.

    The files contain images (32, 32, 3, N) and labels from 1 to 10. Label 10 means the digit 0. It becomes class 0, as
    in torchvision.
    """

    classes: int = 10
    image_size: tuple[int, int, int] = (3, 32, 32)
    splits: tuple[str, ...] = ("test", "train", "extra")

    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the file of a split; see `InMemorySource.read`."""
        (content,) = self.read_files(split, data_dir, download=download).values()
        if importlib.util.find_spec("scipy") is None:
            raise UnavailableError(
                f"{self.title} comes in Matlab files, which need SciPy: `pip install 'pyramidzoo[svhn]'`"
            )
        from scipy.io import loadmat

        arrays = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        labels = arrays["y"].reshape(-1).astype(np.int64) % 10  # turns label 10 into 0
        return arrays["X"].transpose(3, 2, 0, 1), labels

    def make_download_arguments(self, split: str) -> dict[str, object]:
        """Make the arguments of torchvision's class; see `OfficialFiles.make_download_arguments`."""
        return {"split": split}


SVHN = Svhn(
    title="SVHN",
    files={
        "test": {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        "train": {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
        "extra": {"extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7"},
    },
    url="http://ufldl.stanford.edu/housenumbers",
    torchvision_class="SVHN",
)
