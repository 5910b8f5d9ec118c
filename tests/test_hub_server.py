"""The Hub on loopback, asked by the real client; and what each of its faults does on the wire."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from hub_faults import KINDS, PAGE, Fault
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, RepoUrl, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

ID = "somebody/net"
WEIGHTS = bytes(range(256)) * 1200  # more than the client's file objects buffer, and than one 64 KiB piece
CARD = b"---\nlicense: apache-2.0\ntags:\n- image-classification\n---\n# Net\n"
FILES = {"model.safetensors": WEIGHTS, "README.md": CARD, "more/config.json": b"{}"}

# the client passes a file where its HTTP library wants `content=`
pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as hub:
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def owner(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def anyone(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def ask(
    url: str, method: str = "GET", body: str | Iterator[bytes] | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request of the standard library's client, which retries and follows nothing."""
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=10)) as connection:
        connection.request(method, url.removeprefix(f"http://{parts.netloc}"), body, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()


def config_url(hub: HubServer, content: bytes) -> str:
    """A file that is no LFS object, so that one request gets it."""
    commit = hub.add(ID, {"config.json": content})
    return f"{hub.url}/{ID}/resolve/{commit}/config.json"


# reading


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_of_a_commit_or_of_main(pinned: bool, path: str, hub: HubServer, anyone: HfApi, tmp_path: Path) -> None:
    first = hub.add(ID, FILES)
    second = hub.add(ID, {path: content + b"\n" for path, content in FILES.items()})
    got = anyone.hf_hub_download(ID, path, revision=first if pinned else None, cache_dir=tmp_path)
    commit, content = (first, FILES[path]) if pinned else (second, FILES[path] + b"\n")
    assert Path(got).read_bytes() == content
    assert commit in got
    large = path == "model.safetensors"
    assert hub.count("GET", "/lfs-objects/") == large
    assert (Path(got).resolve().name == hashlib.sha256(content).hexdigest()) is large
    assert [asked.status for asked in hub.requests] == ([302, 200] if large else [200, 200])


def test_a_snapshot_and_its_checksums(hub: HubServer, anyone: HfApi, tmp_path: Path) -> None:
    commit = hub.add(ID, FILES)
    folder = Path(anyone.snapshot_download(ID, cache_dir=tmp_path))
    assert folder.name == commit
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    checked = anyone.verify_repo_checksums(ID, cache_dir=tmp_path)
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (3, [], [])
    for path in ("model.safetensors", "README.md"):
        stored = (folder / path).resolve()
        stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    spoilt = anyone.verify_repo_checksums(ID, cache_dir=tmp_path).mismatches
    assert [found["algorithm"] for found in sorted(spoilt, key=lambda found: found["path"])] == ["git-sha1", "sha256"]


def test_listings(hub: HubServer, anyone: HfApi) -> None:
    commit = hub.add(ID, FILES)
    tree = {entry.path: entry for entry in anyone.list_repo_tree(ID, recursive=True, revision=commit)}
    assert set(tree) == {*FILES, "more"}
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert (tree["model.safetensors"].lfs.sha256, tree["model.safetensors"].size) == (sha256, len(WEIGHTS))
    assert tree["README.md"].lfs is None
    assert {entry.path for entry in anyone.list_repo_tree(ID)} == {"model.safetensors", "README.md", "more"}
    assert [entry.path for entry in anyone.list_repo_tree(ID, "more")] == ["more/config.json"]
    assert [found.path for found in anyone.get_paths_info(ID, ["README.md", "more", "absent"])] == ["README.md", "more"]
    info = anyone.model_info(ID, files_metadata=True)
    assert (info.sha, info.private, info.gated) == (commit, False, False)
    assert {sibling.rfilename: sibling.size for sibling in info.siblings} == {p: len(c) for p, c in FILES.items()}
    assert anyone.list_repo_files(ID, revision=commit) == sorted(FILES)
    assert anyone.file_exists(ID, "README.md")
    assert not anyone.file_exists(ID, "absent")


@pytest.mark.parametrize(
    ("asked", "status", "got", "sent"),
    [
        ("bytes=3-", 206, b"defg", "bytes 3-6/7"),
        ("bytes=1-2", 206, b"bc", "bytes 1-2/7"),
        ("bytes=5-99", 206, b"fg", "bytes 5-6/7"),
        ("bytes=-2", 206, b"fg", "bytes 5-6/7"),
        ("bytes=7-", 416, b"", "bytes */7"),
        ("lines=1-2", 200, b"abcdefg", None),
    ],
)
def test_ranges(asked: str, status: int, got: bytes, sent: str | None, hub: HubServer) -> None:
    answered, headers, body = ask(config_url(hub, b"abcdefg"), Range=asked)
    assert (answered, body, headers.get("Content-Range")) == (status, got, sent)


def test_what_is_absent(hub: HubServer, anyone: HfApi, owner: HfApi, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    for api in (anyone, owner):
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download("somebody/other", "README.md", cache_dir=tmp_path)
        with pytest.raises(RepositoryNotFoundError):
            api.snapshot_download("somebody/other", cache_dir=tmp_path)
        with pytest.raises(RevisionNotFoundError):
            api.hf_hub_download(ID, "README.md", revision="f" * 40, cache_dir=tmp_path)
        with pytest.raises(RevisionNotFoundError):
            api.model_info(ID, revision="v1")
        with pytest.raises(EntryNotFoundError):
            api.hf_hub_download(ID, "absent", cache_dir=tmp_path)
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(ID, "absent"))


def test_a_gated_repository(hub: HubServer, anyone: HfApi, owner: HfApi, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    hub.gate(ID)
    for token, status in ((False, 401), (hub.guest_token, 403)):
        with pytest.raises(GatedRepoError) as caught:
            anyone.hf_hub_download(ID, "model.safetensors", token=token, cache_dir=tmp_path)
        assert caught.value.response.status_code == status
    assert anyone.model_info(ID).gated == "manual"
    assert Path(owner.hf_hub_download(ID, "model.safetensors", cache_dir=tmp_path)).read_bytes() == WEIGHTS


def test_a_private_repository(hub: HubServer, anyone: HfApi, owner: HfApi, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    hub.private(ID)
    for token, status in ((False, 401), (hub.guest_token, 404)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            anyone.hf_hub_download(ID, "README.md", token=token, cache_dir=tmp_path)
        assert caught.value.response.status_code == status
    assert owner.model_info(ID).private
    assert Path(owner.hf_hub_download(ID, "README.md", cache_dir=tmp_path)).read_bytes() == CARD


def test_tokens(hub: HubServer, owner: HfApi) -> None:
    assert owner.whoami()["auth"]["accessToken"]["role"] == "write"
    assert owner.whoami(token=hub.guest_token)["name"] == "guest"
    with pytest.raises(HfHubHTTPError, match=r"Invalid (credentials|user token)"):
        owner.whoami(token="hf_other")
    status, headers, _ = ask(f"{hub.url}/api/whoami-v2", Authorization="Bearer hf_other")
    assert (status, headers["X-Error-Message"]) == (401, "Invalid credentials in Authorization header")


def test_what_is_no_endpoint(hub: HubServer, capfd: pytest.CaptureFixture[str]) -> None:
    assert [ask(f"{hub.url}/api/datasets/somebody/net")[0], ask(hub.url + "/", "DELETE")[0]] == [404, 501]
    assert capfd.readouterr().err == ""


# writing


def test_every_commit_is_another(hub: HubServer) -> None:
    commits = [hub.add(ID, {"a": content}) for content in (b"1", b"2", b"1")]
    assert len(set(commits)) == 3
    assert hub.repos[ID].main == commits[2]
    assert [hub.files(ID, commit)["a"] for commit in commits] == [b"1", b"2", b"1"]


def test_a_body_in_chunks(hub: HubServer) -> None:
    pieces = iter([b'{"name": "net", ', b'"organization": "somebody"}'])
    assert ask(f"{hub.url}/api/repos/create", "POST", pieces, Authorization=f"Bearer {hub.token}")[0] == 200
    assert list(hub.repos) == [ID]


def test_a_repository_is_created_once(hub: HubServer, owner: HfApi, anyone: HfApi) -> None:
    made = owner.create_repo(ID)
    assert isinstance(made, RepoUrl)
    assert made.repo_id == ID
    assert made.startswith(hub.url)
    with pytest.raises(HfHubHTTPError) as caught:
        owner.create_repo(ID)
    assert caught.value.response.status_code == 409
    assert owner.create_repo(ID, exist_ok=True) == made
    assert list(hub.files(ID)) == [".gitattributes"]
    owner.create_repo("somebody/secret", private=True)
    with pytest.raises(RepositoryNotFoundError):
        anyone.model_info("somebody/secret")
    for token, status in ((False, 401), (hub.guest_token, 403)):
        with pytest.raises(HfHubHTTPError) as caught:
            owner.create_repo("somebody/third", token=token)
        assert caught.value.response.status_code == status
    assert "somebody/third" not in hub.repos


def test_a_folder_is_uploaded(hub: HubServer, owner: HfApi, tmp_path: Path) -> None:
    for path, content in FILES.items():
        (tmp_path / "up" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / path).write_bytes(content)
    owner.create_repo(ID)
    done = owner.upload_folder(repo_id=ID, folder_path=tmp_path / "up")
    assert hub.files(ID, done.oid) == {**FILES, ".gitattributes": hub.files(ID)[".gitattributes"]}
    assert hub.repos[ID].main == done.oid
    assert (hub.count("PUT", "/lfs-objects/"), hub.count("POST", "/objects/verify")) == (1, 1)
    assert list(hub.objects.values()) == [WEIGHTS]
    got = owner.hf_hub_download(ID, "model.safetensors", revision=done.oid, cache_dir=tmp_path / "cache")
    assert Path(got).read_bytes() == WEIGHTS

    commits = len(hub.repos[ID].commits)
    assert owner.upload_folder(repo_id=ID, folder_path=tmp_path / "up").oid == done.oid  # nothing to commit
    assert len(hub.repos[ID].commits) == commits
    owner.create_repo("somebody/copy")
    owner.upload_folder(repo_id="somebody/copy", folder_path=tmp_path / "up")
    assert hub.files("somebody/copy") == hub.files(ID)
    assert hub.count("PUT", "/lfs-objects/") == 1  # the object is there


def test_commits(hub: HubServer, owner: HfApi) -> None:
    first = hub.add(ID, FILES)
    second = owner.create_commit(
        ID,
        [
            CommitOperationAdd("big.bin", b"b" * 11 * 2**20),
            CommitOperationAdd("small.bin", b"s"),
            CommitOperationDelete("more/"),
            CommitOperationCopy("model.safetensors", "again.safetensors"),
        ],
        commit_message="m",
        parent_commit=first,
    ).oid
    assert hub.files(ID, first) == FILES
    assert set(hub.files(ID)) == {"model.safetensors", "again.safetensors", "README.md", "big.bin", "small.bin"}
    assert {path for path, file in hub.repos[ID].commits[second].items() if file.lfs} == {
        "model.safetensors",
        "again.safetensors",
        "big.bin",
    }
    assert re.fullmatch("[0-9a-f]{40}", second)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        owner.create_commit(ID, [CommitOperationAdd("a", b"a")], commit_message="m", parent_commit=first)
    assert caught.value.response.status_code == 412
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        owner.create_commit(ID, [CommitOperationDelete("absent")], commit_message="m")
    for token, status in ((False, 401), (hub.guest_token, 403)):
        with pytest.raises(HfHubHTTPError) as caught:
            owner.create_commit(ID, [CommitOperationAdd("a", b"a")], commit_message="m", token=token)
        assert caught.value.response.status_code == status
    assert hub.repos[ID].main == second


def test_a_commit_of_what_was_never_uploaded_is_refused_whole(
    hub: HubServer, owner: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.add(ID, {})
    monkeypatch.setattr("huggingface_hub._commit_api.lfs_upload", lambda **kwargs: None)
    adds = [CommitOperationAdd("README.md", CARD), CommitOperationAdd("model.safetensors", WEIGHTS)]
    with pytest.raises(HfHubHTTPError, match=f"{hashlib.sha256(WEIGHTS).hexdigest()} of this size was not uploaded"):
        owner.create_commit(ID, adds, commit_message="m")
    assert hub.repos[ID].main == first


@pytest.mark.parametrize(
    ("content", "size"), [(WEIGHTS[:-1], 0), (WEIGHTS[:-1] + b"?", 0), (WEIGHTS, 1)], ids=["short", "altered", "size"]
)
def test_an_upload_must_be_what_was_announced(
    content: bytes, size: int, hub: HubServer, owner: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(ID, {})
    add = CommitOperationAdd("model.safetensors", WEIGHTS)
    add.path_or_fileobj = content  # after the client has hashed it
    add.upload_info.size += size
    with pytest.raises((HfHubHTTPError, RuntimeError)) as caught:
        owner.create_commit(ID, [add], commit_message="m")
    assert [asked.status for asked in hub.requests if asked.method == "PUT"] == [400]
    assert "model.safetensors" in str(caught.value)
    assert (hub.objects, hub.files(ID)) == ({}, {})


def test_an_upload_needs_the_address_it_was_given(hub: HubServer) -> None:
    status, _, _ = ask(f"{hub.cdn_url}/lfs-objects/{'0' * 64}?size=0&signature=0", "PUT")
    assert status == 403


def test_a_cards_metadata_is_read(hub: HubServer, owner: HfApi) -> None:
    hub.add(ID, {})
    for card in (b"---\nlicense: [\n---\n", b"---\n- a list\n---\n"):
        with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
            owner.create_commit(ID, [CommitOperationAdd("README.md", card)], commit_message="m")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        owner.create_commit(ID, [CommitOperationAdd("README.md", b"# Net\n")], commit_message="m")
    assert hub.files(ID) == {"README.md": b"# Net\n"}


# faults


def test_a_status(hub: HubServer, anyone: HfApi, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    hub.faults.append(Fault("^GET .*model", 1, "status", status=429, headers={"Retry-After": "0"}, body=b"slowly"))
    got = anyone.hf_hub_download(ID, "model.safetensors", cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    assert [asked.status for asked in hub.requests] == [302, 429, 200]
    hub.faults.append(Fault("", None, "status", status=503))
    with pytest.raises(HfHubHTTPError) as caught:
        anyone.model_info(ID)
    assert caught.value.response.status_code == 503


def test_a_status_stands_for_no_effect_and_other_faults_for_a_lost_answer(hub: HubServer) -> None:
    url, body = f"{hub.url}/api/repos/create", '{"name": "net", "organization": "somebody"}'
    hub.faults += [Fault("/create", 1, "status"), Fault("/create", 1, "reset", after=None)]
    assert ask(url, "POST", body, Authorization=f"Bearer {hub.token}")[0] == 503
    assert hub.repos == {}
    with pytest.raises(ConnectionError):
        ask(url, "POST", body, Authorization=f"Bearer {hub.token}")
    assert list(hub.repos) == [ID]


@pytest.mark.parametrize("path", ["model.safetensors", "README.md"])
def test_a_page_instead_of_the_file(path: str, hub: HubServer, anyone: HfApi, tmp_path: Path) -> None:
    commit = hub.add(ID, FILES)
    hub.faults.append(Fault("/resolve/", 2, "html"))
    with pytest.raises(LocalEntryNotFoundError):  # a network's page for people has no commit
        anyone.hf_hub_download(ID, path, cache_dir=tmp_path)
    assert ask(f"{hub.url}/{ID}/resolve/main/{path}")[2] == PAGE
    hub.faults.append(Fault(path, None, "html", keep_headers=True))
    status, headers, body = ask(f"{hub.url}/{ID}/resolve/main/{path}")
    assert (status, headers["X-Repo-Commit"], body) == (200, commit, PAGE)
    assert headers["Content-Type"].startswith("text/html")
    if path == "README.md":  # of an LFS file the client knows the size
        assert Path(anyone.hf_hub_download(ID, path, cache_dir=tmp_path)).read_bytes() == PAGE


@pytest.mark.parametrize("offset", [0, 1000, -1])
def test_a_corruption_of_the_same_size(offset: int, hub: HubServer, anyone: HfApi, tmp_path: Path) -> None:
    hub.add(ID, FILES)
    hub.faults.append(Fault("model", 1, "same_size_corruption", offset=offset))
    got = Path(anyone.hf_hub_download(ID, "model.safetensors", cache_dir=tmp_path)).read_bytes()
    assert len(got) == len(WEIGHTS)
    assert [at for at in range(len(got)) if got[at] != WEIGHTS[at]] == [offset % len(WEIGHTS)]
    assert hub.faults[0].times == 0


def test_a_corruption_keeps_its_place_in_a_range(hub: HubServer) -> None:
    url = config_url(hub, b"abcdefg")
    hub.faults.append(Fault("config", 3, "same_size_corruption", offset=4))
    assert ask(url, "HEAD")[0] == 200  # has no body to spoil
    assert ask(url)[2] == b"abcd" + bytes([ord("e") ^ 0xFF]) + b"fg"
    assert ask(url, Range="bytes=5-")[2] == b"fg"
    assert ask(url, Range="bytes=3-")[2] == b"d" + bytes([ord("e") ^ 0xFF]) + b"fg"
    assert hub.faults[0].times == 0


# the client of 1.x gives up where the connection is closed early
@pytest.mark.parametrize("kind", ["stall", "truncate"] if int(huggingface_hub.__version__[0]) > 1 else ["stall"])
def test_the_client_resumes(
    kind: str, hub: HubServer, anyone: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # it keeps whole chunks only, of 10 MiB
    hub.add(ID, FILES)
    hub.faults.append(Fault("^GET .*model", 1, kind, after=100_000))
    got = anyone.hf_hub_download(ID, "model.safetensors", cache_dir=tmp_path)
    assert Path(got).read_bytes() == WEIGHTS
    assert [asked.status for asked in hub.requests] == [302, 200, 206]


@pytest.mark.parametrize("after", [0, 3])
def test_a_truncation(after: int, hub: HubServer) -> None:
    url = config_url(hub, b"abcdefg")
    hub.faults.append(Fault("^GET", 1, "truncate", after=after))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(url)
    assert (caught.value.partial, caught.value.expected) == (b"abcdefg"[:after], 7 - after)
    assert ask(url)[2] == b"abcdefg"
    hub.faults.append(Fault("^GET", 1, "truncate", after=None))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(url)
    assert hub.requests[-1].status == 0


@contextlib.contextmanager
def asked_bare(url: str) -> Iterator[socket.socket]:
    parts = urlsplit(url)
    with socket.create_connection(("127.0.0.1", parts.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: loopback\r\n\r\n".encode())
        yield connection


def test_a_reset(hub: HubServer) -> None:
    url = config_url(hub, b"abcdefg")
    hub.faults.append(Fault("^GET", 1, "reset", after=3))
    got = b""
    with asked_bare(url) as connection, contextlib.suppress(ConnectionResetError):
        while received := connection.recv(1000):
            got += received
        pytest.fail("the connection ended in order")
    assert got.endswith(b"\r\n\r\nabc")
    assert b"Content-Length: 7\r\n" in got


def test_a_stall(hub: HubServer) -> None:
    url = config_url(hub, b"abcdefg")
    hub.faults.append(Fault("^GET", 1, "stall", after=3))
    with asked_bare(url) as connection:
        got = b""
        while not got.endswith(b"\r\n\r\nabc"):
            got += connection.recv(1000)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1000)


@pytest.mark.parametrize("kind", ["drip", "pause"])
def test_pieces_with_time_between(kind: str, hub: HubServer) -> None:
    url, pieces = (config_url(hub, b"abcd"), 4) if kind == "drip" else (config_url(hub, WEIGHTS), 5)
    hub.faults.append(Fault("^GET", 1, kind, seconds=0.05))
    started = time.monotonic()
    assert ask(url)[2] == (b"abcd" if kind == "drip" else WEIGHTS)
    assert time.monotonic() - started >= 0.05 * pieces


@pytest.mark.parametrize("kind", ["drip", "stall"])
@pytest.mark.parametrize("leaves", [True, False])
def test_no_thread_outlives_the_client_or_the_server(kind: str, leaves: bool) -> None:
    before = set(threading.enumerate())
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(HubServer())
        served = set(threading.enumerate())
        url = config_url(hub, b"abcdefg")
        hub.faults.append(Fault("^GET", 1, kind, seconds=60))
        with asked_bare(url) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            (answering,) = set(threading.enumerate()) - served
            if not leaves:
                stack.close()
                assert not answering.is_alive()
        answering.join(5)
        assert not answering.is_alive()
    assert set(threading.enumerate()) == before


def test_rules(hub: HubServer) -> None:
    url = config_url(hub, b"abcdefg")
    with pytest.raises(ValueError, match=f"no fault is called 'flood': choose among {', '.join(KINDS)}"):
        Fault("", 1, "flood")
    hub.faults += [Fault("^GET .*absent", None, "status"), Fault("^GET", 2, "html"), Fault("^GET", None, "status")]
    assert [ask(url)[0] for _ in range(2)] == [503, 503]  # what has no effect comes first
    hub.faults.pop()
    assert [ask(url)[2] for _ in range(3)] == [PAGE, PAGE, b"abcdefg"]


def test_a_bug_of_the_server_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(HubServer, "answer", lambda *args: int("answer"))
    hub = HubServer()
    hub.__enter__()
    with pytest.raises(http.client.RemoteDisconnected):
        ask(hub.url)
    with pytest.raises(AssertionError, match=r"(?s)the Hub of the tests has a bug.*ValueError: .*'answer'"):
        hub.__exit__(None, None, None)
    assert capfd.readouterr().err == ""
