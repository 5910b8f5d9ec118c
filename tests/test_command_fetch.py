"""`pyramidzoo fetch` and `verify`, and what the names of weights mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import RunCommand

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands._select import select_entries, select_weights
from pyramidzoo.errors import UsageError


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("resnet20", ["resnet20.cifar10_akamaster"]),
        ("wrn_16_1", ["wrn_16_1.cifar10_ferles"]),
        ("wrn_16_1.digits", ["wrn_16_1.digits_zoo"]),
        ("wrn_16_1.digits_zoo", ["wrn_16_1.digits_zoo"]),
        ("wrn_16_1*", ["wrn_16_1.cifar10_ferles", "wrn_16_1.digits_zoo"]),
        ("resnet20.*", [f"resnet20.{tag}" for tag in load_manifest().list_tags("resnet20")]),
    ],
)
def test_a_name_means_one_set_of_weights_and_a_pattern_several(name: str, ids: list[str]) -> None:
    selected = [entry.id for entry in select_entries([name])]
    if "*" in name:
        assert [weights_id for weights_id in selected if weights_id in ids] == ids
    else:
        assert selected == ids


def test_every_architecture_means_what_create_model_loads() -> None:
    manifest = load_manifest()
    for name in architectures():
        if manifest.list_tags(name):
            assert select_entries([name]) == [manifest.find_by_tag(name)]
        else:
            with pytest.raises(UsageError, match="has no weights in the manifest"):
                select_entries([name])


def test_names_are_ids_or_paths_and_each_counts_once() -> None:
    selection = select_weights(["wrn_16_1.digits", "./a.pth", "wrn_16_1.digits_zoo", "b/../a.pth", "folder/"])
    assert [entry.id for entry in selection.entries] == ["wrn_16_1.digits_zoo"]
    assert selection.paths == [Path("a.pth"), Path("folder")]


def test_fetch_without_a_network(run_command: RunCommand) -> None:
    result = run_command("fetch", "wrn_16_1.cifar10")
    assert (result.code, result.out) == (5, "")
    assert "HF_HUB_OFFLINE forbids downloads" in result.err


def test_verify_all(run_command: RunCommand, tmp_path: Path) -> None:
    entries = load_manifest().entries.values()
    expected = {entry.id: "good" if entry.bundled else "missing" for entry in entries}
    rows = run_command("verify", "--all", "--format", "json").json()
    assert {row["weights"]: row["state"] for row in rows} == expected
    for_people = run_command("verify", "--all")
    assert for_people.code == 0  # It is no failure that most weights were never fetched.
    assert len(for_people.out.splitlines()) == 1 + list(expected.values()).count("good")
    assert "are not on this machine" in for_people.err

    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / "stranger.safetensors").write_bytes(b"x")
    assert run_command("verify", "--all").code == 4


def test_verify_named_weights(run_command: RunCommand, tmp_path: Path) -> None:
    assert run_command("verify", "wrn_16_1.cifar10").code == 5
    assert run_command("verify").code == 2
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / "wrn_16_1.cifar10_ferles.safetensors").write_bytes(b"x")
    result = run_command("verify", "wrn_16_1.cifar10")
    assert result.code == 4
    assert "altered" in result.out
    assert "sidecar is missing, damaged or about another file" in result.out
