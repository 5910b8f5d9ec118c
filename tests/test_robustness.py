"""Evaluation under bad conditions: killed, interrupted, run several times at once, full disks, read-only data."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import foreign_checkpoint, random_state

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.evaluation.records import read_records
from pyramidzoo.files import write_text

WEIGHTS = "wrn_16_1.digits_zoo"
RECORDED = load_manifest().find(WEIGHTS).results[0].prediction_sha256
# Batches of one image are slow enough to be interrupted, and give a prediction file for every four images.
SLOW_COMMAND = [sys.executable, "-m", "pyramidzoo", "evaluate", WEIGHTS, "-b", "1", "--output"]
FAST_COMMAND = [sys.executable, "-m", "pyramidzoo", "evaluate", WEIGHTS, "-b", "80", "--output"]


def start(command: list[str], folder: Path, preexec_fn: Callable[[], object] = lambda: None) -> subprocess.Popen[str]:
    """Start a command with a folder as its last argument. `preexec_fn` is called in the new process first."""

    def prepare() -> None:
        # The background jobs of a shell ignore SIGINT, and the new process would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        preexec_fn()

    return subprocess.Popen(
        [*command, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=prepare,
    )


def list_prediction_files(folder: Path) -> list[Path]:
    return list(folder.glob("*/*/predictions-*.safetensors"))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def run_and_check(command: list[str], folder: Path) -> str:
    """Run a command, check that it gives the recorded predictions, and return its stderr."""
    process = start(command, folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "recorded       exact" in out
    (record,) = read_records(folder)
    assert record.prediction_sha256 == RECORDED
    return err


@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_evaluation_that_is_stopped_goes_on_later(number: signal.Signals, tmp_path: Path) -> None:
    moments = random.Random(int(number))
    for round_ in range(3):
        before = len(list_prediction_files(tmp_path))
        process = start(SLOW_COMMAND, tmp_path)
        wait_for(lambda before=before: len(list_prediction_files(tmp_path)) > before)  # type: ignore[misc]
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), err
        assert out == ""
        assert "Traceback" not in err
        assert (f"{before} of 225 prediction files are there already" in err) == (round_ > 0)
        assert read_records(tmp_path) == []
    files = len(list_prediction_files(tmp_path))
    assert 3 <= files < 225
    assert f"{files} of 225 prediction files are there already" in run_and_check(SLOW_COMMAND, tmp_path)
    if number != signal.SIGKILL:  # A killed process has no time to remove its temporary file.
        assert not list(tmp_path.rglob("*.part"))


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Interrupted before the file gets closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.kill
def test_an_interrupt_at_any_instruction_leaves_no_part_behind(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handler_before = signal.signal(signal.SIGALRM, interrupt)
    moments = random.Random(0)
    write_text(tmp_path / "record.json", "{}")
    try:
        # If the file were made before the `try`, about one of eight interrupts would leave it behind.
        for _ in range(1000):
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(1e-5, 1e-3))
                while True:
                    write_text(tmp_path / "record.json", "{}")
            assert not list(tmp_path.glob(".*.part"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
    assert (tmp_path / "record.json").read_text() == "{}"


@pytest.mark.processes
def test_six_processes_writing_one_result(tmp_path: Path) -> None:
    processes = [start(FAST_COMMAND, tmp_path) for _ in range(6)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "recorded       exact" in out
    (record,) = read_records(tmp_path)
    assert record.prediction_sha256 == RECORDED
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json"] + [".safetensors"] * 3


def limit_files(size: int) -> Callable[[], None]:
    """Return a function for a new process: no file can become larger than `size` bytes, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # The write fails, and the process goes on.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize(
    "size", [0, pytest.param(100, marks=pytest.mark.processes), pytest.param(5_000, marks=pytest.mark.processes)]
)
def test_a_disk_that_is_full(size: int, tmp_path: Path) -> None:
    process = start(FAST_COMMAND, tmp_path, preexec_fn=limit_files(size))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, ""), err
    assert "cannot write" in err
    assert "predictions-000000-000320.safetensors" in err
    assert "was left" in err
    assert "Traceback" not in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "are there already" not in run_and_check(FAST_COMMAND, tmp_path)  # Now there is room.


@pytest.mark.processes
def test_a_disk_that_is_full_when_the_record_is_written(tmp_path: Path) -> None:
    run_and_check(FAST_COMMAND, tmp_path)
    (record,) = tmp_path.rglob("record.json")
    record.unlink()
    process = start(FAST_COMMAND, tmp_path, preexec_fn=limit_files(1_000))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "record.json" in err
    assert not list(tmp_path.rglob("*record.json*"))
    run_and_check(FAST_COMMAND, tmp_path)


def test_a_disk_that_is_full_while_a_checkpoint_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")), tmp_path / "in.pth")
    options = ["--layout", "ferles", "--arch", "wrn_16_1", "--dataset", "cifar10", "--output"]
    command = [sys.executable, "-m", "pyramidzoo", "convert", str(tmp_path / "in.pth"), *options]
    process = start(command, tmp_path / "out" / "mine.safetensors", preexec_fn=limit_files(100_000))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("size", [1_000, 500_000, 900_000])
def test_a_disk_that_is_full_while_training(size: int, tmp_path: Path) -> None:
    """The third size is enough for the first checkpoint, but not for one that has momenta."""
    command = [sys.executable, "-m", "pyramidzoo", "train", "wrn_16_1", "--epochs", "1", "--output"]
    process = start(command, tmp_path, preexec_fn=limit_files(size))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 5, err
    assert "cannot write" in err
    assert "wrn_16_1.digits.checkpoint" in err
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.rglob("*.part"))


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(FAST_COMMAND, tmp_path / "file" / "below")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    assert "cannot make the folder" in err
    assert "name another" in err


@pytest.mark.checkpoints
def test_data_and_checkpoints_are_only_read(
    data_dir: Path, origins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR and an original checkpoint are in folders without write permission, and nothing in them changes."""
    data, originals = tmp_path / "data" / "cifar-10-batches-py", tmp_path / "origins"
    for folder, source in (
        (data, data_dir / "cifar-10-batches-py" / "test_batch"),
        (originals, origins / "ferles" / "wrn-16-1-seed-0-dict.pth"),
    ):
        folder.mkdir(parents=True)
        (folder / source.name).symlink_to(source)
        folder.chmod(0o555)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(originals))
    command = [sys.executable, "-m", "pyramidzoo", "evaluate", "wrn_16_1.cifar10", "--format", "json"]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    try:
        done = start([*command, "--data-dir"], data.parent)
        out, err = done.communicate(timeout=300)
        assert done.returncode in (0, 3), err
        assert json.loads(out)["records"][0]["wrong"] == 903
        cache = tmp_path / "cache"
        after = {
            p: (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*") if cache not in (p, *p.parents)
        }
        assert after == before
    finally:
        for folder in (data, originals):
            folder.chmod(0o755)
