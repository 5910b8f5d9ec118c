"""Whitening of images as pylearn2 does it: global contrast normalization (GCN), and then ZCA.

Source: lisa-lab/pylearn2, `expr/preprocessing.py`, `datasets/preprocessing.py` and
`scripts/datasets/make_cifar10_gcn_whitened.py`.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing
from pyramidzoo.checkpoints.safetensors_file import read_sealed, write_sealed
from pyramidzoo.data._splits import ImageSet, Split
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError, UsageError
from pyramidzoo.weights.cache import cache_dir

# The constants of pylearn2's script.
_GCN_SCALE = 55.0
_GCN_MIN_DIVISOR = 1e-8
_ZCA_FILTER_BIAS = 0.1

_BATCH_SIZE = 2000  # in float64, so many images of CIFAR's size take 49 MB
_FILE_VERSION = "1"  # another number makes all files in the cache invalid


@dataclass(frozen=True)
class Whitening:
    """A whitening that was fitted on training images. D is the number of values in an image: C * H * W.

    It depends on the place of a pixel. So images are whitened before they are shifted or mirrored.

    Attributes:
        mean: Mean of each value after GCN, float32 (D).
        matrix: The symmetric matrix of ZCA, float32 (D, D).
    """

    mean: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, images: Tensor) -> Whitening:
        """Fit a whitening.

        Args:
            images: The training images, uint8 (N, C, H, W).

        Returns:
            The whitening. It is computed in float64, and then rounded to float32.
        """
        mean, matrix = fit_mean_and_matrix(images)
        return cls(mean.to(torch.float32), matrix.to(torch.float32))

    def apply(self, images: Tensor, batch_size: int = _BATCH_SIZE) -> Tensor:
        """Whiten images.

        The computation is in float64 on the CPU. So the result, rounded to float32, hardly depends on the machine.

        Args:
            images: uint8 (n, C, H, W), on the CPU.
            batch_size: Number of images that are whitened at once. It changes the memory that is needed.

        Returns:
            The whitened images, float32 (n, C, H, W).

        Raises:
            UsageError: The images are not uint8, or have another size than those of the fit.
        """
        if images.dtype != torch.uint8 or images[0].numel() != len(self.mean):
            raise UsageError(
                f"this whitening is for uint8 images of {len(self.mean)} values; these are {images.dtype} and have "
                f"{images[0].numel()} values"
            )
        mean, matrix = self.mean.to(torch.float64), self.matrix.to(torch.float64)
        whitened = torch.empty(images.shape, dtype=torch.float32, device="cpu")
        for source, target in zip(torch.split(images, batch_size), torch.split(whitened, batch_size), strict=True):
            target.copy_(((_normalize_contrast(source) - mean) @ matrix).view(source.shape))
        return whitened


def fit_mean_and_matrix(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean and the matrix of ZCA in float64.

    The covariance of the images after GCN gets `_ZCA_FILTER_BIAS` added to its diagonal. With its eigenvalues e and its
    eigenvectors V (the columns), the matrix is V diag(1 / sqrt(e)) V^T.

    Args:
        images: The training images, uint8 (N, C, H, W).

    Returns:
        The mean, float64 (D), and the matrix, float64 (D, D).
    """
    batches = torch.split(images, _BATCH_SIZE)
    size = images[0].numel()
    mean = torch.zeros(size, dtype=torch.float64, device="cpu")
    for batch in batches:
        mean += _normalize_contrast(batch).sum(0)
    mean /= len(images)
    covariance = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    for batch in batches:
        centered = _normalize_contrast(batch) - mean
        covariance.addmm_(centered.T, centered)
    covariance /= len(images)
    covariance.diagonal().add_(_ZCA_FILTER_BIAS)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    return mean, (eigenvectors / eigenvalues.sqrt()) @ eigenvectors.T


def _normalize_contrast(images: Tensor) -> Tensor:
    """Apply GCN to each image: subtract the mean of all its values, and scale it to the L2 norm `_GCN_SCALE`.

    An image whose values are all equal becomes zero.

    Args:
        images: uint8 (n, C, H, W).

    Returns:
        float64 (n, D).
    """
    values = images.flatten(1).to(torch.float64)
    values -= values.mean(1, keepdim=True)
    divisors = torch.linalg.vector_norm(values, dim=1, keepdim=True) / _GCN_SCALE
    return values / torch.where(divisors < _GCN_MIN_DIVISOR, 1.0, divisors)


def load_whitening(training_images: Split) -> Whitening:
    """Return the whitening that is fitted on a training split.

    Fitting takes half a minute for CIFAR. So the result is kept in the cache, in a file that is named by the
    fingerprint of the split. A damaged file is replaced. If the cache cannot be written, the next call fits again.

    Args:
        training_images: The training split.

    Returns:
        The whitening.

    Raises:
        UsageError: The images are not in memory.
    """
    images = _get_images(training_images)
    path = cache_dir() / "whitening" / f"{training_images.fingerprint}.safetensors"
    with contextlib.suppress(IntegrityError, UnavailableError):
        content = read_sealed(path)
        if content.metadata.get("version") == _FILE_VERSION:
            return Whitening(content.tensors["mean"], content.tensors["matrix"])
    print(f"pyramidzoo: fitting the whitening on {len(images)} images of {training_images.name}", file=sys.stderr)
    whitening = Whitening.fit(images)
    with contextlib.suppress(NotWritableError):
        write_sealed(path, {"mean": whitening.mean, "matrix": whitening.matrix}, {"version": _FILE_VERSION})
    return whitening


@dataclass(frozen=True)
class WhitenedSet(ImageSet):
    """A split whose images are whitened. Its fingerprint is that of the images before they were whitened.

    Attributes:
        images: Whitened images, float32 (N, C, H, W).
    """


def whiten_split(images: Split, whitening: Whitening) -> WhitenedSet:
    """Whiten all images of a split.

    Args:
        images: The split.
        whitening: The whitening that is fitted on the training split of the same dataset.

    Returns:
        The whitened split.

    Raises:
        UsageError: The images are not in memory, or have another size than the training images.
    """
    whitened = whitening.apply(_get_images(images))
    return WhitenedSet(images.name, images.split, images.classes, whitened, images.labels, images.fingerprint)


def _get_images(split: Split) -> Tensor:
    """Return the images of a split, uint8 (N, C, H, W). Raise UsageError if they are not in memory."""
    if not isinstance(split, ImageSet):
        raise UsageError(f"images of {split.name} cannot be whitened, because they are not in memory")
    return split.images


def check_whitening(images: Split, preprocessing: Preprocessing, requester: str) -> None:
    """Require that a split is whitened if and only if a network needs whitened images.

    Args:
        images: The split.
        preprocessing: How the network needs the images.
        requester: The weights that the preprocessing belongs to, for the error message.

    Raises:
        UsageError: The split is whitened and must not be, or the reverse.
    """
    is_whitened, needs_whitening = isinstance(images, WhitenedSet), isinstance(preprocessing, WhitenedPreprocessing)
    if needs_whitening and not is_whitened:
        raise UsageError(
            f"{requester} was trained on whitened images; whiten the {images.split} images first with "
            "pyramidzoo.data.whitening.whiten_split(images, load_whitening(training_images))"
        )
    if is_whitened and not needs_whitening:
        raise UsageError(f"{requester} was not trained on whitened images, and these images are whitened")
