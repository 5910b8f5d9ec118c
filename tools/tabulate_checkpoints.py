"""Write docs/checkpoints.md: a table of the errors of published checkpoints that were measured with this package.

    pyramidzoo evaluate ID ... --output RECORDS
    python tools/tabulate_checkpoints.py RECORDS

RECORDS is the folder of records that `pyramidzoo evaluate` has written. A record is used if its weights are in the
manifest, and if it is strict (measured in float32 without TF32, and without any option that is faster). The errors and
verdicts in the table are those that the records contain.
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
INTRODUCTION = """# Published checkpoints that were measured here

Each line of the table is one published checkpoint, which `pyramidzoo evaluate` has evaluated on the
test images. `tools/tabulate_checkpoints.py` makes this page from the records of these evaluations.

- `origin` is the name of the file that the authors published.
- `wrong` is the number of images whose predicted class is not the label.
- `top-1 error` and `top-5 error` are in percent. In parentheses is the 95% confidence interval.
- `recorded` compares the result with that in the manifest. `exact` means that the network predicts
  the same class for every image.
- `claim` compares with the error that the authors published for exactly these weights: first theirs,
  then ours, computed in the same way ([what the verdicts mean](evaluation.md)).

"""


def make_table_row(record: Record) -> dict[str, Any]:
    """Make the line of the table for a record: its cells by the titles of their columns."""
    entry = load_manifest().entries[record.weights]
    low, high = record.interval
    claims = [f"{claim.verdict}: {claim.by} {claim.published}, ours {claim.ours:.3f}" for claim in record.claims]
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
    """Write the page from the records in a folder, in the order of the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    folder = parser.parse_args().records
    records = {record.weights: record for record in read_records(folder) if record.strict}
    rows = [make_table_row(records[weights]) for weights in load_manifest().entries if weights in records]
    write_text(DOCUMENT, INTRODUCTION + render(rows, "markdown") + "\n")
    print(f"{DOCUMENT.name}: {len(rows)} checkpoints")


if __name__ == "__main__":
    main()
