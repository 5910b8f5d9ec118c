"""Write docs/checkpoints.md: the errors of the published checkpoints that were measured here, with both verdicts.

    pyramidzoo evaluate ID ... --output RECORDS
    python tools/tabulate_checkpoints.py RECORDS

Only strict records of entries of the manifest are taken. Nothing is computed here: the verdicts are the records' own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.files import write_text
from pyramidzoo.text_output import render

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "checkpoints.md"
HEAD = """# Published checkpoints that were measured here

`tools/tabulate_checkpoints.py` makes this page from the records of `pyramidzoo evaluate`. The
verdict `recorded` compares with the result in the manifest. The verdict `claim` compares with the
error that the authors published for exactly these weights, by their own statistic
([what the verdicts mean](evaluation.md)). Errors are in percent.

"""


def row(record: Record) -> dict[str, Any]:
    """One line of the table."""
    entry = load_manifest().entries[record.weights]
    low, high = record.interval
    claims = [f"{c.verdict}: {c.by} {c.published}, ours {c.ours:.3f}" for c in record.claims]
    return {
        "weights": record.weights,
        "origin": entry.origin.filename if entry.origin else "bundled",
        "parameters": record.parameters,
        "images": f"{record.dataset} {record.split}, {record.images:,}",
        "wrong": record.wrong,
        "top-1 error": f"{record.top1_error:.2f} ({low:.2f} to {high:.2f})",
        "top-5 error": f"{record.top5_error:.2f}",
        "recorded": record.recorded,
        "claim": claims or "none published",
        "arithmetic": f"{record.arithmetic_text}, {record.device}, torch {record.versions['torch']}",
        "date": record.date[:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    order = list(load_manifest().entries)
    records = {r.weights: r for r in read_records(parser.parse_args().records) if r.strict and r.weights in order}
    rows = [row(records[weights]) for weights in sorted(records, key=order.index)]
    write_text(DOCUMENT, HEAD + render(rows, "markdown") + "\n")
    print(f"{DOCUMENT.name}: {len(rows)} checkpoints")


if __name__ == "__main__":
    main()
