"""Write measured results into weights_manifest.json: the counts of the strict records in an `evaluate --output` folder.

    python tools/record_results.py RECORDS

An entry's `tensors_sha256` is filled in where it is null; a different one stops everything, as does a record that is
not of the file the manifest pins.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pyramidzoo.evaluation.metrics import ERROR
from pyramidzoo.evaluation.records import Record, read_records
from pyramidzoo.files import write_text
from pyramidzoo.manifest import FILE_NAME, read_manifest

MANIFEST = Path(__file__).resolve().parents[1] / FILE_NAME


def result_of(record: Record) -> dict[str, Any]:
    """A record reduced to what the manifest keeps."""
    return {
        "split": record.split,
        "protocol": record.protocol,
        "images": record.images,
        "top1_correct": record.top1_correct,
        "top5_correct": record.top5_correct,
        "statistics": {name: round(value, 6) for name, value in record.statistics.items() if name != ERROR},
        "prediction_sha256": record.prediction_sha256,
        "precision": record.precision,
        "device": record.device,
        "versions": dict(record.versions),
        "date": record.date[:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path)
    folder = parser.parse_args().records
    document = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for record in read_records(folder):
        entry = document["weights"].get(record.weights)
        if entry is None or not record.strict:
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
