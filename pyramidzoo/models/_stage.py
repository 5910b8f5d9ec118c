"""A stage: blocks that are run one after another, with or without gradient checkpointing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Stage(nn.Sequential):
    """Blocks that are run one after another.

    If `grad_checkpointing` is set, the forward pass of a training does not keep the activations inside
    a block. The backward pass computes them again. This saves memory and costs time.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks on a map (N, C, H, W)."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            for block in self.blocks():
                x = _run_checkpointed(block, x)
            return x
        for layer in self:
            x = layer(x)
        return x

    def blocks(self) -> Iterable[nn.Module]:
        """Iterate over the blocks. The backward pass computes one block at a time again."""
        return self


def _run_checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping the activations inside it. The backward pass runs the block again."""

    def make_contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        # PyTorch uses the first context in the forward pass and the second one when it runs the block again.
        return contextlib.nullcontext(), _freeze_running_statistics(block)

    y: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=make_contexts)
    return y


@contextlib.contextmanager
def _freeze_running_statistics(block: nn.Module) -> Iterator[None]:
    """Do not let a block change the running statistics of its BN layers, inside a `with` statement.

    The backward pass runs a block again on the same batch. That batch must not be counted twice.
    """
    bn_layers = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    saved_values = [(bn.momentum, bn.num_batches_tracked) for bn in bn_layers]
    for bn in bn_layers:
        # The running mean becomes (1 - momentum) * running mean + momentum * batch mean, so 0 keeps it. The same holds
        # for the variance. BN does not count batches if the counter is None.
        bn.momentum, bn.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for bn, (momentum, batch_counter) in zip(bn_layers, saved_values, strict=True):
            bn.momentum, bn.num_batches_tracked = momentum, batch_counter
