"""Help for the tests of publishing: entries of a manifest, the command, and what a Hub on loopback was asked for."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from pyramidzoo import cli
from pyramidzoo.catalog import manifest
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import get_package_manifest_path, load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints import loading
from pyramidzoo.files import file_hash
from pyramidzoo.weights.fetch import fetch

Json = dict[str, Any]
UseManifest = Callable[[Mapping[str, Json]], Path]
MakeCheckpoint = Callable[[str], Path]

PACKAGE_MANIFEST = get_package_manifest_path()
BUNDLED_IDS = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo")
BUNDLED_ID = BUNDLED_IDS[0]
REPOSITORY = f"lab/{BUNDLED_ID}"
NO_LICENSE_ID = "resnet20_fattorib.cifar10"

# The Hub's client passes a file where its HTTP library wants `content=`.
IGNORE_CLIENT_WARNING = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

RESULT: Json = {
    "split": "test",
    "protocol": "full 32x32 image, one pass",
    "images": 10_000,
    "top1_correct": 9173,
    "top5_correct": 9966,
    "statistics": {"mean of batch errors, batch size 128": 8.247627},
    "prediction_sha256": "e" * 64,
    "precision": "fp32",
    "device": "cpu",
    "versions": {"torch": "2.10"},
    "date": "2026-01-02",
}
CLAIM: Json = {
    "by": "somebody",
    "split": "test",
    "protocol": "full 32x32 image, one pass",
    "statistic": "error",
    "top1_error": "8.27",
    "top5_error": None,
    "source": "their README",
}


def manifest_text(weights: Mapping[str, Json]) -> str:
    """Return the text of a manifest file with these entries."""
    return (
        json.dumps({"format": manifest.MANIFEST_FORMAT, "weights": dict(weights)}, indent=1, ensure_ascii=False) + "\n"
    )


def read_entries(path: Path) -> dict[str, Json]:
    """Read the entries of a manifest file as JSON."""
    weights: dict[str, Json] = json.loads(path.read_text(encoding="utf-8"))["weights"]
    return weights


def package_entries(*ids: str) -> dict[str, Json]:
    """Return entries of the package's manifest as JSON."""
    weights = read_entries(PACKAGE_MANIFEST)
    return {weights_id: weights[weights_id] for weights_id in ids}


def make_entry(architecture: str, dataset: str, file: Path, **changes: Any) -> Json:
    """Make an entry whose origin is a file with the zoo's tensor names; the file is found by its hash."""
    row = get_architecture(architecture)
    resizing = (232, 224, "bicubic") if row.input_size > 64 else (None, None, None)
    preprocessing = Preprocessing((3, row.input_size, row.input_size), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), *resizing)
    return {
        "architecture": architecture,
        "arguments": {},
        "dataset": dataset,
        "default": True,
        "num_classes": 10,
        "preprocessing": dataclasses.asdict(preprocessing),
        "bundled": None,
        "hub": None,
        "origin": {
            "url": f"https://example.org/{file.name}",
            "format": "safetensors",
            "bytes": file.stat().st_size,
            "hash": {"algorithm": "sha256", "of": "file", "value": file_hash(file)},
            "layout": "zoo",
            "manual": None,
        },
        "tensors_sha256": None,
        "claims": [CLAIM],
        "results": [RESULT],
        "license": {"code": "Apache-2.0", "weights": "MIT"},
        "training": "for 3 epochs",
        "citation": "Somebody 2026, https://example.org",
    } | changes


def publish(*arguments: str | Path) -> int:
    """Run `pyramidzoo publish` in this process, and return its exit code."""
    return cli.main(["publish", *map(str, arguments)])


def count_commits(hub: HubServer) -> int:
    """Count the commits that the Hub was asked for, refused ones included."""
    return hub.count("POST", "/commit/main")


def count_uploads(hub: HubServer) -> int:
    """Count the large files that were uploaded to the Hub."""
    return hub.count("PUT", "/lfs-objects/")


def hub_environment(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a child process whose client uses this Hub as its owner."""
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
    settings = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return os.environ | place | settings


def assert_mentions(message: str, *words: str) -> None:
    """Check that a message contains all of these words."""
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message!r}"


def assert_hub_is_enough(manifest_file: Path, ids: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Check that published weights come from the Hub alone, and that evaluating them gives the recorded predictions.

    The bundled files and the origins are taken out of the manifest first.
    """
    weights = read_entries(manifest_file)
    for content in weights.values():
        content["bundled"] = None
        content["origin"] = content["origin"] if content["hub"] is None else None
    manifest_file.write_text(manifest_text(weights), encoding="utf-8")
    loading.forget_verified()
    for weights_id in ids:
        weights_file = fetch(load_manifest().find(weights_id))
        assert (weights_file.source, weights_file.sha256) == ("hub", weights[weights_id]["hub"]["sha256"])
    capsys.readouterr()
    cli.main(["evaluate", *ids, "--format", "json"])
    output = capsys.readouterr()
    assert output.out, output.err
    evaluation = json.loads(output.out)
    assert evaluation["failures"] == []
    assert {record["weights"]: record["recorded"] for record in evaluation["records"]} == dict.fromkeys(ids, "exact")
