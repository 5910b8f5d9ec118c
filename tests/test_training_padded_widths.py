"""Training with padded widths: the parameters of the plain network, zeros behind them, and files with true widths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_tools import Watch, load_few_digits

from pyramidzoo import cli, create_model
from pyramidzoo.catalog.recipes import get_recipe
from pyramidzoo.catalog.training_record import METADATA_KEY, read_training
from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.errors import UsageError
from pyramidzoo.models.pyramidnet import CifarPyramidNet
from pyramidzoo.training import step
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.logged_run import RunSettings, Task
from pyramidzoo.training.loop import train_together
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
RECIPE = get_recipe("digits").replace(batch_size=10, epochs=2)
SHALLOW: dict[str, dict[str, Any]] = {
    # widths 20 25 29 34 38 43: some blocks have as many padded channels as the next one, others have fewer
    "basic": {"depth": 14, "alpha": 26.5, "bottleneck": False},
    # widths 18 19 21 22 24 25; the maps have 72, 76, 84, 88, 96 and 100 channels
    "bottleneck": {"depth": 20, "alpha": 9.0, "bottleneck": True},
}


@pytest.fixture(scope="module")
def few() -> ImageSet:
    digits = load_few_digits()
    return dataclasses.replace(digits, images=digits.images[:100], labels=digits.labels[:100])


@pytest.fixture(params=SHALLOW)
def shallow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A shallow network of the same class takes the place of each PyramidNet."""

    def create_shallow(architecture: str, **arguments: Any) -> CifarPyramidNet:
        return CifarPyramidNet(**SHALLOW[request.param], **arguments)

    monkeypatch.setattr(step, "create_model", create_shallow)
    kind: str = request.param
    return kind


def make_run(few: ImageSet, *, pad_widths: bool, **options: Any) -> TrainingRun:
    data = TrainingImages(few, CPU)
    return TrainingRun("pyramidnet110_a48", RECIPE, data, 3, CPU, pad_widths=pad_widths, **options)


def run_epoch(run: TrainingRun) -> tuple[float, int]:
    for number in range(run.start_epoch(run.draw_epoch())):
        run.run_step(number)
    return run.read_sums()


def find_added_values(run: TrainingRun) -> list[Tensor]:
    """What stands behind the values of the plain network: in parameters, in momenta and in running means."""
    assert run.padded_widths is not None
    tensors = dict(run.model.state_dict())
    for name, parameter in run.model.named_parameters():
        tensors[f"momentum of {name}"] = run.optimizer.state[parameter]["momentum_buffer"]
    added = []
    for name, tensor in tensors.items():
        if not name.endswith("running_var"):
            rest = tensor.clone()
            run.padded_widths.cut(name.removeprefix("momentum of "), rest).zero_()
            added.append(rest)
    return added


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"grad_checkpointing": True}])
def test_twenty_steps_give_the_parameters_of_the_plain_network(few: ImageSet, options: dict[str, Any]) -> None:
    plain, padded = (make_run(few, pad_widths=value, dtype=torch.float64, **options) for value in (False, True))
    start = {name: tensor.clone() for name, tensor in plain.state().items()}
    assert all(torch.equal(tensor, start[name]) for name, tensor in padded.state().items())
    for _ in range(2):
        assert run_epoch(padded) == pytest.approx(run_epoch(plain), rel=1e-10)
    assert plain.done_steps == 20
    expected, found = plain.state(), padded.state()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10)
    assert not torch.equal(expected["model.fc.weight"], start["model.fc.weight"])
    # Exactly zero: each gradient is a sum of products with a zero, or was set to zero.
    assert not any(added.any() for added in find_added_values(padded))


@pytest.mark.usefixtures("shallow")
def test_all_widths_are_multiples_of_8(few: ImageSet) -> None:
    plain, padded = (make_run(few, pad_widths=value).model for value in (False, True))
    kept = {("conv1.weight", 1), ("fc.weight", 0), ("fc.bias", 0)}
    for (name, tensor), larger in zip(plain.state_dict().items(), padded.state_dict().values(), strict=True):
        for axis, size in enumerate(tensor.shape[:2]):
            assert larger.shape[axis] == (size if (name, axis) in kept else (size + 7) // 8 * 8)


@pytest.mark.usefixtures("shallow")
def test_a_state_continues_with_and_without_padding(few: ImageSet) -> None:
    first = make_run(few, pad_widths=True, dtype=torch.float64)
    run_epoch(first)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    order = first.generator.get_state()
    run_epoch(first)
    for pad_widths in (True, False):
        second = make_run(few, pad_widths=pad_widths, dtype=torch.float64)
        second.restore(state, 10)
        second.generator.set_state(order)
        run_epoch(second)
        for name, tensor in first.state().items():
            torch.testing.assert_close(second.state()[name], tensor, rtol=0, atol=0 if pad_widths else 1e-10)


@pytest.mark.usefixtures("shallow")
def test_an_interrupted_run_ends_with_the_same_bytes(few: ImageSet, tmp_path: Path) -> None:
    task = Task("pyramidnet110_a48", RECIPE, 0)
    options: dict[str, Any] = {"device": CPU, "precision": "bf16", "pad_widths": "auto"}
    (whole,) = train_together([task], few, few, output=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train_together([task], few, few, output=tmp_path / "cut", report=Watch(stop_after=1), **options)
    (resumed,) = train_together([task], few, few, output=tmp_path / "cut", **options)
    assert whole is not None
    assert resumed is not None
    assert whole.path.read_bytes() == resumed.path.read_bytes()

    metadata = read_metadata(whole.path)
    assert json.loads(metadata[METADATA_KEY])["run"]["pad_widths"] == 8
    training = read_training(metadata, whole.path)
    assert training is not None
    assert training.recipe_data == json.loads(json.dumps(RECIPE.as_data()))  # so it answers the rows of its recipe
    with pytest.raises(UsageError, match="these settings"):
        train_together([task], few, few, output=tmp_path / "cut", **{**options, "pad_widths": "off"})


@pytest.mark.parametrize("architecture", ["pyramidnet110_a48", "pyramidnet164_a48"])
def test_a_file_has_the_logits_of_the_padded_network(
    few: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """One step of a whole network. The file is read without any option."""
    ten = dataclasses.replace(few, images=few.images[:10], labels=few.labels[:10])
    runs: list[TrainingRun] = []
    real = TrainingRun.run_step

    def note(run: TrainingRun, number: int) -> None:
        runs.append(run)
        real(run, number)

    monkeypatch.setattr(TrainingRun, "run_step", note)
    task = Task(architecture, RECIPE.replace(epochs=1), 0)
    (result,) = train_together([task], ten, ten, device=CPU, output=tmp_path, pad_widths="on")
    assert result is not None
    plain = create_model(architecture, weights=result.path, num_classes=10, in_chans=1).eval()
    inputs = runs[0].normalize(ten.images)
    with torch.inference_mode():
        torch.testing.assert_close(runs[0].model.eval()(inputs), plain(inputs), rtol=1e-4, atol=1e-4)
    assert runs[0].model.fc.in_features % 8 == 0
    assert read_tensors(result.path)["fc.weight"].shape == plain.fc.weight.shape


def test_auto_pads_only_where_it_was_measured_to_be_faster() -> None:
    task, other = Task("pyramidnet110_a48", RECIPE, 0), Task("wrn_16_1", RECIPE, 0)
    dropout = Task("pyramidnet110_a48", RECIPE.replace(arguments={"drop_rate": 0.5}), 0)
    settings = RunSettings(CPU, Path(), "bf16", pad_widths="auto")
    assert settings.are_widths_padded(task)
    assert not settings.are_widths_padded(other)
    assert not settings.are_widths_padded(dropout)
    assert not dataclasses.replace(settings, precision="fp32").are_widths_padded(task)
    assert not dataclasses.replace(settings, device=torch.device("cuda")).are_widths_padded(task)
    assert not dataclasses.replace(settings, pad_widths="off").are_widths_padded(task)
    assert settings.as_data(task) == {"precision": "bf16", "pad_widths": 8}
    assert settings.as_data(other) == {"precision": "bf16"}


@pytest.mark.parametrize(
    "options",
    [["wrn_16_1"], ["pyramidnet110_a48", "resnet20"], ["pyramidnet110_a48", "--set", "arguments.drop_rate=1e-1"]],
)
def test_networks_whose_widths_cannot_be_padded(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *options, "--pad-widths", "on", "--output", str(tmp_path / "out")]) == 2
    assert "cannot be padded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
