"""Training images that are too large for memory: processes decode and change them while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.data._decoding import Decoder
from pyramidzoo.data._encoded import DecodedBatches, EncodedImages, EncodedSet, decode_batches
from pyramidzoo.data._splits import ReaderOptions
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import UnavailableError
from pyramidzoo.training.augmentation import Draws

_ASPECT_RATIOS = (3 / 4, 4 / 3)  # width over height of the part of an image that is cut out
# Number of row groups of Parquet files that are shuffled together. They have 1,600 images of ImageNet.
_SHUFFLED_GROUPS = 16
# The principal components of ImageNet's colours, for values from 0 to 1: the variance of each component, and the
# components as columns. Source: fb.resnet.torch, datasets/imagenet.lua. The method is from Krizhevsky et al. 2012,
# section 4.1.
_COLOR_VARIANCES = (0.2175, 0.0188, 0.0045)
_COLOR_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class StreamedImages:
    """Training images that stay in their files. All runs of a call share this object. Each run decodes the images.

    Args:
        images: A training split.
        device: The device for the batches and the labels.
        workers: Number of processes that decode the images of one run; 0 decodes in this process.

    Attributes:
        encoded_images: The files.
        device: The device for the batches and the labels.
        workers: Number of processes that decode the images of one run.
        labels: Labels, int64 (N), by position.
        channels: Number of channels of each image, 3.
        classes: Number of classes.
        fingerprint: The hash of the split.

    Raises:
        UnavailableError: A class has no images.
    """

    def __init__(self, images: EncodedSet, device: torch.device, workers: int) -> None:
        found = len(torch.unique(images.labels))
        if found != images.classes:
            raise UnavailableError(
                f"there are training images of {found:,} of the {images.classes:,} classes of {images.name}; complete "
                "the folders of the classes, or the Parquet files"
            )
        self.encoded_images, self.device, self.workers = images.encoded_images, device, workers
        self.labels = images.labels.to(device)
        self.channels, self.classes, self.fingerprint = 3, images.classes, images.fingerprint

    def __len__(self) -> int:
        return len(self.labels)


class StreamedTestImages:
    """Test images that stay in their files.

    Args:
        images: A test split.
        device: The device for the batches and the labels.
        workers: Number of processes that decode images; 0 decodes in this process.

    Attributes:
        labels: Labels, int64 (N), by position.
    """

    def __init__(self, images: EncodedSet, device: torch.device, workers: int) -> None:
        self._images, self._device, self._reading = images, device, ReaderOptions(workers)
        self.labels = images.labels.to(device)

    def batches(self, recipe: Recipe) -> Generator[Tensor, None, None]:
        """Decode all images, and resize and crop them as in evaluation.

        Args:
            recipe: The recipe whose preprocessing and batch size are used.

        Yields:
            uint8 images (n, C, H, W).
        """
        count, size = len(self.labels), recipe.batch_size
        spans = [(start, min(start + size, count)) for start in range(0, count, size)]
        return self._images.read_batches(spans, recipe.preprocessing, self._device, self._reading)


class ImageStream:
    """The training images of one run, in the order of training.

    The random changes of an image depend only on the seed, the epoch and the position of the image. So the number of
    processes does not change the result, and neither does an interruption.

    Args:
        data: The images.
        recipe: The recipe, which says how images are changed.
        seed: The seed of the run.
    """

    def __init__(self, data: StreamedImages, recipe: Recipe, seed: int) -> None:
        self.data, self.recipe, self.seed = data, recipe, seed
        self._positions: deque[list[int]] = deque()  # the images of each batch that was not yet used
        self._batches: Generator[Tensor, None, None] | None = None

    def draw_epoch(self, generator: torch.Generator) -> list[Draws]:
        """Draw the order of one epoch.

        Args:
            generator: The generator of the run, on the CPU.

        Returns:
            The positions of the images of each batch.
        """
        order = draw_order(len(self.data), self.data.encoded_images.get_group_starts(), generator)
        batches = torch.split(order, self.recipe.batch_size)[: self.recipe.steps_per_epoch(len(self.data))]
        return [Draws(index) for index in batches]

    def start_epoch(self, epoch: int, batches: Sequence[Draws]) -> None:
        """Begin to decode the images of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            batches: The draws of `draw_epoch`.
        """
        self.close()
        decoded = _ChangedBatches(self.data.encoded_images, self.recipe, self.seed, epoch)
        self._epoch, self._positions = epoch, deque(batch.index.tolist() for batch in batches)
        self._batches = decode_batches(decoded, list(self._positions), self.data.device, self.data.workers)

    def next_inputs(self, normalize: Normalize) -> Tensor:
        """Make the inputs of the next step.

        Args:
            normalize: The recipe's normalization, on the device.

        Returns:
            Normalized float32 images (n, C, H, W).

        Raises:
            IntegrityError: An image is damaged.
            UnavailableError: An image cannot be read, or a process that decodes images has ended.
        """
        assert self._batches is not None
        inputs: Tensor = normalize(next(self._batches))
        positions = self._positions.popleft()
        if not self._positions:
            self.close()
        if self.recipe.lighting:
            shifts = [
                draw_lighting(self.recipe.lighting, make_image_seed(self.seed, self._epoch, position, 1))
                for position in positions
            ]
            inputs += torch.stack(shifts).to(inputs.device)[:, :, None, None] / normalize.std
        return inputs

    def close(self) -> None:
        """End the processes that decode images."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def draw_order(images: int, group_starts: Sequence[int] | None, generator: torch.Generator) -> Tensor:
    """Draw the order of one epoch.

    If each image can be read alone, all images are shuffled. If only whole groups can be read, the groups are shuffled
    first. Then the images of each 16 groups that follow each other are shuffled. If all images were shuffled freely,
    almost every image of a batch would be in another group.

    Args:
        images: Number of images.
        group_starts: The position of the first image of each group; None if each image can be read alone.
        generator: A generator on the CPU.

    Returns:
        The positions of all images, int64 (N).
    """
    if group_starts is None:
        return torch.randperm(images, generator=generator)
    groups = [torch.arange(*ends) for ends in zip(group_starts, [*group_starts[1:], images], strict=True)]
    shuffled = torch.randperm(len(groups), generator=generator)
    order = []
    for numbers in torch.split(shuffled, _SHUFFLED_GROUPS):
        positions = torch.cat([groups[number] for number in numbers.tolist()])
        order.append(positions[torch.randperm(len(positions), generator=generator)])
    return torch.cat(order)


def make_changes(recipe: Recipe) -> list[Callable[[Any], Any]]:
    """Make torchvision's transforms that crop, resize, mirror and colour one image at random.

    They draw from PyTorch's global generator of the CPU.

    Args:
        recipe: The recipe, which says how images are changed.

    Returns:
        The transforms in order. Each makes a Pillow image from a Pillow image.
    """
    from torchvision.transforms import InterpolationMode, v2

    interpolation = InterpolationMode(recipe.preprocessing.interpolation or "bilinear")
    size = recipe.preprocessing.input_size[1:]
    changes: list[Callable[[Any], Any]] = [
        v2.RandomResizedCrop(size, recipe.random_area, _ASPECT_RATIOS, interpolation=interpolation)
    ]
    if recipe.flip:
        changes.append(v2.RandomHorizontalFlip())
    if recipe.color_jitter:
        changes.append(v2.ColorJitter(recipe.color_jitter, recipe.color_jitter, recipe.color_jitter))
    return changes


def draw_lighting(deviation: float, seed: int) -> Tensor:
    """Draw the colour that is added to all pixels of an image.

    It is the sum of the principal components of ImageNet's colours. Each component is multiplied by its variance and by
    a random number from a normal distribution, as in fb.resnet.torch.

    Args:
        deviation: Standard deviation of the normal distribution.
        seed: The seed of the draw.

    Returns:
        Red, green and blue, float32 (3), for pixels from 0 to 1.
    """
    normal = torch.randn(3, generator=torch.Generator().manual_seed(seed)) * deviation
    return torch.tensor(_COLOR_COMPONENTS) @ (normal * torch.tensor(_COLOR_VARIANCES))


def make_image_seed(seed: int, epoch: int, position: int, purpose: int = 0) -> int:
    """Make a seed for the random changes of one image in one epoch. Each purpose has another seed."""
    return int(np.random.SeedSequence((seed, epoch, position, purpose)).generate_state(1, np.uint64)[0])


class _ChangedBatches(DecodedBatches):
    """Decodes images and changes them at random. The key of a batch is the list of the positions of its images."""

    def __init__(self, encoded_images: EncodedImages, recipe: Recipe, seed: int, epoch: int) -> None:
        self.encoded_images, self.seed, self.epoch = encoded_images, seed, epoch
        self.decoder = Decoder(recipe.preprocessing, tensor_resize=False, steps=make_changes(recipe))

    def decode(self, key: Any) -> list[NDArray[np.uint8]]:
        """Decode the images of a batch. They are read in the order of storage, so that each group is read only once."""
        images = {position: self._decode_image(position) for position in sorted(key)}
        return [images[position] for position in key]

    def _decode_image(self, position: int) -> NDArray[np.uint8]:
        ((name, content),) = self.encoded_images.read(position, position + 1)
        generator = torch.default_generator  # torchvision's transforms draw from it, so it is restored at the end
        before = generator.get_state()
        try:
            generator.manual_seed(make_image_seed(self.seed, self.epoch, position))
            return self.decoder(content, name)
        finally:
            generator.set_state(before)
