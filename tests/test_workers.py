"""Several processes give the same result as one process, also when some of them are killed."""

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
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.errors import UnavailableError
from pyramidzoo.evaluation import workers
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.planning import Job, plan, remove_range
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.evaluation.workers import EntryOutput, Failure, Worker, WorkerOutput, evaluate_all, get_this_worker

CPU = ComputeSettings(torch.device("cpu"), batch_size=8)
PREPROCESSING = Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@pytest.fixture
def targets(tmp_path: Path) -> list[EvaluationTarget]:
    targets = []
    for seed in (0, 1):
        path = tmp_path / f"random{seed}.safetensors"
        description = Description("wrn_16_1", {}, "cifar10", 10, PREPROCESSING, None, None)
        write_tensors(path, random_state("wrn_16_1", seed=seed), description.to_metadata())
        targets.append(EvaluationTarget.from_file(path))
    return targets


def evaluate_in_turn(
    targets: list[EvaluationTarget],
    images: ImageSet,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    output: Path | None = None,
    settings: ComputeSettings = CPU,
    strict: Engine | None = None,
) -> list[Record | Failure]:
    """Do in this process what `count` processes would do. The first worker comes last: it needs the others."""
    sent: dict[int, list[EntryOutput]] = {}

    def gather(outputs: list[EntryOutput], worker: Worker) -> list[list[EntryOutput]]:
        sent[worker.rank] = outputs
        return [sent[rank] for rank in range(count)] if worker.is_first else []

    monkeypatch.setattr(workers, "_gather_outputs", gather)
    names = [target.name for target in targets]
    results: list[Record | Failure] = []
    for rank in reversed(range(count)):
        load = lambda position: load_model(targets[position], images)  # noqa: E731
        plan_one = partial(plan, engine=Engine(settings), output=output, strict_engine=strict)
        worker_results = list(evaluate_all(names, load, plan_one, Worker(rank, count)))
        assert not worker_results or rank == 0, "only the first worker reports"
        results += worker_results
    assert [len(outputs) for outputs in sent.values()] == [len(targets)] * count
    if output is None:  # Every worker had something to do.
        for outputs in sent.values():
            assert any(entry.outputs and entry.outputs[0].parts for entry in outputs)
    return results


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("with_files", [True, False])
def test_any_number_of_processes_gives_the_same(
    count: int,
    with_files: bool,
    targets: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [evaluate(target, small_set, CPU) for target in targets]
    records = evaluate_in_turn(targets, small_set, count, monkeypatch, tmp_path / "out" if with_files else None)
    assert [r.prediction_sha256 for r in records if isinstance(r, Record)] == [r.prediction_sha256 for r in expected]
    assert [r.top1_correct for r in records if isinstance(r, Record)] == [r.top1_correct for r in expected]
    if with_files:
        assert len(read_records(tmp_path / "out")) == 2
        again = evaluate_in_turn(targets, small_set, count + 1, monkeypatch, tmp_path / "out")
        assert [r.reused_files for r in again if isinstance(r, Record)] == [10, 10]


@pytest.mark.parametrize("with_files", [True, False])
def test_the_strict_evaluation_is_shared_too(
    with_files: bool,
    targets: list[EvaluationTarget],
    small_set: ImageSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loose = ComputeSettings(torch.device("cpu"), batch_size=8, precision="bf16")
    expected = [evaluate(target, small_set, loose, compare=True) for target in targets]
    output = tmp_path / "out" if with_files else None
    if with_files:
        evaluate(targets[0], small_set, CPU, output=output)  # Its files are reused.
    records = evaluate_in_turn(targets, small_set, 3, monkeypatch, output, loose, Engine(CPU))
    assert [r.against_strict for r in records if isinstance(r, Record)] == [r.against_strict for r in expected]
    if output:
        strict = {record.weights: record for record in read_records(output) if record.strict}
        assert [strict[target.name].reused_files for target in targets] == [10, 0]
        seconds = [strict[target.name].duration_seconds for target in targets]
        assert seconds[0] is None
        assert seconds[1]


def test_a_failure_in_one_process_fails_only_these_weights(
    targets: list[EvaluationTarget], small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = workers.predict

    def fail_once(job: Job, units: list[dict[str, object]]) -> object:
        if job.target is targets[0] and units[0]["start"] == 32:  # A unit of the second worker.
            raise UnavailableError("no memory")
        return predict(job, units)

    monkeypatch.setattr(workers, "predict", fail_once)
    first, second = evaluate_in_turn(targets, small_set, 2, monkeypatch)
    assert first == Failure(targets[0].name, "no memory", 5)
    assert isinstance(second, Record)


def test_processes_that_differ_give_no_number(targets: list[EvaluationTarget], small_set: ImageSet) -> None:
    job = plan(load_model(targets[0], small_set), Engine(CPU))
    dependencies = remove_range(job.units[0])
    other = dependencies | {"device": "cpu (another, 3 threads)"}
    result = workers._conclude_entry(
        job, [EntryOutput("x", [WorkerOutput(each, [], 0, 0.0)]) for each in (dependencies, other)]
    )
    assert isinstance(result, Failure)
    assert "do not agree (device cpu (" in result.error
    assert "device cpu (another, 3 threads))" in result.error


def test_a_lost_part_gives_no_number(targets: list[EvaluationTarget], small_set: ImageSet) -> None:
    job = plan(load_model(targets[0], small_set), Engine(CPU))
    dependencies = remove_range(job.units[0])
    half = workers._predict_own_units(0, "x", lambda: load_model(targets[0], small_set), lambda _: job, Worker(0, 2))[1]
    result = workers._conclude_entry(job, [half, EntryOutput("x", [WorkerOutput(dependencies, [], 0, 0.0)])])
    assert isinstance(result, Failure)
    assert result.exit_code == 4
    assert "samples were not predicted" in result.error


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)  # Another launcher sets these, too.
    assert get_this_worker() == Worker()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert get_this_worker() == Worker(3, 8, 1)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert get_this_worker() == Worker(3, 8, 1, 2)


def start_torchrun(processes: int, *arguments: object, restarts: int = 0) -> subprocess.Popen[str]:
    """Start `pyramidzoo evaluate` under torchrun, on this machine."""
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


def wait_for_success(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait for the end of a process, and return its stdout and stderr."""
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, err
    return out, err


def find_worker_ids(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of the workers that torchrun has started."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if b"pyramidzoo" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:  # One of them has just ended.
        return []


@pytest.mark.processes
def test_torchrun_gives_what_one_process_gives(tmp_path: Path) -> None:
    arguments = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo", "-b", 16, "--format", "json")
    out, _ = wait_for_success(start_torchrun(2, *arguments))
    content = json.loads(out)  # Only one process prints.
    assert content["failures"] == []
    records = content["records"]
    assert [r["recorded"] for r in records] == ["exact", "exact"]
    assert [r["weights"] for r in records] == ["wrn_16_1.digits_zoo", "resnet20.digits_zoo"]


@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_killed_at_random_loses_nothing(seed: int, tmp_path: Path) -> None:
    chance, output = random.Random(seed), tmp_path / "out"
    arguments = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo", "-b", 2, "--output", output, "--format", "json")
    process = start_torchrun(2, *arguments, restarts=3)
    files_before_kill = chance.randint(1, 40)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        is_time = len(list(output.glob("*/*/predictions-*"))) >= files_before_kill
        if is_time and (worker_ids := find_worker_ids(process)):
            os.kill(chance.choice(worker_ids), signal.SIGKILL)
            break
        time.sleep(0.005)
    else:
        pytest.fail("the evaluation ended before a worker could be killed")
    out, err = wait_for_success(process)
    assert "prediction files are there already" in err
    records = json.loads(out)["records"]
    assert [r["recorded"] for r in records] == ["exact", "exact"]
    assert sum(r["reused_files"] for r in records) >= files_before_kill - 1
    assert [dataclasses.asdict(r)["images"] for r in read_records(output)] == [899, 899]


def test_torchrun_does_not_start_again_because_of_a_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Record, "reproduced", property(lambda self: False))
    torchrun = {"RUN_ID": "x", "MAX_RESTARTS": "3", "RESTART_COUNT": "2"}
    for name, value in torchrun.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "wrn_16_1.digits_zoo"]) == 0
    assert "torchrun gets 0 instead of 3" in capsys.readouterr().err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert cli.main(["evaluate", "wrn_16_1.digits_zoo"]) == 3
    assert "instead" not in capsys.readouterr().err


def test_what_libraries_print_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with workers._redirect_stdout_to_stderr():
        os.write(1, b"[Gloo] Rank 0 is connected\n")
    print("data")
    out, err = capfd.readouterr()
    assert (out, err) == ("data\n", "[Gloo] Rank 0 is connected\n")
