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

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import Manifest, get_manifest_path, load_manifest, read_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.metrics import STATISTICS

ROOT = Path(__file__).resolve().parents[1]
ID = "resnet20_fattorib.cifar10"
HUB = "resnet18.imagenet1k_timm_a1"


HOSTS = {  # of files that a program can download
    "github.com",
    "download.pytorch.org",
    "dl.fbaipublicfiles.com",
    "d2j0dndfm35trm.cloudfront.net",
    "s3.amazonaws.com",
}


def test_every_entry_is_valid() -> None:
    strict = read_manifest(get_manifest_path())
    assert len(strict.entries) >= 420
    assert dict(strict.entries) == dict(load_manifest().entries)


def test_every_entry_can_be_used() -> None:
    for entry in load_manifest().entries.values():
        for source in (entry.hub, entry.origin):
            if source is not None and source.layout is not None:
                layout = get_layout(source.layout)
                assert source.layout in LAYOUTS
                assert layout.supports(get_architecture(entry.architecture)), entry.id
                own = layout.preprocessing.get(entry.dataset)
                if own is not None and "_tv_" not in entry.id:  # torchvision's later weights are resized to 232
                    assert entry.preprocessing == own, entry.id
        assert entry.num_classes == {"cifar100": 100, "imagenet1k": 1000}.get(entry.dataset, 10)
        assert all(claim.statistic in STATISTICS for claim in entry.claims)
        assert all(claim.split == ("val" if entry.dataset == "imagenet1k" else "test") for claim in entry.claims)


def test_images_come_in_their_datasets_size() -> None:
    for entry in load_manifest().entries.values():
        given = entry.preprocessing
        if entry.dataset == "imagenet1k":
            assert given.input_size == (3, given.crop, given.crop)
            assert given.crop is not None
            assert given.resize is not None
            assert given.crop <= given.resize
            assert given.interpolation in ("bilinear", "bicubic")
        else:
            assert given.input_size == ((1, 8, 8) if entry.dataset == "digits" else (3, 32, 32))
            assert (given.resize, given.crop, given.interpolation) == (None, None, None)


def test_files_are_where_a_program_can_get_them_or_a_person_is_told_what_to_look_for() -> None:
    for entry in load_manifest().entries.values():
        if entry.origin is None:
            assert entry.hub or entry.bundled
        elif entry.origin.manual is None:
            assert entry.origin.url.startswith("https://")
            assert entry.origin.url.split("/")[2] in HOSTS
            assert entry.origin.filename.endswith((".pth", ".pt", ".th", ".tar", ".t7", ".zip"))
            assert "/raw/master/" not in entry.origin.url
            assert "/raw/main/" not in entry.origin.url
        else:
            assert entry.origin.url.split("/")[2] not in HOSTS
            others = [e for e in load_manifest().list_entries(entry.architecture) if e.dataset == entry.dataset]
            assert not entry.default or all(other.origin and other.origin.manual for other in others), entry.id


def test_what_nobody_has_published_a_hash_of() -> None:
    entries = load_manifest().entries.values()
    direct = {entry.id for entry in entries if entry.origin and not entry.origin.hash and not entry.origin.manual}
    assert all(weights_id.endswith("_fb") for weights_id in direct)
    assert len(direct) == 8
    pinned = [e for e in entries if e.hub and e.hub.revision and e.hub.sha256]
    assert {e.hub.repo_id.split("/")[0] for e in entries if e.hub} == {"timm"}
    assert len(pinned) == 20


def test_what_was_measured_is_known_to_the_byte() -> None:
    measured = [entry for entry in load_manifest().entries.values() if entry.results]
    assert len(measured) >= 11
    for entry in measured:
        assert entry.tensors_sha256 is not None
        for result in entry.results:
            assert result.images == {"cifar10": 10_000, "digits": 899}[entry.dataset]
            assert all(claim.statistic in {"error", *result.statistics} for claim in entry.claims)


def test_only_known_permissive_licenses_allow_to_publish_again() -> None:
    entries = load_manifest().entries
    allowed = {entry.license.weights for entry in entries.values() if entry.license.redistributable}
    refused = {entry.license.weights for entry in entries.values() if not entry.license.redistributable}
    assert allowed == {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"}
    assert refused == {None, "none stated", "CC-BY-NC-4.0"}
    for weights_id in ("resnet18.imagenet1k_timm_fb_swsl_ig1b_ft", "pyramidnet200_a300.imagenet1k_jhkim89", ID):
        assert not entries[weights_id].license.redistributable


def test_every_dataset_of_an_architecture_has_one_default() -> None:
    known = load_manifest()
    for architecture in {entry.architecture for entry in known.entries.values()}:
        entries = known.list_entries(architecture)
        assert sorted(e.dataset for e in entries if e.default) == sorted({e.dataset for e in entries})
    chosen = {
        "wide_resnet50_2.imagenet1k": "wide_resnet50_2.imagenet1k_timm_racm",  # pinned on the Hub
        "densenet121.imagenet1k": "densenet121.imagenet1k_pytorchcv",  # a full hash, and the lower error
        "resnet20_b.cifar10": "resnet20_b.cifar10_pytorchcv",  # a full hash before a prefix
        "resnext29_8x64d.cifar10": "resnext29_8x64d.cifar10_bearpaw",  # there is no other
        "resnet20.cifar10": "resnet20.cifar10_akamaster",
    }
    assert {name: known.find(name).id for name in chosen} == chosen


def test_published_errors_keep_their_printed_digits() -> None:
    printed = {entry.id: [str(c.top1_error) for c in entry.claims] for entry in load_manifest().entries.values()}
    assert printed[ID] == ["8.57"]
    assert printed["resnet44_fattorib.cifar10"] == ["7.20"]
    assert printed["resnet56_fattorib.cifar10"] == ["7.50"]
    assert printed["resnet20.cifar10_akamaster"] == ["8.27"]
    assert printed["resnet32.cifar10_akamaster"] == ["7.37"]
    assert printed["resnet44.cifar10_akamaster"] == ["6.90"]
    assert printed["resnext29_16x64d.cifar100_bearpaw"] == ["17.30"]
    assert printed["wrn_16_1.cifar10_ferles"] == []
    assert printed["densenet_bc_100_k12.cifar10_dice"] == []
    assert printed["pyramidnet164_a270.cifar100_pytorchcv"] == ["16.70"]
    assert printed["resnet50.imagenet1k_timm_a1"] == ["18.760"]
    assert printed["wide_resnet50_2.imagenet1k_szagoruyko"] == ["21.9"]


def test_published_accuracies_become_errors_exactly() -> None:
    entries = load_manifest().entries
    (claim,) = entries["resnet20_b.cifar10_chenyaofo"].claims
    assert (str(claim.top1_error), str(claim.top5_error)) == ("7.40", "0.19")
    assert "published as accuracies: 92.60, 99.81" in claim.source
    (claim,) = entries["resnet50.imagenet1k_tv_v2"].claims
    assert (str(claim.top1_error), str(claim.top5_error)) == ("19.142", "4.566")


def test_defaults_and_patterns() -> None:
    known = load_manifest()
    assert known.find("resnet20.cifar10").id == "resnet20.cifar10_akamaster"
    assert len(known.match("resnet*_fattorib.*")) == 4
    with pytest.raises(UsageError, match=r"did you mean resnet20_fattorib\.cifar10"):
        known.find("resnet20_fatorib.cifar10")


def test_the_default_is_for_the_dataset_that_the_authors_published_first() -> None:
    known = load_manifest()
    assert known.find_by_tag("resnet20").id == "resnet20.cifar10_akamaster"
    assert known.find_by_tag("resnet20", "digits").id == "resnet20.digits_zoo"
    digits = known.entries["resnet20.digits_zoo"]
    with pytest.raises(UsageError, match="has no default weights, which would be for cifar10; name one of digits_zoo"):
        Manifest({digits.id: digits}).find_by_tag("resnet20")


def damaged(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> Path:
    document = json.loads(get_manifest_path().read_text())
    change(document["weights"])
    path = tmp_path / "weights_manifest.json"
    path.write_text(json.dumps(document))
    return path


PLACE = {
    "repo_id": "o/n",
    "revision": None,
    "filename": "net.safetensors",
    "sha256": None,
    "bytes": None,
    "layout": None,
}
DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda w: w[ID].pop("license"), rf"{ID}: WeightsEntry lacks \['license'\]"),
    (lambda w: w[ID].update(licence="MIT"), r"unknown \['licence'\]"),
    (lambda w: w[ID].update(architecture="resnet21"), f"{ID}: the id must be resnet21.cifar10"),
    (
        lambda w: w[ID]["origin"]["hash"].update(value="abc"),
        "origin: hash: 'abc' is not 64 hex digits",
    ),
    (lambda w: w[ID]["origin"]["hash"].update(algorithm="crc"), "algorithm 'crc' is none of"),
    *[
        (lambda w, p=place: w[ID].update(hub={**PLACE, **p}), f"hub: {message}")
        for place, message in [
            ({"repo_id": "o/n/../x"}, "repo_id: 'o/n/../x' cannot be a repository"),
            ({"repo_id": ""}, "repo_id: '' cannot be a repository"),
            ({"repo_id": "o/a..b"}, "repo_id: 'o/a..b' cannot be a repository"),
            ({"repo_id": "o/a--b"}, "repo_id: 'o/a--b' cannot be a repository"),
            ({"filename": "../model.safetensors"}, "filename: '../model.safetensors' is no path in a repository"),
            ({"filename": "/model.safetensors"}, "filename: '/model.safetensors' is no path in a repository"),
        ]
    ],
    *[
        (lambda w, c=constants: w[ID]["preprocessing"].update(c), f"{ID}: preprocessing: {message}")
        for constants, message in [
            ({"std": [0, 1, 1]}, "the standard deviation 0 1 1 is not above 0 and at most 1; give those of"),
            ({"mean": [0, float("nan"), 1]}, "the mean 0 nan 1 is not within 0 to 1; give those of"),
            ({"mean": [0.5, float("inf"), 0.5]}, "the mean 0.5 inf 0.5 is not within 0 to 1; give those of"),
            ({"mean": [-0.1, 0.5, 0.5]}, "the mean -0.1 0.5 0.5 is not within 0 to 1; give those of"),
            ({"mean": [51, 102, 127.5]}, "the mean 51 102 127.5 is not .* gives the mean 0.2 0.4 0.5 and the standard"),
            (
                {"std": [51, 102, 127.5]},
                "the standard deviation 51 102 127.5 is not .* and the standard deviation 0.2 0.4 0.5;",
            ),
        ]
    ],
    (lambda w: w[ID]["preprocessing"].update(input_size=[3, 32, 0]), "three positive integers"),
    (lambda w: w[ID]["preprocessing"].update(mean=[0.5]), "same number of channels"),
    (lambda w: w[ID].update(origin=None), "where the file is"),
    (lambda w: w[ID]["claims"][0].update(top1_error=8.57), "claims: top1_error: a published error must be a string"),
    (lambda w: w[ID]["claims"][0].update(top1_error="about 8"), "is no number"),
    (lambda w: w[ID]["results"][0].update(top1_correct=10_001), "results: counts must satisfy"),
    (lambda w: w[ID]["results"][0].update(images=0, top1_correct=0, top5_correct=0), "and images > 0"),
    (lambda w: w[ID]["claims"][0].update(top1_error="NaN"), "'NaN' is no error in percent"),
    (lambda w: w[ID]["claims"][0].update(top1_error="-3"), "'-3' is no error in percent"),
    (lambda w: w[ID]["origin"]["hash"].update(of="folder"), "of the 'file' itself or of the 'member' of a zip"),
    (
        lambda w: w[ID]["origin"]["hash"].update(algorithm="sha256_prefix"),
        "is not 8 to 63 hex digits",
    ),
    (
        lambda w: w[ID]["origin"]["hash"].update(algorithm="git_blob_sha1"),
        "is not 40 hex digits",
    ),
    (lambda w: w[ID]["origin"].update(url="ftp://x/y"), "origin: url: 'ftp://x/y' is no address"),
    (lambda w: w[ID]["origin"].pop("manual"), r"origin: Origin lacks \['manual'\]"),
    (lambda w: w[HUB]["hub"].update(revision="main"), "hub: 'main' is not 40 hex digits"),
    (lambda w: w[HUB]["hub"].update(sha256="0" * 63), "hub: '0+' is not 64 hex digits"),
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


def test_a_damaged_entry_leaves_the_others_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = damaged(lambda w: w[ID].update(default="no"), tmp_path)
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
    loaded = load_manifest()
    assert loaded.find("resnet20.cifar10").id == "resnet20.cifar10_akamaster"
    assert loaded.list_tags("resnet20_fattorib") == ["cifar10"]
    for look, name in ((loaded.find, ID), (loaded.match, "*"), (loaded.list_entries, "resnet20_fattorib")):
        with pytest.raises(IntegrityError, match=f"{ID}: default: 'no' is not of the type bool; mend the entry or"):
            look(name)


def test_a_normalisation_that_cannot_be_meant() -> None:
    """In Python it is a usage error, which shows the numbers and what they would be on the scale from 0 to 1."""
    grey = (1, 8, 8)
    for mean, std in [(0, 1), (1, 1), (0.5, 1e-6)]:  # the ends of what values from 0 to 1 can have
        Preprocessing(grey, (mean,), (std,))
    too_large, nan, infinite = 1 + 1e-9, float("nan"), float("inf")
    for mean, std in [(-1e-9, 0.5), (too_large, 0.5), (nan, 0.5), (infinite, 0.5), (0.5, 0), (0.5, -0.1)]:
        with pytest.raises(UsageError, match=r"the (mean|standard deviation) .* must be divided by 255"):
            Preprocessing(grey, (mean,), (std,))
    for std in (too_large, nan, infinite):
        with pytest.raises(UsageError, match=r"the standard deviation .* must be divided by 255"):
            Preprocessing(grey, (0.5,), (std,))
    with pytest.raises(UsageError) as caught:
        Preprocessing((3, 32, 32), (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
    assert str(caught.value) == (
        "the mean 125.3 123.0 113.9 is not within 0 to 1 and the standard deviation 63.0 62.1 66.7 is not above 0 and "
        f"at most 1; values from 0 to 255 must be divided by 255, which gives the mean {125.3 / 255} {123.0 / 255} "
        f"{113.9 / 255} and the standard deviation {63.0 / 255} {62.1 / 255} {66.7 / 255}"
    )


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
            "from pyramidzoo.catalog import manifest; manifest.load_manifest(); print(manifest.get_manifest_path())",
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
    data = ["catalog/targets.json", "bundled/digits.safetensors", "bundled/README.md", "py.typed", *bundled]
    assert {f"pyramidzoo/{name}" for name in [*data, "convert/sandbox/pickle_reader.py"]} <= set(names)
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
