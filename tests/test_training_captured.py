"""What surrounds a captured step, on a CPU: a stand-in for CUDA graphs runs the step again instead of replaying it.

It shows that the step reads its draws and its learning rate from the right places, epoch after epoch. It also shows
that the steps before the capture leave nothing behind. What only a GPU can show is in test_training_gpu.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from training_tools import load_few_digits

from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.training.captured_step import CapturedStep
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
# two steps in each epoch, fewer than are run before the capture
RECIPE = dataclasses.replace(
    get_recipe("digits"),
    name="short",
    epochs=3,
    drop_incomplete=True,
    flip=True,
    cutout=3,
    random_erasing=0.5,
    mixup=1.0,
    learning_rate=0.125,  # powers of two are equal as float32 and float64
    schedule="steps",
    milestones=(1, 2),
    decay=0.5,
)


class Stream:
    """A stand-in for a stream: on a CPU everything is in order anyway."""

    def __init__(self, device: torch.device) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


class Graph:
    """A stand-in for a captured graph: it runs what was captured again."""

    step: Callable[[], None]

    def replay(self) -> None:
        self.step()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def capture(graph: Graph, stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    real = CapturedStep._capture

    def capture_step(self: Any) -> None:
        real(self)
        self.graph.step = self._run_next_step

    monkeypatch.setattr(CapturedStep, "_capture", capture_step)


@pytest.fixture(scope="module")
def few() -> ImageSet:
    return load_few_digits()


def make_run(few: ImageSet, recipe: Recipe, *, captured: bool) -> TrainingRun:
    run = TrainingRun("wrn_16_1", recipe, TrainingImages(few, CPU), 0, CPU)
    if captured:
        run.captured = CapturedStep(run)
        for group in run.optimizer.param_groups:
            group["lr"], group["foreach"] = torch.zeros(()), False  # as a tensor, which only some forms read
    return run


def run_epoch(run: TrainingRun) -> tuple[float, int]:
    for step in range(run.start_epoch(run.draw_epoch())):
        run.run_step(step)
    return run.read_sums()


def require_equal(a: TrainingRun, b: TrainingRun) -> None:
    found, expected = a.state(), b.state()
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("changes", [{}, {"steps": 5, "milestones": (3,)}], ids=["epochs", "steps"])
def test_a_captured_step_does_what_a_step_does(stand_in: None, few: ImageSet, changes: dict[str, Any]) -> None:
    recipe = dataclasses.replace(RECIPE, **changes)
    plain, captured = (make_run(few, recipe, captured=kind) for kind in (False, True))
    for _ in range(3):
        assert run_epoch(captured) == run_epoch(plain)
        require_equal(captured, plain)
    assert captured.done_steps == plain.done_steps == captured.schedule.total_steps


def test_capturing_leaves_nothing_behind(stand_in: None, few: ImageSet) -> None:
    run, untouched = (make_run(few, RECIPE, captured=kind) for kind in (True, False))
    assert run.start_epoch(run.draw_epoch()) == 2
    assert run.read_sums() == (0.0, 0)
    state, expected = run.state(), untouched.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    momenta = [tensor for name, tensor in state.items() if name not in expected]
    assert len(momenta) == len(list(run.model.parameters()))
    assert not any(tensor.any() for tensor in momenta)


def test_a_restored_run_is_captured_with_its_momenta(stand_in: None, few: ImageSet) -> None:
    whole = make_run(few, RECIPE, captured=True)
    run_epoch(whole)
    kept = {name: tensor.clone() for name, tensor in whole.state().items()}
    order = whole.generator.get_state()
    run_epoch(whole)
    resumed = make_run(few, RECIPE, captured=True)
    resumed.restore(kept, 2)
    resumed.generator.set_state(order)
    run_epoch(resumed)
    require_equal(resumed, whole)
