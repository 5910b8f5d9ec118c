"""Fetching from where files are published: with hashes of every kind or none, from pages for people, from the Hub.

All servers are on this machine.
"""

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
from pyramidzoo.catalog.weights_entry import FileHash, HubFile, Origin, WeightsEntry
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash
from pyramidzoo.weights import cache, download
from pyramidzoo.weights.fetch import fetch
from pyramidzoo.weights.verify import verify

ID = "wrn_16_1.cifar10_ferles"
REPOSITORY, FILE = "somebody/net", "model.safetensors"

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("quick_unpickle")]


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("wrn_16_1")


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    """A folder with net.pth, and with net.pth.zip, an archive of it."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", state), folder / "net.pth")
    with zipfile.ZipFile(folder / "net.pth.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "net.pth", "net.pth")
    return folder


@contextlib.contextmanager
def serve(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
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
    """The address of a server that offers the files of the folder."""
    with serve(functools.partial(Files, directory=str(folder))) as address:
        yield address


def make_entry(url: str, known_hash: FileHash | None, *, manual: str | None = None) -> WeightsEntry:
    """An entry whose file is at an address; `manual` says what a person has to look for there."""
    origin = Origin(url=url, format="torch", bytes=None, hash=known_hash, layout="ferles", manual=manual)
    return dataclasses.replace(load_manifest().find(ID), origin=origin, tensors_sha256=None, results=())


def hash_as_git(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


HASH_FUNCTIONS: dict[str, Callable[[Path], FileHash]] = {
    "sha256": lambda path: FileHash("sha256", "file", file_hash(path)),
    "md5": lambda path: FileHash("md5", "file", file_hash(path, "md5")),
    "prefix": lambda path: FileHash("sha256_prefix", "file", file_hash(path)[:8]),
    "git": lambda path: FileHash("git_blob_sha1", "file", hash_as_git(path)),
    "member": lambda path: FileHash("sha1", "member", file_hash(path.with_name("net.pth"), "sha1")),
}


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("kind", HASH_FUNCTIONS)
def test_hashes_of_every_kind(
    kind: str, folder: Path, site: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "net.pth.zip" if kind == "member" else "net.pth"
    entry = make_entry(f"{site}/{name}", HASH_FUNCTIONS[kind](folder / name))
    downloaded = fetch(entry)
    assert downloaded.source == "origin"
    assert fetch(entry).source == "cache"
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert fetch(entry, force=True).source == "origins"
    assert "published a hash" not in capsys.readouterr().err
    (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    if kind == "member":
        (folder / "net.pth").unlink()
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("net.pth", b"another")
    with pytest.raises(IntegrityError, match=r"(?s)but the content is not.*sent \d+ bytes"):
        fetch(entry, force=True)
    assert verify(entry).state == "good"


def test_an_unpacked_member_is_recognised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry("http://127.0.0.1:9/net.pth.zip", HASH_FUNCTIONS["member"](folder / "net.pth.zip"))
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    packed = fetch(entry)
    (folder / "net.pth.zip").unlink()
    (folder / "net.pth").rename(folder / "renamed")
    unpacked = fetch(entry, force=True)
    assert (packed.source, unpacked.source) == ("origins", "origins")


def test_a_damaged_archive_under_another_name_is_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry("http://127.0.0.1:9/net.pth.zip", HASH_FUNCTIONS["member"](folder / "net.pth.zip"))
    (folder / "a.zip").write_bytes((folder / "net.pth.zip").read_bytes()[:-200])
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert fetch(entry).source == "origins"
    (folder / "net.pth").unlink()
    (folder / "a.zip").replace(folder / "net.pth.zip")
    with pytest.raises(IntegrityError, match="not a readable archive"):
        fetch(entry, force=True)


@pytest.mark.usefixtures("online")
def test_without_a_hash_the_first_file_is_trusted_with_a_message_and_later_ones_must_match(
    folder: Path, site: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry, first = make_entry(f"{site}/net.pth", None), file_hash(folder / "net.pth")
    assert fetch(entry).source == "origin"
    message = capsys.readouterr().err
    assert all(word in message for word in ("nobody has published a hash", ID, f"{site}/net.pth", first))
    assert fetch(entry).source == "cache"
    assert fetch(entry, force=True).source == "origin"
    assert verify(entry).state == "good"
    assert "nobody" not in capsys.readouterr().err  # the message came once

    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1", seed=1)), folder / "net.pth")
    with pytest.raises(IntegrityError, match=rf"first file.*{first}.*delete .*\.json"):
        fetch(entry, force=True)
    assert fetch(entry).source == "cache"
    cache.cache_paths(entry)[1].unlink()
    assert fetch(entry).source == "origin"
    assert file_hash(folder / "net.pth") in capsys.readouterr().err

    # the hash in the sidecar is enough to recognise the file in a folder
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert fetch(entry, force=True).source == "origins"


@pytest.mark.usefixtures("online")
def test_with_a_prefix_the_first_file_decides_the_rest_of_the_hash(
    folder: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_entry(f"{site}/net.pth", HASH_FUNCTIONS["prefix"](folder / "net.pth"))
    fetch(entry)
    sidecar = cache.read_sidecar(entry)
    assert sidecar["source_sha256"] == file_hash(folder / "net.pth")
    cache.write_sidecar(entry, {**sidecar, "source_sha256": "0" * 64}, has_published_hash=True)
    with pytest.raises(IntegrityError, match=rf"first file.*{'0' * 64}"):
        fetch(entry, force=True)


def test_without_a_hash_a_folder_cannot_help(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry("http://127.0.0.1:9/net.pth", None)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    with pytest.raises(UnavailableError) as caught:
        fetch(entry)
    message = str(caught.value)
    assert message.count("nobody has published a hash of this file") == 1
    assert "convert it by hand: `pyramidzoo convert FILE --layout ferles --arch wrn_16_1 --dataset cifar10" in message


@pytest.mark.parametrize("has_hash", [True, False])
def test_a_page_for_people_says_what_to_do(has_hash: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known_hash = HASH_FUNCTIONS["sha256"](folder / "net.pth") if has_hash else None
    entry = make_entry("https://drive.example/view?id=1", known_hash, manual="net.pth, 700 kB")
    with pytest.raises(UnavailableError) as caught:
        fetch(entry)
    message = str(caught.value)
    assert "https://drive.example/view?id=1; open that page, look for net.pth, 700 kB" in message
    assert ("folder of PYRAMIDZOO_ORIGINS" in message) is has_hash
    assert ("`pyramidzoo convert FILE" in message) is not has_hash
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    if has_hash:
        assert fetch(entry).source == "origins"
    else:
        with pytest.raises(UnavailableError, match=r"cannot be recognised in PYRAMIDZOO_ORIGINS"):
            fetch(entry)


def test_every_page_of_the_manifest_says_what_to_do() -> None:
    pages = [e for e in load_manifest().entries.values() if e.origin and e.origin.manual]
    assert len(pages) > 20
    for entry in pages:
        with pytest.raises(UnavailableError, match=r"(?s)no program can download from http.*--layout .*--output OUT"):
            fetch(entry)


@pytest.mark.usefixtures("online")
def test_a_download_without_end_is_stopped(folder: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with pytest.raises(IntegrityError, match="more than 1000 bytes"):
        fetch(make_entry(f"{site}/net.pth", None))
    assert not [path for path in cache.cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture
def content(tmp_path: Path, state: dict[str, Tensor]) -> bytes:
    """A safetensors file as the zoo publishes it."""
    write_tensors(tmp_path / "model.safetensors", state, {})
    return (tmp_path / "model.safetensors").read_bytes()


@pytest.fixture
def commit(hub: HubServer, content: bytes) -> str:
    """The commit of REPOSITORY that has this content."""
    return hub.add(REPOSITORY, {FILE: content}, lfs={FILE})


def make_hub_entry(content: bytes | None, revision: str | None, layout: str | None = None) -> WeightsEntry:
    """An entry whose file is on the Hub. Without a content, the manifest has no hash of it."""
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    hub = HubFile(REPOSITORY, revision, FILE, sha256, None, layout)
    entry = load_manifest().find(ID)
    return dataclasses.replace(entry, hub=hub, origin=None, tensors_sha256=None, results=())


def test_a_pinned_file_of_the_hub(
    hub: HubServer, content: bytes, commit: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_hub_entry(content, commit)
    assert verify(entry).state == "missing"
    assert fetch(entry).source == "hub"
    requests = len(hub.requests)
    assert fetch(entry).source == "cache"
    assert len(hub.requests) == requests  # a file that is here is not requests for
    assert verify(entry).state == "good"
    assert cache.read_sidecar(entry) == {}
    monkeypatch.setattr(factory, "load_manifest", lambda: Manifest({ID: entry}))
    model = pyramidzoo.create_model("wrn_16_1", weights=ID)
    assert torch.equal(model.get_parameter("fc.weight"), state["fc.weight"])


def test_an_altered_file_in_the_hubs_cache_is_refused_until_fetched_anew(content: bytes, commit: str) -> None:
    entry = make_hub_entry(content, commit)
    path = fetch(entry).path.resolve()
    path.write_bytes(content[:-1] + b"x")
    assert verify(entry).state == "altered"
    with pytest.raises(IntegrityError, match=rf"altered.*`pyramidzoo fetch --force {ID}`"):
        fetch(entry)
    assert fetch(entry, force=True).source == "hub"
    assert verify(entry).state == "good"


def test_without_a_revision_the_commit_that_came_is_kept(
    hub: HubServer, content: bytes, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = make_hub_entry(content, None)
    fetch(entry)
    assert cache.read_sidecar(entry)["commit"] == commit
    assert "nobody" not in capsys.readouterr().err
    new_content = content[:-1] + b"x"
    hub.add(REPOSITORY, {FILE: new_content})
    assert fetch(entry, force=True).source == "hub"  # from the commit in the sidecar
    cache.cache_paths(entry)[1].unlink()
    with pytest.raises(IntegrityError, match=r"does not name a commit.*main branch"):
        fetch(entry, force=True)
    assert fetch(make_hub_entry(new_content, None)).source == "hub"


def test_main_in_the_clients_cache_may_be_another_commit(hub: HubServer, content: bytes, commit: str) -> None:
    huggingface_hub.hf_hub_download(REPOSITORY, FILE)
    new_content = content[:-1] + b"x"
    hub.add(REPOSITORY, {FILE: new_content})
    assert fetch(make_hub_entry(new_content, None)).source == "hub"


def test_without_a_hash_the_hubs_first_file_is_trusted(
    hub: HubServer, content: bytes, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = make_hub_entry(None, None)
    assert fetch(entry).source == "hub"
    sha256 = hashlib.sha256(content).hexdigest()
    message = capsys.readouterr().err
    address = "https://huggingface.co/somebody/net/blob/main/model.safetensors"
    assert all(word in message for word in ("nobody has published a hash", ID, address, sha256))
    assert cache.read_sidecar(entry)["commit"] == commit
    hub.add(REPOSITORY, {FILE: content + b"x"})  # main changes, the commit in the sidecar does not
    assert (fetch(entry).source, verify(entry).state) == ("cache", "good")

    path = fetch(entry).path
    path.resolve().write_bytes(content + b"y")
    with pytest.raises(IntegrityError, match=rf"altered.*expected {sha256}"):
        fetch(entry)
    hub.faults.append(Fault("^GET .*lfs-objects", 1, "same_size_corruption", offset=9000))
    with pytest.raises(IntegrityError, match=rf"first file.*{sha256}"):
        fetch(entry, force=True)
    assert fetch(entry, force=True).sha256 == sha256


def test_a_hub_file_with_other_names_is_converted(hub: HubServer, tmp_path: Path, state: dict[str, Tensor]) -> None:
    foreign = foreign_checkpoint("wrn_16_1", "ferles", state)
    write_tensors(tmp_path / "foreign.safetensors", foreign, {})
    content = (tmp_path / "foreign.safetensors").read_bytes()
    commit = hub.add(REPOSITORY, {FILE: content})
    entry = make_hub_entry(content, commit, layout="ferles")
    fetched = fetch(entry)
    assert (fetched.source, fetched.path) == ("hub", cache.cache_paths(entry)[0])
    assert fetch(entry).source == "cache"
    assert verify(entry).state == "good"
    assert cache.read_sidecar(entry)["commit"] == commit


def test_a_hub_file_in_a_folder(
    hub: HubServer, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "renamed").write_bytes(content)
    (folder / FILE).write_bytes(b"another network's")  # this name says nothing
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert fetch(make_hub_entry(content, "e" * 40)).source == "origins"
    with pytest.raises(UnavailableError, match=r"(?s)not in the folders of PYRAMIDZOO_ORIGINS.*Hub somebody/net: "):
        fetch(make_hub_entry(b"elsewhere", "e" * 40))


def test_the_hub_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError, match=r"Hub somebody/net.*HF_HUB_OFFLINE") as caught:
        fetch(make_hub_entry(None, None))
    assert '`create_model("wrn_16_1", weights="FILE.safetensors")`' in str(caught.value)
    with pytest.raises(UnavailableError, match=r"--layout timm .* --mean 0\.4914 .* --std 0\.2023 .* --output"):
        fetch(make_hub_entry(None, None, layout="timm"))
    assert hub.requests == []


def test_a_damaged_converted_file_is_replaced_by_the_hub_file(
    content: bytes, commit: str, folder: Path, site: str
) -> None:
    origin = make_entry(f"{site}/net.pth", HASH_FUNCTIONS["sha256"](folder / "net.pth"))
    converted = fetch(origin).path
    entry = dataclasses.replace(make_hub_entry(content, commit), origin=origin.origin)
    assert fetch(entry).path == converted  # it has the same tensors
    converted.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="fetch --force"):
        fetch(entry)
    assert fetch(entry, force=True).source == "hub"
    assert fetch(entry).source == "cache"
    assert verify(entry).state == "good"


@pytest.mark.usefixtures("online")
def test_without_a_hash_another_address_means_another_file(folder: Path, site: str) -> None:
    assert fetch(make_entry(f"{site}/net.pth", None)).source == "origin"
    (folder / "other.pth").write_bytes((folder / "net.pth").read_bytes())
    assert fetch(make_entry(f"{site}/other.pth", None)).source == "origin"
    assert fetch(make_entry(f"{site}/other.pth", None)).source == "cache"


def test_a_hub_file_of_another_kind_is_refused_whatever_its_hash(hub: HubServer) -> None:
    entry = make_hub_entry(b"no tensors", hub.add(REPOSITORY, {FILE: b"no tensors"}))
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        fetch(entry)
    assert verify(entry).state == "missing"


@pytest.mark.usefixtures("online")
def test_missing_certificates_are_named(site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    huggingface_hub.close_session()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(UnavailableError, match=r"no HTTP session.*SSL_CERT_FILE"):
        fetch(make_entry(f"{site}/net.pth", None))
    huggingface_hub.close_session()
