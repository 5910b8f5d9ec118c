"""The upload to a Hub on loopback: one commit, read back, and what happens when something goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_faults import Fault
from hub_server import HubServer
from huggingface_hub import constants
from publishing import (
    BUNDLED_ID,
    BUNDLED_IDS,
    IGNORE_CLIENT_WARNING,
    REPOSITORY,
    UseManifest,
    assert_mentions,
    count_commits,
    count_uploads,
    package_entries,
    publish,
)

from pyramidzoo.files import file_hash
from pyramidzoo.hub.prepare import CARD_NAME, FILE_NAMES, WEIGHTS_NAME

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("owner"), IGNORE_CLIENT_WARNING]


def test_one_commit_is_made_and_read_back(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = "lab/some-name"
    assert publish(BUNDLED_ID, "--repo-id", repository, "--output", tmp_path) == 0
    output = capsys.readouterr()
    folder = tmp_path / BUNDLED_ID
    revision = hub.repos[repository].main
    remote_files = hub.files(repository, revision)
    del remote_files[".gitattributes"]
    assert remote_files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert (count_commits(hub), count_uploads(hub)) == (1, 1)
    assert not hub.repos[repository].private
    for path in (f"/resolve/{revision}/config.json", f"/resolve/{revision}/README.md", "/lfs-objects/"):
        assert hub.count("GET", path) == 1
    assert_mentions(output.err, "read back and verified", f"{hub.url}/{repository}/tree/{revision}")

    ((weights_id, entry),) = json.loads(output.out).items()
    assert weights_id == BUNDLED_ID
    assert entry["hub"] == {
        "repo_id": repository,
        "revision": revision,
        "filename": "model.safetensors",
        "sha256": file_hash(folder / WEIGHTS_NAME),
        "bytes": (folder / WEIGHTS_NAME).stat().st_size,
        "layout": None,
    }
    assert entry | {"hub": None} == package_entries(BUNDLED_ID)[BUNDLED_ID]


def test_the_second_run_uploads_nothing(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(BUNDLED_ID, "--org", "lab", "--private", "--format", "json") == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert hub.repos[REPOSITORY].private
    assert publish(BUNDLED_ID, "--org", "lab", "--format", "json") == 0
    (second,) = json.loads(capsys.readouterr().out)
    assert (first["state"], second["state"]) == ("published", "already there")
    assert first | {"state": ""} == second | {"state": ""}
    assert first["entry"]["hub"]["revision"] == first["revision"] == hub.repos[REPOSITORY].main
    assert (count_commits(hub), count_uploads(hub)) == (1, 1)


def test_only_files_that_differ_are_committed(hub: HubServer) -> None:
    assert publish(BUNDLED_ID, "--org", "lab") == 0
    card = hub.files(REPOSITORY)[CARD_NAME]
    hub.add(REPOSITORY, hub.files(REPOSITORY) | {CARD_NAME: card[::-1], "figure.png": b"beside"})
    assert publish(BUNDLED_ID, "--org", "lab") == 0
    assert hub.files(REPOSITORY)[CARD_NAME] == card
    assert hub.files(REPOSITORY)["figure.png"] == b"beside"
    assert (count_commits(hub), count_uploads(hub)) == (2, 1)

    changed = bytearray(hub.files(REPOSITORY)[WEIGHTS_NAME])
    changed[-1] ^= 1
    hub.add(REPOSITORY, hub.files(REPOSITORY) | {WEIGHTS_NAME: bytes(changed)})
    assert publish(BUNDLED_ID, "--org", "lab") == 0
    assert hashlib.sha256(hub.files(REPOSITORY)[WEIGHTS_NAME]).hexdigest() != hashlib.sha256(changed).hexdigest()


def test_after_a_refused_commit_nothing_is_uploaded_again(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults.append(Fault("/commit/main", 1, "status", status=412))
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert_mentions(capsys.readouterr().err, REPOSITORY, "somebody else committed", "run the command again")
    assert count_uploads(hub) == 1
    assert publish(BUNDLED_ID, "--org", "lab") == 0
    assert (count_commits(hub), count_uploads(hub), len(hub.repos[REPOSITORY].commits)) == (2, 1, 2)


def test_a_commit_of_somebody_else_is_not_overwritten(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    create_commit = huggingface_hub.HfApi.create_commit

    def create_after_somebody_else(api: Any, *args: Any, **settings: Any) -> Any:
        hub.add(REPOSITORY, hub.files(REPOSITORY) | {CARD_NAME: b"# theirs\n"})
        return create_commit(api, *args, **settings)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_after_somebody_else)
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert hub.files(REPOSITORY)[CARD_NAME] == b"# theirs\n"


def test_a_commit_that_could_not_be_read_back_is_verified_by_the_next_run(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults.append(Fault("^GET .*lfs-objects", 1, "status", status=404))
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert_mentions(capsys.readouterr().err, REPOSITORY, "run the command again", "not uploaded a second time")
    downloads = hub.count("GET", "/lfs-objects/")
    assert publish(BUNDLED_ID, "--org", "lab", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "already there"
    assert hub.count("GET", "/lfs-objects/") == downloads + 1
    assert (count_commits(hub), count_uploads(hub)) == (1, 1)


@pytest.mark.parametrize("file", FILE_NAMES)
def test_other_bytes_than_were_uploaded_are_an_error(
    file: str, hub: HubServer, use_manifest: UseManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest_file = use_manifest(package_entries(*BUNDLED_IDS))
    before = manifest_file.read_bytes()
    hub.faults.append(Fault(f"^GET .*{re.escape(file)}", None, "same_size_corruption", offset=99))
    for _ in range(2):
        assert publish(BUNDLED_ID, "--org", "lab", "--write") == 4
        output = capsys.readouterr()
        assert_mentions(output.err, REPOSITORY, "other bytes", file, "publish again")
        assert output.out == ""
    assert manifest_file.read_bytes() == before


def test_without_a_token_nothing_is_asked(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert_mentions(capsys.readouterr().err, REPOSITORY, "without a token", "HF_TOKEN", "hf auth login")
    assert hub.requests == []


@pytest.mark.parametrize("user", ["guest", "unknown"])
def test_a_token_without_permission(
    user: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.guest_token if user == "guest" else "hf_unknown")
    hub.add(REPOSITORY, {"a": b"b"})
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert_mentions(capsys.readouterr().err, REPOSITORY, "token has no permission", "HF_TOKEN")
    assert count_uploads(hub) == 0


def test_offline_nothing_is_asked(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert publish(BUNDLED_ID, "--org", "lab") == 5
    assert_mentions(capsys.readouterr().err, REPOSITORY, "HF_HUB_OFFLINE", "--dry-run")
    assert hub.requests == []


def test_a_card_that_the_hub_refuses(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults.append(Fault("validate-yaml", None, "status", status=400, body=b'{"errors": [{"message": "no"}]}'))
    assert publish(BUNDLED_ID, "--org", "lab") in (2, 5)
    assert f"cannot publish {REPOSITORY}" in capsys.readouterr().err
    assert count_uploads(hub) == 0
