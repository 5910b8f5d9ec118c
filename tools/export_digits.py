"""Copy the dataset of handwritten digits that scikit-learn contains into the package, as a safetensors file.

    pip install scikit-learn
    python tools/export_digits.py

The file in the package was written with scikit-learn 1.9.1. Another run gives the same bytes.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-not-found, unused-ignore]

from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data.digits import FILE
from pyramidzoo.files import file_hash, package_path

_METADATA = {
    "format": "pt",
    "title": "Optical Recognition of Handwritten Digits (test set), as in scikit-learn's load_digits",
    "authors": "E. Alpaydin, C. Kaynak",
    "source": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    "license": "CC-BY-4.0",
    "changes": "stored as uint8: images (1797, 8, 8) of grey levels 0 to 16, labels (1797)",
}


def main() -> None:
    """Write the images and labels, and print the path and the sha256 of the file."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    assert np.array_equal(images, digits.images)  # scikit-learn has them as floats. All are integers from 0 to 16.
    tensors = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
    write_tensors(package_path(FILE), tensors, _METADATA)
    print(package_path(FILE), file_hash(package_path(FILE)))


if __name__ == "__main__":
    main()
