"""Write measured numbers of wrong images into weights_manifest.json.

    pyramidzoo evaluate ID ... --output RECORDS
    python tools/record_results.py RECORDS

RECORDS is the folder of records that `pyramidzoo evaluate` has written. A record is used if it is strict (measured in
float32 without TF32, and without any option that is faster) and if all images of a published split were evaluated. If
the `tensors_sha256` of an entry is null, it is filled in from the record. If it has another value than the record,
nothing is written at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import MANIFEST_FILE_NAME
from pyramidzoo.catalog.manifest_writer import edit_manifest
from pyramidzoo.evaluation.records import Record, make_result_fields, read_records

MANIFEST = Path(__file__).resolve().parents[1] / MANIFEST_FILE_NAME


def main() -> None:
    """Write the results of the records in a folder into the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    folder = parser.parse_args().records
    with edit_manifest(MANIFEST) as document:
        for record in read_records(folder):
            entry = document["weights"].get(record.weights)
            if entry is None or not record.strict or record.unofficial_reason:
                print(f"left out: {record.weights}, {record.arithmetic_text}")
                continue
            add_result(entry, record)
            print(f"recorded: {record.weights}, {record.wrong} wrong of {record.images}")


def add_result(entry: dict[str, Any], record: Record) -> None:
    """Write the result of a record into an entry. It replaces a result for the same split and protocol.

    Args:
        entry: The JSON of the entry in the manifest. It is changed.
        record: A strict record of the entry's weights.

    Raises:
        SystemExit: The record was measured with other tensors than those of the entry.
    """
    if entry["tensors_sha256"] not in (None, record.tensors_sha256):
        raise SystemExit(f"{record.weights}: the record is of other tensors than the manifest names")
    entry["tensors_sha256"] = record.tensors_sha256
    other_results = [
        result
        for result in entry["results"]
        if (result["split"], result["protocol"]) != (record.split, record.protocol)
    ]
    entry["results"] = [*other_results, make_result_fields(record)]


if __name__ == "__main__":
    main()
