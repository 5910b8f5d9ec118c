"""What works: where weights are looked for and in which order, several at once, local folders, other manifests."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from downloading import (
    KINDS,
    Here,
    Published,
    environment,
    file_of,
    files_in,
    for_children,
    forget_everything,
    fresh_client,
    network,
    nothing_is_left,
    own_entry,
    publish,
)
from hub_server import HubServer
from safetensors.torch import load_file, save_file
from tqdm import tqdm

import pyramidzoo
from pyramidzoo.catalog import manifest
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.errors import UsageError
from pyramidzoo.files import file_hash, packaged
from pyramidzoo.weights import download, fetch_all, progress
from pyramidzoo.weights import fetch as weights

pytestmark = pytest.mark.server

DIGITS = "wrn_16_1.digits_zoo"
SIX = {
    "wrn_16_1": "hub",
    "wrn_16_2": "origin",
    "wrn_40_1": "origin",
    "resnet20": "hub",
    "resnet32": "hub",
    "resnet44": "hub",
}


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, capsys, monkeypatch)


@pytest.fixture(params=KINDS)
def offer(request: pytest.FixtureRequest, hub: HubServer, here: Here) -> Published:
    made = publish(hub, request.param)
    here.use(made)
    return made


def both(hub: HubServer) -> tuple[Published, Published]:
    """One network on the Hub and at its origin, under one id."""
    first, second = publish(hub, "hub"), publish(hub, "origin")
    first.entry["origin"] = second.entry["origin"]
    return first, second


def place(ran: Any) -> str:
    (row,) = ran.rows
    return row["from"]


# places


def test_the_order_of_places(hub: HubServer, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = both(hub)
    folder = tmp_path / "origins"
    folder.mkdir()
    (folder / "any name").write_bytes(second.content)

    bundled = own_entry(DIGITS) | {"hub": first.entry["hub"], "origin": first.entry["origin"]}
    here.use(first)
    document = json.loads((tmp_path / "manifest.json").read_text())
    document["weights"][DIGITS] = bundled
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert place(here("fetch", DIGITS)) == "bundled"

    assert place(here.gets(first)) == "origins"
    assert place(here.gets(first)) == "cache"
    assert hub.requests == []
    forget_everything(tmp_path)
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    assert place(here.gets(first)) == "hub"
    assert (first.bodies(), second.bodies()) == (1, 0)
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert place(here.gets(first)) == "cache"
    assert place(here("fetch", "--force", first.id)) == "origins"
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    forget_everything(tmp_path)
    del hub.repos[first.repo_id]
    assert place(here.gets(first)) == "origin"
    assert (first.bodies(), second.bodies()) == (1, 1)
    assert place(here.gets(first)) == "cache"
    forget_everything(tmp_path)
    del hub.repos[second.repo_id]
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "published"))
    (tmp_path / "published").mkdir()
    ran = here("fetch", first.id)
    assert ran.code == 5
    tried = [line[4:] for line in ran.err.splitlines() if line.startswith("  - ")]
    assert [line.split()[0] for line in tried] == ["not", "Hub", first.entry["origin"]["url"] + ":"]


def test_the_origin_stands_in_for_a_hub_with_other_content(hub: HubServer, here: Here) -> None:
    first, second = both(hub)
    here.use(first)
    first.strike("same_size_corruption", offset=-9)
    assert place(here.gets(first)) == "origin"
    forget_everything(here.folder)
    second.strike("same_size_corruption", offset=-9)
    ran = here("fetch", first.id)
    assert ran.code == 4
    assert ran.err.count("\n  - ") == 2
    nothing_is_left(here.folder)


def test_what_is_local_needs_no_server(offer: Published, here: Here, tmp_path: Path) -> None:
    here.gets(offer)
    asked = len(offer.server.requests)
    for command in (("fetch",), ("verify",), ("info",)):
        assert here(*command, offer.id).code == 0
    assert len(offer.server.requests) == asked


def test_variables_of_the_hubs_client(tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, which the client reads when it is imported."""
    with HubServer() as server:
        offer = publish(server, "hub")
        server.gate(offer.repo_id)
        env = for_children(server, tmp_path, offer) | {"HF_TOKEN": server.token}
        del env["HF_HUB_CACHE"]
        ran = subprocess.run(
            [sys.executable, "-m", "pyramidzoo", "fetch", offer.id, "--format", "json"],
            env=environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        (row,) = json.loads(ran.stdout)
        assert Path(row["path"]).is_relative_to(tmp_path / "home" / "hub")
        assert offer.is_right(Path(row["path"]))
        assert offer.bodies() == 1


ODD = ["spaces and ünïcödé 網", "-rf", "a" * 200, "~", "$HOME", "%s{0}"]


@pytest.mark.parametrize("name", ODD)
def test_caches_with_odd_names(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    cache = here.folder / name / "cache"
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here.folder / name / "hub"))
    (row,) = here.gets(offer).rows
    assert Path(row["path"]).is_relative_to(here.folder / name)
    assert place(here.gets(offer)) == "cache"


def test_caches_behind_links(offer: Published, here: Here) -> None:
    for name in ("cache", "hub"):
        (here.folder / f"real {name}").mkdir()
        (here.folder / name).symlink_to(here.folder / f"real {name}")
    here.gets(offer)
    assert place(here.gets(offer)) == "cache"
    assert here("fetch", "--force", offer.id).code == 0
    here.gets(offer)


def test_an_empty_variable_is_none(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here.folder / "xdg"))
    for name in ("PYRAMIDZOO_CACHE", "PYRAMIDZOO_ORIGINS"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(here.folder)
    here.gets(offer)
    if offer.kind == "origin":
        assert files_in(here.folder / "xdg" / "pyramidzoo" / "weights")


@pytest.mark.parametrize("way", ["lock", "locks"])
def test_a_lock_that_cannot_be_had_is_done_without(offer: Published, here: Here, way: str) -> None:
    locks = here.folder / "cache" / "locks"
    if way == "lock":
        (locks / f"{offer.id}.lock").mkdir(parents=True)
    else:
        locks.parent.mkdir()
        locks.write_text("a file")
    ran = here("fetch", offer.id)
    assert ran.code == 0, ran.err
    assert offer.is_right(Path(ran.rows[0]["path"]))


def test_a_clock_that_goes_backwards(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    here.gets(offer)
    (row,) = here("fetch", offer.id).rows
    os.utime(row["path"], (4 * 10**9, 4 * 10**9))
    assert place(here.gets(offer)) == "cache"
    assert here("verify", "--all").code == 0


def test_threads_that_want_the_same(offer: Published, here: Here) -> None:
    offer.strike("pause", seconds=0.02)
    entry = load_manifest().find(offer.id)
    found: list[weights.WeightsFile] = []
    threads = [threading.Thread(target=lambda: found.append(weights.fetch(entry))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({located.sha256 for located in found}) == 1
    assert sorted(located.source for located in found) == sorted([offer.kind] + ["cache"] * 5)
    assert offer.bodies() == 1
    here.gets(offer)


# connections


@contextlib.contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on loopback of one function."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(ConnectionError):  # of a client that has seen enough
                answer(self)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_proxy_is_asked_for_everything(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []

    def forward(client: http.server.BaseHTTPRequestHandler) -> None:
        passed.append(client.path)
        parts = urlsplit(client.path)
        with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
            connection.request(client.command, f"{parts.path}?{parts.query}", headers=dict(client.headers))
            given = connection.getresponse()
            body = given.read()
        client.send_response(given.status)
        for name, value in given.headers.items():
            client.send_header(name, value)
        client.end_headers()
        client.wfile.write(body)

    with serving(forward) as proxy, monkeypatch.context() as patched:
        patched.setenv("HTTP_PROXY", proxy)
        with fresh_client():
            here.gets(offer)
    asked = len(offer.server.requests)
    assert len(passed) == asked > 0
    assert all(path.startswith((offer.server.url, offer.server.cdn_url)) for path in passed)
    forget_everything(here.folder)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with fresh_client():
        ran = here("fetch", offer.id)
    assert ran.code == 5
    assert len(offer.server.requests) == asked
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with fresh_client():
        here.gets(offer)


def test_an_origin_goes_on_where_it_broke_off(hub: HubServer, here: Here) -> None:
    offer = publish(hub, "origin")
    here.use(offer)
    offer.strike("truncate", 2, after=200_000)
    here.gets(offer)
    assert [asked.status for asked in hub.requests] == [200, 206, 206]


class Moving:
    """An origin whose file breaks off in the middle once; afterwards `later` says what is sent."""

    def __init__(self, content: bytes, later: Callable[[http.server.BaseHTTPRequestHandler, int], None]) -> None:
        self._content, self._later = content, later
        self.ranges: list[str | None] = []
        self.headers: dict[str, str] = {"ETag": '"first"'}

    def __call__(self, client: http.server.BaseHTTPRequestHandler) -> None:
        self.ranges.append(client.headers["Range"])
        if len(self.ranges) > 1:
            self._later(client, int((client.headers["Range"] or "bytes=0-")[6:-1]))
        else:
            send(client, 200, self._content, cut=300_000, **self.headers)


def send(
    client: http.server.BaseHTTPRequestHandler, status: int, body: bytes, *, cut: int | None = None, **headers: str
) -> None:
    client.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        client.send_header(name.replace("_", "-"), value)
    client.end_headers()
    client.wfile.write(body[:cut])


@pytest.fixture
def original(hub: HubServer) -> Published:
    return publish(hub, "origin")


def at(offer: Published, here: Here, url: str, *, hashed: bool) -> None:
    offer.entry["origin"] |= {"url": f"{url}/net.bin"} | ({} if hashed else {"hash": None, "bytes": None})
    if not hashed:
        offer.entry["tensors_sha256"] = None
    here.use(offer)


@pytest.mark.parametrize("hashed", [True, False])
def test_an_origin_that_knows_no_parts(original: Published, here: Here, hashed: bool) -> None:
    moving = Moving(original.content, lambda client, start: send(client, 200, original.content))
    with serving(moving) as url:
        at(original, here, url, hashed=hashed)
        here.gets(original)
    assert moving.ranges == [None, "bytes=300000-"]


def newer() -> bytes:
    """The next version of the same network: another value in the first half, and one in the second."""
    content = bytearray(file_of("wrn_16_1", "origin"))
    for at in (200_000, 600_000):
        content[at] ^= 1
    return bytes(content)


@pytest.mark.parametrize("known", ['"first"', 'W/"first"', None])
def test_halves_of_two_versions_are_not_joined(original: Published, here: Here, known: str | None) -> None:
    """Nobody has published a hash, and the file is replaced while it comes: what is trusted is one of the two."""

    def later(client: http.server.BaseHTTPRequestHandler, start: int) -> None:
        if start and client.headers["If-Range"] in (None, '"second"'):
            part = f"bytes {start}-{len(newer()) - 1}/{len(newer())}"
            send(client, 206, newer()[start:], Content_Range=part, ETag='"second"')
        else:
            send(client, 200, newer(), ETag='"second"')

    moving = Moving(original.content, later)
    moving.headers = {"ETag": known} if known else {}
    with serving(moving) as url:
        at(original, here, url, hashed=False)
        ran = here("fetch", original.id)
    assert ran.code == 0, ran.err
    noted = json.loads((here.folder / "cache" / "weights" / f"{original.id}.json").read_text())
    assert noted["source_sha256"] == hashlib.sha256(newer()).hexdigest()


@pytest.mark.parametrize("part", ["bytes 0-", "bytes 100-", ""])
def test_another_part_than_asked_for(original: Published, here: Here, part: str) -> None:
    """A cache on the way that mistakes one request for another."""

    def later(client: http.server.BaseHTTPRequestHandler, start: int) -> None:
        first = int(part[6:-1] or 0) if part else start
        whole = {"Content_Range": f"{part}{len(original.content) - 1}/{len(original.content)}"} if part else {}
        send(client, 206, original.content[first:], ETag='"first"', **whole)

    with serving(Moving(original.content, later)) as url:
        at(original, here, url, hashed=False)
        if part == "bytes 0-":
            here.gets(original)
        else:
            ran = here("fetch", original.id)
            assert (ran.code, "not what is missing; try again later" in ran.err) == (5, True), ran.err
            nothing_is_left(here.folder)


# several at once


@pytest.fixture
def six(hub: HubServer, here: Here) -> list[Published]:
    offers = [publish(hub, kind, name) for name, kind in SIX.items()]
    here.use(*offers)
    return offers


class Bars:
    """What tqdm would have shown on a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[tqdm[Any]] = []
        shown = self.shown

        class Shown(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                disable = kwargs.pop("disable", None) or False
                super().__init__(*args, **kwargs, disable=disable, file=io.StringIO())
                if not disable:
                    shown.append(self)

        for module in (download, progress):
            monkeypatch.setattr(module, "tqdm", Shown)


def test_many_at_once_under_one_bar(six: list[Published], here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = Bars(monkeypatch)
    for offer in six:
        offer.strike("pause", seconds=0.03)
    started = time.monotonic()
    ran = here("fetch", "-j", 4, "*")
    assert ran.code == 0, ran.err
    assert [row["weights"] for row in ran.rows] == [offer.id for offer in six]
    alone = sum(0.03 * len(offer.content) / 2**16 for offer in six)
    assert time.monotonic() - started < alone + 2
    (bar,) = bars.shown
    assert bar.n == sum(len(offer.content) for offer in six)
    for offer in six:
        assert offer.bodies() == 1
        here.gets(offer)


def test_the_bar_counts_no_byte_twice(six: list[Published], here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = Bars(monkeypatch)
    for offer in six:
        if offer.kind == "origin":
            offer.strike("truncate", 1, after=100_000)
    assert here("fetch", "*").code == 0
    (bar,) = bars.shown
    assert bar.n == sum(len(offer.content) for offer in six)


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_the_bar_knows_what_is_to_come(
    six: list[Published], here: Here, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    here.gets(six[0])
    bars = Bars(monkeypatch)
    assert here("fetch", *options, "*").code == 0
    (bar,) = bars.shown
    assert bar.total == bar.n == sum(len(offer.content) for offer in (six if options else six[1:]))


def test_what_fails_does_not_stop_the_others(six: list[Published], here: Here) -> None:
    for offer, kind in zip(six[:3], ("status", "same_size_corruption", "reset"), strict=True):
        offer.strike(kind)
    ran = here("fetch", "-j", 2, "*")
    assert ran.code == 4
    assert [row["weights"] for row in ran.rows] == [offer.id for offer in six[3:]]
    assert ran.err.count("cannot get ") == 3
    six[0].server.faults.clear()
    again = here("fetch", "*")
    assert again.code == 0
    assert [row["from"] for row in again.rows[3:]] == ["cache"] * 3


def test_a_hub_that_is_away_does_not_end_other_downloads(
    hub: HubServer, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client drops the connections of the whole process whenever it cannot connect."""
    away, *others = publish(hub, "hub", "resnet20"), publish(hub, "origin"), publish(hub, "origin", "wrn_16_2")
    for other in others:
        other.strike("pause", seconds=0.05)
    here.use(away, *others)
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    ran = here("fetch", "*")
    assert ran.code == 5
    assert [row["weights"] for row in ran.rows] == [other.id for other in others]
    assert [other.bodies() for other in others] == [1, 1]
    monkeypatch.undo()


def test_whoever_leaves_stops_the_downloads(six: list[Published], here: Here) -> None:
    first, *others = six
    for offer in others:
        offer.strike("pause", seconds=1)  # for each 64 KiB
    results = fetch_all.fetch_all([load_manifest().find(offer.id) for offer in six])
    entry, located = next(results)
    assert (entry.id, isinstance(located, weights.WeightsFile)) == (first.id, True)
    while sum(offer.bodies() for offer in others) < 5:
        time.sleep(0.01)
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert not [name for name in files_in(here.folder / "cache") if first.id not in name]
    first.server.faults.clear()
    for offer in six:
        here.gets(offer)


def test_an_interrupt_stops_the_downloads(six: list[Published], here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for offer in six:
        offer.strike("pause", seconds=1)

    def interrupted(futures: Any) -> Any:
        while sum(offer.bodies() for offer in six) < 4:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetch_all, "as_completed", interrupted)
        started = time.monotonic()
        ran = here("fetch", "-j", 4, "*")
    assert (ran.code, ran.out) == (130, "")
    assert time.monotonic() - started < 5
    assert ran.err.endswith("pyramidzoo: interrupted\n")
    nothing_is_left(here.folder)
    six[0].server.faults.clear()
    assert here("fetch", "*").code == 0


# files and folders


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./folder with the digits' weights, as a repository of the Hub has them; the manifest is the zoo's own."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "folder"
    made.mkdir()
    shutil.copyfile(packaged(own_entry(DIGITS)["bundled"]["path"]), made / "model.safetensors")
    return made


def test_a_folder_is_the_file_in_it(folder: Path, here: Here) -> None:
    path, sha256 = folder / "model.safetensors", own_entry(DIGITS)["bundled"]["sha256"]
    expected = pyramidzoo.create_model("wrn_16_1", weights=DIGITS)
    for name in ("./folder", folder, str(folder), "folder/", "./folder/model.safetensors"):
        model = pyramidzoo.create_model("wrn_16_1", weights=name)
        assert torch.equal(model.fc.weight, expected.fc.weight)
        assert model.preprocessing == expected.preprocessing
    (row,) = here("fetch", "./folder").rows
    assert row == {"weights": "folder", "from": "file", "path": "folder/model.safetensors", "sha256": sha256}
    (state,) = here("verify", "./folder").rows
    assert (state["state"], DIGITS in state["detail"]) == ("good", True)
    assert json.loads(here("info", "./folder").out)["path"] == "folder/model.safetensors"
    assert path.read_bytes() == packaged(own_entry(DIGITS)["bundled"]["path"]).read_bytes()

    path.rename(folder / "other.safetensors")
    assert here("fetch", "./folder").rows == [row | {"path": "folder/other.safetensors"}]
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="folder with 2 safetensors files, name one of them"):
        pyramidzoo.create_model("wrn_16_1", weights="./folder")
    (folder / "other.safetensors").rename(path)  # what it is called on the Hub decides
    assert here("fetch", "./folder").rows == [row]


def test_a_folder_is_evaluated(folder: Path, here: Here) -> None:
    records = json.loads(here("evaluate", "./folder").out)["records"]
    assert [(record["file_sha256"], record["images"]) for record in records] == [
        (own_entry(DIGITS)["bundled"]["sha256"], own_entry(DIGITS)["results"][0]["images"])
    ]
    assert records[0]["top1_correct"] == own_entry(DIGITS)["results"][0]["top1_correct"]


@pytest.mark.parametrize("command", ["fetch", "info", "evaluate", "verify"])
@pytest.mark.parametrize("number", [0, 2])
def test_a_folder_that_means_no_file(tmp_path: Path, here: Here, command: str, number: int) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in range(number):
        (empty / f"{name}.safetensors").write_bytes(b"")
    said = f"{empty} is a folder with " + ("2 safetensors files, name one of them" if number else "no safetensors file")
    ran = here(command, empty)
    assert ran.code == (4 if command == "verify" else 2)
    assert said in ran.err + ran.out
    with pytest.raises(UsageError, match=said):
        pyramidzoo.create_model("wrn_16_1", weights=empty)


def test_a_bare_name_is_a_tag_whatever_lies_here(
    offer: Published, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", offer.id):
        (tmp_path / name).mkdir()
        shutil.copyfile(packaged(own_entry(DIGITS)["bundled"]["path"]), tmp_path / name / "model.safetensors")
    for name in ("cifar10", offer.id):
        model = pyramidzoo.create_model("wrn_16_1", weights=name)
        assert torch.equal(model.fc.weight, network("wrn_16_1")["fc.weight"])
    assert place(here("fetch", offer.id)) == "cache"
    assert place(here("fetch", "./cifar10")) == "file"
    assert here("fetch", "cifar10").code == 2


def test_the_states_of_files(folder: Path, here: Here, tmp_path: Path) -> None:
    good, digits = folder / "model.safetensors", own_entry(DIGITS)
    unknown, altered, tensors = (tmp_path / f"{name}.safetensors" for name in ("unknown", "altered", "tensors"))
    unknown.write_bytes(file_of("wrn_16_1", "hub"))
    altered.write_bytes(good.read_bytes()[:-1])
    expected = {good: ("good", 0), unknown: ("unknown", 4), altered: ("altered", 4)}
    expected[tmp_path / "missing.safetensors"] = ("missing", 5)
    for path, (name, code) in expected.items():
        ran = here("verify", path)
        assert ([row["state"] for row in ran.rows], ran.code) == ([name], code)
        assert ran.rows[0]["weights"] == str(path)
    assert here("verify", *expected, DIGITS).code == 4
    assert here("verify", good, tmp_path / "missing.safetensors").code == 5
    save_file(load_file(good), tensors)  # as another program writes the same tensors
    assert file_hash(tensors) != digits["bundled"]["sha256"]
    ran = here("verify", tensors)
    assert (ran.code, DIGITS in ran.rows[0]["detail"]) == (0, True)
    # without the entry nobody knows it
    here.use()
    assert here("verify", good).rows[0]["state"] == "unknown"


# another manifest


@pytest.fixture
def lab(hub: HubServer, here: Here) -> Published:
    """The lab's own network, default for the data set; here is the zoo's own manifest still."""
    return publish(hub, "hub", "wrn_16_1")


def ids(here: Here) -> list[str]:
    return [row["weights"] for row in here("list", "--weights").rows]


def test_another_manifest_replaces_the_zoos(lab: Published, here: Here) -> None:
    assert len(ids(here)) > 400
    here.use(lab)
    assert ids(here) == [lab.id]
    here.gets(lab)
    assert here("fetch", DIGITS).code == 2


def test_a_manifest_that_extends_the_zoos(lab: Published, here: Here, hub: HubServer) -> None:
    own = ids(here)
    theirs = own_entry("resnet20.cifar10_akamaster") | {"training": "an erratum"}
    here.use(lab, extends=True)
    document = json.loads((here.folder / "manifest.json").read_text())
    document["weights"]["resnet20.cifar10_akamaster"] = theirs
    (here.folder / "manifest.json").write_text(json.dumps(document))
    assert sorted(ids(here)) == sorted([*own, lab.id])
    merged = load_manifest()
    assert merged.find("resnet20.cifar10_akamaster").training == "an erratum"
    assert merged.find("resnet20.cifar10").id == "resnet20.cifar10_akamaster"
    assert merged.default_for("wrn_16_1").id == lab.id  # not wrn_16_1.cifar10_ferles
    assert merged.default_for("wrn_16_1", "cifar10_ferles").id == "wrn_16_1.cifar10_ferles"
    assert not merged.find("wrn_16_1.cifar10_ferles").default
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True)
    assert torch.equal(model.fc.weight, network("wrn_16_1")["fc.weight"])
    assert place(here("fetch", DIGITS)) == "bundled"


COMMANDS = {
    "list": ["list", "wrn_16_1"],
    "info": ["info", DIGITS],
    "fetch": ["fetch", DIGITS],
    "verify": ["verify", DIGITS],
    "evaluate": ["evaluate", DIGITS],
    "tables": ["tables", "F1"],
    "train": ["train", "wrn_16_1", "--epochs", "0", "--output", "x"],
    "convert": ["convert", "nothing.pth", "--dataset", "cifar10", "--output", "x.safetensors"],
    "publish": ["publish", DIGITS, "--repo-id", "a/b", "--dry-run", "--output", "x"],
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_that_the_manifest_is_another(command: str, lab: Published, here: Here) -> None:
    here.use(lab, extends=True)
    path = here.folder / "manifest.json"
    ran = here(*COMMANDS[command])
    first = ran.err.splitlines()[0]
    assert first == (
        f"pyramidzoo: NOT the zoo's own manifest: PYRAMIDZOO_MANIFEST names {path} (1 entries, sha256 "
        f"{file_hash(path)[:8]}...; the zoo's own are used too)"
    )
    assert ran.err.count("NOT the zoo's own") == 1
    assert ran.code == {"train": 2, "convert": 5}.get(command, 0), ran.err
    if command == "evaluate":
        assert json.loads(ran.out)["records"][0]["manifest"] == file_hash(path)


def test_records_of_the_zoos_own_manifest_name_none(here: Here) -> None:
    assert json.loads(here("evaluate", DIGITS).out)["records"][0]["manifest"] is None


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"train", "convert"}))
@pytest.mark.parametrize(("text", "code"), [(None, 5), ("{", 4), ('{"format": 1, "weights": []}', 4)])
def test_a_manifest_that_cannot_be_read(
    command: str, text: str | None, code: int, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here.folder / "manifest.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
    ran = here(*COMMANDS[command])
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "mend it or unset PYRAMIDZOO_MANIFEST" in ran.err


def test_the_library_says_it_once(
    lab: Published, here: Here, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_announced", set())
    here.use(lab)
    for _ in range(3):
        pyramidzoo.create_model("wrn_16_1", weights="cifar10")
        pyramidzoo.list_weights()
    assert capsys.readouterr().err.count("NOT the zoo's own manifest") == 1


def test_a_damaged_entry_of_a_lab_is_named(lab: Published, here: Here) -> None:
    lab.entry["hub"]["sha256"] = "abc"
    here.use(lab, extends=True)
    ran = here("fetch", lab.id)
    assert (ran.code, f"manifest.json: {lab.id}: hub: 'abc' is not 64 hex digits" in ran.err) == (4, True), ran.err
    assert here("fetch", DIGITS).code == 0
