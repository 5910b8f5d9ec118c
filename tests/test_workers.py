"""Many processes give what one gives: the units dealt, gathered and reduced, also when workers are killed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import random_state

from pyramidzoo import cli
from pyramidzoo.catalog.manifest import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data.datasets import ImageSet
from pyramidzoo.errors import UnavailableError
from pyramidzoo.evaluation import workers
from pyramidzoo.evaluation.engine import ComputeSettings, Engine
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load
from pyramidzoo.evaluation.harness import Job, evaluate, plan
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.evaluation.workers import EntryOutput, Failure, Worker, WorkerOutput, evaluate_all, this_worker

CPU = ComputeSettings(torch.device("cpu"), batch_size=8)
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@pytest.fixture
def subjects(tmp_path: Path) -> list[EvaluationTarget]:
    found = []
    for seed in (0, 1):
        path = tmp_path / f"random{seed}.safetensors"
        described = Description("wrn_16_1", {}, "cifar10", 10, PREPROCESSING, None, None)
        write_tensors(path, random_state("wrn_16_1", seed=seed), described.to_metadata())
        found.append(EvaluationTarget.of_file(path))
    return found


def together(
    subjects: list[EvaluationTarget],
    images: ImageSet,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    output: Path | None = None,
    settings: ComputeSettings = CPU,
    strict: Engine | None = None,
) -> list[Record | Failure]:
    """What `count` processes would do, one after the other in this one; the first is last, as it waits for them."""
    sent: dict[int, list[EntryOutput]] = {}

    def gathered(mine: list[EntryOutput], worker: Worker) -> list[list[EntryOutput]]:
        sent[worker.rank] = mine
        return [sent[rank] for rank in range(count)] if worker.is_first else []

    monkeypatch.setattr(workers, "_gathered", gathered)
    names = [subject.name for subject in subjects]
    results: list[Record | Failure] = []
    for rank in reversed(range(count)):
        loaded = lambda position: load(subjects[position], images)  # noqa: E731
        planned = partial(plan, engine=Engine(settings), output=output, strict=strict)
        found = list(evaluate_all(names, loaded, planned, Worker(rank, count)))
        assert not found or rank == 0
        results += found
    assert [len(parts) for parts in sent.values()] == [len(subjects)] * count
    if output is None:  # everybody had something to do
        assert all(any(done.shares and done.shares[0].parts for done in parts) for parts in sent.values())
    return results


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("kept", [True, False])
def test_any_number_of_processes_gives_the_same(
    count: int,
    kept: bool,
    subjects: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = [evaluate(subject, small_set, CPU) for subject in subjects]
    found = together(subjects, small_set, count, monkeypatch, tmp_path / "out" if kept else None)
    assert [r.prediction_sha256 for r in found if isinstance(r, Record)] == [r.prediction_sha256 for r in alone]
    assert [r.top1_correct for r in found if isinstance(r, Record)] == [r.top1_correct for r in alone]
    if kept:
        assert len(read_records(tmp_path / "out")) == 2
        again = together(subjects, small_set, count + 1, monkeypatch, tmp_path / "out")
        assert [r.reused_files for r in again if isinstance(r, Record)] == [10, 10]


@pytest.mark.parametrize("kept", [True, False])
def test_comparing_with_strict_arithmetic_is_shared_too(
    kept: bool, subjects: list[EvaluationTarget], small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = ComputeSettings(torch.device("cpu"), batch_size=8, precision="bf16")
    alone = [evaluate(subject, small_set, loose, compare=True) for subject in subjects]
    output = tmp_path / "out" if kept else None
    if kept:
        evaluate(subjects[0], small_set, CPU, output=output)  # its files are there already
    found = together(subjects, small_set, 3, monkeypatch, output, loose, Engine(CPU))
    assert [r.against_strict for r in found if isinstance(r, Record)] == [r.against_strict for r in alone]
    if output:
        strict = {record.weights: record for record in read_records(output) if record.strict}
        assert [strict[subject.name].reused_files for subject in subjects] == [10, 0]
        seconds = [strict[subject.name].duration_seconds for subject in subjects]
        assert seconds[0] is None
        assert seconds[1]


def test_a_failure_in_one_process_is_one_of_those_weights_alone(
    subjects: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workers.work

    def failing(job: Job, units: list[dict[str, object]]) -> object:
        if job.subject is subjects[0] and units[0]["start"] == 32:  # the second process's share
            raise UnavailableError("no memory")
        return real(job, units)

    monkeypatch.setattr(workers, "work", failing)
    first, second = together(subjects, small_set, 2, monkeypatch)
    assert first == Failure(subjects[0].name, "no memory", 5)
    assert isinstance(second, Record)


def test_processes_that_differ_give_no_number(subjects: list[EvaluationTarget], small_set: ImageSet) -> None:
    job = plan(load(subjects[0], small_set), Engine(CPU))
    unit = {key: value for key, value in job.units[0].items() if key not in ("start", "stop")}
    other = unit | {"device": "cpu (another, 3 threads)"}
    result = workers._concluded(job, [EntryOutput("x", [WorkerOutput(each, [], 0, 0.0)]) for each in (unit, other)])
    assert isinstance(result, Failure)
    assert "the processes do not agree (device cpu (" in result.error
    assert "device cpu (another, 3 threads))" in result.error


def test_a_lost_part_gives_no_number(subjects: list[EvaluationTarget], small_set: ImageSet) -> None:
    job = plan(load(subjects[0], small_set), Engine(CPU))
    unit = {key: value for key, value in job.units[0].items() if key not in ("start", "stop")}
    loaded = workers._settled(lambda _: load(subjects[0], small_set), 0)
    half = workers._share(0, "x", loaded, lambda _: job, Worker(0, 2))[1]
    result = workers._concluded(job, [half, EntryOutput("x", [WorkerOutput(unit, [], 0, 0.0)])])
    assert isinstance(result, Failure)
    assert result.exit_code == 4
    assert "samples were not predicted" in result.error


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)  # another launcher's
    assert this_worker() == Worker()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert this_worker() == Worker(3, 8, 1)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert this_worker() == Worker(3, 8, 1, 2)


def launch(processes: int, *arguments: object, restarts: int = 0) -> subprocess.Popen[str]:
    """`pyramidzoo evaluate` under torchrun, on this machine alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m", "pyramidzoo", "evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err
    return out, err


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if b"pyramidzoo" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:  # one has just ended
        return []


def test_torchrun_gives_what_one_process_gives(tmp_path: Path) -> None:
    arguments = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo", "-b", 16, "--format", "json")
    out, _ = finished(launch(2, *arguments))
    content = json.loads(out)  # from one of them alone
    assert content["failures"] == []
    records = content["records"]
    assert [r["recorded"] for r in records] == ["exact", "exact"]
    assert [r["weights"] for r in records] == ["wrn_16_1.digits_zoo", "resnet20.digits_zoo"]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_killed_at_random_loses_nothing(seed: int, tmp_path: Path) -> None:
    dice, output = random.Random(seed), tmp_path / "out"
    arguments = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo", "-b", 2, "--output", output, "--format", "json")
    process = launch(2, *arguments, restarts=3)
    wanted = dice.randint(1, 40)  # the files that are there when it strikes
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(output.glob("*/*/predictions-*"))) >= wanted and (found := workers_of(process)):
            os.kill(dice.choice(found), signal.SIGKILL)
            break
        time.sleep(0.005)
    else:
        pytest.fail("it was over before a worker could be killed")
    out, err = finished(process)
    assert "prediction files are there already" in err
    records = json.loads(out)["records"]
    assert [r["recorded"] for r in records] == ["exact", "exact"]
    assert sum(r["reused_files"] for r in records) >= wanted - 1
    assert [dataclasses.asdict(r)["images"] for r in read_records(output)] == [899, 899]


def test_a_verdict_is_no_reason_to_start_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Record, "reproduced", property(lambda self: False))
    torchrun = {"RUN_ID": "x", "MAX_RESTARTS": "3", "RESTART_COUNT": "2"}
    for name, value in torchrun.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "wrn_16_1.digits_zoo"]) == 0
    assert "torchrun gets 0 instead of 3, or it would start" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert cli.main(["evaluate", "wrn_16_1.digits_zoo"]) == 3
    assert "instead" not in capsys.readouterr().err


def test_what_libraries_print_of_themselves_is_no_data(capfd: pytest.CaptureFixture[str]) -> None:
    with workers._data_only():
        os.write(1, b"[Gloo] Rank 0 is connected\n")
    print("data")
    out, err = capfd.readouterr()
    assert (out, err) == ("data\n", "[Gloo] Rank 0 is connected\n")
