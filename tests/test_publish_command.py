"""`pyramidzoo publish`: its options, all weights at once, killed runs, and the way back from the Hub."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_faults import Fault
from hub_server import HubServer
from publishing import (
    BUNDLED_ID,
    BUNDLED_IDS,
    IGNORE_CLIENT_WARNING,
    NO_LICENSE_ID,
    UseManifest,
    assert_hub_is_enough,
    assert_mentions,
    count_commits,
    count_uploads,
    hub_environment,
    make_entry,
    package_entries,
    publish,
    read_entries,
)

from pyramidzoo.catalog.manifest import load_manifest, read_manifest

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("owner"), IGNORE_CLIENT_WARNING]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["name one set of weights"]),
        (("--all", BUNDLED_ID, "--org", "lab"), ["name one set of weights"]),
        (("--all",), ["--org"]),
        (("--all", "--org", "lab", "--repo-id", "lab/net"), ["--org", "no --repo-id"]),
        ((BUNDLED_ID,), ["--repo-id OWNER/NAME", "--org"]),
        ((BUNDLED_ID, "--repo-id", "lab/net", "--org", "lab"), ["--repo-id OWNER/NAME", "--org"]),
        ((BUNDLED_ID, "--repo-id", "net"), ["'net'", "give OWNER/NAME"]),
        ((BUNDLED_ID, "--repo-id", "lab/a--b"), ["'lab/a--b' is not a valid name"]),
        ((BUNDLED_ID, "--repo-id", "a/b/c"), ["'a/b/c' is not a valid name"]),
        ((BUNDLED_ID, "--org", "lab", "--dry-run", "--write"), ["--dry-run", "--write"]),
        ((BUNDLED_ID, "--org", "lab", "--records", "nowhere"), ["--records nowhere", "not a folder"]),
        (("*.digits_zoo", "--org", "lab"), ["2 sets of weights"]),
        ((NO_LICENSE_ID, "--org", "lab"), [NO_LICENSE_ID, "is not published", "license", "not stated"]),
        (("resnet20.nothing", "--org", "lab"), ["no weights", "resnet20.nothing"]),
    ],
)
def test_usage_errors(
    arguments: tuple[str, ...], words: list[str], hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish(*arguments) == 2
    assert_mentions(capsys.readouterr().err, *words)
    assert hub.requests == []


def test_all_are_published_and_evaluated_from_the_hub(
    hub: HubServer, use_manifest: UseManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest_file = use_manifest(package_entries(*BUNDLED_IDS, NO_LICENSE_ID))
    assert publish("--all", "--org", "lab", "--write", "--format", "json") == 0
    rows = {row["weights"]: row for row in json.loads(capsys.readouterr().out)}
    assert {weights_id: row["state"] for weights_id, row in rows.items()} == {
        BUNDLED_IDS[0]: "published",
        BUNDLED_IDS[1]: "published",
        NO_LICENSE_ID: "refused",
    }
    assert "not stated" in rows[NO_LICENSE_ID]["detail"]
    assert sorted(hub.repos) == sorted(f"lab/{weights_id}" for weights_id in BUNDLED_IDS)
    assert_hub_is_enough(manifest_file, BUNDLED_IDS, capsys)

    assert publish("--all", "--org", "lab") == 0
    output = capsys.readouterr()
    assert output.out.count("already there") == 2
    assert NO_LICENSE_ID not in output.out
    assert_mentions(output.err, "1 refused: the license of the weights is not stated")
    assert count_commits(hub) == 2


def test_one_failure_does_not_stop_the_others(
    use_manifest: UseManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone.safetensors").write_bytes(b"nobody has it")
    lost = make_entry("wrn_16_1", "cifar10", tmp_path / "gone.safetensors", origin=None)
    lost["hub"] = {
        "repo_id": "them/gone",
        "revision": "a" * 40,
        "filename": "x",
        "sha256": "b" * 64,
        "bytes": 1,
        "layout": None,
    }
    use_manifest({"wrn_16_1.cifar10_them": lost} | package_entries(*BUNDLED_IDS))
    assert publish("--all", "--org", "lab", "--format", "csv") == 5
    output = capsys.readouterr()
    states = [line.split(",")[1] for line in output.out.splitlines() if line.count(",") > 4]
    assert states == ["state", "failed", "published", "published"]
    assert_mentions(output.err, "wrn_16_1.cifar10_them")


def test_a_killed_run_is_completed_by_the_next_one(
    hub: HubServer, use_manifest: UseManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process is killed when the second file was uploaded, but not committed."""
    manifest_file = use_manifest(package_entries(*BUNDLED_IDS))
    verification = f"{BUNDLED_IDS[1]}.git/info/lfs/objects/verify"
    hub.faults.append(Fault(f"POST /lab/{verification}", None, "stall", after=None))
    arguments = [sys.executable, "-m", "pyramidzoo", "publish", "--all", "--org", "lab", "--write"]
    environment = hub_environment(hub, tmp_path)
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        deadline = time.monotonic() + 60
        while not hub.count("POST", verification):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert (count_commits(hub), count_uploads(hub)) == (1, 2)
    entries = read_manifest(manifest_file).entries
    assert [bool(entries[weights_id].hub) for weights_id in BUNDLED_IDS] == [True, False]

    hub.faults.clear()
    assert publish("--all", "--org", "lab", "--write", "--format", "json") == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["already there", "published"]
    assert (count_commits(hub), count_uploads(hub)) == (2, 2)
    assert all(entry.hub for entry in read_manifest(manifest_file).entries.values())


SMALL_REAL = ("wrn_16_1.cifar10_ferles", "resnet20.cifar10_akamaster")
ALL_REAL = tuple(
    weights_id
    for weights_id, content in package_entries(*load_manifest().entries).items()
    if content["results"] and content["origin"]
)


@pytest.mark.parametrize("ids", [SMALL_REAL, pytest.param(ALL_REAL, marks=pytest.mark.slow)], ids=["fast", "all"])
def test_real_checkpoints_are_published_and_evaluated_from_the_hub(
    ids: tuple[str, ...],
    hub: HubServer,
    use_manifest: UseManifest,
    origins: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their licenses are replaced by one that allows it: an upload to this machine publishes nothing."""
    weights = package_entries(*ids)
    assert weights
    allowed = {"code": "MIT", "weights": "MIT"}
    manifest_file = use_manifest({weights_id: entry | {"license": allowed} for weights_id, entry in weights.items()})
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    monkeypatch.setenv("PYRAMIDZOO_DATA", str(data_dir))
    assert publish("--all", "--org", "lab", "--write") == 0
    assert sorted(hub.repos) == sorted(f"lab/{weights_id}" for weights_id in ids)
    ignored = {"hub": None, "license": None}
    for weights_id, content in read_entries(manifest_file).items():
        assert content | ignored == weights[weights_id] | ignored
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "another"))
    assert_hub_is_enough(manifest_file, ids, capsys)
