"""Write measured results into weights_manifest.json: the counts of the records in an `evaluate --output` folder.

    python tools/record_results.py RECORDS

Only strict records of a whole split are written. A record fills in an entry's `tensors_sha256` if that is null. If it
has another value, nothing is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import MANIFEST_FILE_NAME
from pyramidzoo.catalog.manifest_writer import edit_manifest
from pyramidzoo.evaluation.records import Record, read_records, result_of

MANIFEST = Path(__file__).resolve().parents[1] / MANIFEST_FILE_NAME


def main() -> None:
    """Write the results of the records in a folder into the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    folder = parser.parse_args().records
    with edit_manifest(MANIFEST) as document:
        for record in read_records(folder):
            entry = document["weights"].get(record.weights)
            if entry is None or not record.strict or record.not_the_split:
                print(f"left out: {record.weights}, {record.arithmetic}")
                continue
            add_result(entry, record)
            print(f"recorded: {record.weights}, {record.wrong} wrong of {record.images}")


def add_result(entry: dict[str, Any], record: Record) -> None:
    """Put a record's result into an entry, in the place of one for the same split and protocol.

    Args:
        entry: The entry as the manifest's JSON has it. It is changed.
        record: A strict record of these weights.

    Raises:
        SystemExit: If the record is of other tensors than the entry names.
    """
    if entry["tensors_sha256"] not in (None, record.tensors_sha256):
        raise SystemExit(f"{record.weights}: the record is of other tensors than the manifest names")
    entry["tensors_sha256"] = record.tensors_sha256
    other_results = [
        result
        for result in entry["results"]
        if (result["split"], result["protocol"]) != (record.split, record.protocol)
    ]
    entry["results"] = [*other_results, result_of(record)]


if __name__ == "__main__":
    main()
