"""Fixtures that run commands as people and scripts do, and files for them. `conftest.py` makes them known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pyramidzoo import cli

CONVERT = ("convert", "--layout", "ferles", "--arch", "wrn_16_1", "--dataset", "cifar10")


@dataclass(frozen=True)
class CommandResult:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return standard output as JSON. A command that failed shows what it said."""
        assert self.code == 0, self.err
        return json.loads(self.out)


RunCommand = Callable[..., CommandResult]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Return a function that runs a command in this process, in a terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")

    def run_command(*arguments: object) -> CommandResult:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:  # argparse ends the process itself
            code = int(exit.code or 0)
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run_command


@pytest.fixture
def ferles_checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of wrn_16_1 with random weights, as ferles would have published it."""
    from conftest import foreign_checkpoint, random_state

    path = tmp_path / "wrn.pth"
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")), path)
    return path


@pytest.fixture
def converted_file(run_command: RunCommand, quick_unpickle: None, ferles_checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint of `ferles_checkpoint`, converted to a safetensors file that describes itself."""
    output = tmp_path / "mine.safetensors"
    result = run_command(*CONVERT, ferles_checkpoint, "--output", output)
    assert result.code == 0, result.err
    return output
