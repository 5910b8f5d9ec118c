"""`benchmarks/gpu.py`: the plan fits into the time, says what is left out, and is carried out within its limits."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SMALL = ["--device", "cpu", "--networks", "wrn_16_1", "--graphs", "wrn_16_1", "resnet20", "--images", "64"]
SMALL += ["--batch", "16", "--rounds", "1", "--weights", "wrn_16_1.digits_zoo"]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module. Its results go to a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("gpu", "gpu_parts", "timing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("gpu")
    monkeypatch.setattr(sys.modules["timing"], "RESULTS", tmp_path / "results")
    return module


@pytest.fixture
def results(gpu: Any, tmp_path: Path) -> Any:
    return gpu.Results(torch.device("cpu"), tmp_path / "scratch")


def read_results(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "results" / "gpu_script_on_a_cpu.json").read_text())
    return content


def make_steps(gpu: Any, *seconds: float, run: Callable[[float], None] = lambda left: None) -> list[Any]:
    return [gpu.Step(f"step of {estimate} s", estimate, run) for estimate in seconds]


def test_first_parts_get_what_they_need(gpu: Any) -> None:
    parts = {"a": make_steps(gpu, 30, 40), "b": make_steps(gpu, 50, 10), "c": make_steps(gpu, 25)}
    plan = gpu.make_plan(parts, 100)
    assert [[step.seconds for step in part.steps] for part in plan] == [[30, 40], [10], []]
    assert [part.left_out for part in plan] == [[], ["step of 50 s"], ["step of 25 s"]]
    assert [part.limit for part in plan] == [87.5, 12.5, 0]


def test_spare_time_is_shared_out(gpu: Any) -> None:
    plan = gpu.make_plan({"a": make_steps(gpu, 30), "b": make_steps(gpu, 10)}, 400)
    assert [part.limit for part in plan] == [300, 100]
    assert gpu.make_plan({"a": []}, 100)[0].limit == 0


def test_a_part_keeps_to_its_limit(gpu: Any, results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take twice their estimates: the next part loses nothing by it, and what is left out is written."""
    now = [0.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    done: list[tuple[str, float]] = []

    def run_slowly(name: str, seconds: float) -> Callable[[float], None]:
        def run(left: float) -> None:
            done.append((name, left))
            now[0] += seconds

        return run

    slow = [gpu.Step(f"slow {n}", 10, run_slowly(f"slow {n}", 20)) for n in range(3)]
    quick = [gpu.Step("quick", 10, run_slowly("quick", 5))]
    gpu.run_plan(gpu.make_plan({"a": slow, "b": quick, "c": make_steps(gpu, 1000)}, 48), results)
    assert done == [("slow 0", 36), ("slow 1", 16), ("quick", 12)]
    left_out = read_results(tmp_path)["left_out"]
    assert [line.split(":")[0] for line in left_out] == ["step of 1000 s", "slow 2"]
    assert "not enough time" in left_out[0]
    assert "the part 'a' is over" in left_out[1]


def test_a_step_that_fails_is_left_out(gpu: Any, results: Any, tmp_path: Path) -> None:
    def fail(left: float) -> None:
        raise ValueError("no such thing\nand more")

    ran: list[float] = []
    parts = {"a": [*make_steps(gpu, 1, run=fail), *make_steps(gpu, 2, run=ran.append)]}
    gpu.run_plan(gpu.make_plan(parts, 10), results)
    assert len(ran) == 1
    assert read_results(tmp_path)["left_out"] == ["step of 1 s: ValueError: no such thing"]


def test_the_plan_is_printed_before_anything_runs(gpu: Any, tmp_path: Path, capsys: Any) -> None:
    gpu.main([*SMALL, "--parts", "changed", "table", "--minutes", "0.1", "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0.1 minutes on cpu (")
    assert [line.split()[0] for line in lines if "at most" in line] == ["changed", "table"]
    assert any("left out: wrn_16_1.digits_zoo" in line for line in lines)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("arguments", [["--parts", "nothing"], ["--minutes", "0"], ["--minutes", "nan"]])
def test_bad_requests(gpu: Any, arguments: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main([*SMALL, *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_all_parts_on_a_cpu(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The whole script with small networks. The tests marked gpu run in another process, which is not started here."""
    answer = subprocess.CompletedProcess([], 0, stdout="..\n2 passed in 0.1s\n", stderr="")
    monkeypatch.setattr(sys.modules["gpu_parts"].subprocess, "run", lambda *arguments, **options: answer)
    monkeypatch.setattr(sys.modules["gpu_parts"], "COMPILED", ("optimized_fp16",))  # compiling takes a minute
    monkeypatch.setattr("pyramidzoo.bench.measure.choose_passes", lambda compute: 1)
    gpu.main([*SMALL, "--minutes", "60"])
    printed = capsys.readouterr().out
    assert printed.index("the plan takes about") < printed.index("2 passed in 0.1s")
    content = read_results(tmp_path)
    assert content["left_out"] == []
    rows = content["rows"]
    assert list(dict.fromkeys(row["part"] for row in rows)) == [
        "tests",
        "strict",
        "table",
        "speed",
        "moved",
    ]
    (tests,) = (row for row in rows if row["part"] == "tests")
    assert (tests["exit_code"], tests["summary"], tests["failed"]) == (0, "2 passed in 0.1s", [])
    (strict,) = (row for row in rows if row["part"] == "strict")
    assert (strict["weights"], strict["wrong"], strict["recorded"]) == ("wrn_16_1.digits_zoo", 14, "exact")
    table = [(row["network"], row["variant"]) for row in rows if row["part"] == "table"]
    assert table == [(name, way) for way in ("strict", "fp16, optimized") for name in ("wrn_16_1", "resnet20", "all")]
    speed = {row["variant"]: row for row in rows if row["part"] == "speed"}
    assert speed.keys() >= {"pytorchcv", "pytorchcv_fp16_channelslast", "plain", "optimized_fp16"}
    assert all(row["error"] is None for row in speed.values())
    assert [row["variant"] for row in rows if row["part"] == "moved"] == ["fp16, optimized", "bf16, optimized"]
    records = json.loads((tmp_path / "results" / "gpu_script_on_a_cpu_strict.json").read_text())
    assert [record["weights"] for record in records["records"]] == ["wrn_16_1.digits_zoo"]


def test_a_table_stops_in_time(gpu: Any, results: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time at all: the graph that has begun ends, and the others are named."""
    options = gpu.argparse.Namespace(graphs=["wrn_16_1", "resnet20"], images=16, batch=16)
    sys.modules["gpu_parts"].run_table(results, options, "strict", 0.0)
    content = read_results(tmp_path)
    assert [row["network"] for row in content["rows"]] == ["wrn_16_1", "all"]
    assert [line.split(":")[0] for line in content["left_out"]] == ["resnet20, strict"]


def test_tests_are_ended_in_time(gpu: Any, results: Any, tmp_path: Path) -> None:
    with results.leave_out_on_error("the tests marked gpu"):
        sys.modules["gpu_parts"].run_tests(results, 0.01)
    (line,) = read_results(tmp_path)["left_out"]
    assert line.startswith("the tests marked gpu: TimeoutExpired")
