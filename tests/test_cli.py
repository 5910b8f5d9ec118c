"""The command line as people and scripts meet it: what is printed where, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import foreign_checkpoint, random_state

from pyramidzoo import __version__, cli
from pyramidzoo.architectures import architectures
from pyramidzoo.commands import measure
from pyramidzoo.evaluation import datasets
from pyramidzoo.evaluation.datasets import ImageSet
from pyramidzoo.formats import render
from pyramidzoo.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("quick_unpickle")


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Ran:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse's own way out
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "wrn.pth"
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")), path)
    return path


@pytest.fixture
def converted(run: Any, checkpoint: Path, tmp_path: Path) -> Path:
    output = tmp_path / "mine.safetensors"
    done = run(*CONVERT, checkpoint, "--output", output)
    assert done.code == 0, done.err
    return output


CONVERT = ("convert", "--layout", "ferles", "--arch", "wrn_16_1", "--dataset", "cifar10")


def test_version_and_help(run: Any) -> None:
    assert run("--version").out == f"pyramidzoo {__version__}\n"
    shown = run("--help").out
    for command in ("list", "info", "fetch", "convert", "verify", "evaluate", "tables"):
        assert f"    {command} " in shown
        assert run(command, "--help").code == 0


def test_names_need_no_torch() -> None:
    program = (
        "import sys; from pyramidzoo.cli import main; main(['list']); main(['list', '--weights', '--format', 'json']);"
        "assert not {'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, pyramidzoo; assert 'torch' not in sys.modules;"
        "pyramidzoo.create_model('resnet20'); loaded = set(sys.modules);"
        "assert not {'timm', 'torchvision', 'pyramidzoo.models.pyramidnet', 'pyramidzoo.models.wide_resnet'} & loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_list_in_formats_for_programs(run: Any, format: str) -> None:
    text = run("list", "--format", format).out
    rows = json.loads(text) if format == "json" else list(csv.DictReader(io.StringIO(text)))
    assert [row["architecture"] for row in rows] == list(architectures())


def test_list_filters(run: Any) -> None:
    assert len(run("list", "wrn_16_*").out.splitlines()) == 4
    assert len(run("list", "--weights").out.splitlines()) == 1 + len(load_manifest().entries)
    assert len(run("list", "--weights", "wrn*").out.splitlines()) == 5
    assert "wrn_16_1.cifar10_ferles" in run("list", "wrn_16_1.cifar10_ferles").out
    nothing = run("list", "resnet21")
    assert nothing.code == 2
    assert "did you mean" in nothing.err
    assert run("list", "--dataset", "svhn").code == 2


def test_info(run: Any) -> None:
    facts = json.loads(run("info", "wrn_16_1", "--format", "json").out)
    assert (facts["parameters"], facts["weights"]) == (175_066, ["wrn_16_1.cifar10_ferles", "wrn_16_1.digits_zoo"])
    shown = run("info", "resnet20_fattorib.cifar10").out
    assert "top1_error: 8.57" in shown
    assert "9e37644d4807172ab734625ddfe92adfd4f1fc27d131e33490f41eb7d900e9ab" in shown
    assert "mean of batch errors" in run("info", "resnet20_fattorib.cifar10", "--format", "markdown").out
    assert run("info", "resnet20_fattorib.cifar11").code == 2
    assert "did you mean resnet20" in run("info", "resnet21").err


def test_convert_says_what_it_made(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    row = json.loads(run(*CONVERT, checkpoint, "--output", output, "--format", "json").out)[0]
    assert row["path"] == str(output)
    assert row["same tensors as"] is None
    assert "no weights of the manifest" in run(*CONVERT, checkpoint, "--output", output).out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--arch", "resnet21"), 2, "no architecture is called 'resnet21'"),
        (("--layout", "nobody"), 2, "no layout is called 'nobody'"),
        (("--dataset", "cifar11"), 2, "no data set is called 'cifar11'"),
        (("--arch", "wrn_40_1"), 4, "missing: layer|missing: block"),
        (("--dataset", "cifar100"), 2, "give --mean and --std"),
        (("--mean", "0", "0", "0"), 2, "belong together"),
        (("--mean", "0", "0", "0", "--std", "0", "1", "1"), 2, "and std positive"),
        (("--output", "out.pth"), 2, "must end in .safetensors"),
    ],
)
def test_convert_refuses(
    run: Any, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = run(*CONVERT, checkpoint, "--output", tmp_path / "out.safetensors", *arguments)
    assert done.code == code
    assert any(part in done.err for part in message.split("|"))
    assert done.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_checkpoints(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    assert run(*CONVERT, checkpoint, "--output", output).code == 4
    assert run(*CONVERT, tmp_path / "nothing.pth", "--output", output).code == 5
    assert not output.exists()


@pytest.fixture
def tiny_cifar(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, data_dir, download: small_set)


@pytest.mark.usefixtures("tiny_cifar")
def test_evaluate_a_file(run: Any, converted: Path, tmp_path: Path) -> None:
    done = run("evaluate", converted, "--output", tmp_path / "results")
    assert done.code == 0, done.err
    assert re.search(r"^mine@[0-9a-f]{8}: cifar10 test, 300 images, cpu", done.out)
    assert "recorded       none" in done.out
    assert "claim          none" in done.out
    found = json.loads(run("evaluate", converted, "--format", "json").out)
    assert found["failures"] == []
    assert f"wrong          {found['records'][0]['wrong']} " in done.out
    rows = list(csv.DictReader(io.StringIO(run("evaluate", converted, "--format", "csv").out)))
    assert int(rows[0]["wrong"]) == found["records"][0]["wrong"]
    shown = run("tables", "--records", tmp_path / "results")
    assert (shown.code, shown.out.count(" mine@")) == (0, 1)
    assert "Z. Measured, without a published row" in shown.out
    fast = run("evaluate", converted, "--amp", "--output", tmp_path / "results").out
    assert "claim          not judged: bf16 is not strict fp32" in fast
    assert "none (not strict: bf16)" in run("tables", "Z", "--records", tmp_path / "results").out


@pytest.mark.usefixtures("tiny_cifar")
def test_one_failure_does_not_stop_the_rest(run: Any, converted: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(converted.read_bytes()[:-10])
    done = run("evaluate", "wrn_16_1.cifar10", damaged, converted, "--format", "json")
    assert done.code == 4  # integrity comes before what is unavailable
    found = json.loads(done.out)
    assert [failure["exit_code"] for failure in found["failures"]] == [5, 4]
    assert len(found["records"]) == 1
    assert "cannot get wrn_16_1.cifar10_ferles" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("resnet21",), 2, "no weights are called 'resnet21'"),
        (("resnet20.cifar100",), 2, "no weights are called 'resnet20.cifar100'; did you mean"),
        (("wrn_28_10",), 2, "wrn_28_10 has no weights in the manifest"),
        (("nothing.safetensors",), 5, "there is no file nothing.safetensors"),
        (("old.pth",), 2, "`pyramidzoo convert old.pth"),
        (("wrn_16_1.cifar10",), 5, "--data-dir or PYRAMIDZOO_DATA"),
        (("wrn_16_1.cifar10", "--data-dir", "nowhere"), 5, "there is no nowhere"),
        (("wrn_16_1", "-b", "0"), 2, "-b must be positive"),
        (("wrn_16_1", "--amp-dtype", "fp16"), 2, "give both"),
        (("./",), 2, "is a folder; name a safetensors file in it"),
        (("x" * 300 + ".safetensors",), 5, "File name too long"),
        (("wrn_16_1.cifar10", "--data-dir", "x" * 300), 5, "File name too long"),
        (("wrn_16_1", "--device", "gpu"), 2, "no device is called 'gpu'"),
        (("wrn_16_1", "--split", "val"), 2, "it has test, train"),
        (("wrn_16_1", "--batch", "3"), 2, "unrecognized arguments"),
    ],
)
def test_evaluate_refuses(run: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run("evaluate", *arguments)
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_fetch_and_verify(run: Any, tmp_path: Path) -> None:
    missing = run("fetch", "wrn_16_1.cifar10")
    assert missing.code == 5
    assert "offline, as HF_HUB_OFFLINE says" in missing.err
    states = json.loads(run("verify", "--all", "--format", "json").out)
    bundled = {entry.id for entry in load_manifest().entries.values() if entry.bundled}
    assert {state["weights"]: state["state"] for state in states} == {
        weights_id: "good" if weights_id in bundled else "missing" for weights_id in load_manifest().entries
    }
    assert run("verify", "--all").code == 0
    assert run("verify", "wrn_16_1.cifar10").code == 5
    assert run("verify").code == 2
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / "stranger.safetensors").write_bytes(b"x")
    assert run("verify", "--all").code == 4
    (folder / "wrn_16_1.cifar10_ferles.safetensors").write_bytes(b"x")
    altered = run("verify", "wrn_16_1.cifar10")
    assert altered.code == 4
    assert "nothing vouches for it" in altered.out


def test_tables(run: Any, tmp_path: Path) -> None:
    shown = run("tables", "F1", "--format", "markdown").out
    assert shown.startswith("## F1. CIFAR-10 ResNets")
    assert "| 304,378 | resnet20_fattorib.cifar10 | 8.53 | 8.00 to 9.09 |" in shown
    rows = json.loads(run("tables", "P1", "P3", "--format", "json").out)
    assert {row["table"] for row in rows} == {"P1", "P3"}
    assert run("tables", "Z1").code == 2
    assert run("tables", "--records", "nowhere").code == 2
    empty = run("tables", "--records", tmp_path)
    assert (empty.code, "there are no records in" in empty.err) == (2, True)


def test_interrupts_and_bugs_have_their_codes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    def terminated(args: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler would
        return 0

    def broken(args: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(measure, "run_tables", interrupted)
    assert run("tables").code == 130
    monkeypatch.setattr(measure, "run_tables", terminated)
    assert run("tables").code == 130
    monkeypatch.setattr(measure, "run_tables", broken)
    done = run("tables")
    assert (done.code, "internal error, RuntimeError: a bug" in done.err) == (1, True)
    assert "Traceback" not in done.err


def test_verdicts_survive_a_reader_that_leaves_early(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pyramidzoo", "evaluate", "--output", str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.communicate()
    assert process.returncode == 0
    assert len(list(tmp_path.rglob("record.json"))) == 2


@pytest.mark.parametrize(("closing", "code"), [("2>&-", 0), (">&-", 5)])
def test_closed_streams(closing: str, code: int) -> None:
    command = f"{sys.executable} -m pyramidzoo evaluate wrn_16_1.digits --format json {closing}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == code
    if code == 0:
        assert json.loads(done.stdout)["failures"] == []
    else:
        assert "no standard output" in done.stderr


def test_a_stream_that_cannot_spell_everything() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-m", "pyramidzoo", "tables", "H1"]
    assert "\\xb1" in subprocess.run(program, capture_output=True, text=True, env=environment, check=True).stdout


def test_paths_as_people_write_them(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "wrn_16_1.digits", "--output=~/r").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    empty = run("evaluate", "wrn_16_1.digits", "--output", "")
    assert (empty.code, "an empty path" in empty.err) == (2, True)


def test_tables_judge_no_claim_of_a_run_that_is_not_strict(run: Any, tmp_path: Path) -> None:
    for options, shown in (([], "none"), (["--channels-last"], "not judged")):
        output = tmp_path / shown
        assert run("evaluate", "wrn_16_1.digits", *options, "--output", output).code == 0
        (row,) = json.loads(run("tables", "Z", "--records", output, "--format", "json").out)
        assert row["claim"] == shown


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = [sys.executable, "-m", "pyramidzoo", "list", "--format", "json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)


def test_render() -> None:
    rows = [{"name": "a|b", "n": 12345, "list": [1, "x"], "none": None, "flag": True}]
    assert render(rows, "csv") == "name,n,list,none,flag\na|b,12345,1; x,,yes"
    assert render(rows, "markdown").splitlines()[2] == "| a\\|b | 12,345 | 1; x |  | yes |"
    assert render(rows, "human").splitlines() == ["name       n  list  none  flag", "a|b   12,345  1; x         yes"]
    assert json.loads(render(rows, "json")) == rows
    assert render([], "human") == ""
