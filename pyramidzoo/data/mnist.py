"""MNIST and Fashion-MNIST, read from the idx files that their authors published. The files may be compressed (.gz)."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyramidzoo.data._sources import OfficialFiles
from pyramidzoo.errors import IntegrityError

_UBYTE = 0x08  # the type code of unsigned bytes in idx files


@dataclass(frozen=True, kw_only=True)
class IdxFiles(OfficialFiles):
    """The source of a dataset in idx files. For each split, one file contains grey images, and one contains labels.

    Attributes:
        unpacked_files: Like `files`, but for the files that are no longer compressed with gzip. Empty if their MD5
            hashes are not known.
    """

    classes: int = 10
    image_size: tuple[int, int, int] = (1, 28, 28)
    splits: tuple[str, ...] = ("test", "train")
    unpacked_files: Mapping[str, Mapping[str, str]]

    def read(self, split: str, data_dir: Path | None, *, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read the unpacked files of a split if both exist, or else the compressed ones; see `InMemorySource.read`."""
        source, unpacked_files = self, self.unpacked_files.get(split, {})
        if data_dir is not None and unpacked_files and all((data_dir / name).is_file() for name in unpacked_files):
            source = dataclasses.replace(self, files=self.unpacked_files)
        files = source.read_files(split, data_dir, download=download)
        images, labels = (_parse_idx(path, content) for path, content in files.items())
        return images[:, None], labels.astype(np.int64)


MNIST = IdxFiles(
    title="MNIST",
    files={
        "test": {
            "MNIST/raw/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "MNIST/raw/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        "train": {
            "MNIST/raw/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "MNIST/raw/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        },
    },
    unpacked_files={
        "test": {
            "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
        "train": {
            "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        },
    },
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    torchvision_class="MNIST",
)

FASHION_MNIST = IdxFiles(
    title="Fashion-MNIST",
    files={
        "test": {
            "FashionMNIST/raw/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        "train": {
            "FashionMNIST/raw/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "FashionMNIST/raw/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        },
    },
    unpacked_files={},  # Nobody has published MD5 hashes of the unpacked files.
    url="https://github.com/zalandoresearch/fashion-mnist",
    torchvision_class="FashionMNIST",
)


def _parse_idx(path: Path, content: bytes) -> NDArray[np.uint8]:
    """Read the array in an idx file of unsigned bytes.

    The file begins with four bytes: two zeros, the type code, and the number of dimensions. Then comes the size of each
    dimension as a big-endian int32, and then the data.
    """
    try:
        data = gzip.decompress(content) if path.suffix == ".gz" else content
        if data[:3] != bytes((0, 0, _UBYTE)):
            raise ValueError(f"it starts with {data[:4].hex()}")
        dimensions = data[3]
        shape = np.frombuffer(data, ">i4", dimensions, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise IntegrityError(f"{path} is not an idx file of bytes: {error}; get the official file again") from error
