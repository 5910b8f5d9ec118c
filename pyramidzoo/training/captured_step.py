"""A training step as one CUDA graph.

The whole step is captured once and replayed: gather the batch, change the images, forward, loss, backward, update. To
launch its hundreds of small kernels one by one takes several times as long as to compute them.
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
    """The step of a run as one CUDA graph, on a stream of its own.

    The graph cannot take arguments. So it reads the draws and the learning rates of the epoch from tensors that stay in
    place, at a position that it moves on by itself.

    Args:
        run: the run.

    Attributes:
        stream: where the steps are queued.
        graph: the captured graph; None before the first `load`.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.stream = torch.cuda.Stream(run.device)  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None

    def load(self, draws: Draws, rates: Tensor) -> None:
        """Write the draws and the learning rates of an epoch where the graph reads them.

        The first call captures the graph.
        """
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
        """Queue one step on the stream."""
        assert self.graph is not None
        with torch.cuda.stream(self.stream):
            self.graph.replay()

    def _step(self) -> None:
        for group in self.run.optimizer.param_groups:
            group["lr"].copy_(self.rates.index_select(0, self.position)[0])
        self.run.compute_step(self.draws.select(self.rows + self.position * self.run.recipe.batch_size))
        self.position.add_(1)

    def _capture(self) -> None:
        """Run a few steps, capture one, and undo everything that they changed."""
        run = self.run
        before = {name: tensor.clone() for name, tensor in run.state().items()}
        for _ in range(_WARM_UP_STEPS):
            self._step()
            self.position.zero_()  # an epoch may have fewer steps than these
        run.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._step()
        with torch.no_grad():
            for name, tensor in run.state().items():
                if name in before:
                    tensor.copy_(before[name])
                else:  # A momentum that the first step made. The first step of SGD is that of a momentum of zero.
                    tensor.zero_()
            run.loss_sum.zero_()
            run.wrong_sum.zero_()
