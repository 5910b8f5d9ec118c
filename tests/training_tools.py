"""What the tests of training share: few images, and a report that watches or interrupts a training."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.training.step import TrainingRun


def load_few_digits() -> ImageSet:
    """The first 150 training digits: three batches of 64, the last one incomplete."""
    digits = load_dataset("digits", "train", None)
    return dataclasses.replace(digits, images=digits.images[:150], labels=digits.labels[:150], fingerprint="f" * 64)


class Watch:
    """A `report` for `train` and `train_together`. It notes the numbers of the epochs, and may interrupt one.

    Args:
        stop_after: the epoch after which the training is interrupted, as by Ctrl-C.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.epochs: list[int] = []

    def __call__(self, *arguments: Any) -> None:
        epoch = arguments[-1]  # `train_together` reports the task before it
        self.epochs.append(epoch.epoch)
        if epoch.epoch == self.stop_after:
            raise KeyboardInterrupt


def require_two_steps(training: TrainingRun) -> None:
    """Train two steps of four images, and require finite losses and that every weight changed."""
    before = {name: parameter.detach().clone() for name, parameter in training.model.named_parameters()}
    training.start_epoch(training.draw_epoch())
    for step in range(2):
        training.run_step(step)
    loss, wrong = training.read_sums()
    assert 0 < loss < float("inf")
    assert 0 <= wrong <= 8
    # Weight decay alone changes every weight.
    assert all(not torch.equal(parameter, before[name]) for name, parameter in training.model.named_parameters())
