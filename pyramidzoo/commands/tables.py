"""`tables`: print the published tables, every row, beside what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._records import read_records_argument
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import line_width, render, wrap_text

if TYPE_CHECKING:
    from pyramidzoo.evaluation.tables import Measurement

_Rows = Sequence[Mapping[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tables`."""
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="F1, P1, P2, P3, W1, W2, H1 .. H6, Z (default: all)")
    parser.add_argument(
        "--records",
        type=path_argument,
        metavar="DIR",
        help="take the measured errors from an --output folder of evaluate, not from the manifest",
    )


@dataclass(frozen=True)
class TablesOptions(CommandOptions):
    """The options of `tables`; `add_arguments` says what each means."""

    tables: tuple[str, ...]
    records: Path | None


def run(args: argparse.Namespace) -> int:
    """Run `tables` and return the exit code."""
    from pyramidzoo.catalog.published_tables import list_table_ids
    from pyramidzoo.evaluation.tables import make_table_rows

    options = TablesOptions.from_args(args)
    manifest = load_manifest()
    measurements = _read_measurements(options.records)
    tables = {table: make_table_rows(table, manifest, measurements) for table in options.tables or list_table_ids()}
    if options.format in ("json", "csv"):
        print(render(_join_tables(tables), options.format))
    else:
        print(_write_tables_with_titles(tables, options.format))
    return 0


def _read_measurements(records: Path | None) -> list[Measurement]:
    """Read what was measured from a folder of records, or from the manifest."""
    from pyramidzoo.evaluation.tables import measurements_from_manifest, measurements_from_records

    if records is None:
        return measurements_from_manifest(load_manifest())
    measurements = measurements_from_records(read_records_argument(records))
    if not measurements:
        raise UsageError(f"there are no records in {records}; `pyramidzoo evaluate --output` writes them")
    return measurements


def _write_tables_with_titles(tables: Mapping[str, _Rows], format: str) -> str:
    """Write each table under its title."""
    from pyramidzoo.catalog.published_tables import get_table_title

    mark = "## " if format == "markdown" else ""
    texts = []
    for table, rows in tables.items():
        shown_rows = _leave_out_repeated(rows) if format == "human" else rows
        text = f"{mark}{table}. {get_table_title(table)}\n\n{render(shown_rows, format) or 'none'}"
        if left_out := len(rows) - len(shown_rows):
            note = (
                f"{left_out} lines are left out: each of these networks is counted in one row, and is another training "
                "of the same network for the other rows. --format csv shows all lines."
            )
            text += f"\n\n{wrap_text(note, width=line_width())}"
        texts.append(text)
    return "\n\n".join(texts)


def _leave_out_repeated(rows: _Rows) -> _Rows:
    """Leave out the uncounted lines of networks that have a counted line in this table."""
    counted_weights = {row["weights"] for row in rows if row.get("counted")}
    return [row for row in rows if row.get("counted") or row["weights"] not in counted_weights]


def _join_tables(tables: Mapping[str, _Rows]) -> list[dict[str, Any]]:
    """Join the rows of all tables into one list with the same columns for all.

    The columns of the people who published errors become one column, "published".
    """
    from pyramidzoo.catalog.published_tables import load_published_tables

    people = list(dict.fromkeys(target["by"] for target in load_published_tables()["targets"]))
    lines = []
    for table, rows in tables.items():
        for row in rows:
            errors = [f"{person} {row[person]}" for person in people if row.get(person)]
            others = {name: value for name, value in row.items() if name not in people}
            lines.append({"table": table, **others, "published": errors})
    return lines
