"""Write weights_manifest.json, the list of all weights that the zoo knows, from collected facts about published files.

    python tools/make_manifest.py                    write the manifest
    python tools/make_manifest.py --list             print for every record which entry it makes, or why it makes none
    python tools/make_manifest.py --reduce SOURCES   write facts.json, reduced from the collected records in SOURCES

A record describes one published file of weights, and an entry is the part of the manifest for one set of weights. The
facts are in JSON files beside this script:

    facts.json                    a record for each published file: address, hash, printed errors, license
    publishers.json               what the files of one publisher have in common, and which architectures they are
    records_without_entry.json    records that make no entry, and why
    entries_without_record.json   entries for files that were found after the records were collected
    entries_by_hand.json          ids of the entries that are written by hand

Some parts of the present manifest are kept:

* the entries that are written by hand,
* the `results` and `tensors_sha256` of all entries, which `record_results.py` writes,
* the addresses that `pyramidzoo publish --write` has set,
* the choice of default weights, because `weights="cifar10"` must always load the same weights.

Nothing is guessed: a value that no record has is null.

--reduce keeps the values of a record that an entry needs. Of a record that makes no entry it keeps only the id.
Published numbers become strings with as many digits as their publisher prints. A commit is kept only if all of its 40
digits are known, and a size only if it is known in bytes.
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

FROM_RECORD = "record"  # With this value as a publisher's license, the license is that of each record.
# The SPDX identifiers of licenses, by their names in the records.
SPDX_IDENTIFIERS = {
    "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
}
NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenet1k": 1000}
TEST_SPLITS = {"cifar10": "test", "cifar100": "test", "svhn": "test", "imagenet1k": "val"}
# The ends of the names of architectures that only one project (the origin) has. The ids of their weights, as
# "resnet20_fattorib.cifar10", do not repeat the origin behind the dataset.
ORIGINS_IN_ARCHITECTURES = ("_fattorib", "_pytorchcv", "_chenyaofo", "_hysts", "_bearpaw")
# The mean and standard deviation for records that do not state them.
IMAGENET_NORMALIZATION = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CIFAR10_NORMALIZATION = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


@dataclass(frozen=True)
class NameRule:
    """A rule that makes the name of an entry from the id of its record.

    Attributes:
        record: A regular expression that must match the whole id of the record.
        architecture: The name of the architecture. It may contain groups of the expression, as "\\1".
        origin: The name of the project in the entry's id. It may contain groups too.
    """

    record: str
    architecture: str
    origin: str


@dataclass(frozen=True)
class Publisher:
    """The properties that all files of one publisher have in common: an item of publishers.json.

    Fields of the JSON whose names end in "note" are comments.

    Attributes:
        records: A shell pattern that matches the ids of the publisher's records.
        by: The name of the publisher of the errors.
        source: The document in which the errors were published.
        citation: The work to cite for these weights.
        layout: The name of the layout: the way in which the project names the tensors of its files. None if the
            names are those of the zoo.
        names: The rules for the names of the entries. The first rule that matches is used.
        is_on_hub: Whether the files are on the Hugging Face Hub, with a table of results beside them.
        format: The file format, as "torch" or "zip of torch".
        printed_decimals: The number of decimals that the publisher prints; None if it differs from number to
            number.
        prints_accuracies: Whether the publisher prints accuracies. The error is 100 minus the accuracy.
        code_license: The license of the code; FROM_RECORD if each record states it.
        weights_license: The license of the weights; FROM_RECORD if each record states it.
        resize: The length in pixels to which the shorter side of an ImageNet image is resized, for records that do
            not state it.
        interpolation: The interpolation with which ImageNet images are resized, for records that do not state it.
        protocol_source: The document that says how ImageNet images were prepared for the published errors. If this
            is None and the record does not say it either, the claims have the protocol "not stated".
        training: Facts about the training. Each item has a shell pattern for ids of records ("records") and a
            "text". The text of the first pattern that matches is used.
        manual: What a person must look for on a page from which no program can download. It has a regular
            expression for the record's id ("record"), and a "text" that may contain groups of the expression. None
            if programs can download the files.
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
    """Return the reason why a record makes no entry; None if it makes one. The first pattern that matches decides."""
    return next((item["reason"] for item in RECORDS_WITHOUT_ENTRY if fnmatchcase(record_id, item["records"])), None)


def find_publisher(record_id: str) -> Publisher:
    """Find the publisher of a record.

    Raises:
        ValueError: The record is of no publisher in publishers.json.
    """
    for publisher in PUBLISHERS:
        if fnmatchcase(record_id, publisher.records):
            return publisher
    raise ValueError(f"{record_id} has no publisher, and nothing says why it makes no entry")


# Reducing the collected records


def reduce_record(record: Mapping[str, Any]) -> Json:
    """Return the values of a collected record that its entry needs; only the id if the record makes no entry."""
    if find_reason_for_no_entry(record["id"]):
        return {"id": record["id"]}
    publisher = find_publisher(record["id"])
    metrics = [format_metric(metric, publisher) for metric in record["metrics"][:1]]  # only the first one, if any
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
    """Return published accuracies or errors as strings with the printed digits, and how images were prepared for them.

    The collected records have them as numbers, which have lost zeros at the end.
    """
    printed = {}
    for name in ("top1", "top5") if publisher.prints_accuracies else ("top1_err", "top5_err"):
        value, decimals = metric.get(name), publisher.printed_decimals
        if value is not None:
            printed[name] = str(value) if decimals is None else f"{value:.{decimals}f}"
    return {**printed, **{name: metric[name] for name in ("img_size", "crop_pct", "interpolation") if name in metric}}


# Making entries


@dataclass(frozen=True)
class RecordOutcome:
    """The entry that a record makes, or the reason why it makes none.

    Attributes:
        fact: The reduced record.
        weights_id: The id of the entry; None if the record makes none.
        content: The JSON of the entry; None if the entry is written by hand, or if the record makes none.
        reason: The reason why the record makes no entry; None if it makes one.
    """

    fact: Fact
    weights_id: str | None = None
    content: Json | None = None
    reason: str | None = None


def make_entries(facts: list[Fact]) -> Iterator[RecordOutcome]:
    """Yield for every record the entry that it makes, or the reason why it makes none."""
    for fact in facts:
        if reason := find_reason_for_no_entry(fact["id"]):
            yield RecordOutcome(fact, reason=reason)
            continue
        publisher = find_publisher(fact["id"])
        architecture, origin = find_names(fact["id"], publisher)
        # For example "resnet20.cifar10_akamaster", or "resnet20_fattorib.cifar10".
        weights_id = f"{architecture}.{fact['dataset']}"
        if not (architecture.endswith(ORIGINS_IN_ARCHITECTURES) and architecture.endswith(f"_{origin}")):
            weights_id += f"_{origin}"
        content = None if weights_id in ENTRIES_BY_HAND else make_entry_content(fact, publisher, architecture)
        yield RecordOutcome(fact, weights_id, content)


def find_names(record_id: str, publisher: Publisher) -> tuple[str, str]:
    """Find the names of the architecture and of the origin (the project) of a record's file.

    Raises:
        ValueError: No rule of the publisher matches the record's id.
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
        "num_classes": NUM_CLASSES[fact["dataset"]],
        "preprocessing": preprocessing,
        "bundled": None,
        "hub": make_hub_address(fact, architecture) if publisher.is_on_hub and "repo_id" in fact else None,
        "origin": None if publisher.is_on_hub else make_origin_address(fact, publisher),
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
    """Make the preprocessing with which the published error was measured.

    timm's table of results states the size of the crop (`img_size`) and the crop divided by the resized image
    (`crop_pct`). timm resizes the shorter side to floor(img_size / crop_pct) pixels.
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


def make_hub_address(fact: Fact, architecture: str) -> Json:
    """Make the entry's field `hub`: where the file of timm is on the Hugging Face Hub."""
    return {
        "repo_id": fact["repo_id"],
        "revision": fact.get("revision"),
        "filename": fact["filename"],
        "sha256": fact.get("sha256"),
        "bytes": fact.get("bytes"),
        # Only timm's VGGs have names of their own. All others have torchvision's names, which are the zoo's.
        "layout": "timm" if architecture.startswith("vgg") else None,
    }


def make_origin_address(fact: Fact, publisher: Publisher) -> Json:
    """Make the entry's field `origin`: the address at which the authors published the file, and its hash."""
    url = fact["url"]
    if "revision" in fact:  # The address names a branch, whose files may change. A commit takes its place.
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
    """Return the strongest hash of a file that was published; None if none was.

    The hash of a zip archive may be that of the file in it ("member").
    """
    of = "member" if fact.get("inside_zip") else "file"
    if "sha256" in fact:
        return {"algorithm": "sha256", "of": of, "value": fact["sha256"]}
    if "git_blob_sha1" in fact:
        return {"algorithm": "git_blob_sha1", "of": of, "value": fact["git_blob_sha1"]}
    if "sha_value" not in fact:
        return None
    # At most 13 digits are the start of a hash. For example, torchvision's file names end in 8 digits of the sha256.
    algorithm = fact["sha_algo"] if len(fact["sha_value"]) > 13 else f"{fact['sha_algo']}_prefix"
    return {"algorithm": algorithm, "of": of, "value": fact["sha_value"]}


def describe_manual_download(record_id: str, publisher: Publisher) -> str | None:
    """Say what a person must look for on the page of a file; None if programs can download the file."""
    if publisher.manual is None:
        return None
    match = re.fullmatch(publisher.manual["record"], record_id)
    if match is None:
        raise ValueError(f"{record_id}: `manual` of {publisher.by} in publishers.json does not match it")
    return match.expand(publisher.manual["text"])


def make_claims(fact: Fact, publisher: Publisher, preprocessing: Mapping[str, Any]) -> list[Json]:
    """Make the entry's field `claims`: the list of published errors, which has one item or none."""
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
            "split": TEST_SPLITS[fact["dataset"]],
            "protocol": describe_protocol(fact, publisher, preprocessing),
            "statistic": "error",
            "top1_error": convert_to_error(top1, publisher),
            "top5_error": None if top5 is None else convert_to_error(top5, publisher),
            "source": source,
        }
    ]


def describe_protocol(fact: Fact, publisher: Publisher, preprocessing: Mapping[str, Any]) -> str:
    """Say how the images were prepared when the published error was measured."""
    if not preprocessing["crop"]:  # The dataset is one of CIFAR's size.
        return "full 32x32 image, one pass"
    if publisher.protocol_source is None and "resize" not in fact:
        return "not stated"
    return f"resize {preprocessing['resize']}, center crop {preprocessing['crop']}, one pass"


def convert_to_error(printed: str, publisher: Publisher) -> str:
    """Turn a printed accuracy or error into an error in percent, without rounding."""
    return str(100 - Decimal(printed)) if publisher.prints_accuracies else printed


def find_license(fact: Fact, license: str | None) -> str | None:
    """Return the license of the publisher; if it is FROM_RECORD, the license of the record."""
    if license != FROM_RECORD:
        return license
    license_of_record = fact.get("licence")
    return SPDX_IDENTIFIERS[license_of_record.lower()] if license_of_record else None


def find_training(fact: Fact, publisher: Publisher) -> str | None:
    """Return what is known of the training, apart from the dataset; None if nothing is known."""
    return next((item["text"] for item in publisher.training if fnmatchcase(fact["id"], item["records"])), None)


# Making the manifest


def make_manifest(facts: list[Fact], committed: Mapping[str, Any]) -> Json:
    """Make the manifest from the facts, and from the parts of the present manifest that are kept.

    Args:
        facts: The records of facts.json.
        committed: The JSON of the present manifest. Entries that are written by hand, measured results, addresses
            of files that were published from the zoo, and defaults come from it.

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
    """List the fields of an entry that `pyramidzoo publish --write` has set: the two addresses, or none.

    An entry has both addresses, `hub` and `origin`, only if the zoo has published the authors' file on the Hub.
    """
    return ("hub", "origin") if entry["hub"] and entry["origin"] else ()


def set_defaults(entries: Mapping[str, Json], old_entries: Mapping[str, Json]) -> None:
    """Set the default weights for each architecture and dataset, which `weights="cifar10"` loads.

    They stay the same as in the old manifest. If that had none, they are the entry that ranks first.
    """
    old_defaults = {
        (entry["architecture"], entry["dataset"]): weights_id
        for weights_id, entry in old_entries.items()
        if entry["default"] and weights_id in entries
    }
    candidates: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for weights_id, entry in entries.items():
        candidates[entry["architecture"], entry["dataset"]].append(weights_id)
    for key, ids in candidates.items():
        best_id = min(ids, key=lambda weights_id: (*rank_entry(entries[weights_id]), weights_id))
        entries[old_defaults.get(key, best_id)]["default"] = True


def rank_entry(entry: Mapping[str, Any]) -> tuple[int, bool, Decimal]:
    """Return the rank of an entry among those that could be the default; the smallest rank is the best.

    Returns:
        First a number from 0 to 5. It is 0 if the file can be downloaded and its bytes are known for certain, and 5
        if a person must download it. Then whether the license forbids publishing the weights again, and the published
        error in percent.
    """
    hub, origin = entry["hub"] or {}, entry["origin"] or {}
    file_hash = origin.get("hash") or {}
    if hub.get("revision") and hub.get("sha256"):
        rank = 0
    elif hub.get("sha256") or (file_hash and file_hash["algorithm"] != "sha256_prefix"):
        rank = 1
    elif file_hash:  # of which only the first digits are known
        rank = 2
    elif not origin:  # on the Hub only
        rank = 3
    else:
        rank = 5 if origin.get("manual") else 4
    error = Decimal(entry["claims"][0]["top1_error"]) if entry["claims"] else Decimal(100)
    return rank, not License(**entry["license"]).redistributable, error


# The command line


def write_facts(sources: Path) -> None:
    """Write facts.json from the collected records, with each record in a line of its own."""
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
    """Write the manifest, or do what `--reduce` or `--list` asks for."""
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
