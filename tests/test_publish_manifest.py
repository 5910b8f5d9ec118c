"""The manifest after a publication: `--write` changes one entry, keeps it valid, and forgets nothing."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import random_state
from hub_server import HubServer
from huggingface_hub import ModelCard, ModelCardData
from publishing import (
    BUNDLED_ID,
    IGNORE_CLIENT_WARNING,
    PACKAGE_MANIFEST,
    REPOSITORY,
    Json,
    UseManifest,
    assert_mentions,
    count_commits,
    make_entry,
    manifest_text,
    package_entries,
    publish,
    read_entries,
)

from pyramidzoo import cli
from pyramidzoo.catalog import manifest, manifest_writer
from pyramidzoo.catalog.manifest import load_manifest, read_manifest
from pyramidzoo.catalog.weights_entry import FileHash
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import file_hash
from pyramidzoo.hub.prepare import CARD_NAME, WEIGHTS_NAME
from pyramidzoo.weights.fetch import fetch

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("owner"), IGNORE_CLIENT_WARNING]


def test_write_changes_only_the_place_on_the_hub(hub: HubServer, use_manifest: UseManifest) -> None:
    entries = read_entries(PACKAGE_MANIFEST)
    manifest_file = use_manifest(entries)
    assert manifest_file.read_bytes() == PACKAGE_MANIFEST.read_bytes()
    assert publish(BUNDLED_ID, "--org", "lab", "--write") == 0
    entries[BUNDLED_ID]["hub"] = read_entries(manifest_file)[BUNDLED_ID]["hub"]
    assert entries[BUNDLED_ID]["hub"]["revision"] == hub.repos[REPOSITORY].main
    assert manifest_file.read_text(encoding="utf-8") == manifest_text(entries)
    assert load_manifest().find(BUNDLED_ID).hub is not None
    assert not list(manifest_file.parent.glob("*.part"))


def test_processes_that_write_at_the_same_time_lose_nothing(use_manifest: UseManifest) -> None:
    entry = package_entries(BUNDLED_ID)[BUNDLED_ID]
    manifest_file = use_manifest({})
    ids = [f"wrn_16_1.digits_lab{number}" for number in range(12)]

    def make() -> Json:
        time.sleep(0.01)  # a writer without a lock would read the file during this time, and lose what is written next
        return entry | {"default": False}

    with ThreadPoolExecutor(len(ids)) as pool:
        writes = [pool.submit(manifest_writer.write_entry, manifest_file, weights_id, make) for weights_id in ids]
        for write in writes:
            write.result()
    assert sorted(read_manifest(manifest_file).entries) == sorted(ids)


def test_an_invalid_manifest_is_not_written(use_manifest: UseManifest) -> None:
    manifest_file = use_manifest(package_entries(BUNDLED_ID))
    before = manifest_file.read_bytes()
    with pytest.raises(IntegrityError, match=r"default.* digits"):
        manifest_writer.write_entry(
            manifest_file, "wrn_16_1.digits_lab", lambda: package_entries(BUNDLED_ID)[BUNDLED_ID]
        )
    assert manifest_file.read_bytes() == before


def test_the_manifest_of_an_installed_package_is_not_written(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / manifest.MANIFEST_FILE_NAME
    installed.write_bytes(PACKAGE_MANIFEST.read_bytes())
    monkeypatch.setattr(manifest_writer, "package_path", lambda name: tmp_path / name)
    monkeypatch.setattr(manifest_writer, "get_manifest_path", lambda: installed)
    assert publish(BUNDLED_ID, "--org", "lab", "--write") == 2
    assert_mentions(capsys.readouterr().err, "--write", str(installed), "PYRAMIDZOO_MANIFEST", "clone")
    assert hub.requests == []


def test_an_entry_of_the_zoo_is_added_to_a_manifest_that_extends_it(hub: HubServer, use_manifest: UseManifest) -> None:
    own_id = "wrn_16_1.digits_lab"
    manifest_file = use_manifest({own_id: package_entries(BUNDLED_ID)[BUNDLED_ID] | {"default": True}})
    document = json.loads(manifest_file.read_text(encoding="utf-8"))
    manifest_file.write_text(json.dumps(document | {"extends": True}, indent=1))
    assert publish(BUNDLED_ID, "--org", "lab", "--write") == 0
    entries = read_entries(manifest_file)
    assert list(entries) == [own_id, BUNDLED_ID]
    assert entries[BUNDLED_ID] == package_entries(BUNDLED_ID)[BUNDLED_ID] | {
        "default": False,
        "hub": entries[BUNDLED_ID]["hub"],
    }
    # --all means the entries of the file itself, not all of the zoo.
    assert publish("--all", "--org", "lab") == 0
    assert sorted(hub.repos) == sorted([f"lab/{own_id}", REPOSITORY])


def test_the_repository_that_held_the_weights_before_becomes_the_origin(
    hub: HubServer, use_manifest: UseManifest, tmp_path: Path
) -> None:
    """The file there does not describe itself, so the published file is a new one with the same tensors."""
    their_file = tmp_path / "foreign.safetensors"
    write_tensors(their_file, random_state("wrn_16_1"), {"format": "pt", "by": "them"})
    their_sha256 = file_hash(their_file)
    commit = hub.add("them/net", {"weights.safetensors": their_file.read_bytes()})
    their_place = {
        "repo_id": "them/net",
        "revision": commit,
        "filename": "weights.safetensors",
        "sha256": their_sha256,
        "bytes": their_file.stat().st_size,
        "layout": None,
    }
    weights_id = "wrn_16_1.cifar10_them"
    manifest_file = use_manifest(
        {weights_id: make_entry("wrn_16_1", "cifar10", their_file, hub=their_place, origin=None)}
    )
    assert publish(weights_id, "--repo-id", "lab/net", "--write", "--output", tmp_path / "kept") == 0

    entry = read_manifest(manifest_file).entries[weights_id]
    assert entry.origin is not None
    assert entry.origin.url == f"https://huggingface.co/them/net/resolve/{commit}/weights.safetensors"
    assert (entry.origin.hash, entry.origin.layout) == (FileHash("sha256", "file", their_sha256), "zoo")
    assert entry.hub is not None
    assert (entry.hub.repo_id, entry.hub.layout, entry.hub.sha256 != their_sha256) == ("lab/net", None, True)
    assert entry.tensors_sha256 == tensors_sha256(read_tensors(their_file))

    published_file = tmp_path / "kept" / weights_id / WEIGHTS_NAME
    description = Description.from_file(published_file)
    assert description is not None
    assert (description.architecture, description.layout) == ("wrn_16_1", "zoo")
    assert description.origin_sha256 == their_sha256
    assert tensors_sha256(read_tensors(published_file)) == entry.tensors_sha256
    assert entry.origin.url in (published_file.parent / CARD_NAME).read_text(encoding="utf-8")

    # From now on our file is fetched, and a second publication finds everything in the repository.
    before = manifest_file.read_bytes()
    assert fetch(entry).sha256 == entry.hub.sha256
    assert publish(weights_id, "--repo-id", "lab/net", "--write") == 0
    assert (manifest_file.read_bytes(), count_commits(hub)) == (before, 1)


def test_records_become_results_of_the_entry(
    hub: HubServer, use_manifest: UseManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = package_entries(BUNDLED_ID)[BUNDLED_ID]
    use_manifest({BUNDLED_ID: before})
    assert cli.main(["evaluate", BUNDLED_ID, "--output", str(tmp_path / "strict")]) == 0
    assert cli.main(["evaluate", BUNDLED_ID, "--channels-last", "--output", str(tmp_path / "not_strict")]) == 0
    manifest_file = use_manifest({BUNDLED_ID: before | {"results": [], "tensors_sha256": None}})
    assert publish(BUNDLED_ID, "--org", "lab") == 2
    assert publish(BUNDLED_ID, "--org", "lab", "--records", tmp_path / "not_strict") == 2
    capsys.readouterr()
    assert publish(BUNDLED_ID, "--org", "lab", "--records", tmp_path / "strict", "--write") == 0
    after = read_entries(manifest_file)[BUNDLED_ID]
    fields = ("images", "top1_correct", "top5_correct", "prediction_sha256", "statistics", "protocol", "split")
    assert [after["results"][0][name] for name in fields] == [before["results"][0][name] for name in fields]
    assert after["tensors_sha256"] == before["tensors_sha256"]
    card = ModelCard(hub.files(REPOSITORY)[CARD_NAME].decode())
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_args["correct"] == before["results"][0]["top1_correct"]
