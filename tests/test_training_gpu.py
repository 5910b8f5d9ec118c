"""Training on a GPU: captured steps do what single operations do, and the same seed gives the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_tools import Watch

from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.training.augmentation import Draws
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.logged_run import Task, TrainingResult
from pyramidzoo.training.loop import train, train_together
from pyramidzoo.training.step import Precision, TrainingRun

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# nine steps in each epoch, and twelve of 300 images are left over
RECIPE = dataclasses.replace(
    get_recipe("he2015_cifar10"), name="short", batch_size=32, epochs=2, steps=None, milestones=(1,)
)
EVERYTHING = dataclasses.replace(RECIPE, cutout=8, random_erasing=0.5, mixup=1.0)
# the rate is low, so that rounding does not grow: what is compared is the computation, not how chaotic training is
GENTLE = dataclasses.replace(EVERYTHING, learning_rate=0.01)


def make_run(
    images: ImageSet, device: torch.device, recipe: Recipe = GENTLE, precision: Precision = "fp32"
) -> TrainingRun:
    return TrainingRun("resnet20", recipe, TrainingImages(images, device), 0, device, precision)


def captured_losses(run: TrainingRun, epochs: int) -> list[float]:
    """The mean loss of each step, as the captured graph computes it."""
    assert run.captured is not None
    losses = []
    for _ in range(epochs):
        steps = run.start_epoch(run.draw_epoch())
        before = 0.0
        for step in range(steps):
            run.run_step(step)
            total, _ = run.read_sums()
            losses.append((total - before) / run.recipe.batch_size)
            before = total
    return losses


def eager_losses(run: TrainingRun, epochs: int) -> list[float]:
    """The same without a graph, one operation after the other, on the device of the run."""
    run.model.train()
    losses = []
    for epoch in range(epochs):
        for step, draws in enumerate(run.draw_epoch()):
            rate = run.schedule.learning_rate(epoch * run.schedule.steps_per_epoch + step)
            for group in run.optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            run.loss_sum.zero_()
            run.compute_step(draws.to(run.device))
            losses.append(run.loss_sum.item() / run.recipe.batch_size)
    return losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_and_eager_steps_agree(small_set: ImageSet, precision: Precision) -> None:
    """The same kernels in the same order, up to algorithms that cuDNN may choose otherwise: a few roundings."""
    with strict_arithmetic():
        captured = captured_losses(make_run(small_set, CUDA, precision=precision), 2)
        eager = eager_losses(make_run(small_set, CUDA, precision=precision), 2)
    assert len(captured) == 18
    # fp32 has 24 bits and bf16 has 8; rounding grows over 18 steps
    assert captured == pytest.approx(eager, rel=1e-4 if precision == "fp32" else 0.03)


def test_a_gpu_computes_the_losses_of_the_cpu(small_set: ImageSet) -> None:
    """Weights, draws and learning rates come from the CPU, so only the order of sums differs."""
    with strict_arithmetic():
        on_cpu = eager_losses(make_run(small_set, CPU), 1)
        on_gpu = captured_losses(make_run(small_set, CUDA), 1)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-4)  # 24 bits, and rounding grows over 9 steps


def test_the_graph_reads_the_draws_and_rates_of_the_cpu(small_set: ImageSet) -> None:
    """Every draw of every step of two epochs, exactly. A step that only writes down what it reads is captured."""
    run, other = (make_run(small_set, device, EVERYTHING) for device in (CUDA, CPU))
    seen: dict[str, Tensor] = {}
    rate = torch.zeros((), device=CUDA)

    def write_down(draws: Draws) -> None:
        for name, tensor in draws.tensors().items():
            if name not in seen:  # in a step before the captured one
                seen[name] = torch.zeros_like(tensor)
            seen[name].copy_(tensor)
        rate.copy_(run.optimizer.param_groups[0]["lr"])

    run.compute_step = write_down  # type: ignore[method-assign]
    for epoch in range(2):
        batches = other.draw_epoch()
        assert run.start_epoch(run.draw_epoch()) == len(batches) == 9
        for step, expected in enumerate(batches):
            run.run_step(step)
            torch.cuda.synchronize()
            assert sorted(seen) == sorted(expected.tensors())
            assert len(seen) == 8  # all that there is
            for name, tensor in expected.tensors().items():
                assert torch.equal(seen[name].cpu(), tensor), (epoch, step, name)
            assert rate.item() == pytest.approx([0.1, 0.01][epoch], rel=1e-7)  # float32


def test_capturing_changes_nothing(small_set: ImageSet) -> None:
    """The steps before the captured one are undone: weights, statistics, and the sums of losses."""
    run = make_run(small_set, CUDA)
    before = {name: tensor.clone() for name, tensor in run.state().items()}
    run.start_epoch(run.draw_epoch())
    assert run.read_sums() == (0.0, 0)
    after = run.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not after[name].any() for name in after if name not in before)  # momenta


def test_epochs_shorter_than_the_steps_before_capture(small_set: ImageSet) -> None:
    """Two steps in an epoch; before the capture three are run."""
    recipe = dataclasses.replace(GENTLE, batch_size=150)
    with strict_arithmetic():
        captured = captured_losses(make_run(small_set, CUDA, recipe), 2)
        eager = eager_losses(make_run(small_set, CUDA, recipe), 2)
    assert len(captured) == 4
    assert captured == pytest.approx(eager, rel=1e-4)  # as above


@pytest.mark.parametrize("name", ["captured", "with an incomplete batch"])
def test_the_same_seed_gives_the_same_bytes(name: str, small_set: ImageSet, tmp_path: Path) -> None:
    recipe = RECIPE if name == "captured" else dataclasses.replace(RECIPE, drop_incomplete=False)
    assert (make_run(small_set, CUDA, recipe).captured is not None) == (name == "captured")
    first, again, other = (
        train("resnet20", recipe, small_set, small_set, seed=seed, device=CUDA, output=tmp_path / folder)
        for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.path.read_bytes() != other.path.read_bytes()


def test_eight_together_equal_one_alone(small_set: ImageSet, tmp_path: Path) -> None:
    tasks = [Task("resnet20", EVERYTHING, seed) for seed in range(8)]
    together = train_together(tasks, small_set, small_set, device=CUDA, output=tmp_path / "all")
    for seed in (0, 5):
        (alone,) = train_together([tasks[seed]], small_set, small_set, device=CUDA, output=tmp_path / "alone")
        beside = together[seed]
        assert alone is not None
        assert beside is not None
        assert beside.path.read_bytes() == alone.path.read_bytes()


def test_an_interruption_on_a_gpu(small_set: ImageSet, tmp_path: Path) -> None:
    """A new graph is captured, and the momenta of the checkpoint are in it."""

    def run(folder: str, watch: Watch) -> TrainingResult:
        return train(
            "resnet20", EVERYTHING, small_set, small_set, seed=0, device=CUDA, output=tmp_path / folder, report=watch
        )

    whole = run("whole", Watch())
    with pytest.raises(KeyboardInterrupt):
        run("cut", Watch(stop_after=1))
    assert run("cut", Watch()).path.read_bytes() == whole.path.read_bytes()


def test_the_test_error_is_what_evaluate_counts(small_set: ImageSet, tmp_path: Path) -> None:
    trained = train("resnet20", RECIPE, small_set, small_set, seed=0, device=CUDA, output=tmp_path)
    record = evaluate(EvaluationTarget.from_file(trained.path), small_set, ComputeSettings(CUDA))
    assert abs(trained.last["test_error"] - record.top1_error) <= 100 / 300  # one image: the batches have other sizes


def test_digits_are_learned_in_bf16(tmp_path: Path) -> None:
    images, test = (load_dataset("digits", split, None) for split in ("train", "test"))
    recipe = dataclasses.replace(get_recipe("digits"), name="quick", epochs=10, drop_incomplete=True)
    tasks = [Task("wrn_16_1", recipe, seed) for seed in range(2)]
    results = train_together(
        tasks, images, test, device=CUDA, output=tmp_path, precision="bf16", fixed_algorithms=False
    )
    for trained in results:
        assert trained is not None
        assert trained.last["test_error"] < 25  # guessing is wrong nine times in ten
