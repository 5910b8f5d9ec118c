"""What works: the order of sources, proxies, several downloads at once, local folders, other manifests."""

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
    Commands,
    PublishedNetwork,
    assert_nothing_left,
    empty_caches,
    list_files,
    make_child_variables,
    make_environment,
    make_file,
    make_state,
    new_hub_session,
    publish_network,
    read_own_entry,
)
from hub_server import HubServer
from safetensors.torch import load_file, save_file
from tqdm import tqdm

import pyramidzoo
from pyramidzoo.catalog import manifest
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.errors import UsageError
from pyramidzoo.files import file_hash, package_path
from pyramidzoo.weights import download, fetch_all, progress
from pyramidzoo.weights.fetch import WeightsFile, fetch

pytestmark = pytest.mark.server

DIGITS = "wrn_16_1.digits_zoo"  # weights that come with the package


@pytest.fixture
def network_of_both(hub: HubServer, commands: Commands) -> tuple[PublishedNetwork, PublishedNetwork]:
    """One network on the Hub and at its origin. The entry of the first has both; it alone is in the manifest."""
    on_hub, at_origin = publish_network(hub, "hub"), publish_network(hub, "origin")
    on_hub.entry["origin"] = at_origin.entry["origin"]
    commands.use_manifest(on_hub)
    return on_hub, at_origin


# sources


def test_the_order_of_sources(
    network_of_both: tuple[PublishedNetwork, PublishedNetwork],
    hub: HubServer,
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, at_origin = network_of_both
    folder = tmp_path / "origins"
    folder.mkdir()
    (folder / "any name").write_bytes(at_origin.content)

    # the package comes before all others
    get_manifest_path = commands.folder / "manifest.json"
    document = json.loads(get_manifest_path.read_text())
    sources = {name: network.entry[name] for name in ("hub", "origin")}
    document["weights"][DIGITS] = {**read_own_entry(DIGITS), **sources}
    get_manifest_path.write_text(json.dumps(document))
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert commands.run("fetch", DIGITS).source == "bundled"

    # a folder comes before the servers, and its converted file is cached
    assert commands.fetch_and_check(network).source == "origins"
    assert commands.fetch_and_check(network).source == "cache"
    assert hub.requests == []

    # the Hub comes before the origin
    empty_caches(tmp_path)
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    assert commands.fetch_and_check(network).source == "hub"
    assert (network.count_downloads(), at_origin.count_downloads()) == (1, 0)

    # the cache comes before a folder, unless --force is given
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))
    assert commands.fetch_and_check(network).source == "cache"
    assert commands.fetch(network, "--force").source == "origins"

    # the origin comes last
    monkeypatch.delenv("PYRAMIDZOO_ORIGINS")
    empty_caches(tmp_path)
    del hub.repos[network.repo_id]
    assert commands.fetch_and_check(network).source == "origin"
    assert (network.count_downloads(), at_origin.count_downloads()) == (1, 1)
    assert commands.fetch_and_check(network).source == "cache"

    # where no source has the file, the message lists all that were tried
    empty_caches(tmp_path)
    del hub.repos[at_origin.repo_id]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(tmp_path / "empty"))
    result = commands.fetch(network)
    assert result.code == 5
    tried = [line for line in result.err.splitlines() if line.startswith("  - ")]
    words = ["PYRAMIDZOO_ORIGINS", f"Hub {network.repo_id}", network.entry["origin"]["url"]]
    assert len(tried) == 3
    assert all(word in line for word, line in zip(words, tried, strict=True)), tried


def test_the_origin_is_used_where_the_hub_has_a_wrong_file(
    network_of_both: tuple[PublishedNetwork, PublishedNetwork], commands: Commands
) -> None:
    network, at_origin = network_of_both
    network.fail_always("same_size_corruption", offset=-9)
    assert commands.fetch_and_check(network).source == "origin"
    empty_caches(commands.folder)
    at_origin.fail_always("same_size_corruption", offset=-9)
    result = commands.fetch(network)
    assert result.code == 4
    assert result.err.count("\n  - ") == 2
    assert_nothing_left(commands.folder)


def test_a_cached_file_needs_no_server(network: PublishedNetwork, commands: Commands) -> None:
    commands.fetch_and_check(network)
    requests = len(network.server.requests)
    for command in ("fetch", "verify", "info"):
        assert commands.run(command, network.id).code == 0
    assert len(network.server.requests) == requests


def test_variables_of_the_hubs_client(tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_TOKEN, which the client reads when it is imported."""
    with HubServer() as server:
        network = publish_network(server, "hub")
        server.gate(network.repo_id)
        env = make_child_variables(server, tmp_path, network) | {"HF_TOKEN": server.token}
        del env["HF_HUB_CACHE"]
        result = subprocess.run(
            [sys.executable, "-m", "pyramidzoo", "fetch", network.id, "--format", "json"],
            env=make_environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        (row,) = json.loads(result.stdout)
        assert Path(row["path"]).is_relative_to(tmp_path / "home" / "hub")
        assert network.has_right_tensors(Path(row["path"]))
        assert network.count_downloads() == 1


@pytest.mark.parametrize("name", ["spaces and ünïcödé 網", "-rf", "a" * 200, "~", "$HOME", "%s{0}"])
def test_caches_with_unusual_names(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = commands.folder / name
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(folder / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    assert Path(commands.fetch_and_check(network).row["path"]).is_relative_to(folder)
    assert commands.fetch_and_check(network).source == "cache"


def test_caches_behind_links(network: PublishedNetwork, commands: Commands) -> None:
    for name in ("cache", "hub"):
        (commands.folder / f"real {name}").mkdir()
        (commands.folder / name).symlink_to(commands.folder / f"real {name}")
    commands.fetch_and_check(network)
    assert commands.fetch_and_check(network).source == "cache"
    assert commands.fetch(network, "--force").code == 0
    commands.fetch_and_check(network)


def test_an_empty_variable_counts_as_not_set(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(commands.folder / "xdg"))
    for name in ("PYRAMIDZOO_CACHE", "PYRAMIDZOO_ORIGINS"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(commands.folder)
    commands.fetch_and_check(network)
    if network.source == "origin":
        assert list_files(commands.folder / "xdg" / "pyramidzoo" / "weights")


@pytest.mark.parametrize("obstacle", ["a folder in place of the lock", "a file in place of the folder of locks"])
def test_a_fetch_without_a_lock(network: PublishedNetwork, commands: Commands, obstacle: str) -> None:
    locks = commands.folder / "cache" / "locks"
    if obstacle == "a folder in place of the lock":
        (locks / f"{network.id}.lock").mkdir(parents=True)
    else:
        locks.parent.mkdir()
        locks.write_text("a file")
    result = commands.fetch(network)
    assert result.code == 0, result.err
    assert network.has_right_tensors(Path(result.row["path"]))


def test_a_clock_that_goes_backwards(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    commands.fetch_and_check(network)
    os.utime(commands.fetch(network).row["path"], (4 * 10**9, 4 * 10**9))
    assert commands.fetch_and_check(network).source == "cache"
    assert commands.run("verify", "--all").code == 0


def test_threads_that_fetch_the_same_network(network: PublishedNetwork, commands: Commands) -> None:
    network.slow_down(0.02)
    entry = load_manifest().find(network.id)
    files: list[WeightsFile] = []
    threads = [threading.Thread(target=lambda: files.append(fetch(entry))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({file.sha256 for file in files}) == 1
    assert sorted(file.source for file in files) == sorted([network.source] + ["cache"] * 5)
    assert network.count_downloads() == 1
    commands.fetch_and_check(network)


# connections


@contextlib.contextmanager
def serve(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server on this machine that answers each request by a function, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(ConnectionError):  # the client may leave before the end of the answer
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


def send_answer(
    client: http.server.BaseHTTPRequestHandler, status: int, body: bytes, *, sent: int | None = None, **headers: str
) -> None:
    """Send an answer, of whose body only `sent` bytes come. In names of headers, _ stands for -."""
    client.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        client.send_header(name.replace("_", "-"), value)
    client.end_headers()
    client.wfile.write(body[:sent])


def test_a_proxy_gets_all_requests(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []

    def forward(client: http.server.BaseHTTPRequestHandler) -> None:
        addresses.append(client.path)
        parts = urlsplit(client.path)
        with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
            connection.request(client.command, f"{parts.path}?{parts.query}", headers=dict(client.headers))
            response = connection.getresponse()
            body = response.read()
        client.send_response(response.status)
        for name, value in response.headers.items():
            client.send_header(name, value)
        client.end_headers()
        client.wfile.write(body)

    with serve(forward) as proxy, monkeypatch.context() as patched:
        patched.setenv("HTTP_PROXY", proxy)
        with new_hub_session():
            commands.fetch_and_check(network)
    requests = len(network.server.requests)
    assert len(addresses) == requests > 0
    assert all(address.startswith((network.server.url, network.server.cdn_url)) for address in addresses)

    # without an answer of the proxy, nothing else is asked
    empty_caches(commands.folder)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with new_hub_session():
        assert commands.fetch(network).code == 5
    assert len(network.server.requests) == requests

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with new_hub_session():
        commands.fetch_and_check(network)


# origins whose download breaks off


@pytest.fixture
def origin_network(hub: HubServer) -> PublishedNetwork:
    return publish_network(hub, "origin")


def test_an_origin_sends_only_the_rest_after_a_break(
    origin_network: PublishedNetwork, hub: HubServer, commands: Commands
) -> None:
    commands.use_manifest(origin_network)
    origin_network.fail_next(2, "truncate", after=200_000)
    commands.fetch_and_check(origin_network)
    assert [request.status for request in hub.requests] == [200, 206, 206]


class BreakingServer:
    """Answers of an origin that breaks off its first answer after 300,000 bytes.

    Args:
        content: The file in the first answer.
        send_rest: Sends the other answers. It gets the position from which on the client asks for the file.
        headers: Headers of the first answer.
    """

    def __init__(
        self,
        content: bytes,
        send_rest: Callable[[http.server.BaseHTTPRequestHandler, int], None],
        **headers: str,
    ) -> None:
        self._content, self._send_rest, self._headers = content, send_rest, headers
        self.ranges: list[str | None] = []

    def __call__(self, client: http.server.BaseHTTPRequestHandler) -> None:
        self.ranges.append(client.headers["Range"])
        if len(self.ranges) == 1:
            send_answer(client, 200, self._content, sent=300_000, **self._headers)
        else:
            first, last = "bytes=", "-"
            wanted = client.headers["Range"] or f"{first}0{last}"
            self._send_rest(client, int(wanted.removeprefix(first).removesuffix(last)))


def move_origin(network: PublishedNetwork, commands: Commands, url: str, *, has_hash: bool) -> None:
    """Write a manifest in which the network's origin is at this server, with or without hashes and size."""
    network.entry["origin"]["url"] = f"{url}/net.bin"
    if not has_hash:
        network.entry["origin"] |= {"hash": None, "bytes": None}
        network.entry["tensors_sha256"] = None
    commands.use_manifest(network)


def make_new_version() -> bytes:
    """The origin's file with another value in its first half, and another one in its second half."""
    content = bytearray(make_file("wrn_16_1", "origin"))
    for position in (200_000, 600_000):
        content[position] ^= 1
    return bytes(content)


@pytest.mark.parametrize("has_hash", [True, False])
def test_an_origin_that_always_sends_the_whole_file(
    origin_network: PublishedNetwork, commands: Commands, has_hash: bool
) -> None:
    content = origin_network.content
    server = BreakingServer(content, lambda client, start: send_answer(client, 200, content), ETag='"first"')
    with serve(server) as url:
        move_origin(origin_network, commands, url, has_hash=has_hash)
        commands.fetch_and_check(origin_network)
    assert server.ranges == [None, "bytes=300000-"]


@pytest.mark.parametrize("etag", ['"first"', 'W/"first"', None], ids=["strong ETag", "weak ETag", "no ETag"])
def test_parts_of_two_versions_are_not_joined(
    origin_network: PublishedNetwork, commands: Commands, etag: str | None
) -> None:
    """The file has no published hash, and is replaced during the download. The new file must come as a whole."""
    new_content = make_new_version()

    def send_rest(client: http.server.BaseHTTPRequestHandler, start: int) -> None:
        if start and client.headers["If-Range"] in (None, '"second"'):
            content_range = f"bytes {start}-{len(new_content) - 1}/{len(new_content)}"
            send_answer(client, 206, new_content[start:], Content_Range=content_range, ETag='"second"')
        else:
            send_answer(client, 200, new_content, ETag='"second"')

    headers = {"ETag": etag} if etag else {}
    with serve(BreakingServer(origin_network.content, send_rest, **headers)) as url:
        move_origin(origin_network, commands, url, has_hash=False)
        result = commands.fetch(origin_network)
    assert result.code == 0, result.err
    sidecar = json.loads((commands.folder / "cache" / "weights" / f"{origin_network.id}.json").read_text())
    assert sidecar["source_sha256"] == hashlib.sha256(new_content).hexdigest()


@pytest.mark.parametrize(
    ("start_of_part", "is_usable"),
    [(0, True), (100, False), (None, False)],
    ids=["the whole file", "another part", "no Content-Range"],
)
def test_an_answer_with_another_part_than_asked_for(
    origin_network: PublishedNetwork, commands: Commands, start_of_part: int | None, is_usable: bool
) -> None:
    """A cache between server and client may answer a request with a part that another client asked for."""
    content = origin_network.content

    def send_rest(client: http.server.BaseHTTPRequestHandler, start: int) -> None:
        if start_of_part is None:
            send_answer(client, 206, content[start:], ETag='"first"')
        else:
            content_range = f"bytes {start_of_part}-{len(content) - 1}/{len(content)}"
            send_answer(client, 206, content[start_of_part:], ETag='"first"', Content_Range=content_range)

    with serve(BreakingServer(content, send_rest, ETag='"first"')) as url:
        move_origin(origin_network, commands, url, has_hash=False)
        if is_usable:
            commands.fetch_and_check(origin_network)
        else:
            commands.fetch(origin_network).assert_failed(5, "was asked for the bytes from", "try again later")
            assert_nothing_left(commands.folder)


# several downloads at once


@pytest.fixture
def six_networks(hub: HubServer, commands: Commands) -> list[PublishedNetwork]:
    sources = {
        "wrn_16_1": "hub",
        "wrn_16_2": "origin",
        "wrn_40_1": "origin",
        "resnet20": "hub",
        "resnet32": "hub",
        "resnet44": "hub",
    }
    networks = [publish_network(hub, source, architecture) for architecture, source in sources.items()]
    commands.use_manifest(*networks)
    return networks


def count_bytes(networks: list[PublishedNetwork]) -> int:
    return sum(len(network.content) for network in networks)


def count_downloads(networks: list[PublishedNetwork]) -> int:
    return sum(network.count_downloads() for network in networks)


@pytest.fixture
def visible_bars(monkeypatch: pytest.MonkeyPatch) -> list[tqdm[Any]]:
    """The progress bars that a terminal would have shown."""
    bars: list[tqdm[Any]] = []

    class RecordedBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            is_hidden = kwargs.pop("disable", None) or False
            super().__init__(*args, **kwargs, disable=is_hidden, file=io.StringIO())
            if not is_hidden:
                bars.append(self)

    for module in (download, progress):
        monkeypatch.setattr(module, "tqdm", RecordedBar)
    return bars


def test_several_downloads_share_one_bar_and_run_at_once(
    six_networks: list[PublishedNetwork], commands: Commands, visible_bars: list[tqdm[Any]]
) -> None:
    for network in six_networks:
        network.slow_down(0.03)
    start = time.monotonic()
    result = commands.run("fetch", "-j", 4, "*")
    assert result.code == 0, result.err
    assert [row["weights"] for row in result.rows] == [network.id for network in six_networks]
    seconds_one_after_another = sum(0.03 * len(network.content) / 2**16 for network in six_networks)
    assert time.monotonic() - start < seconds_one_after_another + 2
    (bar,) = visible_bars
    assert bar.n == count_bytes(six_networks)
    for network in six_networks:
        assert network.count_downloads() == 1
        commands.fetch_and_check(network)


def test_the_bar_counts_no_byte_twice(
    six_networks: list[PublishedNetwork], commands: Commands, visible_bars: list[tqdm[Any]]
) -> None:
    for network in six_networks:
        if network.source == "origin":
            network.fail_next(1, "truncate", after=100_000)
    assert commands.run("fetch", "*").code == 0
    (bar,) = visible_bars
    assert bar.n == count_bytes(six_networks)


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "force"])
def test_the_bar_knows_how_much_will_be_downloaded(
    six_networks: list[PublishedNetwork],
    commands: Commands,
    visible_bars: list[tqdm[Any]],
    options: tuple[str, ...],
) -> None:
    commands.fetch_and_check(six_networks[0])
    visible_bars.clear()
    assert commands.run("fetch", *options, "*").code == 0
    (bar,) = visible_bars
    assert bar.total == bar.n == count_bytes(six_networks if options else six_networks[1:])


def test_a_failure_does_not_stop_the_other_downloads(six_networks: list[PublishedNetwork], commands: Commands) -> None:
    failing, others = six_networks[:3], six_networks[3:]
    for network, fault in zip(failing, ("status", "same_size_corruption", "reset"), strict=True):
        network.fail_always(fault)
    result = commands.run("fetch", "-j", 2, "*")
    assert result.code == 4
    assert [row["weights"] for row in result.rows] == [network.id for network in others]
    assert result.err.count("cannot get ") == 3
    six_networks[0].server.stop_failing()
    result = commands.run("fetch", "*")
    assert result.code == 0
    assert [row["from"] for row in result.rows[3:]] == ["cache"] * 3


def test_a_hub_without_a_connection_does_not_end_other_downloads(
    hub: HubServer, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's client closes the connections of the whole process whenever it cannot connect."""
    hub_network = publish_network(hub, "hub", "resnet20")
    others = [publish_network(hub, "origin"), publish_network(hub, "origin", "wrn_16_2")]
    for other in others:
        other.slow_down(0.05)
    commands.use_manifest(hub_network, *others)
    closed_port = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", closed_port)
    result = commands.run("fetch", "*")
    assert result.code == 5
    assert [row["weights"] for row in result.rows] == [other.id for other in others]
    assert [other.count_downloads() for other in others] == [1, 1]
    monkeypatch.undo()


def test_a_caller_that_stops_iterating_ends_the_downloads(
    six_networks: list[PublishedNetwork], commands: Commands
) -> None:
    first, others = six_networks[0], six_networks[1:]
    for network in others:
        network.slow_down(1)
    results = fetch_all.fetch_all([load_manifest().find(network.id) for network in six_networks])
    entry, file = next(results)
    assert entry.id == first.id
    assert isinstance(file, WeightsFile)
    while count_downloads(others) < 5:
        time.sleep(0.01)
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]
    assert not [name for name in list_files(commands.folder / "cache") if first.id not in name]
    first.server.stop_failing()
    for network in six_networks:
        commands.fetch_and_check(network)


def test_an_interrupt_ends_the_downloads(
    six_networks: list[PublishedNetwork], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for network in six_networks:
        network.slow_down(1)

    def interrupt(futures: Any) -> Any:
        while count_downloads(six_networks) < 4:
            time.sleep(0.01)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetch_all, "as_completed", interrupt)
        start = time.monotonic()
        result = commands.run("fetch", "-j", 4, "*")
    assert (result.code, result.out) == (130, "")
    assert time.monotonic() - start < 5
    assert result.err.endswith("pyramidzoo: interrupted\n")
    assert_nothing_left(commands.folder)
    six_networks[0].server.stop_failing()
    assert commands.run("fetch", "*").code == 0


# files and folders that the user names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./folder with the weights of DIGITS, like a repository of the Hub. The zoo's own manifest is in use."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copyfile(bundled_file(), folder / "model.safetensors")
    return folder


def bundled_file() -> Path:
    return package_path(read_own_entry(DIGITS)["bundled"]["path"])


def test_a_folder_stands_for_the_file_in_it(folder: Path, commands: Commands) -> None:
    path, sha256 = folder / "model.safetensors", read_own_entry(DIGITS)["bundled"]["sha256"]
    expected = pyramidzoo.create_model("wrn_16_1", weights=DIGITS)
    for name in ("./folder", folder, str(folder), "folder/", "./folder/model.safetensors"):
        model = pyramidzoo.create_model("wrn_16_1", weights=name)
        assert torch.equal(model.get_parameter("fc.weight"), expected.get_parameter("fc.weight"))
        assert model.preprocessing == expected.preprocessing
    row = commands.run("fetch", "./folder").row
    assert row == {"weights": "folder", "from": "file", "path": "folder/model.safetensors", "sha256": sha256}
    status = commands.run("verify", "./folder").row
    assert status["state"] == "good"
    assert DIGITS in status["detail"]
    assert json.loads(commands.run("info", "./folder").out)["path"] == "folder/model.safetensors"
    assert path.read_bytes() == bundled_file().read_bytes()


def test_which_file_a_folder_stands_for(folder: Path, commands: Commands) -> None:
    published_name, other_name = folder / "model.safetensors", folder / "other.safetensors"
    row = commands.run("fetch", "./folder").row
    # the only file may have any name
    published_name.rename(other_name)
    assert commands.run("fetch", "./folder").row == {**row, "path": "folder/other.safetensors"}
    # of several files, none is chosen
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="2 safetensors files; name one of them"):
        pyramidzoo.create_model("wrn_16_1", weights="./folder")
    # unless one has the name that files have on the Hub
    other_name.rename(published_name)
    assert commands.run("fetch", "./folder").row == row


def test_a_folder_is_evaluated(folder: Path, commands: Commands) -> None:
    (record,) = json.loads(commands.run("evaluate", "./folder").out)["records"]
    entry = read_own_entry(DIGITS)
    assert record["file_sha256"] == entry["bundled"]["sha256"]
    assert record["images"] == entry["results"][0]["images"]
    assert record["top1_correct"] == entry["results"][0]["top1_correct"]


@pytest.mark.parametrize("command", ["fetch", "info", "evaluate", "verify"])
@pytest.mark.parametrize(
    ("number", "message"), [(0, "no safetensors file"), (2, "2 safetensors files; name one of them")]
)
def test_a_folder_without_one_file(tmp_path: Path, commands: Commands, command: str, number: int, message: str) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for name in range(number):
        (folder / f"{name}.safetensors").write_bytes(b"")
    message = f"{folder} is a folder with {message}"
    result = commands.run(command, folder)
    assert result.code == (4 if command == "verify" else 2)
    assert message in result.err + result.out
    with pytest.raises(UsageError, match=message):
        pyramidzoo.create_model("wrn_16_1", weights=folder)


def test_a_name_without_a_slash_is_never_a_folder(
    network: PublishedNetwork, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", network.id):
        (tmp_path / name).mkdir()
        shutil.copyfile(bundled_file(), tmp_path / name / "model.safetensors")
    for name in ("cifar10", network.id):
        model = pyramidzoo.create_model("wrn_16_1", weights=name)
        assert torch.equal(model.get_parameter("fc.weight"), make_state("wrn_16_1")["fc.weight"])
    assert commands.fetch(network).source == "cache"
    assert commands.run("fetch", "./cifar10").source == "file"
    assert commands.run("fetch", "cifar10").code == 2


def test_what_verify_says_about_files(folder: Path, commands: Commands, tmp_path: Path) -> None:
    good, missing = folder / "model.safetensors", tmp_path / "missing.safetensors"
    unknown, altered = tmp_path / "unknown.safetensors", tmp_path / "altered.safetensors"
    unknown.write_bytes(make_file("wrn_16_1", "hub"))
    altered.write_bytes(good.read_bytes()[:-1])
    expected = {good: ("good", 0), unknown: ("unknown", 4), altered: ("altered", 4), missing: ("missing", 5)}
    for path, (state, code) in expected.items():
        result = commands.run("verify", path)
        assert (result.row["state"], result.code) == (state, code)
        assert result.row["weights"] == str(path)
    assert commands.run("verify", *expected, DIGITS).code == 4
    assert commands.run("verify", good, missing).code == 5

    # another program may write the same tensors as a file with another hash
    same_tensors = tmp_path / "tensors.safetensors"
    save_file(load_file(good), same_tensors)
    assert file_hash(same_tensors) != read_own_entry(DIGITS)["bundled"]["sha256"]
    result = commands.run("verify", same_tensors)
    assert result.code == 0
    assert DIGITS in result.row["detail"]

    # in a manifest without its entry the file is unknown
    commands.use_manifest()
    assert commands.run("verify", good).row["state"] == "unknown"


# another manifest


@pytest.fixture
def lab_network(hub: HubServer) -> PublishedNetwork:
    """A laboratory's own network, which is the default for its dataset. Its manifest is not in use yet."""
    return publish_network(hub, "hub", "wrn_16_1")


def list_ids(commands: Commands) -> list[str]:
    return [row["weights"] for row in commands.run("list", "--weights").rows]


def test_another_manifest_replaces_the_zoos_own(lab_network: PublishedNetwork, commands: Commands) -> None:
    assert len(list_ids(commands)) > 400
    commands.use_manifest(lab_network)
    assert list_ids(commands) == [lab_network.id]
    commands.fetch_and_check(lab_network)
    assert commands.run("fetch", DIGITS).code == 2


def test_a_manifest_that_extends_the_zoos_own(lab_network: PublishedNetwork, commands: Commands) -> None:
    own_ids = list_ids(commands)
    path = commands.use_manifest(lab_network, extends=True)
    document = json.loads(path.read_text())
    changed_id = "resnet20.cifar10_akamaster"
    document["weights"][changed_id] = {**read_own_entry(changed_id), "training": "an erratum"}
    path.write_text(json.dumps(document))
    assert sorted(list_ids(commands)) == sorted([*own_ids, lab_network.id])
    merged = load_manifest()
    assert merged.find(changed_id).training == "an erratum"
    assert merged.find("resnet20.cifar10").id == changed_id
    # the laboratory's default takes the place of the zoo's
    assert merged.find_by_tag("wrn_16_1").id == lab_network.id
    assert merged.find_by_tag("wrn_16_1", "cifar10_ferles").id == "wrn_16_1.cifar10_ferles"
    assert not merged.find("wrn_16_1.cifar10_ferles").default
    model = pyramidzoo.create_model("wrn_16_1", pretrained=True)
    assert torch.equal(model.get_parameter("fc.weight"), make_state("wrn_16_1")["fc.weight"])
    assert commands.run("fetch", DIGITS).source == "bundled"


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
def empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


@pytest.mark.usefixtures("empty_working_directory")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_which_manifest_is_in_use(
    command: str, lab_network: PublishedNetwork, commands: Commands
) -> None:
    path = commands.use_manifest(lab_network, extends=True)
    result = commands.run(*COMMANDS[command])
    first_line = result.err.splitlines()[0]
    for words in ("NOT the zoo's own manifest", str(path), "1 entries", file_hash(path)[:8], "own are used too"):
        assert words in first_line
    assert result.err.count("NOT the zoo's own") == 1
    assert result.code == {"train": 2, "convert": 5}.get(command, 0), result.err
    if command == "evaluate":
        assert json.loads(result.out)["records"][0]["manifest"] == file_hash(path)


def test_a_record_does_not_name_the_zoos_own_manifest(commands: Commands) -> None:
    assert json.loads(commands.run("evaluate", DIGITS).out)["records"][0]["manifest"] is None


@pytest.mark.usefixtures("empty_working_directory")
@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"train", "convert"}))
@pytest.mark.parametrize(
    ("text", "code"),
    [(None, 5), ("{", 4), ('{"format": 1, "weights": []}', 4)],
    ids=["no file", "no JSON", "wrong type"],
)
def test_a_manifest_that_cannot_be_read(
    command: str, text: str | None, code: int, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = commands.folder / "manifest.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
    result = commands.run(*COMMANDS[command])
    result.assert_failed(code, "unset PYRAMIDZOO_MANIFEST")
    assert result.out == ""


def test_the_library_says_only_once_which_manifest_is_in_use(
    lab_network: PublishedNetwork,
    commands: Commands,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest, "_announced_paths", set())
    commands.use_manifest(lab_network)
    for _ in range(3):
        pyramidzoo.create_model("wrn_16_1", weights="cifar10")
        pyramidzoo.list_weights()
    assert capsys.readouterr().err.count("NOT the zoo's own manifest") == 1


def test_a_damaged_entry_in_a_manifest_is_named(lab_network: PublishedNetwork, commands: Commands) -> None:
    lab_network.entry["hub"]["sha256"] = "abc"
    commands.use_manifest(lab_network, extends=True)
    commands.run("fetch", lab_network.id).assert_failed(4, "manifest.json", lab_network.id, "hub", "'abc'", "64 hex")
    assert commands.run("fetch", DIGITS).code == 0
