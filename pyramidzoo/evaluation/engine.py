"""Compute logits: prepare a network for the settings, find a batch size that fits, run batches.

An engine knows how logits are computed. It does not know what they are for.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pyramidzoo.errors import UnavailableError
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.compute_settings import PRECISIONS, ComputeSettings
from pyramidzoo.evaluation.programs import CachedProgram, Program
from pyramidzoo.inference import optimize, overwrite_sums
from pyramidzoo.models._interface import ImageClassifier


@dataclass(frozen=True)
class PreparedNetwork:
    """A network as an engine computes it: rewritten, or in another precision, or unchanged.

    Attributes:
        network: The network.
        passes: Names of the passes of `pyramidzoo.inference.optimize` that rewrote it; empty if it
            was not rewritten.
        key: Identifies the network without the values of its tensors. Two networks with equal keys
            can use the same compiled program.
    """

    network: nn.Module
    passes: tuple[str, ...]
    key: Hashable


class Engine:
    """Computes logits as the settings say, for one network after the other.

    The engine keeps the compiled program, or the CUDA graph, of the last network. If the next
    weights belong to the same network, this program is used again with their tensors. The engine
    finds out only once for each network which batch size fits into the memory.

    Attributes:
        settings: How to compute.
    """

    def __init__(self, settings: ComputeSettings) -> None:
        self.settings = settings
        self._cached: CachedProgram | None = None
        self._fitting_batch_sizes: dict[Hashable, int] = {}

    def prepare(self, model: ImageClassifier, key: Hashable) -> PreparedNetwork:
        """Rewrite a network, or convert it to another precision, as the settings say.

        If the shortcuts of a plain network are padded with zero channels, its sums are computed in
        place instead (`inference.overwrite_sums`). This changes no bit of a logit, and a PyramidNet
        becomes faster (docs/evaluation.md). It is not done before torch.compile, which optimizes
        the network as it was built.

        Args:
            model: The network with its weights.
            key: Identifies the network without the values of its tensors.

        Returns:
            The prepared network.

        Raises:
            UnavailableError: The device has too little memory.
        """
        settings = self.settings
        dtype = PRECISIONS[settings.precision]
        if settings.optimized:
            with report_out_of_memory(settings.device):
                # `optimize` chooses the passes for the device of the model, so the model moves there first.
                rewritten = optimize(model.to(settings.device), dtype=dtype)
            return PreparedNetwork(rewritten, rewritten.passes, (key, rewritten.passes, str(rewritten.network)))
        plain = model.eval() if dtype == torch.float32 else copy.deepcopy(model).eval().to(dtype)
        network = plain if settings.compiled else overwrite_sums(plain)
        return PreparedNetwork(network if dtype == torch.float32 else CastImages(network, dtype), (), key)

    def find_batch_size(self, prepared: PreparedNetwork, input_size: tuple[int, int, int]) -> int:
        """Find a batch size for which the device has enough memory.

        It is the batch size of the settings, halved until a batch fits. To try a batch size, a
        batch of zeros is computed. Call this before the samples are divided into units of work.
        Then the units, the prediction files and the predictions are the same as in a run whose
        settings have the smaller batch size.

        Args:
            prepared: The network.
            input_size: (channels, height, width) of an image.

        Returns:
            The batch size.

        Raises:
            UnavailableError: The device has too little memory even for one image.
        """
        settings, key = self.settings, (prepared.key, input_size)
        if key in self._fitting_batch_sizes:
            return self._fitting_batch_sizes[key]
        batch_size = settings.batch_size
        if not _can_continue_after_out_of_memory(settings.device):
            return batch_size
        # This loop ends: if a batch of one image does not fit, `_fits_into_memory` raises UnavailableError.
        while not self._fits_into_memory(prepared, input_size, batch_size):
            batch_size //= 2
            self._cached = None  # Free the memory of the program for the larger batch size.
            torch.cuda.empty_cache()
        self._fitting_batch_sizes[key] = batch_size
        return batch_size

    def _fits_into_memory(self, prepared: PreparedNetwork, input_size: tuple[int, int, int], batch_size: int) -> bool:
        """Return whether a batch of this size fits into the memory.

        Raise UnavailableError if the batch size is 1 and does not fit.
        """
        try:
            with self.open_program(prepared, batch_size) as compute:
                compute(torch.zeros(batch_size, *input_size, device=self.settings.device))
        except OutOfMemoryError:
            if batch_size == 1:
                raise
            return False
        return True

    @contextlib.contextmanager
    def open_program(self, prepared: PreparedNetwork, batch_size: int) -> Iterator[Program]:
        """Make a network's program, and compute in the arithmetic of the settings, inside a `with` block.

        Args:
            prepared: The network.
            batch_size: The largest number of images in a batch.

        Yields:
            The program (see `make_program`).

        Raises:
            UnavailableError: The device has too little memory.
        """
        program = self.make_program(prepared, batch_size)
        with self.use_arithmetic():
            yield program

    def make_program(self, prepared: PreparedNetwork, batch_size: int) -> Program:
        """Make the function that computes logits.

        If all batches must have the same shape, a smaller batch is filled up with images of zeros.
        The logits of these images are not returned.

        Args:
            prepared: The network.
            batch_size: The largest number of images in a batch.

        Returns:
            A function from normalized images (n, C, H, W), where n is at most `batch_size`, to
            float32 logits (n, classes). It raises UnavailableError if the device has too little
            memory.

        Raises:
            UnavailableError: The device has too little memory for the network.
        """
        return partial(self._compute_batch, prepared.key, self._move_to_device(prepared), batch_size)

    @contextlib.contextmanager
    def use_arithmetic(self, *, deterministic: bool = True) -> Iterator[None]:
        """Compute in the arithmetic of the settings and without gradients, inside a `with` block.

        Args:
            deterministic: Use deterministic algorithms. If false, cuDNN measures which algorithm is
                fastest and uses it.
        """
        device, amp = self.settings.device, self.settings.amp
        autocast = torch.autocast(
            device.type,
            PRECISIONS[amp] if amp else None,
            enabled=amp is not None,
            # Autocast's cache keeps weights in 16 bits. A CUDA graph would read these old copies in each
            # replay, also after the weights were replaced by other ones.
            cache_enabled=not self.settings.cuda_graph,
        )
        # PyTorch makes streams, events and graphs on the current device, so that must be the engine's device.
        current_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        strict = strict_arithmetic(tf32=self.settings.precision == "tf32", deterministic=deterministic)
        with current_device, strict, torch.inference_mode(), autocast:
            yield

    def _move_to_device(self, prepared: PreparedNetwork) -> nn.Module:
        """Move the network to the device. A network that was not rewritten also gets the settings' memory layout."""
        with report_out_of_memory(self.settings.device):
            network = prepared.network.to(self.settings.device)
            return network if self.settings.optimized else network.to(memory_format=self.settings.memory_format)

    def _compute_batch(self, key: Hashable, network: nn.Module, batch_size: int, batch: Tensor) -> Tensor:
        """Compute float32 logits (n, classes) of normalized images (n, C, H, W)."""
        image_count = len(batch)
        with report_out_of_memory(self.settings.device, f"batches of {batch_size}; try a smaller -b"):
            if self.settings.has_fixed_shape and image_count < batch_size:
                batch = torch.cat([batch, batch.new_zeros(batch_size - image_count, *batch.shape[1:])])
            batch = batch.contiguous(memory_format=self.settings.memory_format)
            return self._compute_logits(key, network, batch)[:image_count].float()

    def _compute_logits(self, key: Hashable, network: nn.Module, batch: Tensor) -> Tensor:
        """Compute the logits of a batch: by calling the network, or by its cached program if the settings need one."""
        if not self.settings.has_fixed_shape:
            logits: Tensor = network(batch)
            return logits
        key_with_shape = key, tuple(batch.shape)
        if self._cached is None or self._cached.key != key_with_shape:
            self._cached = None  # Free its memory before the next program needs memory.
            self._cached = CachedProgram(
                key_with_shape,
                network,
                batch,
                compiled=self.settings.compiled,
                as_cuda_graph=self.settings.cuda_graph,
            )
        return self._cached.compute(network, batch)


class CastImages(nn.Module):
    """Converts float32 images to the dtype of a network, and computes the network.

    Args:
        network: The network, in `dtype`.
        dtype: dtype of the network's weights.

    Attributes:
        network: The network.
        dtype: dtype of the network's weights.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (n, classes), in the network's dtype, of float32 images (n, C, H, W)."""
        logits: Tensor = self.network(images.to(self.dtype))
        return logits


class OutOfMemoryError(UnavailableError):
    """The device has too little memory; a smaller batch may fit."""


@contextlib.contextmanager
def report_out_of_memory(device: torch.device, purpose: str = "this network") -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into an `OutOfMemoryError`, inside a `with` block.

    Args:
        device: The device that the message names.
        purpose: For the message: what the memory was needed for, and advice for the user.

    Raises:
        OutOfMemoryError: The device has too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{device} has no memory for {purpose}") from error


def _can_continue_after_out_of_memory(device: torch.device) -> bool:
    """Return whether PyTorch raises an error if the device has too little memory.

    It does so for a GPU. For a CPU the operating system kills the process instead.
    """
    return device.type != "cpu"
