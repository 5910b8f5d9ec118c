"""A training step as one CUDA graph.

A training step gathers the batch, changes the images, computes the forward pass, the loss and the backward pass, and
updates the weights. These are hundreds of small kernels. To launch them one by one takes several times as long as to
compute them, so the whole step is captured once and then replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyramidzoo.training.augmentation import Draws

if TYPE_CHECKING:
    from pyramidzoo.training.step import TrainingRun

_WARM_UP_STEPS = 3  # PyTorch's documentation asks for them before a capture


class CapturedStep:
    """The training step of a run as one CUDA graph, on its own CUDA stream.

    A CUDA graph takes no arguments. It always reads from and writes to the same memory. So the draws and the learning
    rates of a whole epoch lie in fixed tensors, together with the number of the next step. Each replay reads its own
    part of them, and adds one to that number.

    Args:
        run: The training run.

    Attributes:
        stream: The CUDA stream on which the steps are queued.
        graph: The captured graph; None before the first `load`.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.stream = torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def load(self, draws: Draws, rates: Tensor) -> None:
        """Copy the draws and the learning rates of an epoch to the tensors that the graph reads.

        The first call creates these tensors and captures the graph.

        Args:
            draws: The draws of all steps of the epoch, batch after batch.
            rates: The learning rate of each step, float32.
        """
        with self.run.on_stream():
            if self.graph is None:
                self.draws, self.rates = draws.to(self.run.device), rates.to(self.run.device)
                self.step_in_epoch = torch.zeros(1, dtype=torch.int64, device=self.run.device)
                self.batch_rows = torch.arange(self.run.recipe.batch_size, device=self.run.device)
                self._capture()
            else:
                self.draws.copy_from(draws)
                self.rates.copy_(rates, non_blocking=True)
            self.step_in_epoch.zero_()

    def replay(self) -> None:
        """Queue one step on the stream."""
        assert self.graph is not None
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def _run_next_step(self) -> None:
        """Run the step that `step_in_epoch` names, and add one to it. Only tensor operations, so it can be captured."""
        for group in self.run.optimizer.param_groups:
            group["lr"].copy_(self.rates.index_select(0, self.step_in_epoch)[0])
        self.run.compute_step(self.draws.select(self.batch_rows + self.step_in_epoch * self.run.recipe.batch_size))
        self.step_in_epoch.add_(1)

    def _capture(self) -> None:
        """Run a few steps, capture one, and restore everything that these steps changed."""
        run = self.run
        before = {name: tensor.clone() for name, tensor in run.state().items()}
        for _ in range(_WARM_UP_STEPS):
            self._run_next_step()
            # Without this, the warm-up could read behind the draws of a very short epoch.
            self.step_in_epoch.zero_()
        run.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._run_next_step()
        with torch.no_grad():
            for name, tensor in run.state().items():
                if name in before:
                    tensor.copy_(before[name])
                else:  # The first step created this momentum. SGD's first step equals a step with a momentum of zero.
                    tensor.zero_()
            run.loss_sum.zero_()
            run.wrong_sum.zero_()
