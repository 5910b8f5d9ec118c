"""One training run: its network, its optimizer, its random numbers, and the step that changes them.

On a CPU a step is run operation by operation. On a GPU the whole step (gather the batch, change the images, forward,
loss, backward, update) is captured once as a CUDA graph and replayed, because launching its hundreds of small kernels
one by one takes several times as long as computing them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.factory import create_model
from pyramidzoo.training.augmentation import Draws, draw_epoch, join, loss_and_errors, prepare_batch
from pyramidzoo.training.recipes import Recipe

Precision = Literal["fp32", "bf16"]
_WARM_UP_STEPS = 3  # what PyTorch asks for before a step is captured


class TrainingData:
    """The training images on the device, shared by all runs. Images are uint8 (N, H, W, C), labels int64 (N)."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images = images.images.permute(0, 2, 3, 1).contiguous().to(device)
        self.labels = images.labels.to(device)
        self.channels, self.size = int(images.images.shape[1]), (images.images.shape[2], images.images.shape[3])
        self.classes = images.classes

    def __len__(self) -> int:
        return len(self.labels)


class TestImages:
    """The test images on the device, shared by all runs: uint8 (N, C, H, W), and their labels."""

    def __init__(self, images: ImageSet, device: torch.device) -> None:
        self.images, self.labels = images.images.to(device), images.labels.to(device)
        # a GPU is not filled by a batch of the training's size
        self.batch_size = 1000 if device.type == "cuda" else None


def cosine_rates(first: float, steps: int) -> list[float]:
    """Return the learning rates from `first` to zero along half a cosine, one for each step and one after the last.

    Each is computed from the one before, as `torch.optim.lr_scheduler.CosineAnnealingLR` does, to the same bits.
    """
    rates = [first]
    for step in range(1, steps + 1):
        factor = (1 + math.cos(math.pi * step / steps)) / (1 + math.cos(math.pi * (step - 1) / steps))
        rates.append(factor * rates[-1])
    return rates


class TrainingRun:
    """Everything that changes from step to step.

    Args:
        architecture: a name in the table.
        recipe: how to train it.
        data: the training images.
        seed: of the initialization and of all random draws.
        device: where it is computed.
        precision: "fp32", or "bf16" for autocast to bfloat16 with channels_last.
        dtype: of the weights, the inputs and the loss; only tests that compare with other code change it.
    """

    def __init__(
        self,
        architecture: str,
        recipe: Recipe,
        data: TrainingData,
        seed: int,
        device: torch.device,
        precision: Precision = "fp32",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.recipe, self.data, self.device, self.precision, self.dtype = recipe, data, device, precision, dtype
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers are the caller's
            torch.manual_seed(seed)
            model = create_model(architecture, num_classes=data.classes, in_chans=data.channels)
        self.memory_format = torch.channels_last if precision == "bf16" else torch.contiguous_format
        self.model = model.to(device, dtype).to(memory_format=self.memory_format)
        self.normalize = Normalize(recipe.preprocessing).to(device)
        self.steps_per_epoch = recipe.steps_per_epoch(len(data))
        self.total_steps = recipe.steps or recipe.epochs * self.steps_per_epoch
        self._cosine = cosine_rates(recipe.learning_rate, self.total_steps) if recipe.schedule == "cosine" else []
        # all batches of a captured step have one size
        captured = device.type == "cuda" and (recipe.drop_incomplete or len(data) % recipe.batch_size == 0)
        rate = torch.zeros((), device=device) if captured else recipe.learning_rate
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True if captured else None,  # of the fast forms, the one that reads its rate from a tensor
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.done_steps = 0
        self.loss_sum, self.wrong_sum = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self.captured = CapturedStep(self) if captured else None

    def draw_epoch(self) -> list[Draws]:
        """Draw the random numbers of the next epoch."""
        return draw_epoch(self.recipe, len(self.data), self.data.size, self.generator)

    def start_epoch(self, batches: list[Draws]) -> int:
        """Make ready for an epoch with these draws, and return the number of its steps."""
        self.model.train()
        self._batches = batches
        steps = min(len(batches), self.total_steps - self.done_steps)
        if self.captured is not None:
            rates = [self.learning_rate(self.done_steps + step) for step in range(steps)]
            self.captured.load(join(batches), torch.tensor(rates + [0.0] * (len(batches) - steps)))
        with self.on_stream():
            self.loss_sum.zero_()
            self.wrong_sum.zero_()
        return steps

    def run_step(self, step: int) -> None:
        """Run one step of the epoch, counted from 0."""
        if self.captured is not None:
            self.captured.replay()
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.done_steps)
            self.compute_step(self._batches[step].to(self.device))
        self.done_steps += 1

    def compute_step(self, draws: Draws) -> None:
        """Compute one step: change the images, forward, loss, backward, update."""
        pixels = prepare_batch(self.data.images, draws, self.recipe, self.normalize)
        # a clone, because strides of an image with one channel can be read as either format
        pixels = pixels.clone(memory_format=self.memory_format).to(self.dtype)
        labels = self.data.labels.index_select(0, draws.index)
        # the cache of cast weights is off: a captured graph must cast the weights as they are at each step
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16", cache_enabled=False):
            logits = self.model(pixels)
        loss, wrong = loss_and_errors(logits.to(self.dtype), labels, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(labels)
        self.wrong_sum += wrong

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 at the start of the training."""
        recipe = self.recipe
        if recipe.schedule == "cosine":
            return self._cosine[step + recipe.first_cosine_step]
        place = step if recipe.steps is not None else step // self.steps_per_epoch
        return recipe.learning_rate * recipe.decay ** sum(place >= milestone for milestone in recipe.milestones)

    def on_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which operations are queued behind the run's steps, and behind the caller's stream."""
        if self.captured is None:
            return contextlib.nullcontext()
        # the network was made and restored on the caller's stream
        self.captured.stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(self.captured.stream)

    def read_sums(self) -> tuple[float, int]:
        """Return the sum of the losses and the number of wrong images since the epoch began."""
        with self.on_stream():
            return self.loss_sum.item(), int(self.wrong_sum)

    @torch.inference_mode()
    def count_wrong(self, test: TestImages) -> int:
        """Count the wrong predictions on all images of a split, in fp32."""
        self.model.eval()
        with self.on_stream():
            batches = torch.split(test.images, test.batch_size or self.recipe.batch_size)
            inputs = (self.normalize(pixels).to(memory_format=self.memory_format) for pixels in batches)
            predicted = torch.cat([self.model(pixels).argmax(1) for pixels in inputs])
            return int((predicted != test.labels).sum())

    def state(self) -> dict[str, Tensor]:
        """Return the tensors from which the run can go on, by name."""
        momenta = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        return tensors | {f"momentum.{place}": kept["momentum_buffer"] for place, kept in momenta.items()}

    def restore(self, tensors: Mapping[str, Tensor], done_steps: int) -> None:
        """Go on from tensors that `state` returned."""

        def part(start: str) -> dict[str, Tensor]:
            return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

        self.model.load_state_dict(part("model."))
        parameters = list(self.model.parameters())
        for place, tensor in part("momentum.").items():
            parameter = parameters[int(place)]
            # in the parameter's memory format, which the fused optimizer asks for
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(tensor).detach()
        self.done_steps = done_steps


class CapturedStep:
    """A run's step as one CUDA graph. It reads its draws and its learning rate from tensors that stay in place."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.stream = torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def load(self, draws: Draws, rates: Tensor) -> None:
        """Write the draws and learning rates of an epoch where the graph reads them; capture the graph at first."""
        with self.run.on_stream():
            if self.graph is None:
                self.draws, self.rates = draws.to(self.run.device), rates.to(self.run.device)
                self.position = torch.zeros(1, dtype=torch.int64, device=self.run.device)
                self.rows = torch.arange(self.run.recipe.batch_size, device=self.run.device)
                self._capture()
            else:
                self.draws.copy_from(draws)
                self.rates.copy_(rates, non_blocking=True)
            self.position.zero_()

    def replay(self) -> None:
        """Queue one step on the run's stream."""
        assert self.graph is not None
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def _step(self) -> None:
        for group in self.run.optimizer.param_groups:
            group["lr"].copy_(self.rates.index_select(0, self.position)[0])
        self.run.compute_step(self.draws.select(self.rows + self.position * self.run.recipe.batch_size))
        self.position.add_(1)

    def _capture(self) -> None:
        """Run a few steps, capture one, and put everything that they changed back."""
        run = self.run
        before = {name: tensor.clone() for name, tensor in run.state().items()}
        for _ in range(_WARM_UP_STEPS):
            self._step()
            self.position.zero_()  # an epoch may have fewer steps
        run.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._step()
        with torch.no_grad():
            for name, tensor in run.state().items():
                if name in before:
                    tensor.copy_(before[name])
                else:  # a momentum that the first step made; SGD's first step is that of a momentum of zero
                    tensor.zero_()
            run.loss_sum.zero_()
            run.wrong_sum.zero_()
