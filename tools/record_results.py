"""Write measured results into weights_manifest.json: the counts of the strict records in an `evaluate --output` folder.

    python tools/record_results.py RECORDS

An entry's `tensors_sha256` is filled in where it is null; a different one stops everything, as does a record that is
not of the file the manifest pins.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pyramidzoo.catalog.manifest import FILE_NAME, read_manifest
from pyramidzoo.evaluation.records import read_records, result_of
from pyramidzoo.files import write_text

MANIFEST = Path(__file__).resolve().parents[1] / FILE_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    folder = parser.parse_args().records
    document = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for record in read_records(folder):
        entry = document["weights"].get(record.weights)
        if entry is None or not record.strict or record.not_the_split:
            print(f"left out: {record.weights}, {record.arithmetic}")
            continue
        if entry["tensors_sha256"] not in (None, record.tensors_sha256):
            raise SystemExit(f"{record.weights}: the record is of other tensors than the manifest names")
        entry["tensors_sha256"] = record.tensors_sha256
        others = [r for r in entry["results"] if (r["split"], r["protocol"]) != (record.split, record.protocol)]
        entry["results"] = [*others, result_of(record)]
        print(f"recorded: {record.weights}, {record.wrong} wrong of {record.images}")
    write_text(MANIFEST, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    read_manifest(MANIFEST)


if __name__ == "__main__":
    main()
