"""The manifest that ships, damaged ones, and where it is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyramidzoo.convert import LAYOUTS, get_layout
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.datasets import get_dataset
from pyramidzoo.evaluation.metrics import STATISTICS
from pyramidzoo.manifest import Manifest, load_manifest, manifest_path, read_manifest

ROOT = Path(__file__).resolve().parents[1]
ID = "resnet20_fattorib.cifar10"


def test_every_entry_can_be_used() -> None:
    entries = load_manifest().entries.values()
    assert len(entries) >= 11
    for entry in entries:
        if entry.origin is not None:
            assert entry.origin.layout in LAYOUTS
            assert entry.preprocessing == get_layout(entry.origin.layout).preprocessing[entry.dataset]
            assert entry.origin.url.startswith("https://github.com/")
        else:
            assert entry.bundled is not None
        assert entry.tensors_sha256 is not None
        assert entry.preprocessing.input_size == get_dataset(entry.dataset).image_size
        assert all(claim.statistic in STATISTICS for claim in entry.claims)
        for result in entry.results:
            assert result.images == {"cifar10": 10_000, "digits": 899}[entry.dataset]
            assert all(claim.statistic in {"error", *result.statistics} for claim in entry.claims)


def test_published_errors_keep_their_printed_digits() -> None:
    printed = {entry.id: [str(c.top1_error) for c in entry.claims] for entry in load_manifest().entries.values()}
    assert printed[ID] == ["8.57"]
    assert printed["resnet44_fattorib.cifar10"] == ["7.20"]
    assert printed["resnet56_fattorib.cifar10"] == ["7.50"]
    assert printed["resnet20.cifar10_akamaster"] == ["8.27"]
    assert printed["resnet32.cifar10_akamaster"] == ["7.37"]
    assert printed["wrn_16_1.cifar10_ferles"] == []


def test_defaults_and_patterns() -> None:
    manifest = load_manifest()
    assert manifest.find("resnet20.cifar10").id == "resnet20.cifar10_akamaster"
    assert len(manifest.match("resnet*_fattorib.*")) == 4
    with pytest.raises(UsageError, match=r"did you mean resnet20_fattorib\.cifar10"):
        manifest.find("resnet20_fatorib.cifar10")


def test_the_default_is_for_the_data_set_that_the_authors_published_first() -> None:
    manifest = load_manifest()
    assert manifest.default_for("resnet20").id == "resnet20.cifar10_akamaster"
    assert manifest.default_for("resnet20", "digits").id == "resnet20.digits_zoo"
    digits = manifest.entries["resnet20.digits_zoo"]
    with pytest.raises(UsageError, match="has no default weights, which would be for cifar10; name one of digits_zoo"):
        Manifest({digits.id: digits}).default_for("resnet20")


def damaged(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> Path:
    document = json.loads(manifest_path().read_text())
    change(document["weights"])
    path = tmp_path / "weights_manifest.json"
    path.write_text(json.dumps(document))
    return path


DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda w: w[ID].pop("license"), rf"{ID}: WeightsEntry lacks \['license'\]"),
    (lambda w: w[ID].update(licence="MIT"), r"unknown \['licence'\]"),
    (lambda w: w[ID].update(architecture="resnet21"), f"{ID}: the id must be resnet21.cifar10"),
    (lambda w: w[ID]["origin"]["hash"].update(value="abc"), "origin: hash: 'abc' is not 64 hex digits"),
    (lambda w: w[ID]["origin"]["hash"].update(algorithm="crc"), "algorithm 'crc' is none of"),
    (lambda w: w[ID]["preprocessing"].update(std=[0, 1, 1]), "must be finite, and std positive"),
    (lambda w: w[ID]["preprocessing"].update(mean=[0, float("nan"), 1]), "must be finite, and std positive"),
    (lambda w: w[ID]["preprocessing"].update(input_size=[3, 32, 0]), "three positive integers"),
    (lambda w: w[ID]["preprocessing"].update(mean=[0.5]), "same number of channels"),
    (lambda w: w[ID].update(origin=None), "where the bytes are"),
    (lambda w: w[ID]["claims"][0].update(top1_error=8.57), "claims: top1_error: a published error is a string"),
    (lambda w: w[ID]["claims"][0].update(top1_error="about 8"), "is no number"),
    (lambda w: w[ID]["results"][0].update(top1_correct=10_001), "results: counts must satisfy"),
    (lambda w: w[ID]["results"][0].update(images=0, top1_correct=0, top5_correct=0), "and images > 0"),
    (lambda w: w[ID]["claims"][0].update(top1_error="NaN"), "'NaN' is no error in percent"),
    (lambda w: w[ID]["claims"][0].update(top1_error="-3"), "'-3' is no error in percent"),
    (lambda w: w[ID]["origin"]["hash"].update(of="member"), "only the hash of the 'file'"),
    (lambda w: w[ID]["origin"].update(bytes="1"), "origin: bytes: '1' is not of the type int"),
    (lambda w: w[ID].update(num_classes="ten"), "num_classes: 'ten' is not of the type int"),
    (lambda w: w[ID].update(default="no"), "default: 'no' is not of the type bool"),
    (lambda w: w[ID].update(license=None), "must be known"),
    (lambda w: w.update({"resnet20.cifar100": w["resnet20.cifar10_akamaster"]}), r"must be resnet20\.cifar10 or"),
    (lambda w: w[ID].update(claims=None), "claims: None is not a list"),
    (lambda w: w.update({ID: []}), "resnet20_fattorib"),
    (lambda w: w.update({"resnet20.cifar10_x": w["resnet20.cifar10_akamaster"]}), "is the default for cifar10 already"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGES, ids=[message for _, message in DAMAGES])
def test_damage_is_named(change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=message):
        read_manifest(damaged(change, tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "weights": {}}', '{"format": 1, "format": 1}'])
def test_files_that_are_no_manifest(text: str, tmp_path: Path) -> None:
    path = tmp_path / "weights_manifest.json"
    path.write_text(text)
    with pytest.raises(IntegrityError, match="manifest"):
        read_manifest(path)


def where(python_path: Path, folder: Path) -> Path:
    """Where the package found on `python_path` sees its manifest, asked from a folder with a decoy."""
    (folder / "weights_manifest.json").write_text("{}")
    asked = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pyramidzoo import manifest; manifest.load_manifest(); print(manifest.manifest_path())",
        ],
        env={**os.environ, "PYTHONPATH": str(python_path)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(asked.stdout.strip())


def test_a_checkout_finds_its_manifest(tmp_path: Path) -> None:
    assert where(ROOT, tmp_path) == ROOT / "weights_manifest.json"


def test_a_wheel_carries_the_manifest_and_the_tables(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(tmp_path), str(ROOT)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("pyramidzoo-*.whl")
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    assert where(installed, elsewhere) == installed / "pyramidzoo" / "weights_manifest.json"
    bundled = [entry.bundled.path for entry in load_manifest().entries.values() if entry.bundled]
    data = ["evaluation/targets.json", "bundled/digits.safetensors", "bundled/README.md", "py.typed", *bundled]
    assert {f"pyramidzoo/{name}" for name in [*data, "convert/_unpickle.py"]} <= set(names)
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
