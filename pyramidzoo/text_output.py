"""Write rows of data as text: for people, for programs, for documents."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMATS = ("human", "json", "csv", "markdown")

_NUMBER_OR_EMPTY = re.compile(r"[\d.,]+|")
_COLUMN_GAP = 2  # spaces between columns
_MIN_SHORTENED_WIDTH = 12  # a column is not made narrower than this


def render(rows: Sequence[Mapping[str, Any]], format: str, *, width: int | None = None) -> str:
    """Write all rows in one format. The columns are the keys of the first row.

    JSON keeps numbers and lists as they are. In the other formats None is empty, and the items of a list are joined
    with "; ".

    Args:
        rows: The rows.
        format: "human", "json", "csv" or "markdown".
        width: If given, lines for people are at most this long where possible: the text in the widest columns is cut.
            The first column is never cut.

    Returns:
        The text, without a newline at its end.
    """
    if format == "json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False)
    columns = list(rows[0]) if rows else []
    cells = [[_format_value(row.get(column), grouped=format != "csv") for column in columns] for row in rows]
    if format == "csv":
        return _render_csv(columns, cells)
    if not rows:
        return ""
    if format == "markdown":
        return _render_markdown(columns, cells)
    return _render_columns(columns, cells, width)


def _render_csv(columns: list[str], cells: list[list[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([columns, *cells])
    return stream.getvalue().rstrip("\n")


def _render_markdown(columns: list[str], cells: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *escaped])


def _render_columns(columns: list[str], cells: list[list[str]], max_width: int | None) -> str:
    """Write aligned columns. Columns of numbers are aligned to the right."""
    widths = [max(len(row[k]) for row in [columns, *cells]) for k in range(len(columns))]
    if max_width is not None:
        widths = _narrow_columns(widths, max_width)
    are_numbers = [all(_NUMBER_OR_EMPTY.fullmatch(row[k]) for row in cells) for k in range(len(columns))]
    lines = []
    for row in [columns, *cells]:
        aligned = [
            cell.rjust(width) if is_number else _shorten(cell, width).ljust(width)
            for cell, width, is_number in zip(row, widths, are_numbers, strict=True)
        ]
        lines.append((" " * _COLUMN_GAP).join(aligned).rstrip())
    return "\n".join(lines)


def render_facts(pairs: Iterable[tuple[str, Any]], *, width: int = 120) -> str:
    """Write labels in one column, and their values beside them.

    A value that is None or empty is left out with its label. Each item of a list begins a new line. Long values are
    wrapped. A word that is longer than a line, such as an address or a hash, stays whole.

    Args:
        pairs: Labels and values.
        width: Length of a line.

    Returns:
        The text, without a newline at its end.
    """
    shown = [(label, value) for label, value in pairs if value not in (None, "", [], (), {})]
    indent = max((len(label) for label, _ in shown), default=0) + _COLUMN_GAP
    lines = []
    for name, value in shown:
        items = value if isinstance(value, (list, tuple)) else [value]
        texts = [line for item in items for line in _wrap_lines(_format_value(item, grouped=True), width - indent)]
        labels = [name, *[""] * (len(texts) - 1)]
        lines += [f"{label:{indent}}{text}" for label, text in zip(labels, texts, strict=True)]
    return "\n".join(lines)


def wrap_text(text: str, *, width: int) -> str:
    """Break a text into lines of at most `width` characters. A longer word stays whole."""
    return "\n".join(_wrap_lines(text, width))


def line_width() -> int:
    """Return the number of columns of the terminal, at least 80; 120 if the output goes to a file or a program."""
    return max(80, shutil.get_terminal_size((120, 24)).columns)


def show(text: str) -> None:
    """Print the data of a command, even if the reader (such as `head`) has stopped reading.

    The command then goes on, because its exit code matters.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _narrow_columns(widths: Sequence[int], max_width: int) -> list[int]:
    """Make the widest columns narrower until a line fits, or until none can be made narrower."""
    narrowed = list(widths)
    excess = sum(narrowed) + _COLUMN_GAP * (len(narrowed) - 1) - max_width
    while excess > 0:
        widest = max(range(1, len(narrowed)), key=lambda k: narrowed[k], default=0)
        if widest == 0 or narrowed[widest] <= _MIN_SHORTENED_WIDTH:
            break
        narrowed[widest] -= 1
        excess -= 1
    return narrowed


def _shorten(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 3].rstrip(' ,;:')}..."


def _wrap_lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]


def _format_value(value: Any, *, grouped: bool) -> str:
    """Write a value. `grouped` puts commas into integers of five or more digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if grouped and abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(_format_value(item, grouped=grouped) for item in value)
    return str(value)
