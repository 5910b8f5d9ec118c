"""Write weights_manifest.json from the collected facts about published weights.

    python tools/make_manifest.py                    write the manifest
    python tools/make_manifest.py --list             print for every record which entry it makes, or why it makes none
    python tools/make_manifest.py --reduce SOURCES   write facts.json, reduced from the collected records

What is known is in JSON files beside this script:

    facts.json                    a record for each published file: address, hash, printed errors, license
    publishers.json               what the files of one publisher have in common, and which architectures they are
    records_without_entry.json    records that make no entry, and why
    entries_without_record.json   entries for files that were found after the records were collected
    entries_by_hand.json          ids of the entries that are written by hand

The manifest that is already there gives the rest. Entries written by hand stay as they are. So do all `results` and
`tensors_sha256`, which `record_results.py` writes, and the places that `pyramidzoo publish --write` has set. Defaults
stay, because what `weights="cifar10"` loads must not change. Nothing is guessed: a value that no record has is null.

Reducing keeps what an entry needs of a record, and only the id of a record that makes no entry. Published numbers
become strings with the digits that their publisher prints. A commit is kept only if it has all 40 digits, a size only
if it is in bytes.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import MANIFEST_FILE_NAME, MANIFEST_FORMAT
from pyramidzoo.catalog.manifest_writer import write_manifest
from pyramidzoo.catalog.weights_entry import License
from pyramidzoo.files import write_text

TOOLS = Path(__file__).resolve().parent
MANIFEST = TOOLS.parent / MANIFEST_FILE_NAME
FACTS = TOOLS / "facts.json"

Json = dict[str, Any]
Fact = Mapping[str, Any]  # one reduced record of facts.json

FROM_RECORD = "record"  # as a publisher's license: what the record says
SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
}
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenet1k": 1000}
SPLITS = {"cifar10": "test", "cifar100": "test", "svhn": "test", "imagenet1k": "val"}
# The ids of these origins' own architectures do not repeat the origin behind the dataset.
ORIGINS_IN_ARCHITECTURES = ("_fattorib", "_pytorchcv", "_chenyaofo", "_hysts", "_bearpaw")
# Mean and standard deviation of records that state none.
IMAGENET_NORMALIZATION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR10_NORMALIZATION = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


@dataclass(frozen=True)
class NameRule:
    """Says what the file of a record is called in the manifest.

    Attributes:
        record: Regular expression that the whole id of the record matches.
        architecture: Name of the architecture, with the groups of the expression as in `re.sub`.
        origin: The origin in the id of the entry, written likewise.
    """

    record: str
    architecture: str
    origin: str


@dataclass(frozen=True)
class Publisher:
    """What the files of one publisher have in common. Fields that end in `_note` are for readers of the JSON.

    Attributes:
        records: Shell pattern of the ids of the publisher's records.
        by: Who published the errors.
        source: Where the errors were published.
        citation: Whom to cite.
        layout: Layout of the tensor names; None if they are the zoo's own.
        names: Rules for the names of the entries; the first one that matches decides.
        is_on_hub: Whether the files are on the Hugging Face Hub, with a table of results beside them.
        format: What a file is.
        printed_decimals: How many decimals the publisher prints; None if each number has its own.
        prints_accuracies: Whether the publisher prints accuracies. The error is 100 minus the accuracy.
        code_license: License of the code; FROM_RECORD if the record has it.
        weights_license: License of the weights; FROM_RECORD if the record has it.
        resize: Pixels of the shorter side of a resized ImageNet image, if the record does not state it.
        interpolation: How ImageNet images are resized, if the record does not state it.
        protocol_source: Where it is written how ImageNet images were prepared for the published errors. If neither
            this nor the record says so, the claims have the protocol "not stated".
        training: What is known of the training: a shell pattern of ids ("records") and a "text" in each item. The
            first item that matches decides.
        manual: What to look for on a page from which no program can download: a regular expression for the id
            ("record") and a "text" with its groups. None if programs can download the files.
    """

    records: str
    by: str
    source: str
    citation: str
    layout: str | None
    names: tuple[NameRule, ...]
    is_on_hub: bool = False
    format: str = "torch"
    printed_decimals: int | None = 2
    prints_accuracies: bool = False
    code_license: str | None = FROM_RECORD
    weights_license: str | None = FROM_RECORD
    resize: int = 256
    interpolation: str = "bilinear"
    protocol_source: str | None = None
    training: tuple[Mapping[str, str], ...] = ()
    manual: Mapping[str, str] | None = None


def read_json(name: str) -> Any:
    """Read a JSON file that stands beside this script."""
    return json.loads((TOOLS / name).read_text(encoding="utf-8"))


def read_publishers() -> list[Publisher]:
    """Read publishers.json."""
    publishers = []
    for content in read_json("publishers.json"):
        fields = {name: value for name, value in content.items() if not name.endswith("note")}
        names = tuple(NameRule(**rule) for rule in content["names"])
        publishers.append(Publisher(**{**fields, "names": names, "training": tuple(content.get("training", ()))}))
    return publishers


PUBLISHERS = read_publishers()
RECORDS_WITHOUT_ENTRY: list[dict[str, str]] = read_json("records_without_entry.json")
ENTRIES_WITHOUT_RECORD: dict[str, Json] = read_json("entries_without_record.json")
ENTRIES_BY_HAND: list[str] = read_json("entries_by_hand.json")


def find_reason_for_no_entry(record_id: str) -> str | None:
    """Say why a record makes no entry; None if it makes one. The first pattern that matches decides."""
    return next((item["reason"] for item in RECORDS_WITHOUT_ENTRY if fnmatchcase(record_id, item["records"])), None)


def find_publisher(record_id: str) -> Publisher:
    """Find the publisher of a record.

    Raises:
        ValueError: If the record is nobody's.
    """
    for publisher in PUBLISHERS:
        if fnmatchcase(record_id, publisher.records):
            return publisher
    raise ValueError(f"{record_id} has no publisher, and nothing says why it makes no entry")


# Reducing the collected records


def reduce_record(record: Mapping[str, Any]) -> Json:
    """Keep what an entry needs of a collected record."""
    if find_reason_for_no_entry(record["id"]):
        return {"id": record["id"]}
    publisher = find_publisher(record["id"])
    metrics = [format_metric(metric, publisher) for metric in record["metrics"][:1]]
    git_hash = re.search(r"git blob sha1 ([0-9a-f]{40})", " ".join(record["notes"]))
    preprocessing = record["preprocessing"] or {}
    fact = {
        "id": record["id"],
        "dataset": record["dataset"],
        "repo_id": record["repo_id"],
        "filename": record["filename"],
        "url": record["url"],
        "revision": record["revision"] if record["revision_kind"] == "full" else None,
        "sha256": record["sha256"],
        "sha_algo": record["sha_algo"],
        "sha_value": record["sha_value"],
        "inside_zip": "inside the zip" in (record["sha_is"] or "").lower(),
        "git_blob_sha1": git_hash and git_hash[1],
        "bytes": record["size_bytes"],
        "licence": record["license"],
        "num_params": record["num_params"],
        "mean": preprocessing.get("mean"),
        "std": preprocessing.get("std"),
        "resize": (preprocessing.get("resize_size") or [None])[0],
        "crop": (preprocessing.get("crop_size") or [None])[0],
        "interpolation": preprocessing.get("interpolation"),
        "metric": metrics[0] if metrics else None,
    }
    return {name: value for name, value in fact.items() if value not in (None, False)}


def format_metric(metric: Mapping[str, Any], publisher: Publisher) -> Json:
    """Write a published accuracy or error with the digits that were printed, and keep how it was measured."""
    printed = {}
    for name in ("top1", "top5") if publisher.prints_accuracies else ("top1_err", "top5_err"):
        value, decimals = metric.get(name), publisher.printed_decimals
        if value is not None:
            printed[name] = str(value) if decimals is None else f"{value:.{decimals}f}"
    return {**printed, **{name: metric[name] for name in ("img_size", "crop_pct", "interpolation") if name in metric}}


# Making entries


@dataclass(frozen=True)
class RecordOutcome:
    """What a record makes.

    Attributes:
        fact: The record.
        weights_id: Id of its entry; None if it makes none.
        content: The entry's JSON; None if the entry is written by hand, or if there is none.
        reason: Why the record makes no entry; None if it makes one.
    """

    fact: Fact
    weights_id: str | None = None
    content: Json | None = None
    reason: str | None = None


def make_entries(facts: list[Fact]) -> Iterator[RecordOutcome]:
    """Make the entry of every record, or say why it makes none."""
    for fact in facts:
        if reason := find_reason_for_no_entry(fact["id"]):
            yield RecordOutcome(fact, reason=reason)
            continue
        publisher = find_publisher(fact["id"])
        architecture, origin = find_names(fact["id"], publisher)
        weights_id = f"{architecture}.{fact['dataset']}"
        if not (architecture.endswith(ORIGINS_IN_ARCHITECTURES) and architecture.endswith(f"_{origin}")):
            weights_id += f"_{origin}"
        content = None if weights_id in ENTRIES_BY_HAND else make_entry_content(fact, publisher, architecture)
        yield RecordOutcome(fact, weights_id, content)


def find_names(record_id: str, publisher: Publisher) -> tuple[str, str]:
    """Find the architecture and the origin of a record's file.

    Raises:
        ValueError: If no rule matches.
    """
    for rule in publisher.names:
        if match := re.fullmatch(rule.record, record_id):
            return match.expand(rule.architecture), match.expand(rule.origin)
    raise ValueError(f"{record_id}: no rule of {publisher.by} in publishers.json says which architecture it is")


def make_entry_content(fact: Fact, publisher: Publisher, architecture: str) -> Json:
    """Make the JSON of an entry."""
    preprocessing = make_preprocessing(fact, publisher)
    return {
        "architecture": architecture,
        "arguments": {},
        "dataset": fact["dataset"],
        "default": False,
        "num_classes": CLASSES[fact["dataset"]],
        "preprocessing": preprocessing,
        "bundled": None,
        "hub": make_hub(fact, architecture) if publisher.is_on_hub and "repo_id" in fact else None,
        "origin": None if publisher.is_on_hub else make_origin(fact, publisher),
        "tensors_sha256": None,
        "claims": make_claims(fact, publisher, preprocessing),
        "results": [],
        "license": {
            "code": find_license(fact, publisher.code_license),
            "weights": find_license(fact, publisher.weights_license),
        },
        "training": find_training(fact, publisher),
        "citation": publisher.citation,
    }


def make_preprocessing(fact: Fact, publisher: Publisher) -> Json:
    """Make the preprocessing that the claim was measured with.

    timm's table of results states the size of the crop and its part of the resized image; timm resizes to
    floor(size / part).
    """
    is_imagenet = fact["dataset"] == "imagenet1k"
    size, resize, interpolation = 32, None, None
    if is_imagenet:
        metric = fact.get("metric", {}) if publisher.is_on_hub else {}
        size = metric.get("img_size") or fact.get("crop") or 224
        resize = math.floor(size / metric["crop_pct"]) if metric else fact.get("resize") or publisher.resize
        interpolation = metric.get("interpolation") or publisher.interpolation
    mean, std = IMAGENET_NORMALIZATION if is_imagenet else CIFAR10_NORMALIZATION
    return {
        "input_size": [3, size, size],
        "mean": fact.get("mean", mean),
        "std": fact.get("std", std),
        "resize": resize,
        "crop": size if is_imagenet else None,
        "interpolation": interpolation,
    }


def make_hub(fact: Fact, architecture: str) -> Json:
    """Make the place of a file of timm on the Hub."""
    return {
        "repo_id": fact["repo_id"],
        "revision": fact.get("revision"),
        "filename": fact["filename"],
        "sha256": fact.get("sha256"),
        "bytes": fact.get("bytes"),
        "layout": "timm" if architecture.startswith("vgg") else None,  # all others have torchvision's names
    }


def make_origin(fact: Fact, publisher: Publisher) -> Json:
    """Make the place where the authors published the file."""
    url = fact["url"]
    if "revision" in fact:  # the address names a branch, whose files may change
        url = re.sub(r"/raw/[^/]+/", f"/raw/{fact['revision']}/", url)
    return {
        "url": url,
        "format": publisher.format,
        "bytes": fact.get("bytes"),
        "hash": find_strongest_hash(fact),
        "layout": publisher.layout,
        "manual": describe_manual_download(fact["id"], publisher),
    }


def find_strongest_hash(fact: Fact) -> dict[str, str] | None:
    """Find the strongest hash that was published of a file."""
    of = "member" if fact.get("inside_zip") else "file"
    if "sha256" in fact:
        return {"algorithm": "sha256", "of": of, "value": fact["sha256"]}
    if "git_blob_sha1" in fact:
        return {"algorithm": "git_blob_sha1", "of": of, "value": fact["git_blob_sha1"]}
    if "sha_value" not in fact:
        return None
    algorithm = fact["sha_algo"] if len(fact["sha_value"]) > 13 else f"{fact['sha_algo']}_prefix"
    return {"algorithm": algorithm, "of": of, "value": fact["sha_value"]}


def describe_manual_download(record_id: str, publisher: Publisher) -> str | None:
    """Say what a person has to look for, if no program can download the file."""
    if publisher.manual is None:
        return None
    match = re.fullmatch(publisher.manual["record"], record_id)
    if match is None:
        raise ValueError(f"{record_id}: `manual` of {publisher.by} in publishers.json does not match it")
    return match.expand(publisher.manual["text"])


def make_claims(fact: Fact, publisher: Publisher, preprocessing: Mapping[str, Any]) -> list[Json]:
    """Make the list of published errors, which has one item or none."""
    metric = fact.get("metric", {})
    top1 = metric.get("top1" if publisher.prints_accuracies else "top1_err")
    top5 = metric.get("top5" if publisher.prints_accuracies else "top5_err")
    if top1 is None:
        return []
    source = publisher.source
    if publisher.prints_accuracies:
        source += f" (published as accuracies: {top1}, {top5})"
    return [
        {
            "by": publisher.by,
            "split": SPLITS[fact["dataset"]],
            "protocol": describe_protocol(fact, publisher, preprocessing),
            "statistic": "error",
            "top1_error": convert_to_error(top1, publisher),
            "top5_error": None if top5 is None else convert_to_error(top5, publisher),
            "source": source,
        }
    ]


def describe_protocol(fact: Fact, publisher: Publisher, preprocessing: Mapping[str, Any]) -> str:
    """Say how the images were prepared for a published error."""
    if not preprocessing["crop"]:
        return "full 32x32 image, one pass"
    if publisher.protocol_source is None and "resize" not in fact:
        return "not stated"
    return f"resize {preprocessing['resize']}, center crop {preprocessing['crop']}, one pass"


def convert_to_error(printed: str, publisher: Publisher) -> str:
    """Turn a printed number into an error in percent, exactly."""
    return str(100 - Decimal(printed)) if publisher.prints_accuracies else printed


def find_license(fact: Fact, license: str | None) -> str | None:
    """Find a license: the publisher's, or the one of the record if the publisher's is FROM_RECORD."""
    if license != FROM_RECORD:
        return license
    recorded = fact.get("licence")
    return SPDX[recorded.lower()] if recorded else None


def find_training(fact: Fact, publisher: Publisher) -> str | None:
    """Find what is known of the training beside the dataset."""
    return next((item["text"] for item in publisher.training if fnmatchcase(fact["id"], item["records"])), None)


# Making the manifest


def make_manifest(facts: list[Fact], committed: Mapping[str, Any]) -> Json:
    """Make the manifest.

    Args:
        facts: The records of facts.json.
        committed: The JSON of the manifest as it is. Entries that are written by hand, measurements, places of
            published files and defaults come from it.

    Returns:
        The JSON of the new manifest.
    """
    old_entries = committed["weights"]
    entries: dict[str, Json] = {weights_id: old_entries[weights_id] for weights_id in ENTRIES_BY_HAND}
    new_entries = dict(ENTRIES_WITHOUT_RECORD)
    for outcome in make_entries(facts):
        if outcome.weights_id is not None and outcome.content is not None:
            new_entries[outcome.weights_id] = outcome.content
    for weights_id, content in new_entries.items():
        old = old_entries.get(weights_id, content)
        kept_fields = ("tensors_sha256", "results", *list_published_fields(old))
        entries[weights_id] = {**content, **{name: old[name] for name in kept_fields}}
    set_defaults(entries, old_entries)
    return {"format": MANIFEST_FORMAT, "weights": entries}


def list_published_fields(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """List the fields that `pyramidzoo publish --write` has set: only what it published has both places."""
    return ("hub", "origin") if entry["hub"] and entry["origin"] else ()


def set_defaults(entries: Mapping[str, Json], old_entries: Mapping[str, Json]) -> None:
    """Set one default for each architecture and dataset: the old one, otherwise the one that ranks first."""
    old_defaults = {
        (entry["architecture"], entry["dataset"]): weights_id
        for weights_id, entry in old_entries.items()
        if entry["default"] and weights_id in entries
    }
    candidates: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for weights_id, entry in entries.items():
        candidates[entry["architecture"], entry["dataset"]].append(weights_id)
    for key, ids in candidates.items():
        first = min(ids, key=lambda weights_id: (*rank_entry(entries[weights_id]), weights_id))
        entries[old_defaults.get(key, first)]["default"] = True


def rank_entry(entry: Mapping[str, Any]) -> tuple[int, bool, Decimal]:
    """Rank an entry as a default; the smallest rank is the best.

    Returns:
        How surely the bytes of the file are known (0 is best), whether nobody may publish the weights again, and the
        published error.
    """
    hub, origin = entry["hub"] or {}, entry["origin"] or {}
    file_hash = origin.get("hash") or {}
    if hub.get("revision") and hub.get("sha256"):
        rank = 0
    elif hub.get("sha256") or (file_hash and file_hash["algorithm"] != "sha256_prefix"):
        rank = 1
    elif file_hash:
        rank = 2
    else:
        rank = 5 if origin.get("manual") else 4 if origin else 3
    error = Decimal(entry["claims"][0]["top1_error"]) if entry["claims"] else Decimal(100)
    return rank, not License(**entry["license"]).redistributable, error


# The command line


def write_facts(sources: Path) -> None:
    """Write facts.json from the collected records, one record a line."""
    records = json.loads(sources.read_text(encoding="utf-8"))
    lines = [json.dumps(reduce_record(record), ensure_ascii=False) for record in records]
    write_text(FACTS, "[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{FACTS.name}: {len(records)} records")


def list_records(facts: list[Fact]) -> None:
    """Print which entry every record makes, or why it makes none."""
    for outcome in make_entries(facts):
        print(f"{outcome.fact['id']}: {outcome.reason or f'-> {outcome.weights_id}'}")


def update_manifest(facts: list[Fact]) -> None:
    """Write the manifest, and print how many records make an entry."""
    manifest = make_manifest(facts, json.loads(MANIFEST.read_text(encoding="utf-8")))
    write_manifest(MANIFEST, manifest)
    without_entry = sum(find_reason_for_no_entry(fact["id"]) is not None for fact in facts)
    print(
        f"{len(manifest['weights'])} entries; of {len(facts)} records {len(facts) - without_entry} make one, "
        f"{without_entry} do not (--list says why)"
    )


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduce", type=Path, metavar="SOURCES")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    if args.reduce:
        write_facts(args.reduce)
        return
    facts = read_json(FACTS.name)
    if args.list:
        list_records(facts)
    else:
        update_manifest(facts)


if __name__ == "__main__":
    main()
