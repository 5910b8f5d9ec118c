"""The folder that is published: the weights, the configuration, and which folders are written to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import random_state
from hub_server import HubServer
from huggingface_hub import constants
from publishing import (
    BUNDLED_ID,
    PACKAGE_MANIFEST,
    REPOSITORY,
    assert_mentions,
    publish,
)

import pyramidzoo
from pyramidzoo.catalog.manifest import read_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import file_hash
from pyramidzoo.hub.prepare import CARD_NAME, CONFIG_NAME, FILE_NAMES, WEIGHTS_NAME, prepare_folder
from pyramidzoo.weights.fetch import fetch


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_weights_are_the_fetched_file(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    prepared = prepare_folder(lab_entry, tmp_path / "made", "lab/net")
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(FILE_NAMES)
    weights = prepared.folder / WEIGHTS_NAME
    assert weights.read_bytes() == fetch(lab_entry).path.read_bytes()
    assert (prepared.sha256, prepared.bytes) == (file_hash(weights), weights.stat().st_size)
    assert prepared.tensors_sha256 == tensors_sha256(random_state("wrn_16_1"))
    model = pyramidzoo.create_model("wrn_16_1", weights=weights)
    assert model.preprocessing == lab_entry.preprocessing


def test_the_configuration(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    folder = prepare_folder(lab_entry, tmp_path / "made", "lab/net").folder
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    assert config["architecture"] == "pyramidzoo_wrn_16_1"
    assert (config["num_classes"], config["num_features"]) == (10, 64)
    assert "model_args" not in config
    cfg = config["pretrained_cfg"]
    assert cfg.keys() >= {"input_size", "mean", "std", "crop_pct", "interpolation", "first_conv", "classifier"}
    assert (cfg["tag"], cfg["license"], cfg["classifier"]) == ("cifar10_lab", "MIT", "fc")
    assert "url" not in cfg
    assert config["pyramidzoo"]["id"] == lab_entry.id
    expected_preprocessing = json.loads(json.dumps(dataclasses.asdict(lab_entry.preprocessing)))
    assert config["pyramidzoo"]["preprocessing"] == expected_preprocessing


def test_the_same_weights_always_give_the_same_bytes(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    first = prepare_folder(lab_entry, tmp_path / "a", "lab/net").folder
    second = prepare_folder(lab_entry, tmp_path / "b", "lab/net").folder
    assert sorted(read_folder(first)) == sorted(FILE_NAMES)
    assert read_folder(first) == read_folder(second)


def test_a_folder_of_a_killed_run_is_completed(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    complete = prepare_folder(lab_entry, tmp_path / "complete", "lab/net").folder
    interrupted = tmp_path / "interrupted"
    interrupted.mkdir()
    (interrupted / CONFIG_NAME).write_bytes((complete / CONFIG_NAME).read_bytes())  # the file that is written first
    (interrupted / f".{WEIGHTS_NAME}.0123456789abcdef.part").write_bytes(b"half")
    prepare_folder(lab_entry, interrupted, "lab/net")
    assert read_folder(interrupted) == read_folder(complete)


@pytest.mark.parametrize("change", [{"mean": (0.1, 0.1, 0.1)}, {"resize": 40}])
def test_the_manifests_preprocessing_replaces_that_of_the_file(
    lab_entry: WeightsEntry, change: dict[str, Any], tmp_path: Path
) -> None:
    fetched = fetch(lab_entry)
    corrected = dataclasses.replace(lab_entry, preprocessing=dataclasses.replace(lab_entry.preprocessing, **change))
    prepared = prepare_folder(corrected, tmp_path / "made", "lab/net")
    description = Description.from_file(prepared.folder / WEIGHTS_NAME)
    assert description is not None
    assert description.preprocessing == corrected.preprocessing
    assert prepared.sha256 != fetched.sha256


def test_another_number_of_classes_is_refused(lab_entry: WeightsEntry, tmp_path: Path) -> None:
    fetch(lab_entry)
    with pytest.raises(IntegrityError, match=r"does not hold wrn_16_1.* 10 classes, expected .* 11 classes"):
        prepare_folder(dataclasses.replace(lab_entry, num_classes=11), tmp_path / "made", "lab/net")


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    # Nothing else compares the tensors of bundled weights with the manifest.
    bundled = dataclasses.replace(read_manifest(PACKAGE_MANIFEST).find(BUNDLED_ID), tensors_sha256="0" * 64)
    with pytest.raises(IntegrityError, match=f"does not hold {BUNDLED_ID}.* expected 0000"):
        prepare_folder(bundled, tmp_path / "made", "lab/net")


@pytest.mark.server
def test_a_dry_run_needs_no_network(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert publish(BUNDLED_ID, "--org", "lab", "--dry-run") == 0
    assert capsys.readouterr().out.strip() == str(Path("publish", BUNDLED_ID))
    folder = tmp_path / "publish" / BUNDLED_ID
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILE_NAMES)

    # A folder of the same weights is written again.
    (folder / CARD_NAME).write_text("old")
    assert publish(BUNDLED_ID, "--org", "lab", "--dry-run", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["repository"], row["sha256"]) == (
        "prepared",
        REPOSITORY,
        file_hash(folder / WEIGHTS_NAME),
    )
    assert (folder / CARD_NAME).read_text(encoding="utf-8").startswith("---\n")
    assert hub.requests == []


@pytest.mark.parametrize("content", ["a file of another name", "another id", "a file beside the three"])
def test_a_folder_with_something_else_is_not_touched(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / BUNDLED_ID
    folder.mkdir()
    if content == "a file beside the three":
        assert publish(BUNDLED_ID, "--org", "lab", "--dry-run", "--output", tmp_path) == 0
        name = "notes.txt"
    else:
        name = CARD_NAME if content == "a file of another name" else CONFIG_NAME
    (folder / name).write_text('{"pyramidzoo": {"id": "resnet20.digits_zoo"}}')
    before = read_folder(folder)
    assert publish(BUNDLED_ID, "--org", "lab", "--dry-run", "--output", tmp_path) == 2
    assert_mentions(capsys.readouterr().err, str(folder), "something else", BUNDLED_ID, "--output")
    assert read_folder(folder) == before
