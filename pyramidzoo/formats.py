"""Rows of data as text: for people, for programs, for documents."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("human", "json", "csv", "markdown")


def render(rows: Sequence[Mapping[str, Any]], format: str) -> str:
    """All rows in one format, without a last newline; columns are the first row's keys.

    json keeps numbers and lists as they are; elsewhere None is empty and a list is joined with "; ".
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
    numeric = [all(isinstance(row.get(column), (int, float, type(None))) for row in rows) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [columns, *cells]
    )


def show(text: str) -> None:
    """Print data of a command that goes on, with an exit code that matters, when the reader (head, less) has left."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
