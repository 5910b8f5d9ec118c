"""`benchmarks/training.py`: tensors are counted while they are alive, and the whole script runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module. Its results go to a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("training", "timing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("training")
    monkeypatch.setattr(sys.modules["timing"], "RESULTS", tmp_path)
    return module


def test_live_bytes(benchmark: Any) -> None:
    with benchmark.CountLiveBytes() as counter:
        first = torch.zeros(100)
        view = first[10:].view(9, 10)  # the same memory
        assert (counter.live, counter.peak) == (400, 400)
        second = torch.zeros(50, dtype=torch.float64)
        del first
        assert counter.live == 800  # the view still holds the memory
        del view
        assert counter.live == 400
        del second
    assert (counter.live, counter.peak) == (0, 800)


def test_checkpointing_needs_less_memory(benchmark: Any) -> None:
    rows = benchmark.measure_memory("pyramidnet110_a48", torch.device("cpu"), (1, 2))
    assert [row["variant"] for row in rows] == ["plain", "with --grad-checkpointing"]
    assert rows[1]["ratio"] < 0.6


@pytest.mark.slow
def test_the_whole_script(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "keep_memory", lambda: True)  # it could not be undone
    monkeypatch.setattr(benchmark, "BATCH", 8)
    monkeypatch.setattr(benchmark, "RECIPE", benchmark.RECIPE.replace(batch_size=8))
    try:
        arguments = ["--rounds", "1", "--steps", "1", "--padded-steps", "1", "--threads", "1", "--network", "wrn_16_1"]
        benchmark.main(arguments)
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == [
        "plain loop",
        "torchvision loop",
        "train, bf16",
        "train, fp32",
        "train, fp32, channels_last",
        *["plain loop", "train, bf16", "train, bf16, padded widths"] * 2,
        "plain",
        "with --grad-checkpointing",
    ]
    assert all(len(row["runs"]) == 1 for row in rows[:11])
