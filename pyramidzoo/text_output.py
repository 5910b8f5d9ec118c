"""Rows of data as text: for people, for programs, for documents."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMATS = ("human", "json", "csv", "markdown")

_NUMBER = re.compile(r"[\d.,]+|")
_GAP = 2
_NARROWEST = 12  # of a column that is shortened


def render(rows: Sequence[Mapping[str, Any]], format: str, *, width: int | None = None) -> str:
    """All rows in one format, without a last newline; columns are the first row's keys.

    json keeps numbers and lists as they are; elsewhere None is empty and a list is joined with "; ". With `width`,
    human lines that would be longer have the text of their widest columns cut short; the first column never is.
    """
    if format == "json":
        return json.dumps(list(rows), indent=1, ensure_ascii=False)
    columns = list(rows[0]) if rows else []
    cells = [[_text(row.get(column), grouped=format != "csv") for column in columns] for row in rows]
    if format == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([columns, *cells])
        return stream.getvalue().rstrip("\n")
    if not rows:
        return ""
    if format == "markdown":
        lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in cells)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(len(line[k]) for line in [columns, *cells]) for k in range(len(columns))]
    if width is not None:
        widths = _narrowed(widths, width)
    numeric = [all(_NUMBER.fullmatch(line[k]) for line in cells) for k in range(len(columns))]
    return "\n".join(
        (" " * _GAP)
        .join(
            cell.rjust(space) if right else _shortened(cell, space).ljust(space)
            for cell, space, right in zip(line, widths, numeric, strict=True)
        )
        .rstrip()
        for line in [columns, *cells]
    )


def facts(pairs: Iterable[tuple[str, Any]], *, width: int = 120) -> str:
    """Labels in a column, what they stand for beside them, wrapped; a list has a line for each item.

    What is None or empty is left out. Words longer than a line (addresses, hashes) stay whole.
    """
    shown = [(label, value) for label, value in pairs if value not in (None, "", [], {})]
    indent = max((len(label) for label, _ in shown), default=0) + _GAP
    lines = []
    for label, value in shown:
        items = value if isinstance(value, (list, tuple)) else [value]
        texts = [line for item in items for line in _wrapped(_text(item, grouped=True), width - indent)]
        lines += [f"{head:{indent}}{text}" for head, text in zip([label, *[""] * (len(texts) - 1)], texts, strict=True)]
    return "\n".join(lines)


def wrapped(text: str, *, width: int) -> str:
    """A sentence in lines of that many columns."""
    return "\n".join(_wrapped(text, width))


def line_width() -> int:
    """Columns of the terminal, at least 80; 120 where the reader is a file or another program."""
    return max(80, shutil.get_terminal_size((120, 24)).columns)


def show(text: str) -> None:
    """Print data of a command that goes on, with an exit code that matters, when the reader (head, less) has left."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _narrowed(widths: Sequence[int], limit: int) -> list[int]:
    """Widths that fit into a line, the widest columns cut first."""
    narrowed = list(widths)
    excess = sum(narrowed) + _GAP * (len(narrowed) - 1) - limit
    while excess > 0:
        widest = max(range(1, len(narrowed)), key=lambda k: narrowed[k], default=0)
        if widest == 0 or narrowed[widest] <= _NARROWEST:
            break
        narrowed[widest] -= 1
        excess -= 1
    return narrowed


def _shortened(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"{cell[: width - 3].rstrip(' ,;:')}..."


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(value: Any, *, grouped: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if grouped and abs(value) >= 10_000 else str(value)
    if isinstance(value, (list, tuple)):
        return "; ".join(_text(item, grouped=grouped) for item in value)
    return str(value)
