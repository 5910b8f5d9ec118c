"""`tables`: print the published tables beside what was measured."""

from __future__ import annotations

import argparse
from typing import Any

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tables`."""
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="F1, P1, P2, P3, W1, W2, H1 .. H6, Z (default: all)")
    parser.add_argument(
        "--records", type=path_argument, metavar="DIR", help="an --output folder of evaluate, instead of the manifest"
    )


def run(args: argparse.Namespace) -> int:
    """Print the published tables beside what was measured."""
    from pyramidzoo.evaluation.records import read_records
    from pyramidzoo.evaluation.tables import from_manifest, from_records, published, table_ids, table_rows, table_title

    manifest = load_manifest()
    if args.records is None:
        known = from_manifest(manifest)
    else:
        if not args.records.is_dir():
            raise UsageError(f"--records {args.records} is not a folder; `pyramidzoo evaluate --output` makes one")
        known = from_records(read_records(args.records))
        if not known:
            raise UsageError(f"there are no records in {args.records}; `pyramidzoo evaluate --output` writes them")
    tables = {table: table_rows(table, manifest, known) for table in args.tables or table_ids()}
    if args.format in ("json", "csv"):
        people = list(dict.fromkeys(target["by"] for target in published()["targets"]))
        rows = [_long(table, row, people) for table, lines in tables.items() for row in lines]
        print(render(rows, args.format))
        return 0
    mark = "## " if args.format == "markdown" else ""
    parts = [
        f"{mark}{table}. {table_title(table)}\n\n{render(lines, args.format) or 'none'}"
        for table, lines in tables.items()
    ]
    print("\n\n".join(parts))
    return 0


def _long(table: str, row: dict[str, Any], people: list[str]) -> dict[str, Any]:
    """One shape for the rows of all tables: who published what goes into one column."""
    errors = [f"{person} {row[person]}" for person in people if row.get(person)]
    kept = {name: value for name, value in row.items() if name not in people}
    return {"table": table, **kept, "published": errors}
