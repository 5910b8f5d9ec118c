"""`train`: other settings by --set, the log of JSON lines, the time left, and the summary over seeds."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramidzoo.catalog import recipes
from pyramidzoo.catalog.recipes import RECIPES, apply_overrides, get_recipe, parse_overrides
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.cli import main
from pyramidzoo.errors import UsageError
from pyramidzoo.training.logged_run import METADATA_KEY, Task
from pyramidzoo.training.progress import describe_time_left
from pyramidzoo.training.step import TrainingRun
from pyramidzoo.training.summary import summarize_seeds


@pytest.fixture
def short_recipe(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe on the digits that has a name of its own. One epoch is two steps."""
    recipe = get_recipe("digits").replace(name="short", batch_size=449, epochs=1)
    monkeypatch.setattr(recipes, "RECIPES", {**RECIPES, "short": recipe})
    return "short"


def read_history(path: Path) -> dict[str, Any]:
    history: dict[str, Any] = json.loads(read_metadata(path)[METADATA_KEY])
    return history


# --- overrides ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs=2", 2),
        ("learning_rate=1", 1.0),
        ("learning_rate=5e-2", 0.05),
        ("nesterov=false", False),
        ("schedule=cosine", "cosine"),
        ("milestones=60,120", (60, 120)),
        ("milestones=[60, 120]", (60, 120)),
        ("milestones=60", (60,)),
        ("random_area=0.2,1", (0.2, 1)),
        ("random_area=null", None),
        ("arguments.drop_rate=0.3", 0.3),
    ],
)
def test_a_value_is_parsed_as_its_setting_needs_it(text: str, value: object) -> None:
    (parsed,) = parse_overrides([text]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["epoch=2"], "no setting 'epoch'.*epochs"),
        (["qqq=2"], "no setting 'qqq'.*learning_rate.*arguments.NAME"),
        (["epochs"], "KEY=VALUE"),
        (["epochs=1.5"], "epochs.*whole number"),
        (["epochs=true"], "epochs.*whole number"),
        (["nesterov=1"], "nesterov.*true or false"),
        (["schedule=linear"], "cosine, steps, one_cycle"),
        (["milestones=60,x"], "milestones.*list"),
        (["random_area=0.5"], "random_area.*2 values"),
        (["arguments.drop_rate={}"], "drop_rate"),
        (["name=mine"], "cannot change name"),
        (["splits=test"], "cannot change splits"),
        (["cutout=4", "cutout=8"], "cutout.*twice"),
    ],
)
def test_a_wrong_override_is_named(texts: Sequence[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_overrides(texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rate=0", "learning_rate 0.0"),
        ("learning_rate=NaN", "learning_rate nan"),
        ("weight_decay=-1", "weight_decay -1"),
        ("momentum=1", "momentum 1"),
        ("momentum=0", "nesterov needs"),
        ("milestones=120,60", "milestones"),
        ("batch_size=0", "batch_size 0"),
        ("random_erasing=2", "random_erasing 2"),
        ("steps=10", "counted in epochs"),
    ],
)
def test_a_value_out_of_range_is_named(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        apply_overrides(get_recipe("digits"), parse_overrides([text]), 898)


def test_the_length_can_be_given_in_epochs_or_in_steps() -> None:
    recipe = get_recipe("he2015_cifar10")  # 390 whole batches of 128 are an epoch
    of_epochs = apply_overrides(recipe, {"epochs": 2}, 50_000)
    assert (of_epochs.epochs, of_epochs.steps) == (2, 780)
    of_steps = apply_overrides(recipe, {"steps": 400}, 50_000)
    assert (of_steps.epochs, of_steps.steps) == (2, 400)
    with pytest.raises(UsageError, match="epochs and steps"):
        apply_overrides(recipe, {"steps": 400, "epochs": 2}, 50_000)


def test_overrides_are_in_the_file_name_and_cannot_be_confused() -> None:
    recipe = get_recipe("hysts_mnist")
    overrides = {"learning_rate": 0.05, "milestones": (3, 4), "arguments.drop_rate": 0.3, "epochs": 5}
    stem = Task("preresnet20", recipe, 1, overrides).stem
    assert stem == "preresnet20.hysts_mnist.drop_rate-0.3.learning_rate-0.05.milestones-3-4.seed1"
    long = [
        Task("preresnet20", recipe, 1, {"milestones": tuple(range(1, last))}).stem for last in (50, 51)
    ]  # file systems allow 255 bytes
    assert long[0] != long[1]
    assert max(map(len, long)) < 80


@pytest.mark.usefixtures("short_recipe")
def test_overrides_change_the_training_and_are_recorded(tmp_path: Path) -> None:
    command = ["train", "wrn_16_1", "--recipe", "short", "--output", str(tmp_path)]
    assert main([*command, "--set", "learning_rate=0.01", "cutout=2", "--set", "arguments.drop_rate=0.1"]) == 0
    path = tmp_path / "wrn_16_1.short.drop_rate-0.1.cutout-2.learning_rate-0.01.seed0.safetensors"
    history = read_history(path)
    assert history["overrides"] == {"learning_rate": 0.01, "cutout": 2, "arguments.drop_rate": 0.1}
    assert history["run"]["learning_rate"] == 0.01
    assert history["run"]["cutout"] == 2
    assert history["run"]["arguments"] == {"drop_rate": 0.1}
    with path.with_suffix(".csv").open(newline="") as stream:
        assert float(next(csv.DictReader(stream))["learning_rate"]) == 0.01
    assert main(command) == 0
    assert "overrides" not in read_history(tmp_path / "wrn_16_1.short.seed0.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "arguments.drop_rat=0.1"], ["wrn_16_1", "drop_rat", "drop_rate"]),
        (["--set", "arguments.num_classes=3"], ["num_classes"]),
        (["--set", "epochs=2", "--epochs", "3"], ["--epochs", "--set"]),
        (["--set", "hold_out=5000"], ["5000 are left out"]),
    ],
)
def test_the_command_refuses_what_cannot_be(
    options: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "wrn_16_1", "--output", str(tmp_path / "out"), *options]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


# --- logs ---


@pytest.mark.usefixtures("short_recipe")
def test_both_logs_have_the_same_lines(tmp_path: Path) -> None:
    assert main(["train", "wrn_16_1", "--recipe", "short", "--epochs", "2", "--output", str(tmp_path)]) == 0
    stem = tmp_path / "wrn_16_1.short.seed0"
    with stem.with_suffix(".seed0.csv").open(newline="") as stream:
        expected = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(stream)]
    lines = [json.loads(line) for line in stem.with_suffix(".seed0.jsonl").read_text().splitlines()]
    run = {"architecture": "wrn_16_1", "recipe": "short", "seed": 0}
    assert lines == [{**run, **line} for line in expected]
    assert len(lines) == 2


def test_the_time_left_in_words() -> None:
    words = [describe_time_left(seconds) for seconds in (3, 119, 120, 3570, 3600, 7500)]
    assert words == ["3 s left", "2 min left", "2 min left", "1:00 h left", "1:00 h left", "2:05 h left"]


@pytest.mark.usefixtures("short_recipe")
def test_the_lines_say_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "wrn_16_1", "--recipe", "short", "--epochs", "2", "--output", str(tmp_path)]) == 0
    first, last = (line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch"))
    assert first.endswith(" left")
    assert not last.endswith(" left")


@pytest.mark.usefixtures("short_recipe")
def test_too_little_memory_is_an_error_that_says_what_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: TrainingRun, step: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingRun, "run_step", fail)
    assert main(["train", "wrn_16_1", "--recipe", "short", "--output", str(tmp_path)]) == 5
    message = capsys.readouterr().err
    assert "--grad-checkpointing" in message
    assert "--accumulate" in message


# --- the summary over seeds ---


def summarize(recipe: str, architecture: str, errors: Sequence[float | None], **overrides: Any) -> Any:
    tasks = [Task(architecture, get_recipe(recipe), seed, overrides) for seed in range(len(errors))]
    return summarize_seeds(tasks, errors, 10_000)


def test_the_published_statistic_is_used() -> None:
    """H5:1 prints the median of three runs; F1's numbers of the paper are single runs."""
    (summary,) = summarize("hysts_mnist", "preresnet20", [0.5, 0.36, 0.4])
    assert summary.errors == {0: 0.5, 1: 0.36, 2: 0.4}
    assert (summary.median, summary.mean) == (0.4, pytest.approx(0.42))
    assert summary.deviation == pytest.approx(0.07211, abs=1e-5)
    (comparison,) = summary.published
    assert (comparison.row, comparison.by, comparison.value) == ("H5:1", "hysts", "0.38")
    assert comparison.statistic == "median of 3 runs"
    assert (comparison.ours, comparison.verdict) == (0.4, "consistent")


def test_a_mean_is_compared_with_the_mean_and_the_best_with_the_best() -> None:
    """H1:2 prints both of five runs of the paper's ResNet-110."""
    (recipe,) = [r for r in RECIPES.values() if "H1:2 paper" in r.rows]
    (summary,) = summarize(recipe.name, "resnet110", [6.4, 6.5, 7.2])
    ours_by_statistic = {comparison.statistic: comparison.ours for comparison in summary.published}
    assert ours_by_statistic == {"best": 6.4, "mean ± std, ± 0.16": pytest.approx(6.7)}
    assert {comparison.value for comparison in summary.published} == {"6.43", "6.61"}


def test_a_large_difference_is_different() -> None:
    (summary,) = summarize("hysts_mnist", "preresnet20", [9.0])
    assert summary.published[0].verdict == "different"
    assert summary.deviation is None


def test_overrides_and_other_networks_answer_no_published_number() -> None:
    assert summarize("hysts_mnist", "preresnet20", [0.4], cutout=2)[0].published == ()
    assert summarize("hysts_mnist", "resnet20", [0.4])[0].published == ()


def test_trainings_that_have_not_ended_are_left_out() -> None:
    (summary,) = summarize("hysts_mnist", "preresnet20", [None, 0.4])
    assert summary.errors == {1: 0.4}
    assert summarize("hysts_mnist", "preresnet20", [None, None]) == []


@pytest.mark.usefixtures("short_recipe")
def test_the_command_ends_with_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # In a narrow terminal the columns are shortened.
    command = ["train", "wrn_16_1", "--recipe", "short", "--seeds", "0", "1", "--output", str(tmp_path)]
    assert main([*command, "--set", "cutout=2"]) == 0
    header, line = capsys.readouterr().out.splitlines()[-2:]
    files = [tmp_path / f"wrn_16_1.short.cutout-2.seed{seed}.safetensors" for seed in (0, 1)]
    errors = [read_history(path)["last"]["test_error"] for path in files]
    assert header.split()[:5] == ["network", "recipe", "errors", "median", "mean"]
    assert line.split()[:5] == ["wrn_16_1", "short", "cutout=2", *(f"{error:.2f}" for error in errors)]
    assert f"{sum(errors) / 2:.2f}" in line
