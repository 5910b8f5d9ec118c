"""Learning curves: read from logs, drawn into a figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from pyramidzoo.cli import main
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.training.curves import draw_curves, read_log

LOG = """epoch,learning_rate,loss,training_error,test_error,seconds
1,0.2,1.5,55.5,50.25,7.6
2,0.1,0.75,25.0,20.5,5.5
3,0.0,0.5,12.5,11.0,5.5
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "wrn_16_1.digits.csv"
    path.write_text(LOG)
    return path


def test_read_a_log(log: Path) -> None:
    read = read_log(log)
    assert (read.name, read.epoch) == ("wrn_16_1.digits", [1, 2, 3])
    assert (read.loss, read.training_error, read.test_error) == (
        [1.5, 0.75, 0.5],
        [55.5, 25.0, 12.5],
        [50.25, 20.5, 11.0],
    )


def test_both_logs_of_a_training_are_read_alike(log: Path) -> None:
    json_log = log.with_suffix(".jsonl")
    with log.open(newline="") as stream:
        lines = [{name: float(value) for name, value in line.items()} for line in csv.DictReader(stream)]
    json_log.write_text("".join(json.dumps({"architecture": "wrn_16_1", **line}) + "\n" for line in lines))
    assert read_log(json_log) == read_log(log)
    json_log.write_text('{"epoch": 1')
    with pytest.raises(IntegrityError, match="not a log of a training"):
        read_log(json_log)


def test_the_curves_of_a_real_training_can_be_read() -> None:
    path = Path(__file__).parents[1] / "pyramidzoo/bundled/resnet20.digits_zoo.csv"
    assert read_log(path).epoch == list(range(1, 101))


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_command_draws_a_figure(suffix: str, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / f"curves{suffix}"
    assert main(["curves", str(log), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert output.read_bytes().startswith(starts[suffix])


def test_the_figure_shows_each_log(log: Path, tmp_path: Path) -> None:
    """Two logs give two colours; the legend names both with their last test error."""
    other = tmp_path / "resnet20.digits.csv"
    other.write_text(LOG.replace("11.0", "9.5"))
    output = tmp_path / "two.svg"
    draw_curves([read_log(log), read_log(other)], output)
    text = output.read_text()
    assert "wrn_16_1.digits: 11.00 %" in text
    assert "resnet20.digits: 9.50 %" in text
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    draw_curves([read_log(log)], one)
    draw_curves([read_log(log), read_log(other)], two)
    colours = [
        len({pixel for _, pixel in Image.open(path).convert("RGB").getcolors(2**24) or []}) for path in (one, two)
    ]
    assert colours[1] > colours[0]


def test_the_same_logs_give_the_same_bytes(log: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    for output in (first, second):
        draw_curves([read_log(log)], output)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [("epoch,loss\n1,2\n", "no column training_error"), ("", "no epoch"), (LOG + "4,0,x,1,1,1\n", "not a log")],
)
def test_a_file_that_is_no_log_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(IntegrityError, match=words):
        read_log(path)


def test_a_missing_log_and_an_unknown_format(log: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot read the log"):
        read_log(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match=r"\.png"):
        draw_curves([read_log(log)], tmp_path / "curves.gif")


def test_without_matplotlib_the_extra_is_named(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pyramidzoo\[plots\]"):
        draw_curves([read_log(log)], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_loss_of_zero_is_drawn(tmp_path: Path) -> None:
    """A logarithmic axis has no zero; the panel is then linear."""
    path = tmp_path / "zero.csv"
    path.write_text(LOG.replace("12.5,11.0", "0.0,0.0"))
    draw_curves([read_log(path)], tmp_path / "zero.png")
    assert (tmp_path / "zero.png").stat().st_size > 1000
