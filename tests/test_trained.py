"""The networks in `trained/`: files, records and recipes say the same."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import pyramidzoo
from pyramidzoo.catalog.recipes import RECIPES, get_recipe
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.training.checkpoints import load_checkpoint

TRAINED = Path(__file__).parents[1] / "trained"
FILES = sorted(TRAINED.glob("*/*.safetensors"))


def without_task(run: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that are its recipe's."""
    others = {"architecture", "seed", "data", "precision", "algorithms"}
    return {name: value for name, value in run.items() if name not in others}


def read_history(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(read_metadata(path)["training"])
    return content


def test_there_are_trained_networks() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_recipe_in_a_file_is_the_recipe_of_that_name(path: Path) -> None:
    """A recipe that is changed after a training would claim numbers that it did not give."""
    run = read_history(path)["run"]
    recipe = get_recipe(run["name"])
    expected = json.loads(json.dumps(recipe.as_data()))
    assert without_task(run) == expected
    assert run["architecture"] in recipe.rows.values()
    assert path.stem == f"{run['architecture']}.{recipe.name}.seed{run['seed']}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_record_is_of_this_file_and_agrees_with_the_log(path: Path) -> None:
    record = json.loads(path.with_name(f"{path.stem}.record.json").read_text())
    lines = list(csv.DictReader(path.with_name(f"{path.stem}.csv").read_text().splitlines()))
    history = read_history(path)
    assert pyramidzoo.create_model(history["run"]["architecture"], weights=path).preprocessing is not None
    assert record["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(lines) == RECIPES[history["run"]["name"]].epochs
    # The log was measured on another device in fp32, so single images may differ; here none did.
    assert record["top1_error"] == history["last"]["test_error"] == float(lines[-1]["test_error"])


@pytest.mark.parametrize("path", sorted(TRAINED.glob("unfinished/*.checkpoint")), ids=lambda path: path.stem)
def test_an_unfinished_training_can_go_on(path: Path) -> None:
    """The run that a checkpoint names is still the recipe's, so `train` accepts it; the log has the same epochs."""
    run = json.loads(read_metadata(path)["run"])
    recipe = json.loads(json.dumps(get_recipe(run["name"]).as_data()))
    assert without_task(run) == recipe
    checkpoint = load_checkpoint(path, run)
    assert checkpoint is not None
    lines = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    assert [line["epoch"] for line in checkpoint[1]["epochs"]] == [int(line["epoch"]) for line in lines]
