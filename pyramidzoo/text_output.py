"""Write tables and lists of facts as text: aligned columns for people, JSON and CSV for programs, Markdown tables."""

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
_COLUMN_GAP = 2  # number of spaces between two columns
_MIN_SHORTENED_WIDTH = 12  # a column whose texts are cut keeps at least this many characters


def render(rows: Sequence[Mapping[str, Any]], format: str, *, width: int | None = None) -> str:
    """Write a table in one format. The keys of the first row are the names of the columns.

    JSON keeps numbers and lists as they are. In the other formats, None becomes an empty cell, and the items of a list
    are joined with "; ".

    Args:
        rows: The rows of the table. Each maps the names of the columns to its values.
        format: "human", "json", "csv" or "markdown".
        width: Longest line of the "human" format, in characters. If a line would be longer, the texts in the widest
            columns are cut, but never those in the first column. None cuts nothing.

    Returns:
        The table as text, without a newline at its end.
    """
    if format == "json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False)
    header = list(rows[0]) if rows else []
    has_commas = format != "csv"
    body = [[_format_value(row.get(column), has_commas=has_commas) for column in header] for row in rows]
    if format == "csv":
        return _render_csv(header, body)
    if not rows:
        return ""
    if format == "markdown":
        return _render_markdown(header, body)
    return _render_aligned(header, body, width)


def _render_csv(header: list[str], body: list[list[str]]) -> str:
    """Write a table as CSV: a line with the names of the columns, and a line for each row of texts."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *body])
    return stream.getvalue().rstrip("\n")


def _render_markdown(header: list[str], body: list[list[str]]) -> str:
    """Write a table in Markdown. In a cell, `|` is escaped, because it separates columns."""
    escaped_body = [[text.replace("|", "\\|") for text in row] for row in body]
    separator = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, separator, *escaped_body])


def _render_aligned(header: list[str], body: list[list[str]], max_width: int | None) -> str:
    """Write a table in aligned columns. Columns that contain only numbers are aligned to the right."""
    widths = [max(len(row[column]) for row in [header, *body]) for column in range(len(header))]
    if max_width is not None:
        widths = _narrow_columns(widths, max_width)
    has_only_numbers = [all(_NUMBER_OR_EMPTY.fullmatch(row[column]) for row in body) for column in range(len(header))]
    lines = []
    for row in [header, *body]:
        aligned_texts = [
            text.rjust(width) if is_right_aligned else _shorten(text, width).ljust(width)
            for text, width, is_right_aligned in zip(row, widths, has_only_numbers, strict=True)
        ]
        lines.append((" " * _COLUMN_GAP).join(aligned_texts).rstrip())
    return "\n".join(lines)


def render_facts(pairs: Iterable[tuple[str, Any]], *, width: int = 120) -> str:
    """Write labels in one column, and their values in a second column.

    If a value is None or empty, its label is left out too. Each item of a list begins a new line. Long values are
    broken into several lines between words. A word that is longer than a line, such as an address or a hash, stays
    whole.

    Args:
        pairs: Each label with its value.
        width: Longest line, in characters.

    Returns:
        The text, without a newline at its end.
    """
    shown_pairs = [(label, value) for label, value in pairs if value not in (None, "", [], (), {})]
    label_width = max((len(label) for label, _ in shown_pairs), default=0) + _COLUMN_GAP
    lines = []
    for label, value in shown_pairs:
        items = value if isinstance(value, (list, tuple)) else [value]
        value_lines = [
            line for item in items for line in _wrap_lines(_format_value(item, has_commas=True), width - label_width)
        ]
        # The label stands beside the first line of its value only.
        labels = [label, *[""] * (len(value_lines) - 1)]
        lines += [f"{text:{label_width}}{line}" for text, line in zip(labels, value_lines, strict=True)]
    return "\n".join(lines)


def wrap_text(text: str, *, width: int) -> str:
    """Break a text between words into lines of at most `width` characters. A longer word stays whole."""
    return "\n".join(_wrap_lines(text, width))


def line_width() -> int:
    """Return how many characters a line of output may have.

    This is the width of the terminal, but at least 80. If the output goes to a file or to another program, it is 120.
    """
    return max(80, shutil.get_terminal_size((120, 24)).columns)


def show(text: str) -> None:
    """Print the data of a command. It is no error if the program that reads them, such as `head`, has already ended.

    After such an end, standard output goes to the null device. So the command can finish, and returns the exit code
    that tells what it did.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _narrow_columns(widths: Sequence[int], max_width: int) -> list[int]:
    """Reduce the widths of columns until a line has at most `max_width` characters, or until no column can be reduced.

    The column that is the widest at the moment loses one character at a time. The first column keeps its width.
    """
    narrowed_widths = list(widths)
    excess = sum(narrowed_widths) + _COLUMN_GAP * (len(narrowed_widths) - 1) - max_width
    while excess > 0:
        widest = max(range(1, len(narrowed_widths)), key=lambda column: narrowed_widths[column], default=0)
        if widest == 0 or narrowed_widths[widest] <= _MIN_SHORTENED_WIDTH:
            break
        narrowed_widths[widest] -= 1
        excess -= 1
    return narrowed_widths


def _shorten(text: str, width: int) -> str:
    """Cut a text that has more than `width` characters, and write "..." at its end."""
    return text if len(text) <= width else f"{text[: width - 3].rstrip(' ,;:')}..."


def _wrap_lines(text: str, width: int) -> list[str]:
    """Break a text between words into lines. An empty text gives one empty line."""
    return textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False) or [""]


def _format_value(value: Any, *, has_commas: bool) -> str:
    """Write a value as text. With `has_commas`, an integer of five or more digits is written as 10,000."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if has_commas and abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(_format_value(item, has_commas=has_commas) for item in value)
    return str(value)
