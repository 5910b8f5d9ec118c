"""Training images that are too large for memory: processes decode and change them while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyramidzoo.data._decoding import Decoder
from pyramidzoo.data._encoded import DecodedBatches, EncodedImages, EncodedSet, read_batches
from pyramidzoo.data._splits import ReaderOptions
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import UnavailableError
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.recipes import Recipe

_ASPECT_RATIOS = (3 / 4, 4 / 3)  # of the part of an image that is cut out
# So many groups of rows of a Parquet file are shuffled together: 1,600 images of ImageNet.
_SHUFFLED_GROUPS = 16
# The variances of ImageNet's colours from 0 to 1 along their main directions, and these directions, one a column.
# Source: fb.resnet.torch, datasets/imagenet.lua. The original code is AlexNet's (Krizhevsky et al. 2012, section 4.1).
_COLOR_VARIANCES = (0.2175, 0.0188, 0.0045)
_COLOR_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class StreamedImages:
    """Training images in their files. All runs of a call share them, and each run decodes them for itself.

    Args:
        images: a training split.
        device: where the batches and the labels go.
        workers: how many processes decode the images of a run; 0 decodes in this process.

    Attributes:
        encoded: the files.
        device: see above.
        workers: see above.
        labels: int64 (N).
        channels: 3.
        classes: how many classes there are.
        fingerprint: the hash of the split.

    Raises:
        UnavailableError: a class has no images.
    """

    def __init__(self, images: EncodedSet, device: torch.device, workers: int) -> None:
        found = len(torch.unique(images.labels))
        if found != images.classes:
            raise UnavailableError(
                f"there are training images of {found:,} of the {images.classes:,} classes of {images.name}; complete "
                "the folders of the classes, or the Parquet files"
            )
        self.encoded, self.device, self.workers = images.encoded, device, workers
        self.labels = images.labels.to(device)
        self.channels, self.classes, self.fingerprint = 3, images.classes, images.fingerprint

    def __len__(self) -> int:
        return len(self.labels)


class StreamedTestImages:
    """Test images in their files.

    Args:
        images: a test split.
        device: where the batches and the labels go.
        workers: how many processes decode the images; 0 decodes in this process.

    Attributes:
        labels: int64 (N).
    """

    def __init__(self, images: EncodedSet, device: torch.device, workers: int) -> None:
        self._images, self._device, self._reading = images, device, ReaderOptions(workers)
        self.labels = images.labels.to(device)

    def batches(self, recipe: Recipe) -> Generator[Tensor, None, None]:
        """Decode the images in the batches of a recipe, resized and cropped as in evaluation.

        Yields:
            uint8 (n, C, H, W).
        """
        count, size = len(self.labels), recipe.batch_size
        spans = [(start, min(start + size, count)) for start in range(0, count, size)]
        return self._images.batches(spans, recipe.preprocessing, self._device, self._reading)


class ImageStream:
    """The training images of one run, in the order of training.

    What is drawn for an image depends on the seed, the epoch and the image only. So neither the number of processes nor
    an interruption changes the result.

    Args:
        data: the images.
        recipe: how they are changed.
        seed: the seed of the run.
    """

    def __init__(self, data: StreamedImages, recipe: Recipe, seed: int) -> None:
        self.data, self.recipe, self.seed = data, recipe, seed
        self._places: deque[list[int]] = deque()  # of the batches that are still to come
        self._batches: Generator[Tensor, None, None] | None = None

    def draw_epoch(self, generator: torch.Generator) -> list[Draws]:
        """Draw the order of one epoch.

        Args:
            generator: a generator on the CPU; it moves on.

        Returns:
            The images of each batch.
        """
        order = draw_order(len(self.data), self.data.encoded.group_starts(), generator)
        batches = torch.split(order, self.recipe.batch_size)[: self.recipe.steps_per_epoch(len(self.data))]
        return [Draws(index) for index in batches]

    def start_epoch(self, epoch: int, batches: Sequence[Draws]) -> None:
        """Begin to decode the batches of an epoch, counted from 0."""
        self.close()
        decoded = _ChangedBatches(self.data.encoded, self.recipe, self.seed, epoch)
        self._epoch, self._places = epoch, deque(batch.index.tolist() for batch in batches)
        self._batches = read_batches(decoded, list(self._places), self.data.device, self.data.workers)

    def next_inputs(self, normalize: Normalize) -> Tensor:
        """Make the inputs of the next step.

        Args:
            normalize: the recipe's normalization, on the device.

        Returns:
            float32 (n, C, H, W).

        Raises:
            IntegrityError: an image is damaged.
            UnavailableError: an image cannot be read, or a process that decodes images has ended.
        """
        assert self._batches is not None
        inputs: Tensor = normalize(next(self._batches))
        places = self._places.popleft()
        if not self._places:
            self.close()
        if self.recipe.lighting:
            shifts = [
                draw_lighting(self.recipe.lighting, make_image_seed(self.seed, self._epoch, place, 1))
                for place in places
            ]
            inputs += torch.stack(shifts).to(inputs.device)[:, :, None, None] / normalize.std
        return inputs

    def close(self) -> None:
        """End the processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def draw_order(images: int, group_starts: Sequence[int] | None, generator: torch.Generator) -> Tensor:
    """Draw the order of one epoch.

    Images that can be read alone are shuffled freely. Where only groups can be read, the groups are shuffled, and then
    the images of every sixteen groups that follow each other. Else a batch would read almost as many groups as it has
    images.

    Args:
        images: how many images there are.
        group_starts: the first place of each group; None where there are no groups.
        generator: a generator on the CPU; it moves on.

    Returns:
        All places, int64 (N).
    """
    if group_starts is None:
        return torch.randperm(images, generator=generator)
    groups = [torch.arange(*ends) for ends in zip(group_starts, [*group_starts[1:], images], strict=True)]
    shuffled = torch.randperm(len(groups), generator=generator)
    order = []
    for numbers in torch.split(shuffled, _SHUFFLED_GROUPS):
        places = torch.cat([groups[number] for number in numbers.tolist()])
        order.append(places[torch.randperm(len(places), generator=generator)])
    return torch.cat(order)


def make_changes(recipe: Recipe) -> list[Callable[[Any], Any]]:
    """Make torchvision's transforms that change one Pillow image at random: cut out, resize, mirror, change colours.

    They draw from PyTorch's generator of the CPU.

    Args:
        recipe: which changes are made.

    Returns:
        The transforms in order: Pillow image to Pillow image.
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
    """Draw how much is added to the red, green and blue of an image, from 0 to 1.

    It is a sum of the main directions of ImageNet's colours. The share of each direction is its variance times a normal
    number, as in fb.resnet.torch.

    Args:
        deviation: the standard deviation of the normal numbers.
        seed: the seed of the draw.

    Returns:
        float32 (3).
    """
    normal = torch.randn(3, generator=torch.Generator().manual_seed(seed)) * deviation
    return torch.tensor(_COLOR_DIRECTIONS) @ (normal * torch.tensor(_COLOR_VARIANCES))


def make_image_seed(seed: int, epoch: int, place: int, purpose: int = 0) -> int:
    """Make the seed of what is drawn for one image in one epoch, for each purpose another one."""
    return int(np.random.SeedSequence((seed, epoch, place, purpose)).generate_state(1, np.uint64)[0])


class _ChangedBatches(DecodedBatches):
    """Decodes the images of a batch, given by their places, and changes them at random."""

    def __init__(self, encoded: EncodedImages, recipe: Recipe, seed: int, epoch: int) -> None:
        self.encoded, self.seed, self.epoch = encoded, seed, epoch
        self.decoder = Decoder(recipe.preprocessing, tensor_resize=False, steps=make_changes(recipe))

    def decode(self, item: Any) -> list[NDArray[np.uint8]]:
        """Decode the images in the order of their places, so that a group is read once, and return them in turn."""
        images = {place: self._decode_image(place) for place in sorted(item)}
        return [images[place] for place in item]

    def _decode_image(self, place: int) -> NDArray[np.uint8]:
        ((name, content),) = self.encoded.read(place, place + 1)
        generator = torch.default_generator  # torchvision's transforms draw from it; nothing else here may notice
        before = generator.get_state()
        try:
            generator.manual_seed(make_image_seed(self.seed, self.epoch, place))
            return self.decoder(content, name)
        finally:
            generator.set_state(before)
