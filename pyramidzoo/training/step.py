"""One training run: its network, its optimizer, its random numbers, and the step that changes them.

On a CPU the operations of a step run one after the other. On a GPU the whole step is captured once as a CUDA graph and
replayed (`captured_step.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pyramidzoo.catalog.recipes import Recipe
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.factory import create_model
from pyramidzoo.training.augmentation import (
    Draws,
    choose_images,
    compute_loss_and_errors,
    compute_mixed_loss_and_errors,
    draw_epoch,
    join_draws,
    prepare_batch,
)
from pyramidzoo.training.captured_step import CapturedStep
from pyramidzoo.training.device_images import TestImages, TrainingImages
from pyramidzoo.training.image_stream import ImageStream, StreamedImages, StreamedTestImages
from pyramidzoo.training.padded_widths import PaddedWidths
from pyramidzoo.training.schedule import Schedule

Precision = Literal["fp32", "bf16"]


class TrainingRun:
    """Everything that changes from step to step.

    An epoch is `draw_epoch`, `start_epoch`, `run_step` for each step, and `read_sums`.

    Args:
        architecture: Name of the architecture.
        recipe: How to train it.
        data: The training images.
        seed: Seed of the initial weights and of all random draws.
        device: The device that computes.
        precision: "fp32", or "bf16" for autocast to bfloat16 with channels_last.
        dtype: The type of the weights, the inputs and the loss. Only tests that compare with other code change it.
        accumulate: Number of parts into which each batch is divided. The parts go through the network one after the
            other, and their gradients are added. Batch normalization normalizes over each part, so the result is not
            the same as with whole batches.
        grad_checkpointing: Whether the outputs inside blocks are computed again in the backward pass instead of being
            kept in memory. The result is the same.
        pad_widths: Whether the widths of the network are rounded up while it is trained (see `PaddedWidths`). The
            result is the same, except for rounding.

    Attributes:
        model: The network. With `pad_widths` it is the padded one.
        padded_widths: The padding of its widths; None without `pad_widths`.
        optimizer: SGD, with its momenta.
        generator: The random generator of all draws, on the CPU.
        schedule: The learning rates.
        used_images: Places of the training images that are used, int64; None if all are used.
        done_steps: Number of steps since the start of the training.
        captured: The step as a CUDA graph. None on a CPU, if the images are in files, and if the network itself draws
            random numbers.
        stream: The training images of this run; None if they are in memory.
    """

    def __init__(
        self,
        architecture: str,
        recipe: Recipe,
        data: TrainingImages | StreamedImages,
        seed: int,
        device: torch.device,
        precision: Precision = "fp32",
        dtype: torch.dtype = torch.float32,
        *,
        accumulate: int = 1,
        grad_checkpointing: bool = False,
        pad_widths: bool = False,
    ) -> None:
        self.recipe, self.data, self.device, self.precision, self.dtype = recipe, data, device, precision, dtype
        self.seed, self.accumulate = seed, accumulate
        self.used_images = choose_images(recipe.hold_out, len(data), seed) if recipe.hold_out else None
        self.schedule = Schedule(recipe, len(data) - recipe.hold_out)
        self.normalize = Normalize(recipe.preprocessing).to(device)
        self.memory_format = torch.channels_last if precision == "bf16" else torch.contiguous_format
        with torch.random.fork_rng(devices=[]):  # leaves the caller's random numbers alone
            torch.manual_seed(seed)
            model = create_model(architecture, num_classes=data.classes, in_chans=data.channels, **recipe.arguments)
        model.set_grad_checkpointing(grad_checkpointing)
        self.padded_widths = PaddedWidths(model) if pad_widths else None
        self.model = model.to(device, dtype).to(memory_format=self.memory_format)
        self.stream = ImageStream(data, recipe, seed) if isinstance(data, StreamedImages) else None
        # A captured graph cannot wait for images that are still being decoded. Graphs that draw random numbers share
        # one generator, so their draws would depend on the other trainings of the command.
        can_be_captured = self.stream is None and not has_random_layers(model)
        is_captured = device.type == "cuda" and can_be_captured
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=torch.zeros((), device=device) if is_captured else recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True if is_captured else None,  # the fast form that reads its learning rate from a tensor
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.done_steps = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.wrong_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.captured = CapturedStep(self) if is_captured else None
        self._batches: list[Draws] = []

    @property
    def has_all_steps(self) -> bool:
        """Whether the training is at its end."""
        return self.steps_left <= 0

    @property
    def steps_left(self) -> int:
        """Number of steps until the end of the training."""
        return self.schedule.total_steps - self.done_steps

    def draw_epoch(self) -> list[Draws]:
        """Draw the random numbers of the next epoch, batch by batch."""
        if self.stream is not None:
            return self.stream.draw_epoch(self.generator)
        assert isinstance(self.data, TrainingImages)
        batches = draw_epoch(self.recipe, len(self.data) - self.recipe.hold_out, self.data.size, self.generator)
        if self.used_images is None:
            return batches
        return [dataclasses.replace(batch, index=self.used_images[batch.index]) for batch in batches]

    def start_epoch(self, batches: list[Draws]) -> int:
        """Prepare an epoch, and return its number of steps.

        Args:
            batches: The draws of the epoch, from `draw_epoch`.

        Returns:
            The number of steps. In the last epoch it can be smaller than the number of batches, because a recipe can
            count its length in steps.
        """
        self.model.train()
        self._batches = batches
        steps = min(len(batches), self.schedule.total_steps - self.done_steps)
        if self.captured is not None:
            # A captured step always has the same number of images. So an incomplete last batch is not captured.
            full = [batch for batch in batches if len(batch.index) == self.recipe.batch_size]
            rates = [self.schedule.learning_rate(self.done_steps + step) for step in range(min(steps, len(full)))]
            self.captured.load(join_draws(full), torch.tensor(rates + [0.0] * (len(full) - len(rates))))
        if self.stream is not None:
            self.stream.start_epoch(self.done_steps // self.schedule.steps_per_epoch, batches[:steps])
        with self.on_stream():
            self.loss_sum.zero_()
            self.wrong_sum.zero_()
        return steps

    def run_step(self, step: int) -> None:
        """Run one step of the epoch.

        Layers such as dropout draw from PyTorch's global generators. These get a new seed for each step. So the draws
        depend on the seed of the training and on the number of the step only: neither on interruptions nor on other
        trainings.

        Args:
            step: Number of the step in this epoch, from 0.
        """
        if self.recipe.reset_momentum and self.schedule.starts_after_milestone(self.done_steps):
            self.reset_momentum()
        batch = self._batches[step]
        if self.captured is not None and len(batch.index) == self.recipe.batch_size:
            self.captured.replay()
        else:
            with self.on_stream(), seed_global_generators(self.device, (self.seed, self.done_steps)):
                self.set_learning_rate(self.schedule.learning_rate(self.done_steps))
                self.compute_step(batch.to(self.device))
        self.done_steps += 1

    def set_learning_rate(self, rate: float) -> None:
        """Give the optimizer a learning rate. A captured step reads it from a tensor, which stays in place."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def reset_momentum(self) -> None:
        """Set the momentum of every parameter to zero."""
        with self.on_stream(), torch.no_grad():
            for state in self.optimizer.state.values():
                state["momentum_buffer"].zero_()

    def compute_step(self, draws: Draws) -> None:
        """Compute one step: change the images, forward, loss, backward, update."""
        pixels = self._make_inputs(draws)
        # `clone` and not `to`: images with one channel fit both memory formats, and `to` would leave them as they are.
        pixels = pixels.clone(memory_format=self.memory_format).to(self.dtype)
        labels = self.data.labels.index_select(0, draws.index)
        # Images are mixed within the whole batch, so the labels of both are looked up before it is divided.
        partner_labels = None if draws.partner is None else labels[draws.partner]
        self.optimizer.zero_grad(set_to_none=True)
        for part in divide(len(labels), self.accumulate):
            # Autocast must not cache the cast weights: a captured graph must cast the weights as they are at each step.
            with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16", cache_enabled=False):
                logits = self.model(pixels[part]).to(self.dtype)
            if partner_labels is None or draws.weight is None:
                loss, wrong = compute_loss_and_errors(logits, labels[part])
            else:
                loss, wrong = compute_mixed_loss_and_errors(
                    logits, labels[part], partner_labels[part], draws.weight[part]
                )
            images = part.stop - part.start
            # The mean over the batch is a weighted sum of the means over the parts.
            (loss if self.accumulate == 1 else loss * (images / len(labels))).backward()
            self.loss_sum += loss.detach() * images
            self.wrong_sum += wrong
        self.optimizer.step()

    def _make_inputs(self, draws: Draws) -> Tensor:
        """Make the inputs of one step, float32 (n, C, H, W)."""
        if self.stream is not None:
            return self.stream.next_inputs(self.normalize)
        assert isinstance(self.data, TrainingImages)
        return prepare_batch(self.data.images, draws, self.recipe, self.normalize)

    def on_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context manager: GPU operations inside it run on the stream of the captured step.

        They wait for everything that is queued on that stream and on the caller's stream. On a CPU it does nothing.
        """
        if self.captured is None:
            return contextlib.nullcontext()
        # The network was created or restored on the caller's stream, so the steps must wait for that stream.
        self.captured.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.captured.stream)

    def read_sums(self) -> tuple[float, int]:
        """Return the sum of the losses and the number of wrong images since the epoch began."""
        with self.on_stream():
            return self.loss_sum.item(), int(self.wrong_sum)

    @torch.inference_mode()
    def count_wrong(self, test: TestImages | StreamedTestImages) -> int:
        """Count the wrong predictions on all test images, in fp32."""
        self.model.eval()
        with self.on_stream(), contextlib.closing(test.batches(self.recipe)) as batches:
            inputs = (self.normalize(pixels).to(memory_format=self.memory_format) for pixels in batches)
            predicted = torch.cat([self.model(pixels).argmax(1) for pixels in inputs])
            return int((predicted != test.labels).sum())

    def network_state(self) -> dict[str, Tensor]:
        """Return the tensors of the network by name. They have the true widths, also if the network is padded."""
        return {name: self._cut(name, tensor) for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that are needed to continue the run, by name: those of the network, and the momenta.

        They have the true widths, also if the network is padded.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.network_state().items()}
        for place, (name, parameter) in enumerate(self.model.named_parameters()):
            if parameter in self.optimizer.state:
                momentum = self.optimizer.state[parameter]["momentum_buffer"]
                tensors[f"momentum.{place}"] = self._cut(name, momentum)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], done_steps: int) -> None:
        """Continue from the tensors that `state` returned.

        Args:
            tensors: The tensors by name.
            done_steps: Number of steps that were done when they were saved.
        """
        network = {name: self._pad(name, tensor) for name, tensor in _select(tensors, "model.").items()}
        self.model.load_state_dict(network)
        parameters = list(self.model.named_parameters())
        for place, momentum in _select(tensors, "momentum.").items():
            name, parameter = parameters[int(place)]
            # the fused optimizer needs the momentum in the parameter's memory format
            restored = torch.empty_like(parameter).copy_(self._pad(name, momentum)).detach()
            self.optimizer.state[parameter]["momentum_buffer"] = restored
        self.done_steps = done_steps

    def _cut(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self.padded_widths is None else self.padded_widths.cut(name, tensor)

    def _pad(self, name: str, tensor: Tensor) -> Tensor:
        return tensor if self.padded_widths is None else self.padded_widths.pad(name, tensor)


def has_random_layers(model: nn.Module) -> bool:
    """Return whether layers of a network draw random numbers in training: dropout, or the shares of shake-shake."""
    return any(
        getattr(module, "drop_rate", 0) > 0
        or getattr(module, "head_drop_rate", 0) > 0
        or "shake" in (getattr(module, "forward_rule", None), getattr(module, "backward_rule", None))
        for module in model.modules()
    )


@contextlib.contextmanager
def seed_global_generators(device: torch.device, numbers: Sequence[int]) -> Iterator[None]:
    """Seed PyTorch's global generators inside a `with` block. After it they have their old states again.

    Args:
        device: The device that computes. Its generator is seeded too.
        numbers: Numbers from which the seed is computed.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _select(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def divide(images: int, parts: int) -> list[slice]:
    """Divide a batch into parts of nearly equal size, in order. No part is empty."""
    parts = min(parts, images)
    ends = [images * k // parts for k in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]
