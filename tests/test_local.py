"""Which files are on this machine: one answer for `list`, `info`, `verify` and `fetch`, without a network."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import HubFile, WeightsEntry
from pyramidzoo.weights.cache import cache_paths, write_sidecar
from pyramidzoo.weights.local import LocalFile, find_local_file, find_local_sources
from pyramidzoo.weights.verify import verify

COMMIT, SHA256, FILE = "c" * 40, "5" * 64, "model.safetensors"


@pytest.fixture
def converted_entry() -> WeightsEntry:
    """An entry whose file is a checkpoint that has to be converted."""
    return load_manifest().find("wrn_16_1.cifar10_ferles")


def make_hub_entry(*, revision: str | None = COMMIT, sha256: str | None = SHA256) -> WeightsEntry:
    """An entry whose file is on the Hub, and is used as it is."""
    hub = HubFile("somebody/net", revision, FILE, sha256, None)
    entry = load_manifest().find("wrn_16_1.cifar10_ferles")
    return dataclasses.replace(entry, hub=hub, origin=None, tensors_sha256=None)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub's client."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub_file(hub_cache: Path) -> Path:
    """A file at COMMIT in the cache of the Hub's client, to which its main branch points."""
    repository = hub_cache / "models--somebody--net"
    path = repository / "snapshots" / COMMIT / FILE
    for folder in (path.parent, repository / "refs"):
        folder.mkdir(parents=True)
    path.write_bytes(b"x")
    (repository / "refs" / "main").write_text(COMMIT)
    return path


def place_converted_file(entry: WeightsEntry) -> Path:
    path = cache_paths(entry)[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


def test_bundled_weights() -> None:
    entry = load_manifest().find("wrn_16_1.digits_zoo")
    local_file = find_local_file(entry)
    assert local_file
    assert entry.bundled
    assert (local_file.source, local_file.expected_sha256) == ("bundled", entry.bundled.sha256)


def test_an_entry_that_is_not_here(converted_entry: WeightsEntry, hub_cache: Path) -> None:
    for entry in (converted_entry, make_hub_entry()):
        assert find_local_file(entry) is None
        assert find_local_sources([entry]) == {}
        assert verify(entry).state == "missing"


def test_a_converted_file_with_its_sidecar(converted_entry: WeightsEntry) -> None:
    path, origin = place_converted_file(converted_entry), converted_entry.origin
    assert origin
    assert origin.hash
    content = {
        "url": origin.url,
        "layout": origin.layout,
        "origin": origin.hash.value,
        "sha256": SHA256,
        "source_sha256": SHA256,
        "tensors_sha256": converted_entry.tensors_sha256,
    }
    write_sidecar(converted_entry, content, has_published_hash=True)
    assert find_local_file(converted_entry) == LocalFile("cache", path, SHA256)
    # the manifest may say later that the file has another hash, another layout or other tensors
    for change in ({"origin": "0" * 64}, {"layout": "timm"}, {"tensors_sha256": "0" * 64}):
        write_sidecar(converted_entry, {**content, **change}, has_published_hash=True)
        assert find_local_file(converted_entry) == LocalFile("cache", path, None)


def test_a_converted_file_without_a_sidecar(converted_entry: WeightsEntry) -> None:
    path = place_converted_file(converted_entry)
    assert find_local_file(converted_entry) == LocalFile("cache", path, None)
    assert find_local_sources([converted_entry]) == {converted_entry.id: "cache"}
    assert verify(converted_entry).state == "altered"


def test_a_converted_file_does_not_stand_for_a_hub_file(hub_cache: Path) -> None:
    """Without a sidecar it may be anything, and `fetch` downloads the file of the Hub."""
    entry = make_hub_entry()
    place_converted_file(entry)
    assert find_local_file(entry) is None
    assert find_local_sources([entry]) == {}
    assert verify(entry).state == "missing"


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_hub_file_is_found_where_its_client_finds_it(hub_file: Path, revision: str | None) -> None:
    entry = make_hub_entry(revision=revision)
    assert find_local_file(entry) == LocalFile("hub", hub_file, SHA256)
    assert find_local_sources([entry]) == {entry.id: "hub"}
    assert try_to_load_from_cache("somebody/net", FILE, revision=revision) == str(hub_file)


def test_another_revision_of_a_hub_file(hub_file: Path) -> None:
    assert find_local_file(make_hub_entry(revision="d" * 40)) is None


def test_a_hub_file_without_a_hash_is_known_by_its_sidecar(hub_file: Path) -> None:
    entry = make_hub_entry(revision=None, sha256=None)
    assert find_local_file(entry) is None  # another program may have put it there
    assert entry.hub
    write_sidecar(entry, {"url": entry.hub.url, "source_sha256": SHA256, "commit": COMMIT}, has_published_hash=False)
    assert find_local_file(entry) == LocalFile("hub", hub_file, SHA256)


def test_a_user_without_a_home_folder_has_only_bundled_weights(monkeypatch: pytest.MonkeyPatch, hub_file: Path) -> None:
    def raise_no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PYRAMIDZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", raise_no_home)
    bundled_entry = load_manifest().find("wrn_16_1.digits_zoo")
    assert find_local_sources([bundled_entry, make_hub_entry()]) == {bundled_entry.id: "bundled"}


def test_looking_for_files_imports_no_large_library() -> None:
    program = (
        "import sys\n"
        "from pyramidzoo.catalog.manifest import load_manifest\n"
        "from pyramidzoo.weights.local import find_local_sources\n"
        "find_local_sources(load_manifest().entries.values())\n"
        "print(*({'torch', 'huggingface_hub', 'numpy', 'safetensors'} & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
