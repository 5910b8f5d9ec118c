"""Publishing: the folder, the card, timm's side of it, the upload, and the way back from a Hub on loopback."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from conftest import random_state
from hub_faults import Fault
from hub_server import HubServer
from huggingface_hub import ModelCard, constants
from PIL import Image
from timm.data import create_transform, resolve_data_config

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.catalog import manifest
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import (
    License,
    Preprocessing,
    WeightsEntry,
    load_manifest,
    own_manifest_path,
    read_manifest,
)
from pyramidzoo.checkpoints import loading
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.layouts.timm import SHARED_ARCHITECTURES
from pyramidzoo.data.transforms import eval_transform
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.metrics import wilson_interval
from pyramidzoo.files import file_hash
from pyramidzoo.hub import model_card, publish
from pyramidzoo.models import build
from pyramidzoo.weights.fetch import fetch

OWN = own_manifest_path()
DIGITS = ("wrn_16_1.digits_zoo", "resnet20.digits_zoo")
DIGIT = DIGITS[0]
REPO = f"lab/{DIGIT}"
# the client passes a file where its HTTP library wants `content=`
pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")]

Json = dict[str, Any]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """The client of this process asks a Hub on loopback, as its owner."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as hub:
        settings = {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub
        huggingface_hub.close_session()


def child(hub: HubServer, tmp_path: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose client asks that Hub."""
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
    off = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return os.environ | names | off | more


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Json]], Path]:
    """Make a manifest of these entries the one in use."""

    def use(weights: Mapping[str, Json]) -> Path:
        path = tmp_path / "zoo" / manifest.FILE_NAME
        path.parent.mkdir(exist_ok=True)
        path.write_text(as_text(weights), encoding="utf-8")
        monkeypatch.setenv(manifest.VARIABLE, str(path))
        return path

    return use


def as_text(weights: Mapping[str, Json]) -> str:
    return json.dumps({"format": manifest.FORMAT, "weights": dict(weights)}, indent=1, ensure_ascii=False) + "\n"


def of_the_package(*ids: str) -> dict[str, Json]:
    weights = json.loads(OWN.read_text(encoding="utf-8"))["weights"]
    return {weights_id: weights[weights_id] for weights_id in ids}


RESULT = {
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
CLAIM = {
    "by": "somebody",
    "split": "test",
    "protocol": "full 32x32 image, one pass",
    "statistic": "error",
    "top1_error": "8.27",
    "top5_error": None,
    "source": "their README",
}


def entry_json(architecture: str, dataset: str, file: Path, **more: Any) -> Json:
    """An entry whose origin is a file of the zoo's own names, found by its hash."""
    row = get_architecture(architecture)
    large = row.input_size > 64
    settings = Preprocessing(
        (3, row.input_size, row.input_size),
        (0.5, 0.4, 0.3),
        (0.1, 0.2, 0.3),
        *((232, 224, "bicubic") if large else (None, None, None)),
    )
    place = {"algorithm": "sha256", "of": "file", "value": file_hash(file)}
    return {
        "architecture": architecture,
        "arguments": {},
        "dataset": dataset,
        "default": True,
        "num_classes": 10,
        "preprocessing": dataclasses.asdict(settings),
        "bundled": None,
        "hub": None,
        "origin": {
            "url": f"https://example.org/{file.name}",
            "format": "safetensors",
            "bytes": file.stat().st_size,
            "hash": place,
            "layout": "zoo",
            "manual": None,
        },
        "tensors_sha256": None,
        "claims": [CLAIM],
        "results": [RESULT],
        "license": {"code": "Apache-2.0", "weights": "MIT"},
        "training": "for 3 epochs",
        "citation": "Somebody 2026, https://example.org",
    } | more


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A checkpoint with random weights in a folder of PYRAMIDZOO_ORIGINS."""
    folder = tmp_path / "origins"
    folder.mkdir()
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.safetensors"
        write_tensors(path, random_state(architecture), {})
        return path

    return make


@pytest.fixture
def wrn(made: Callable[[str], Path], zoo: Callable[[Mapping[str, Json]], Path]) -> WeightsEntry:
    """A small network with random weights, one result and one claim."""
    zoo({"wrn_16_1.cifar10_lab": entry_json("wrn_16_1", "cifar10", made("wrn_16_1"))})
    return load_manifest().find("wrn_16_1.cifar10_lab")


def run(*arguments: str | Path) -> int:
    return cli.main(["publish", *map(str, arguments)])


def commits(hub: HubServer, repo: str = "") -> int:
    return hub.count("POST", f"{repo}/commit/main")


def uploads(hub: HubServer) -> int:
    return hub.count("PUT", "/lfs-objects/")


# the folder


def test_the_folder_describes_itself(wrn: WeightsEntry, tmp_path: Path) -> None:
    prepared = publish.prepare(wrn, tmp_path / "made", "lab/net")
    assert sorted(path.name for path in prepared.folder.iterdir()) == sorted(publish.FILES)
    located = fetch(wrn)
    weights = prepared.folder / publish.WEIGHTS
    assert weights.read_bytes() == located.path.read_bytes()
    assert (prepared.sha256, prepared.bytes) == (file_hash(weights), weights.stat().st_size)
    assert prepared.tensors_sha256 == tensors_sha256(random_state("wrn_16_1"))
    model = pyramidzoo.create_model("wrn_16_1", weights=weights)
    assert model.preprocessing == wrn.preprocessing
    config = json.loads((prepared.folder / publish.CONFIG).read_text(encoding="utf-8"))
    assert config["architecture"] == "pyramidzoo_wrn_16_1"
    assert (config["num_classes"], config["num_features"]) == (10, 64)
    assert "model_args" not in config
    cfg = config["pretrained_cfg"]
    assert cfg.keys() >= {"input_size", "mean", "std", "crop_pct", "interpolation", "first_conv", "classifier"}
    assert (cfg["tag"], cfg["license"], cfg["classifier"]) == ("cifar10_lab", "MIT", "fc")
    assert "url" not in cfg
    assert config["pyramidzoo"]["id"] == wrn.id
    assert config["pyramidzoo"]["preprocessing"] == json.loads(json.dumps(dataclasses.asdict(wrn.preprocessing)))


def test_a_folder_that_a_killed_run_left_is_finished(wrn: WeightsEntry, tmp_path: Path) -> None:
    whole = publish.prepare(wrn, tmp_path / "whole", "lab/net").folder
    left = tmp_path / "left"
    left.mkdir()
    (left / publish.CONFIG).write_bytes((whole / publish.CONFIG).read_bytes())  # it is the first to be there
    (left / f".{publish.WEIGHTS}.0123456789abcdef.part").write_bytes(b"half")
    publish.prepare(wrn, left, "lab/net")
    assert {p.name: p.read_bytes() for p in left.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_the_same_folder_twice_has_the_same_bytes(wrn: WeightsEntry, tmp_path: Path) -> None:
    folders = [publish.prepare(wrn, tmp_path / name, "lab/net").folder for name in ("a", "b")]
    for name in publish.FILES:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_card(wrn: WeightsEntry, tmp_path: Path) -> None:
    card = ModelCard.load(publish.prepare(wrn, tmp_path / "made", "lab/net").folder / publish.CARD)
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "mit",
        "pyramidzoo",
        "image-classification",
    )
    assert card.data.datasets == ["uoft-cs/cifar10"]
    top1, top5 = card.data.eval_results
    assert (top1.metric_value, top1.metric_args["correct"], top1.metric_args["images"]) == (0.9173, 9173, 10_000)
    assert (top5.metric_value, top5.metric_args["correct"]) == (0.9966, 9966)
    assert (top1.dataset_type, top1.dataset_split, top1.task_type) == (
        "uoft-cs/cifar10",
        "test",
        "image-classification",
    )
    text = card.text
    low, high = wilson_interval(827, 10_000)
    assert f"|   827 |      8.27 % | {low:.2f} to {high:.2f} % |" in text
    assert "8.248 % (mean of batch errors, batch size 128)" in text
    assert re.search(r"\| somebody +\| +8\.27 % \| error +\| +8\.270 % \| matched \|", text)
    assert "174,778" not in text  # of one channel
    assert f"{sum(p.numel() for p in build(get_architecture('wrn_16_1')).parameters()):,} parameters" in text
    for part in ("Published in their README", "RGB images of 32 x 32 pixels, as they are", "for 3 epochs", "0.4"):
        assert part in text
    assert wrn.origin is not None
    assert wrn.origin.hash is not None
    for part in (wrn.origin.url, wrn.origin.hash.value, "MIT; the code they were trained with: Apache-2.0"):
        assert part in text
    assert not re.search(r"^#.*\n+(#|\Z)", text, re.MULTILINE)  # no section is empty
    assert "None" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len({len(row) for row in table}) == 1 for table in tables(rows))


def tables(rows: list[str]) -> list[list[str]]:
    """Lines of Markdown tables, one list for each number of columns."""
    found: dict[int, list[str]] = {}
    for row in rows:
        found.setdefault(row.count("|"), []).append(row)
    return list(found.values())


def test_the_cards_examples_run(
    wrn: WeightsEntry, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = publish.prepare(wrn, tmp_path / "made", "lab/net")
    publish.upload(prepared)
    examples = re.findall(r"```python\n(.*?)```", (prepared.folder / publish.CARD).read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    load = torch.hub.load
    root = Path(pyramidzoo.__file__).parents[1]
    monkeypatch.setattr(torch.hub, "load", lambda repo, name, **kw: load(root, name, source="local", **kw))
    expected = pyramidzoo.create_model("wrn_16_1", weights="cifar10_lab").eval()
    images = torch.randn(2, 3, 32, 32)
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    for example in examples:
        ast.parse(example)
        names: Json = {}
        exec(example, names)
        assert torch.equal(names["model"](images), expected(images))
        if "transform" in names:
            assert torch.equal(names["transform"](image), eval_transform(wrn.preprocessing)(image))


def test_claims_that_nothing_can_be_compared_with(wrn: WeightsEntry) -> None:
    other = dataclasses.replace(wrn.claims[0], protocol="five crops")
    worse = dataclasses.replace(wrn.claims[0], top1_error=type(other.top1_error)("8.10"))
    facts = model_card.Facts("lab/net", 1, None, "a" * 64, 1, "b" * 64, None)
    text = model_card.card(dataclasses.replace(wrn, claims=(other, worse), training=None), facts)
    assert "not measured that way (test, five crops)" in text
    assert re.search(r"8\.270 % \| different", text)
    assert "different: these very weights give another error" in text
    assert "matched" not in text
    assert "Training" not in text
    assert "what was published" not in model_card.card(dataclasses.replace(wrn, claims=()), facts)


def test_licences_as_the_hub_has_them() -> None:
    assert model_card.hub_license("BSD-3-Clause") == {"license": "bsd-3-clause"}
    assert model_card.hub_license("Our-Own-1.0") == {"license": "other", "license_name": "Our-Own-1.0"}
    for spdx in manifest._PERMISSIVE:
        assert model_card.hub_license(spdx) == {"license": spdx.lower()}


@pytest.mark.parametrize(
    ("preprocessing", "words"),
    [
        (Preprocessing((1, 8, 8), (0.3,), (0.4,)), "Grey images of 8 x 8 pixels, as they are. Values"),
        (
            Preprocessing((3, 224, 224), (0.1,) * 3, (0.2,) * 3, 232, 224, "bicubic"),
            "RGB images, the shorter side resized to 232 pixels (bicubic), the middle 224 x 224 cropped. Values",
        ),
        (Preprocessing((2, 8, 8), (0.1,) * 2, (0.2,) * 2, 8), "2-channel images, the shorter side resized to 8 pixels"),
    ],
)
def test_preprocessing_in_words(preprocessing: Preprocessing, words: str) -> None:
    assert model_card.in_words(preprocessing).startswith(words)


def test_a_file_that_does_not_describe_itself_is_written_anew(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path
) -> None:
    """And what was its place on the Hub becomes the origin, so that nothing is forgotten."""
    path = tmp_path / "foreign.safetensors"
    write_tensors(path, random_state("wrn_16_1"), {"format": "pt", "by": "them"})
    sha256 = file_hash(path)
    commit = hub.add("them/net", {"weights.safetensors": path.read_bytes()})
    place = {"repo_id": "them/net", "revision": commit, "filename": "weights.safetensors", "sha256": sha256}
    place |= {"bytes": path.stat().st_size, "layout": None}
    weights_id = "wrn_16_1.cifar10_them"
    written = zoo({weights_id: entry_json("wrn_16_1", "cifar10", path, hub=place, origin=None)})
    assert run(weights_id, "--repo-id", "lab/net", "--write", "--output", tmp_path / "kept") == 0
    entry = read_manifest(written).entries[weights_id]
    assert entry.hub is not None
    assert entry.origin is not None
    assert entry.origin.url == f"https://huggingface.co/them/net/resolve/{commit}/weights.safetensors"
    assert (entry.origin.hash, entry.origin.layout) == (manifest.FileHash("sha256", "file", sha256), "zoo")
    assert (entry.hub.repo_id, entry.hub.layout, entry.hub.sha256 != sha256) == ("lab/net", None, True)
    assert entry.tensors_sha256 == tensors_sha256(read_tensors(path))
    published = tmp_path / "kept" / weights_id / publish.WEIGHTS
    described = Description.of(published)
    assert described is not None
    assert (described.architecture, described.origin_sha256, described.layout) == ("wrn_16_1", sha256, "zoo")
    assert tensors_sha256(read_tensors(published)) == entry.tensors_sha256
    assert entry.origin.url in (published.parent / publish.CARD).read_text(encoding="utf-8")
    # from here on it is our file that is fetched, and publishing it again finds everything there
    before = written.read_bytes()
    assert fetch(entry).sha256 == entry.hub.sha256
    assert run(weights_id, "--repo-id", "lab/net", "--write") == 0
    assert (written.read_bytes(), commits(hub)) == (before, 1)


@pytest.mark.parametrize("change", [{"mean": (0.1, 0.1, 0.1)}, {"resize": 40}])
def test_a_description_that_the_manifest_has_corrected_is_written_anew(
    wrn: WeightsEntry, change: Json, tmp_path: Path
) -> None:
    fetch(wrn)
    corrected = dataclasses.replace(wrn, preprocessing=dataclasses.replace(wrn.preprocessing, **change))
    prepared = publish.prepare(corrected, tmp_path / "made", "lab/net")
    described = Description.of(prepared.folder / publish.WEIGHTS)
    assert described is not None
    assert described.preprocessing == corrected.preprocessing
    assert prepared.sha256 != fetch(wrn).sha256


def test_other_tensors_than_the_manifest_names_are_refused(wrn: WeightsEntry, tmp_path: Path) -> None:
    fetch(wrn)
    with pytest.raises(IntegrityError, match="does not hold wrn_16_1"):
        publish.prepare(dataclasses.replace(wrn, num_classes=11), tmp_path / "made", "lab/net")
    bundled = manifest.read_manifest(OWN).find(DIGIT)  # nothing else compares its tensors
    with pytest.raises(IntegrityError, match=f"does not hold {DIGIT}: its tensors have .* expected 0000"):
        publish.prepare(dataclasses.replace(bundled, tensors_sha256="0" * 64), tmp_path / "made", "lab/net")


# what is refused


@pytest.mark.parametrize("licence", [None, "none stated", "CC-BY-NC-4.0"])
def test_no_licence_no_publication(licence: str | None, wrn: WeightsEntry, tmp_path: Path) -> None:
    entry = dataclasses.replace(wrn, license=License("MIT", licence))
    said = {None: "unknown", "none stated": "stated nowhere"}.get(licence, licence)
    assert f"the licence of the weights is {said}" in str(publish.refusal(entry, entry.results))
    with pytest.raises(UsageError, match=f"{wrn.id} is not published: the licence"):
        publish.prepare(entry, tmp_path / "made", "lab/net")
    assert not (tmp_path / "made").exists()


def test_no_measurement_no_publication(wrn: WeightsEntry, tmp_path: Path) -> None:
    half = dataclasses.replace(wrn.results[0], precision="bf16")
    for results in ((), (half,)):
        entry = dataclasses.replace(wrn, results=results)
        assert "nothing was measured; `pyramidzoo evaluate" in str(publish.refusal(entry, results))
        with pytest.raises(UsageError, match="nothing was measured"):
            publish.prepare(entry, tmp_path / "made", "lab/net")
    assert publish.refusal(wrn, wrn.results) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one set of weights"),
        (("--all", DIGIT, "--org", "lab"), "name one set of weights"),
        (("--all",), "give --org"),
        (("--all", "--org", "lab", "--repo-id", "lab/net"), "give --org, and no --repo-id"),
        ((DIGIT,), "say where to"),
        ((DIGIT, "--repo-id", "lab/net", "--org", "lab"), "say where to"),
        ((DIGIT, "--repo-id", "net"), "give OWNER/NAME"),
        ((DIGIT, "--repo-id", "lab/a--b"), "cannot be a repository on the Hub"),
        ((DIGIT, "--repo-id", "a/b/c"), "cannot be a repository on the Hub"),
        ((DIGIT, "--org", "lab", "--dry-run", "--write"), "leave one of them out"),
        ((DIGIT, "--org", "lab", "--records", "nowhere"), "--records nowhere is not a folder"),
        (("*.digits_zoo", "--org", "lab"), "means 2 sets of weights"),
        (("resnet20_fattorib.cifar10", "--org", "lab"), "is not published: the licence of the weights is stated no"),
        (("resnet20.nothing", "--org", "lab"), "no weights are called"),
    ],
)
def test_usage(arguments: tuple[str, ...], message: str, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert hub.requests == []


def test_every_id_can_be_a_repository() -> None:
    for weights_id in load_manifest().entries:
        assert publish.check_repo_id(f"pyramidzoo/{weights_id}")


# a dry run


def test_a_dry_run_leaves_the_folder_to_look_at(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(DIGIT, "--org", "lab", "--dry-run") == 0
    assert capsys.readouterr().out.strip() == str(Path("publish", DIGIT))
    folder = tmp_path / "publish" / DIGIT
    assert sorted(path.name for path in folder.iterdir()) == sorted(publish.FILES)
    (folder / publish.CARD).write_text("old")
    assert run(DIGIT, "--org", "lab", "--dry-run", "--format", "json") == 0  # its own it writes anew
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["state"], row["repository"], row["sha256"]) == ("prepared", REPO, file_hash(folder / publish.WEIGHTS))
    assert (folder / publish.CARD).read_text(encoding="utf-8").startswith("---\n")
    assert hub.requests == []


@pytest.mark.parametrize("content", ["another file", "another entry", "beside"])
def test_a_folder_with_something_else_is_left_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / DIGIT
    folder.mkdir()
    name = {"another file": publish.CARD, "another entry": publish.CONFIG, "beside": "notes.txt"}[content]
    if content == "beside":
        assert run(DIGIT, "--org", "lab", "--dry-run", "--output", tmp_path) == 0
    (folder / name).write_text('{"pyramidzoo": {"id": "resnet20.digits_zoo"}}')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(DIGIT, "--org", "lab", "--dry-run", "--output", tmp_path) == 2
    assert f"holds something else than {DIGIT}; name another folder in --output" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# up, and back


def test_published_in_one_commit_and_read_back(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(DIGIT, "--repo-id", "lab/some-name", "--output", tmp_path) == 0
    shown = capsys.readouterr()
    ((name, entry),) = json.loads(shown.out).items()
    folder = tmp_path / DIGIT
    revision = hub.repos["lab/some-name"].main
    assert name == DIGIT
    assert entry["hub"] == {
        "repo_id": "lab/some-name",
        "revision": revision,
        "filename": "model.safetensors",
        "sha256": file_hash(folder / publish.WEIGHTS),
        "bytes": (folder / publish.WEIGHTS).stat().st_size,
        "layout": None,
    }
    assert entry | {"hub": None} == of_the_package(DIGIT)[DIGIT]
    assert f"published, read back and verified: {hub.url}/lab/some-name/tree/{revision}" in shown.err
    there = hub.files("lab/some-name", revision)
    assert {path: content for path, content in there.items() if path != ".gitattributes"} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert (commits(hub), uploads(hub)) == (1, 1)
    for path in (f"/resolve/{revision}/config.json", f"/resolve/{revision}/README.md", "/lfs-objects/"):
        assert hub.count("GET", path) == 1
    assert not hub.repos["lab/some-name"].private


def test_the_second_time_nothing_is_uploaded(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(DIGIT, "--org", "lab", "--private", "--format", "json") == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert hub.repos[REPO].private
    assert run(DIGIT, "--org", "lab", "--format", "json") == 0
    (second,) = json.loads(capsys.readouterr().out)
    assert (first["state"], second["state"]) == ("published", "already there")
    assert first | {"state": ""} == second | {"state": ""}
    assert first["entry"]["hub"]["revision"] == first["revision"] == hub.repos[REPO].main
    assert (commits(hub), uploads(hub)) == (1, 1)


def test_only_what_differs_is_committed(hub: HubServer) -> None:
    assert run(DIGIT, "--org", "lab") == 0
    card = hub.files(REPO)[publish.CARD]
    hub.add(REPO, hub.files(REPO) | {publish.CARD: card[::-1], "figure.png": b"beside"})
    assert run(DIGIT, "--org", "lab") == 0
    assert hub.files(REPO)[publish.CARD] == card
    assert hub.files(REPO)["figure.png"] == b"beside"
    assert (commits(hub), uploads(hub)) == (2, 1)
    changed = bytearray(hub.files(REPO)[publish.WEIGHTS])
    changed[-1] ^= 1
    hub.add(REPO, hub.files(REPO) | {publish.WEIGHTS: bytes(changed)})
    assert run(DIGIT, "--org", "lab") == 0
    assert hashlib.sha256(hub.files(REPO)[publish.WEIGHTS]).hexdigest() != hashlib.sha256(changed).hexdigest()


def test_after_a_refused_commit_the_upload_is_not_repeated(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults.append(Fault("/commit/main", 1, "status", status=412))
    assert run(DIGIT, "--org", "lab") == 5
    assert "somebody else has committed meanwhile" in capsys.readouterr().err
    assert uploads(hub) == 1
    assert run(DIGIT, "--org", "lab") == 0
    assert (commits(hub), uploads(hub), len(hub.repos[REPO].commits)) == (2, 1, 2)


def test_what_others_commit_meanwhile_is_not_overwritten(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = huggingface_hub.HfApi.create_commit

    def late(api: Any, *args: Any, **settings: Any) -> Any:
        hub.add(REPO, hub.files(REPO) | {publish.CARD: b"# theirs\n"})
        return commit(api, *args, **settings)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", late)
    assert run(DIGIT, "--org", "lab") == 5
    assert hub.files(REPO)[publish.CARD] == b"# theirs\n"


def test_a_commit_that_was_not_read_back_is_verified_by_the_next_run(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("^GET .*lfs-objects", 1, "status", status=404))
    assert run(DIGIT, "--org", "lab") == 5
    assert "run again: what arrived is not uploaded a second time" in capsys.readouterr().err
    asked = hub.count("GET", "/lfs-objects/")
    assert run(DIGIT, "--org", "lab", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "already there"
    assert hub.count("GET", "/lfs-objects/") == asked + 1
    assert (commits(hub), uploads(hub)) == (1, 1)


@pytest.mark.parametrize("file", publish.FILES)
def test_a_hub_that_gives_other_bytes_is_noticed(
    file: str, hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    written = zoo(of_the_package(*DIGITS))
    before = written.read_bytes()
    hub.faults.append(Fault(f"^GET .*{re.escape(file)}", None, "same_size_corruption", offset=99))
    for _ in range(2):
        assert run(DIGIT, "--org", "lab", "--write") == 4
        shown = capsys.readouterr()
        assert f"{REPO} gives other bytes than it was given: {file}" in shown.err
        assert shown.out == ""
    assert written.read_bytes() == before


def test_without_a_token(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert run(DIGIT, "--org", "lab") == 5
    assert (
        "without a token; set HF_TOKEN to one that may write there, or run `hf auth login`" in capsys.readouterr().err
    )
    assert hub.requests == []


@pytest.mark.parametrize("which", ["guest", "unknown"])
def test_a_token_without_the_right(
    which: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.guest_token if which == "guest" else "hf_unknown")
    hub.add(REPO, {"a": b"b"})
    assert run(DIGIT, "--org", "lab") == 5
    assert "the token lacks the right: set HF_TOKEN" in capsys.readouterr().err
    assert uploads(hub) == 0


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(DIGIT, "--org", "lab") == 5
    assert "offline, as HF_HUB_OFFLINE says" in capsys.readouterr().err
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults.append(Fault("validate-yaml", None, "status", status=400, body=b'{"errors": [{"message": "no"}]}'))
    assert run(DIGIT, "--org", "lab") in (2, 5)
    assert f"cannot publish {REPO}" in capsys.readouterr().err
    assert uploads(hub) == 0


# the manifest


def test_write_changes_nothing_else(hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path) -> None:
    everything = json.loads(OWN.read_text(encoding="utf-8"))["weights"]
    written = zoo(everything)
    assert written.read_bytes() == OWN.read_bytes()
    assert run(DIGIT, "--org", "lab", "--write") == 0
    everything[DIGIT]["hub"] = json.loads(written.read_text(encoding="utf-8"))["weights"][DIGIT]["hub"]
    assert everything[DIGIT]["hub"]["revision"] == hub.repos[REPO].main
    assert written.read_text(encoding="utf-8") == as_text(everything)
    assert load_manifest().find(DIGIT).hub is not None
    assert not list(written.parent.glob("*.part"))


def test_processes_that_write_at_once_lose_nothing(zoo: Callable[[Mapping[str, Json]], Path]) -> None:
    entry = of_the_package(DIGIT)[DIGIT]
    written = zoo({})
    ids = [f"wrn_16_1.digits_lab{number}" for number in range(12)]

    def make() -> Json:
        time.sleep(0.01)  # whoever does not wait reads meanwhile what is about to be replaced
        return entry | {"default": False}

    with ThreadPoolExecutor(len(ids)) as pool:
        for done in [pool.submit(publish.write_entry, written, weights_id, make) for weights_id in ids]:
            done.result()
    assert sorted(read_manifest(written).entries) == sorted(ids)


def test_an_invalid_manifest_is_not_written(zoo: Callable[[Mapping[str, Json]], Path]) -> None:
    written = zoo(of_the_package(DIGIT))
    before = written.read_bytes()
    with pytest.raises(IntegrityError, match="is the default for digits already"):
        publish.write_entry(written, "wrn_16_1.digits_lab", lambda: of_the_package(DIGIT)[DIGIT])
    assert written.read_bytes() == before


def test_an_installed_manifest_is_not_written(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / manifest.FILE_NAME
    installed.write_bytes(OWN.read_bytes())
    monkeypatch.setattr(publish, "packaged", lambda name: tmp_path / name)
    monkeypatch.setattr(publish, "manifest_path", lambda: installed)
    assert run(DIGIT, "--org", "lab", "--write") == 2
    assert "name a manifest of your own in PYRAMIDZOO_MANIFEST, or work in a clone" in capsys.readouterr().err
    assert hub.requests == []


def test_an_entry_of_the_zoo_goes_into_a_manifest_that_extends_it(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path]
) -> None:
    mine = "wrn_16_1.digits_lab"
    written = zoo({mine: of_the_package(DIGIT)[DIGIT] | {"default": True}})
    document = json.loads(written.read_text(encoding="utf-8"))
    written.write_text(json.dumps(document | {"extends": True}, indent=1))
    assert run(DIGIT, "--org", "lab", "--write") == 0
    entries = json.loads(written.read_text(encoding="utf-8"))["weights"]
    assert list(entries) == [mine, DIGIT]
    assert entries[DIGIT] == of_the_package(DIGIT)[DIGIT] | {"default": False, "hub": entries[DIGIT]["hub"]}
    assert run("--all", "--org", "lab") == 0  # what stands in the file itself, not all of the zoo
    assert sorted(hub.repos) == sorted([f"lab/{mine}", REPO])


# records


def test_records_stand_in_for_results(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = of_the_package(DIGIT)[DIGIT]
    zoo({DIGIT: before})
    assert cli.main(["evaluate", DIGIT, "--output", str(tmp_path / "records")]) == 0
    assert cli.main(["evaluate", DIGIT, "--channels-last", "--output", str(tmp_path / "loose")]) == 0
    written = zoo({DIGIT: before | {"results": [], "tensors_sha256": None}})
    assert run(DIGIT, "--org", "lab") == 2
    assert run(DIGIT, "--org", "lab", "--records", tmp_path / "loose") == 2  # not strict
    capsys.readouterr()
    assert run(DIGIT, "--org", "lab", "--records", tmp_path / "records", "--write") == 0
    found = json.loads(written.read_text(encoding="utf-8"))["weights"][DIGIT]
    counts = ("images", "top1_correct", "top5_correct", "prediction_sha256", "statistics", "protocol", "split")
    assert [found["results"][0][name] for name in counts] == [before["results"][0][name] for name in counts]
    assert found["tensors_sha256"] == before["tensors_sha256"]
    card = ModelCard(hub.files(REPO)[publish.CARD].decode())
    assert card.data.eval_results[0].metric_args["correct"] == before["results"][0]["top1_correct"]


def test_records_of_other_tensors_do_not_count(
    wrn: WeightsEntry, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path
) -> None:
    from pyramidzoo.evaluation.records import read_records

    os.environ.pop(manifest.VARIABLE)
    assert cli.main(["evaluate", DIGIT, "--output", str(tmp_path / "records")]) == 0
    (record,) = read_records(tmp_path / "records")
    entry = dataclasses.replace(load_manifest().find(DIGIT), results=(), tensors_sha256=None)
    other = dataclasses.replace(record, tensors_sha256="0" * 64)
    assert len(publish.measured(entry, [other])) == 1  # by its name, as long as nobody knows better
    with pytest.raises(UsageError, match="nothing was measured"):
        publish.prepare(entry, tmp_path / "made", "lab/net", records=[other])
    prepared = publish.prepare(entry, tmp_path / "made", "lab/net", records=[record])
    assert prepared.entry.results[0].top1_correct == record.top1_correct
    moved = dataclasses.replace(record, preprocessing_sha256="0" * 64)
    assert publish.measured(entry, [moved]) == ()
    later = dataclasses.replace(record, top1_correct=1, date="9999")
    measured = publish.measured(dataclasses.replace(entry, results=prepared.entry.results), [later, record])
    assert [result.top1_correct for result in measured] == [1]


# all at once


def test_all_and_back_again(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Published, and then evaluated from the Hub by nothing but the entry."""
    refused = "resnet20_fattorib.cifar10"
    everything = of_the_package(*DIGITS, refused)
    written = zoo(everything)
    assert run("--all", "--org", "lab", "--write", "--format", "json") == 0
    rows = {row["weights"]: row for row in json.loads(capsys.readouterr().out)}
    assert {weights_id: row["state"] for weights_id, row in rows.items()} == {
        DIGITS[0]: "published",
        DIGITS[1]: "published",
        refused: "refused",
    }
    assert "stated nowhere" in rows[refused]["detail"]
    assert sorted(hub.repos) == sorted(f"lab/{weights_id}" for weights_id in DIGITS)
    evaluate_from_the_hub(hub, written, DIGITS, tmp_path, capsys)

    assert run("--all", "--org", "lab") == 0
    shown = capsys.readouterr()
    assert shown.out.count("already there") == 2
    assert refused not in shown.out
    assert "1 refused: the licence of the weights is stated nowhere" in shown.err
    assert commits(hub) == 2


def evaluate_from_the_hub(
    hub: HubServer, written: Path, ids: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without bundled files, origins and caches, each set of weights comes from the Hub and is what was recorded."""
    document = json.loads(written.read_text(encoding="utf-8"))
    for content in document["weights"].values():
        content["bundled"] = None
        content["origin"] = content["origin"] if content["hub"] is None else None
    written.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    loading.forget_verified()
    for weights_id in ids:
        located = fetch(load_manifest().find(weights_id))
        assert (located.place, located.sha256) == ("hub", document["weights"][weights_id]["hub"]["sha256"])
    capsys.readouterr()
    cli.main(["evaluate", *ids, "--format", "json"])
    shown = capsys.readouterr()
    assert shown.out, shown.err
    found = json.loads(shown.out)
    assert found["failures"] == []
    assert {record["weights"]: record["recorded"] for record in found["records"]} == dict.fromkeys(ids, "exact")


def test_one_failure_does_not_stop_the_others(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone.safetensors").write_bytes(b"nobody has it")
    lost = entry_json("wrn_16_1", "cifar10", tmp_path / "gone.safetensors", origin=None)
    lost["hub"] = {"repo_id": "them/gone", "revision": "a" * 40, "filename": "x", "sha256": "b" * 64, "bytes": 1}
    lost["hub"]["layout"] = None
    zoo({"wrn_16_1.cifar10_them": lost} | of_the_package(*DIGITS))
    assert run("--all", "--org", "lab", "--format", "csv") == 5
    shown = capsys.readouterr()
    states = [line.split(",")[1] for line in shown.out.splitlines() if line.count(",") > 4]
    assert states == ["state", "failed", "published", "published"]
    assert "cannot get wrn_16_1.cifar10_them" in shown.err


def test_killed_in_the_middle_and_run_again(
    hub: HubServer, zoo: Callable[[Mapping[str, Json]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGKILL, when the second file has arrived and is not committed."""
    written = zoo(of_the_package(*DIGITS))
    hub.faults.append(Fault(f"POST /lab/{DIGITS[1]}.git/info/lfs/objects/verify", None, "stall", after=None))
    arguments = [sys.executable, "-m", "pyramidzoo", "publish", "--all", "--org", "lab", "--write"]
    with subprocess.Popen(arguments, env=child(hub, tmp_path), stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not hub.count("POST", f"{DIGITS[1]}.git/info/lfs/objects/verify"):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert (commits(hub), uploads(hub)) == (1, 2)
    entries = read_manifest(written).entries
    assert [bool(entries[weights_id].hub) for weights_id in DIGITS] == [True, False]
    hub.faults.clear()
    assert run("--all", "--org", "lab", "--write", "--format", "json") == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["already there", "published"]
    assert (commits(hub), uploads(hub)) == (2, 2)
    assert all(entry.hub for entry in read_manifest(written).entries.values())


# real checkpoints

FAST = ("wrn_16_1.cifar10_ferles", "resnet20.cifar10_akamaster")
REAL = [i for i, e in of_the_package(*load_manifest().entries).items() if e["results"] and e["origin"]]


@pytest.mark.parametrize("ids", [FAST, pytest.param(tuple(REAL), marks=pytest.mark.slow)], ids=["fast", "all"])
def test_real_checkpoints_there_and_back(
    ids: tuple[str, ...],
    hub: HubServer,
    zoo: Callable[[Mapping[str, Json]], Path],
    origins: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The licences are set to one that allows it: a Hub on loopback is no publication."""
    weights = of_the_package(*ids)
    assert weights
    written = zoo({i: content | {"license": {"code": "MIT", "weights": "MIT"}} for i, content in weights.items()})
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    monkeypatch.setenv("PYRAMIDZOO_DATA", str(data_dir))
    assert run("--all", "--org", "lab", "--write") == 0
    assert sorted(hub.repos) == sorted(f"lab/{weights_id}" for weights_id in ids)
    for weights_id, content in json.loads(written.read_text(encoding="utf-8"))["weights"].items():
        same = ("hub", "license")
        assert content | dict.fromkeys(same) == weights[weights_id] | dict.fromkeys(same)
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "another"))
    evaluate_from_the_hub(hub, written, ids, tmp_path, capsys)


# timm

# in a local folder timm 1.0.20 reads nothing but pickles
LOCAL_DIRS = tuple(map(int, timm.__version__.split(".")[:3])) > (1, 0, 20)

TIMM_LOADS = """
import json, sys, torch, timm
torch.manual_seed(0)
jobs = json.loads(sys.argv[1])
if sys.argv[2] == "registered":
    import pyramidzoo
    pyramidzoo.register_with_timm()
with torch.inference_mode():
    for name, images, logits in jobs:
        model = timm.create_model(name, pretrained=True).eval()
        torch.save(model(torch.load(images)), logits)
assert ("pyramidzoo" in sys.modules) == (sys.argv[2] == "registered"), "pyramidzoo was imported"
"""


def timm_logits(names: list[str], images: torch.Tensor, environment: dict[str, str], tmp_path: Path, how: str) -> Any:
    """What networks made by timm in a process of its own answer."""
    torch.save(images, tmp_path / "images.pt")
    outputs = [tmp_path / f"{number}.pt" for number in range(len(names))]
    jobs = json.dumps([[name, str(tmp_path / "images.pt"), str(out)] for name, out in zip(names, outputs, strict=True)])
    command = [sys.executable, "-W", "ignore", "-c", TIMM_LOADS, jobs, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return [torch.load(output) for output in outputs]


@pytest.mark.parametrize(
    "names",
    [
        ("resnet18", "densenet121"),
        pytest.param(
            ("resnet26_bottleneck", "vgg11_bn", "seresnet50", "seresnext50_32x4d", "resnext50_32x4d", "senet154"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["quick", "others"],
)
def test_timm_loads_its_twins_without_us(
    names: tuple[str, ...],
    hub: HubServer,
    made: Callable[[str], Path],
    zoo: Callable[[Mapping[str, Json]], Path],
    tmp_path: Path,
) -> None:
    result = RESULT | {"protocol": "resize 232, center crop 224, one pass"}
    zoo({f"{n}.imagenet1k_lab": entry_json(n, "imagenet1k", made(n), results=[result]) for n in names})
    assert run("--all", "--org", "lab", "--output", tmp_path / "kept") == 0
    ids = [f"{name}.imagenet1k_lab" for name in names]
    sources = [f"hf-hub:lab/{i}" for i in ids] + [f"local-dir:{tmp_path / 'kept' / i}" for i in ids[:1] if LOCAL_DIRS]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = timm_logits(sources, images, child(hub, tmp_path), tmp_path, "alone")
    for name, logits in zip([*names, *names[:1]][: len(found)], found, strict=True):
        model = pyramidzoo.create_model(name, weights="imagenet1k_lab").eval()
        with torch.inference_mode():
            torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-4)
        assert logits.std() > 0.01
        card = ModelCard(hub.files(f"lab/{name}.imagenet1k_lab")[publish.CARD].decode())
        assert card.data.library_name == "timm"
        assert "import pyramidzoo" in card.text
        assert "register_with_timm" not in card.text


def test_the_others_load_once_registered(wrn: WeightsEntry, hub: HubServer, tmp_path: Path) -> None:
    """One of them reads a single channel."""
    prepared = publish.prepare(wrn, tmp_path / "kept", "lab/net")
    publish.upload(prepared)
    names = ["hf-hub:lab/net", *([f"local-dir:{prepared.folder}"] if LOCAL_DIRS else [])]
    images = torch.randn(2, 3, 32, 32)
    found = timm_logits(names, images, child(hub, tmp_path), tmp_path, "registered")
    model = pyramidzoo.create_model("wrn_16_1", weights="cifar10_lab").eval()
    with torch.inference_mode():
        assert all(torch.equal(logits, model(images)) for logits in found)
    os.environ.pop(manifest.VARIABLE)
    digits = publish.prepare(load_manifest().find(DIGIT), tmp_path / "digits", "lab/digits")
    pyramidzoo.register_with_timm()
    publish.upload(digits)
    theirs = timm.create_model("hf-hub:lab/digits", pretrained=True).eval()
    ours = pyramidzoo.create_model("wrn_16_1", weights="digits").eval()
    assert torch.equal(theirs(images[:, :1, :8, :8]), ours(images[:, :1, :8, :8]))


@pytest.mark.parametrize("name", sorted(SHARED_ARCHITECTURES))
def test_a_twin_is_timms_own_network(name: str, wrn: WeightsEntry) -> None:
    """By names and shapes; the logits of each are compared in test_parity_registered."""
    row = get_architecture(name)
    entry = dataclasses.replace(
        wrn, id=f"{name}.imagenet1k_lab", architecture=name, dataset="imagenet1k", num_classes=1000
    )
    with torch.device("meta"):
        ours = build(row)
        timm_name = publish._timm_name(entry)
        assert timm_name is not None
        theirs = timm.create_model(timm_name)
    config = publish._config(entry, ours, timm_name)
    cfg = config["pretrained_cfg"]
    assert config["architecture"] == timm_name
    assert config["num_features"] == theirs.num_features
    assert (cfg["classifier"], cfg["first_conv"]) == (
        theirs.pretrained_cfg["classifier"],
        theirs.pretrained_cfg["first_conv"],
    )
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    if name.startswith("vgg"):  # timm makes convolutions of the head's linear layers when it reads them
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("classifier")}
        rest = {key: value.shape for key, value in theirs.state_dict().items() if key.startswith("features")}
        assert rest == shapes
    else:
        assert {key: value.shape for key, value in theirs.state_dict().items()} == shapes


def test_timms_transform_is_ours(wrn: WeightsEntry) -> None:
    pixels = torch.randint(256, (333, 471, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    with torch.device("meta"):
        model = build(get_architecture("resnet18"))
    for resize, crop, interpolation in ((232, 224, "bicubic"), (256, 224, "bilinear"), (288, 288, "bicubic")):
        preprocessing = Preprocessing((3, 224, 224), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), resize, crop, interpolation)
        entry = dataclasses.replace(
            wrn,
            id="resnet18.imagenet1k_lab",
            architecture="resnet18",
            dataset="imagenet1k",
            preprocessing=preprocessing,
        )
        config = json.loads(json.dumps(publish._config(entry, model, "resnet18")))
        transform = create_transform(**resolve_data_config({}, pretrained_cfg=config["pretrained_cfg"]))
        assert torch.equal(transform(image), eval_transform(preprocessing)(image))


def test_arguments_beside_the_table_are_told_to_timm(wrn: WeightsEntry) -> None:
    entry = dataclasses.replace(wrn, arguments={"drop_rate": 0.3})
    model = build(get_architecture("wrn_16_1"))
    assert publish._config(entry, model, None)["model_args"] == {"drop_rate": 0.3}
    of_timm = dataclasses.replace(entry, id="resnet18.cifar10_lab", architecture="resnet18")
    assert publish._timm_name(of_timm) is None
    assert publish._timm_name(dataclasses.replace(of_timm, arguments={})) == "resnet18"
