"""Files from where they are published: hashes of every kind or none, pages for people, and the Hub, all on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import foreign_checkpoint, random_state
from hub_faults import Fault
from hub_server import HubServer
from torch import Tensor

import pyramidzoo
from pyramidzoo import factory
from pyramidzoo.catalog.manifest import Manifest, load_manifest
from pyramidzoo.catalog.weights_entry import FileHash, Hub, Origin, WeightsEntry
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash
from pyramidzoo.weights import cache
from pyramidzoo.weights import download as remote
from pyramidzoo.weights import fetch as weights

ID = "wrn_16_1.cifar10_ferles"
REPOSITORY, FILE = "somebody/net", "model.safetensors"

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("quick_unpickle")]


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("wrn_16_1")


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """net.pth and net.pth.zip, which holds it."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", state), folder / "net.pth")
    with zipfile.ZipFile(folder / "net.pth.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "net.pth", "net.pth")
    return folder


@contextlib.contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


class Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(folder: Path) -> Iterator[str]:
    with serving(functools.partial(Files, directory=str(folder))) as address:
        yield address


def published(url: str, known: FileHash | None, *, manual: str | None = None) -> WeightsEntry:
    origin = Origin(url=url, format="torch", bytes=None, hash=known, layout="ferles", manual=manual)
    return dataclasses.replace(load_manifest().find(ID), origin=origin, tensors_sha256=None, results=())


def git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


HASHES: dict[str, Callable[[Path], FileHash]] = {
    "sha256": lambda path: FileHash("sha256", "file", file_hash(path)),
    "md5": lambda path: FileHash("md5", "file", file_hash(path, "md5")),
    "prefix": lambda path: FileHash("sha256_prefix", "file", file_hash(path)[:8]),
    "git": lambda path: FileHash("git_blob_sha1", "file", git_blob(path)),
    "member": lambda path: FileHash("sha1", "member", file_hash(path.with_name("net.pth"), "sha1")),
}


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("kind", HASHES)
def test_hashes_of_every_kind(
    kind: str, folder: Path, site: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "net.pth.zip" if kind == "member" else "net.pth"
    entry = published(f"{site}/{name}", HASHES[kind](folder / name))
    downloaded = weights.fetch(entry)
    assert downloaded.place == "origin"
    assert weights.fetch(entry).place == "cache"
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert weights.fetch(entry, force=True).place == "origins"
    assert "nobody has published" not in capsys.readouterr().err
    (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    if kind == "member":
        (folder / "net.pth").unlink()
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("net.pth", b"another")
    with pytest.raises(IntegrityError, match=r"(?s)the name but not the content.*sent \d+ bytes with"):
        weights.fetch(entry, force=True)
    assert weights.verify(entry).state == "good"


def test_an_unpacked_member_is_the_member(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = published("http://127.0.0.1:9/net.pth.zip", HASHES["member"](folder / "net.pth.zip"))
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    packed = weights.fetch(entry)
    (folder / "net.pth.zip").unlink()
    (folder / "net.pth").rename(folder / "renamed")
    unpacked = weights.fetch(entry, force=True)
    assert (packed.place, unpacked.place) == ("origins", "origins")


def test_a_damaged_archive_under_another_name_is_none_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = published("http://127.0.0.1:9/net.pth.zip", HASHES["member"](folder / "net.pth.zip"))
    (folder / "a.zip").write_bytes((folder / "net.pth.zip").read_bytes()[:-200])
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert weights.fetch(entry).place == "origins"
    (folder / "net.pth").unlink()
    (folder / "a.zip").replace(folder / "net.pth.zip")
    with pytest.raises(IntegrityError, match="is not a readable archive of one checkpoint"):
        weights.fetch(entry, force=True)


@pytest.mark.usefixtures("online")
def test_without_a_hash_the_first_file_is_trusted_loudly_and_later_ones_must_match(
    folder: Path, site: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, first = published(f"{site}/net.pth", None), file_hash(folder / "net.pth")
    assert weights.fetch(entry).place == "origin"
    said = capsys.readouterr().err
    assert f"nobody has published a hash for {ID} ({site}/net.pth); sha256 of what came: {first}; noted" in said
    assert weights.fetch(entry).place == "cache"
    assert weights.fetch(entry, force=True).place == "origin"
    assert weights.verify(entry).state == "good"
    assert "nobody" not in capsys.readouterr().err  # said once

    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1", seed=1)), folder / "net.pth")
    with pytest.raises(IntegrityError, match=f"the file noted when it first came had {first}. If the new one is to"):
        weights.fetch(entry, force=True)
    assert weights.fetch(entry).place == "cache"
    cache.cache_paths(entry)[1].unlink()
    assert weights.fetch(entry).place == "origin"
    assert file_hash(folder / "net.pth") in capsys.readouterr().err

    # what was noted is enough to know the file again
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert weights.fetch(entry, force=True).place == "origins"


@pytest.mark.usefixtures("online")
def test_a_prefix_is_completed_by_the_first_file(folder: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = published(f"{site}/net.pth", HASHES["prefix"](folder / "net.pth"))
    weights.fetch(entry)
    noted = cache.sidecar(entry)
    assert noted["source_sha256"] == file_hash(folder / "net.pth")
    cache.write_sidecar(entry, {**noted, "source_sha256": "0" * 64}, published=True)
    with pytest.raises(IntegrityError, match=f"the file noted when it first came had {'0' * 64}"):
        weights.fetch(entry, force=True)


def test_without_a_hash_a_folder_cannot_help(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = published("http://127.0.0.1:9/net.pth", None)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    with pytest.raises(UnavailableError) as caught:
        weights.fetch(entry)
    said = str(caught.value)
    assert said.count("nobody has published a hash of this file, so PYRAMIDZOO_ORIGINS cannot recognise it") == 1
    assert "Fetch it where there is a network, or convert it by hand: `pyramidzoo convert FILE --layout ferles" in said
    assert "--arch wrn_16_1 --dataset cifar10 --output OUT.safetensors`" in said


@pytest.mark.parametrize("hashed", [True, False])
def test_a_page_for_people_says_what_to_do(hashed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = HASHES["sha256"](folder / "net.pth") if hashed else None
    entry = published("https://drive.example/view?id=1", known, manual="net.pth, 700 kB")
    with pytest.raises(UnavailableError) as caught:
        weights.fetch(entry)
    said = str(caught.value)
    assert "no program can download from https://drive.example/view?id=1; open that page, look for net.pth, 70" in said
    assert ("put the file in a folder of PYRAMIDZOO_ORIGINS" in said) is hashed
    assert ("convert it by hand: `pyramidzoo convert FILE" in said) is not hashed
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    if hashed:
        assert weights.fetch(entry).place == "origins"
    else:
        with pytest.raises(UnavailableError, match="PYRAMIDZOO_ORIGINS cannot recognise it"):
            weights.fetch(entry)


def test_every_page_of_the_manifest_says_what_to_do() -> None:
    pages = [e for e in load_manifest().entries.values() if e.origin and e.origin.manual]
    assert len(pages) > 20
    for entry in pages:
        with pytest.raises(UnavailableError, match=r"(?s)no program can download from http.*--layout .*--output OUT"):
            weights.fetch(entry)


@pytest.mark.usefixtures("online")
def test_a_download_without_end_is_stopped(folder: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BYTES", 1000)
    with pytest.raises(IntegrityError, match="sends more than the 1000 bytes it may have"):
        weights.fetch(published(f"{site}/net.pth", None))
    assert not [path for path in cache.cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def content(tmp_path: Path, state: dict[str, Tensor]) -> bytes:
    """A file of the zoo, as it is published."""
    write_tensors(tmp_path / "model.safetensors", state, {})
    return (tmp_path / "model.safetensors").read_bytes()


@pytest.fixture
def commit(hub: HubServer, content: bytes) -> str:
    """The commit of REPOSITORY that has it."""
    return hub.add(REPOSITORY, {FILE: content}, lfs={FILE})


def on_hub(content: bytes | None, revision: str | None, layout: str | None = None) -> WeightsEntry:
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    place = Hub(REPOSITORY, revision, FILE, sha256, None, layout)
    entry = load_manifest().find(ID)
    return dataclasses.replace(entry, hub=place, origin=None, tensors_sha256=None, results=())


def test_a_pinned_file_of_the_hub(
    hub: HubServer, content: bytes, commit: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = on_hub(content, commit)
    assert weights.verify(entry).state == "missing"
    assert weights.fetch(entry).place == "hub"
    asked = len(hub.requests)
    assert weights.fetch(entry).place == "cache"
    assert len(hub.requests) == asked  # a file that is here is not asked for
    assert weights.verify(entry).state == "good"
    assert cache.sidecar(entry) == {}
    monkeypatch.setattr(factory, "load_manifest", lambda: Manifest({ID: entry}))
    model = pyramidzoo.create_model("wrn_16_1", weights=ID)
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_an_altered_file_in_the_hubs_cache_is_refused_until_fetched_anew(content: bytes, commit: str) -> None:
    entry = on_hub(content, commit)
    path = weights.fetch(entry).path.resolve()
    path.write_bytes(content[:-1] + b"x")
    assert weights.verify(entry).state == "altered"
    with pytest.raises(IntegrityError, match=rf"is altered: its sha256 is .*`pyramidzoo fetch --force {ID}` makes it"):
        weights.fetch(entry)
    assert weights.fetch(entry, force=True).place == "hub"
    assert weights.verify(entry).state == "good"


def test_without_a_revision_the_commit_that_came_is_kept(
    hub: HubServer, content: bytes, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = on_hub(content, None)
    weights.fetch(entry)
    assert cache.sidecar(entry)["commit"] == commit
    assert "nobody" not in capsys.readouterr().err
    moved = content[:-1] + b"x"
    hub.add(REPOSITORY, {FILE: moved})
    assert weights.fetch(entry, force=True).place == "hub"  # of the noted commit
    cache.cache_paths(entry)[1].unlink()
    with pytest.raises(IntegrityError, match=r"no revision is pinned, main may have moved on"):
        weights.fetch(entry, force=True)
    assert weights.fetch(on_hub(moved, None)).place == "hub"


def test_main_in_the_clients_cache_may_be_another_commit(hub: HubServer, content: bytes, commit: str) -> None:
    huggingface_hub.hf_hub_download(REPOSITORY, FILE)
    newer = content[:-1] + b"x"
    hub.add(REPOSITORY, {FILE: newer})
    assert weights.fetch(on_hub(newer, None)).place == "hub"


def test_without_a_hash_the_hubs_first_file_is_trusted(
    hub: HubServer, content: bytes, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = on_hub(None, None)
    assert weights.fetch(entry).place == "hub"
    sha256 = hashlib.sha256(content).hexdigest()
    said = capsys.readouterr().err
    assert f"nobody has published a hash for {ID} (https://huggingface.co/somebody/net/blob/main/model.s" in said
    assert sha256 in said
    assert cache.sidecar(entry)["commit"] == commit
    hub.add(REPOSITORY, {FILE: content + b"x"})  # main moves on; the noted commit stays the one
    assert (weights.fetch(entry).place, weights.verify(entry).state) == ("cache", "good")

    path = weights.fetch(entry).path
    path.resolve().write_bytes(content + b"y")
    with pytest.raises(IntegrityError, match=f"is altered: .*, expected {sha256}"):
        weights.fetch(entry)
    hub.faults.append(Fault("^GET .*lfs-objects", 1, "same_size_corruption", offset=9000))
    with pytest.raises(IntegrityError, match=f"the file noted when it first came had {sha256}"):
        weights.fetch(entry, force=True)
    assert weights.fetch(entry, force=True).sha256 == sha256


def test_names_of_the_hubs_file_are_converted(hub: HubServer, tmp_path: Path, state: dict[str, Tensor]) -> None:
    foreign = foreign_checkpoint("wrn_16_1", "ferles", state)
    write_tensors(tmp_path / "foreign.safetensors", foreign, {})
    content = (tmp_path / "foreign.safetensors").read_bytes()
    commit = hub.add(REPOSITORY, {FILE: content})
    entry = on_hub(content, commit, layout="ferles")
    located = weights.fetch(entry)
    assert (located.place, located.path) == ("hub", cache.cache_paths(entry)[0])
    assert weights.fetch(entry).place == "cache"
    assert weights.verify(entry).state == "good"
    assert cache.sidecar(entry)["commit"] == commit


def test_the_hubs_file_in_a_folder(
    hub: HubServer, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "renamed").write_bytes(content)
    (folder / FILE).write_bytes(b"another network's")  # all are called that, so it is no damage
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert weights.fetch(on_hub(content, "e" * 40)).place == "origins"
    with pytest.raises(UnavailableError, match=r"(?s)not in PYRAMIDZOO_ORIGINS.*Hub somebody/net: "):
        weights.fetch(on_hub(b"elsewhere", "e" * 40))


def test_the_hub_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match="Hub somebody/net: offline, as HF_HUB_OFFLINE says") as caught:
        weights.fetch(on_hub(None, None))
    assert 'load the file itself: `create_model("wrn_16_1", weights="FILE.safetensors")`' in str(caught.value)
    with pytest.raises(UnavailableError, match=r"--layout timm .* --mean 0\.4914 .* --std 0\.2023 .* --output"):
        weights.fetch(on_hub(None, None, layout="timm"))
    assert hub.requests == []


def test_a_conversion_of_before_does_not_stand_in_the_hubs_way(
    content: bytes, commit: str, folder: Path, site: str
) -> None:
    origin = published(f"{site}/net.pth", HASHES["sha256"](folder / "net.pth"))
    converted = weights.fetch(origin).path
    entry = dataclasses.replace(on_hub(content, commit), origin=origin.origin)
    assert weights.fetch(entry).path == converted  # it is as good
    converted.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="fetch --force"):
        weights.fetch(entry)
    assert weights.fetch(entry, force=True).place == "hub"
    assert weights.fetch(entry).place == "cache"
    assert weights.verify(entry).state == "good"


@pytest.mark.usefixtures("online")
def test_what_nobody_has_hashed_is_another_file_at_another_address(folder: Path, site: str) -> None:
    assert weights.fetch(published(f"{site}/net.pth", None)).place == "origin"
    (folder / "other.pth").write_bytes((folder / "net.pth").read_bytes())
    assert weights.fetch(published(f"{site}/other.pth", None)).place == "origin"
    assert weights.fetch(published(f"{site}/other.pth", None)).place == "cache"


def test_a_hub_file_of_another_kind_is_refused_whatever_its_hash(hub: HubServer) -> None:
    entry = on_hub(b"no tensors", hub.add(REPOSITORY, {FILE: b"no tensors"}))
    with pytest.raises(IntegrityError, match="is not a readable safetensors file"):
        weights.fetch(entry)
    assert weights.verify(entry).state == "missing"


@pytest.mark.usefixtures("online")
def test_certificates_that_are_not_there_are_named(site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huggingface_hub.close_session()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(UnavailableError, match=r"no connection can be set up: .*look at the proxies .*SSL_CERT_FILE"):
        weights.fetch(published(f"{site}/net.pth", None))
    huggingface_hub.close_session()
