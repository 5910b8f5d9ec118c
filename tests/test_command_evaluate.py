"""`pyramidzoo evaluate`: what it prints, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from command_line import RunCommand

from pyramidzoo.data import datasets
from pyramidzoo.data._splits import ImageSet

pytestmark = pytest.mark.usefixtures("quick_unpickle")


@pytest.fixture
def tiny_cifar(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset is the small set of random images."""
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, data_dir, download: small_set)


@pytest.mark.usefixtures("tiny_cifar")
def test_evaluate_a_file(run_command: RunCommand, converted_file: Path, tmp_path: Path) -> None:
    result = run_command("evaluate", converted_file, "--output", tmp_path / "results")
    assert result.code == 0, result.err
    assert re.search(r"^mine@[0-9a-f]{8}: cifar10 test, 300 images, cpu", result.out)
    assert "recorded       none" in result.out
    assert "claim          none" in result.out

    document = run_command("evaluate", converted_file, "--format", "json").json()
    (record,) = document["records"]
    assert document["failures"] == []
    assert f"wrong          {record['wrong']} " in result.out
    (row,) = csv.DictReader(io.StringIO(run_command("evaluate", converted_file, "--format", "csv").out))
    assert int(row["wrong"]) == record["wrong"]


@pytest.mark.usefixtures("tiny_cifar")
def test_tables_have_the_records_of_files(run_command: RunCommand, converted_file: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", converted_file, "--output", tmp_path / "results").code == 0
    tables = run_command("tables", "--records", tmp_path / "results")
    assert (tables.code, tables.out.count(" mine@")) == (0, 1)
    assert "Z. Measured, without a published row" in tables.out

    result = run_command("evaluate", converted_file, "--amp", "--output", tmp_path / "results")
    assert "claim          not judged: bf16 is not strict fp32" in result.out
    assert "none (not strict: bf16)" in run_command("tables", "Z", "--records", tmp_path / "results").out


@pytest.mark.usefixtures("tiny_cifar")
def test_one_failure_does_not_stop_the_rest(run_command: RunCommand, converted_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(converted_file.read_bytes()[:-10])
    result = run_command("evaluate", "wrn_16_1.cifar10", damaged, converted_file, "--format", "json")
    assert result.code == 4  # Damage is worse than what is not available.
    document = json.loads(result.out)
    assert [failure["exit_code"] for failure in document["failures"]] == [5, 4]
    assert len(document["records"]) == 1
    assert "cannot get wrn_16_1.cifar10_ferles" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("resnet21",), 2, "no weights are called 'resnet21'"),
        (("resnet20.cifar100",), 2, "no weights are called 'resnet20.cifar100'; did you mean"),
        (("preresnet110_a",), 2, "preresnet110_a has no weights in the manifest"),
        (("nothing.safetensors",), 5, "there is no file nothing.safetensors"),
        (("old.pth",), 2, "`pyramidzoo convert old.pth"),
        (("wrn_16_1.cifar10",), 5, "--data-dir or PYRAMIDZOO_DATA"),
        (("wrn_16_1.cifar10", "--data-dir", "nowhere"), 5, "not in nowhere"),
        (("wrn_16_1", "-b", "0"), 2, "-b must be positive"),
        (("wrn_16_1", "--amp-dtype", "fp16"), 2, "give both"),
        (("./",), 2, "is a folder with no safetensors file"),
        (("x" * 300 + ".safetensors",), 5, "File name too long"),
        (("wrn_16_1.cifar10", "--data-dir", "x" * 300), 5, "File name too long"),
        (("wrn_16_1", "--device", "gpu"), 2, "no device is called 'gpu'"),
        (("wrn_16_1", "--split", "val"), 2, "it has test, train"),
    ],
)
def test_evaluate_refuses(
    run_command: RunCommand, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run_command("evaluate", *arguments)
    assert result.code == code
    assert message in result.err
    assert result.out == ""
    assert list(tmp_path.iterdir()) == []
