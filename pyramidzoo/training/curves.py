"""Learning curves: error and loss of each epoch, drawn from the logs that a training writes."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
_COLUMNS = ("epoch", "loss", "training_error", "test_error")


@dataclass(frozen=True)
class TrainingLog:
    """The content of a log file: one value for each epoch.

    Attributes:
        name: The name of the file without its suffix. It contains the architecture, the recipe and the seed.
        epoch: Numbers of the epochs, from 1.
        loss: Mean training loss of each epoch.
        training_error: Error on the training images as they were changed, in percent.
        test_error: Error on the test images after the epoch, in percent.
    """

    name: str
    epoch: list[int]
    loss: list[float]
    training_error: list[float]
    test_error: list[float]


def read_log(path: Path) -> TrainingLog:
    """Read the log of a training.

    Args:
        path: The CSV file, or the file of JSON lines, that `pyramidzoo train` wrote beside the weights.

    Returns:
        The columns of the log.

    Raises:
        UnavailableError: The file cannot be read.
        IntegrityError: The file is not such a log, or it has no epoch yet.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            is_json = path.suffix == ".jsonl"
            lines = [json.loads(line) for line in stream] if is_json else list(csv.DictReader(stream))
    except OSError as error:
        raise UnavailableError(f"cannot read the log {path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:  # ValueError: not UTF-8, or not JSON
        raise IntegrityError(f"{path} is not a log of a training: {error}") from error
    if not lines:
        raise IntegrityError(f"{path} has no epoch; train first, or name the .csv or .jsonl file beside the weights")
    missing = [name for name in _COLUMNS if name not in lines[0]]
    if missing:
        raise IntegrityError(f"{path} is not a log of a training: it has no column {', '.join(missing)}")
    try:
        numbers = {name: [float(line[name]) for line in lines] for name in _COLUMNS}
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a log of a training: {error}") from error
    return TrainingLog(
        path.stem,
        [int(epoch) for epoch in numbers["epoch"]],
        numbers["loss"],
        numbers["training_error"],
        numbers["test_error"],
    )


def draw_curves(logs: Sequence[TrainingLog], output: Path) -> None:
    """Draw the errors and the losses of trainings into one figure with two panels.

    Each training has its own colour. The test error is a full line, and the training error is a dashed line.

    Args:
        logs: One or more trainings.
        output: The figure, a .png, .svg or .pdf file. It is replaced as a whole.

    Raises:
        UsageError: There is no log, or the suffix of `output` is none of these.
        UnavailableError: The package matplotlib is not installed.
        NotWritableError: The figure cannot be written.
    """
    if not logs:
        raise UsageError("there is no log to draw; name the CSV files that `pyramidzoo train` wrote")
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output} is none of the formats {', '.join(FORMATS)}; give it one of these suffixes")
    if importlib.util.find_spec("matplotlib") is None:
        raise UnavailableError(
            "matplotlib draws the curves, and it is not installed: `pip install 'pyramidzoo[plots]'`"
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    errors, losses = figure.subplots(1, 2)
    for number, log in enumerate(logs):
        colour = f"C{number % 10}"  # matplotlib has ten default colours
        errors.plot(log.epoch, log.test_error, color=colour, label=f"{log.name}: {log.test_error[-1]:.2f} %")
        errors.plot(log.epoch, log.training_error, color=colour, linestyle="--", linewidth=0.8)
        losses.plot(log.epoch, log.loss, color=colour)
    all_errors = [error for log in logs for error in (*log.test_error, *log.training_error)]
    _finish_panel(errors, all_errors, "error, % (test: full line, training: dashed)")
    _finish_panel(losses, [loss for log in logs for loss in log.loss], "training loss")
    figure.legend(loc="outside lower center", fontsize="small", ncols=1 if len(logs) < 4 else 2)
    metadata: dict[str, Any] = {"Date": None} if output.suffix.lower() == ".svg" else {}
    # The same logs must give the same bytes, so the file has no date, and an SVG has no random names.
    with replacing(output) as part, rc_context({"svg.hashsalt": "pyramidzoo"}):
        figure.savefig(part, format=output.suffix.lower()[1:], dpi=150, metadata=metadata)


def _finish_panel(panel: Axes, values: Sequence[float], title: str) -> None:
    """Label one panel and make its vertical axis logarithmic. A value of zero leaves a gap in the line."""
    if any(value > 0 for value in values):
        panel.set_yscale("log", nonpositive="mask")
    panel.set_xlabel("epoch")
    panel.set_title(title, fontsize="medium")
    panel.grid(True, which="both", linewidth=0.3)
