"""What the tests of downloads share.

* `PublishedNetwork`: a network with random weights that a server of this machine offers, and its manifest entry.
* `Commands`: runs commands of pyramidzoo in this process.
* `ProcessStarter`: runs commands in new processes, which can be killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from conftest import foreign_checkpoint, random_state
from filelock import FileLock
from hub_server import HubServer
from safetensors.torch import save
from torch import Tensor

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.catalog.manifest import get_package_manifest_path
from pyramidzoo.checkpoints.loading import forget_verified
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.files import file_hash

SOURCES = ("hub", "origin")
LAYOUT = "ferles"


# networks that a server offers


@functools.cache
def make_state(architecture: str) -> dict[str, Tensor]:
    """Random weights, the same for each call."""
    return random_state(architecture)


@functools.cache
def make_file(architecture: str, source: str) -> bytes:
    """A safetensors file of these weights: with the zoo's names for the Hub, with those of LAYOUT for an origin."""
    state = make_state(architecture)
    return save(state if source == "hub" else foreign_checkpoint(architecture, LAYOUT, state))


@dataclasses.dataclass
class PublishedNetwork:
    """A network that a server offers, and its manifest entry.

    Attributes:
        source: "hub" if it is a file of the Hub, "origin" if it is a file at some address that has to be converted.
        architecture: The network.
        server: Who offers it.
        entry: The entry as it stands in a manifest. A test may change it before it writes the manifest.
    """

    source: str
    architecture: str
    server: HubServer
    entry: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.architecture}.cifar10"

    @property
    def repo_id(self) -> str:
        return f"somebody/{self.architecture}-{self.source}"

    @property
    def content(self) -> bytes:
        return make_file(self.architecture, self.source)

    @property
    def file_path(self) -> str:
        """The beginning of the path in requests for the file itself."""
        if self.source == "hub":
            return f"/lfs-objects/{hashlib.sha256(self.content).hexdigest()}"
        return f"/{self.repo_id}/"

    def count_downloads(self) -> int:
        """Count the requests for the file itself."""
        return self.server.count("GET", self.file_path)

    def fail_next(self, times: int, kind: str, **details: Any) -> None:
        """Make the next answers with the file wrong. The arguments are those of `hub_faults.Fault`."""
        self.server.fail_next(times, f"^GET {self.file_path}", kind, **details)

    def fail_always(self, kind: str, **details: Any) -> None:
        """Make all answers with the file wrong. The arguments are those of `hub_faults.Fault`."""
        self.server.fail_always(f"^GET {self.file_path}", kind, **details)

    def slow_down(self, seconds: float, size: int | None = None) -> None:
        """Make the server wait so long before each piece of the file, which has 64 KiB or `size` bytes."""
        self.fail_always("pause", seconds=seconds, size=size)

    def take_at_least(self, seconds: float) -> None:
        """Make the server take at least so long to send the file."""
        self.slow_down(seconds / 50, size=len(self.content) // 50)

    def has_right_tensors(self, path: Path) -> bool:
        """Say whether a file has the tensors of this network, under the zoo's names."""
        state, tensors = make_state(self.architecture), read_tensors(path)
        return tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


def publish_network(server: HubServer, source: str, architecture: str = "wrn_16_1") -> PublishedNetwork:
    """Have a server offer a network, with a manifest entry that has all hashes."""
    network = PublishedNetwork(source, architecture, server, {})
    content = network.content
    size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    hub = origin = None
    if source == "hub":
        filename = "model.safetensors"
        commit = server.add(network.repo_id, {filename: content})
        hub = {
            "repo_id": network.repo_id,
            "revision": commit,
            "filename": filename,
            "sha256": sha256,
            "bytes": size,
            "layout": None,
        }
    else:
        commit = server.add(network.repo_id, {"net.bin": content}, lfs=())
        origin = {
            "url": f"{server.url}/{network.repo_id}/resolve/{commit}/net.bin",
            "format": "safetensors",
            "bytes": size,
            "hash": {"algorithm": "sha256", "of": "file", "value": sha256},
            "layout": LAYOUT,
            "manual": None,
        }
    network.entry = {
        "architecture": architecture,
        "arguments": {},
        "dataset": "cifar10",
        "default": True,
        "num_classes": 10,
        "preprocessing": dataclasses.asdict(get_layout(LAYOUT).preprocessing["cifar10"]),
        "bundled": None,
        "hub": hub,
        "origin": origin,
        "tensors_sha256": tensors_sha256(make_state(architecture)),
        "claims": [],
        "results": [],
        "license": {"code": None, "weights": None},
        "training": None,
        "citation": None,
    }
    return network


def write_manifest(path: Path, *networks: PublishedNetwork, **fields: Any) -> Path:
    """Write a manifest with the entries of these networks only; `fields` are other fields of the document."""
    weights = {network.id: network.entry for network in networks}
    path.write_text(json.dumps({"format": 1, "weights": weights, **fields}))
    return path


def read_own_entry(weights_id: str) -> dict[str, Any]:
    """Read an entry from the zoo's own manifest, as it stands in the file."""
    return json.loads(get_package_manifest_path().read_text(encoding="utf-8"))["weights"][weights_id]


# commands in this process


@dataclasses.dataclass
class CommandResult:
    """The result of a command. An unexpected error in its output fails the test.

    Attributes:
        code: The exit code; negative if a signal ended the process.
        out: What it printed on stdout.
        err: What it printed on stderr.
    """

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        for text in (self.out, self.err):
            assert "Traceback" not in text, text
            assert "internal error" not in text, text

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows that were printed."""
        return json.loads(self.out)

    @property
    def row(self) -> dict[str, Any]:
        """The only row that was printed."""
        (row,) = self.rows
        return row

    @property
    def source(self) -> str:
        """Where `fetch` found the file of its only row."""
        return self.row["from"]

    def assert_failed(self, code: int, *words: str) -> None:
        """Require this exit code, and that stderr has all of these words."""
        assert self.code == code, self.err
        for word in words:
            assert word in self.err, self.err


class Commands:
    """Runs commands in this process, with caches and a manifest of their own below `folder`."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def use_manifest(self, *networks: PublishedNetwork, **fields: Any) -> Path:
        """Write the manifest anew, see `write_manifest`, and have commands use it."""
        path = write_manifest(self.folder / "manifest.json", *networks, **fields)
        self._monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(path))
        return path

    def run(self, *arguments: object) -> CommandResult:
        """Run a command. As in a new process, no file counts as verified yet."""
        forget_verified()
        self._capsys.readouterr()
        code = cli.main([*map(str, arguments), "--format", "json"])
        captured = self._capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    def fetch(self, network: PublishedNetwork, *options: str) -> CommandResult:
        return self.run("fetch", *options, network.id)

    def fetch_and_check(self, network: PublishedNetwork) -> CommandResult:
        """Fetch a network. Require that its file is right, that it verifies, and that it can be loaded."""
        result = self.fetch(network)
        assert result.code == 0, result.err
        path = Path(result.row["path"])
        assert network.has_right_tensors(path)
        assert result.row["sha256"] == file_hash(path)
        assert self.run("verify", network.id).code == 0
        model = pyramidzoo.create_model(network.architecture, weights=network.id)
        assert torch.equal(model.get_parameter("fc.weight"), make_state(network.architecture)["fc.weight"])
        assert_no_lock_held(self.folder)
        return result


@contextlib.contextmanager
def new_hub_session() -> Iterator[None]:
    """Have the Hub's client begin a new session, because it reads the variables of proxies only then."""
    huggingface_hub.close_session()
    try:
        yield
    finally:
        huggingface_hub.close_session()


# the caches: both are below one folder, as `cache` and `hub`


def list_files(folder: Path) -> list[str]:
    """List the files that could be taken for weights or for a part of them: no locks, no marks of the Hub's client."""
    bookkeeping = {"locks", ".locks", "refs", ".no_exist"}
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    return sorted(
        str(path)
        for path in files
        if path.name not in ("CACHEDIR.TAG", ".gitignore") and not bookkeeping & set(path.parts)
    )


def assert_nothing_left(folder: Path) -> None:
    """Require that the caches hold no file that a later run could trust, and no lock that it would wait for."""
    assert list_files(folder / "cache") == []
    # the Hub's client before 2.0 keeps a part of a file, to which it appends the rest later
    assert [name for name in list_files(folder / "hub") if not name.endswith(".incomplete")] == []
    assert_no_lock_held(folder)


def assert_no_lock_held(folder: Path) -> None:
    for path in folder.rglob("*.lock"):
        with FileLock(path, timeout=0):
            pass


def empty_caches(folder: Path) -> None:
    for name in ("cache", "hub"):
        shutil.rmtree(folder / name, ignore_errors=True)


# commands in new processes

# The program of a process that has imported pyramidzoo. It reads requests from stdin, one JSON object in a line, and
# answers each with a number: it forks a child that runs a command, waits for a child, or runs a shell command.
_FORK_SERVER = """\
import gc, json, os, resource, signal, subprocess, sys, threading, time, traceback
from pyramidzoo import cli, factory

gc.freeze()  # the children share these objects

def wait_for(pid):
    end = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)  # the test will see the exit code

def run_child(request):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request["log"] + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"], resource.RLIM_INFINITY))
    os.environ.update(request["env"])
    code = 1
    try:
        code = cli.main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # every Python waits for its threads; the rest of its end takes half a second
    os._exit(code)

for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(wait_for(request["wait"]), flush=True)
    elif "shell" in request:
        print(subprocess.run(request["shell"], shell=True).returncode, flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        run_child(request)
"""


class ProcessStarter:
    """Starts processes of the command line.

    Importing torch takes a process seconds. So one process imports it, and the others are forked from that one. In all
    else they are what `python -m pyramidzoo` is.

    Args:
        folder: Where the output of the processes is written.
        env: Their environment variables, besides those that Python itself needs.
        prefix: The beginning of the command that starts the first process, such as `unshare`.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self._logs, self._number = folder / "logs", 0
        self._logs.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _FORK_SERVER],
            env=make_environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _request(self, **request: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, *arguments: object, largest_file: int | None = None, **env: str) -> RunningCommand:
        """Start a command.

        Args:
            *arguments: Its arguments.
            largest_file: The process cannot write files of more bytes.
            **env: Environment variables of this process.
        """
        self._number += 1
        log = str(self._logs / f"{self._number}.")
        all_arguments = [*map(str, arguments), "--format", "json"]
        pid = self._request(arguments=all_arguments, env=env, log=log, largest_file=largest_file)
        return RunningCommand(pid, self, log)

    def run(self, *arguments: object, largest_file: int | None = None, **env: str) -> CommandResult:
        """Start a command and wait for its end."""
        return self.start(*arguments, largest_file=largest_file, **env).wait()

    def wait_for(self, pid: int) -> int:
        """Wait for a process, and return its exit code."""
        return self._request(wait=pid)

    def run_shell(self, command: str) -> None:
        """Run a shell command, which sees what the processes see. It must succeed."""
        assert self._request(shell=command) == 0

    def __enter__(self) -> ProcessStarter:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@dataclasses.dataclass
class RunningCommand:
    """A command in a process of its own.

    Attributes:
        pid: The process.
        starter: Who started it.
        log: The beginning of the paths of its output files.
    """

    pid: int
    starter: ProcessStarter
    log: str

    def wait(self) -> CommandResult:
        """Wait for the end of the process."""
        code = self.starter.wait_for(self.pid)
        return CommandResult(code, self._read("out"), self.read_stderr())

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def read_stderr(self) -> str:
        """Read what the process has written on stderr so far."""
        return self._read("err")

    def _read(self, name: str) -> str:
        path = Path(self.log + name)
        return path.read_text(encoding="utf-8") if path.exists() else ""


def make_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Add to `env` the variables of this process that a Python needs to start."""
    needed = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
    inherited = {name: os.environ[name] for name in needed if name in os.environ}
    return {**inherited, "OMP_NUM_THREADS": "1", **env}


def make_child_variables(server: HubServer, folder: Path, *networks: PublishedNetwork) -> dict[str, str]:
    """Make the variables of processes that fetch these networks from this server into caches below a folder."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "PYRAMIDZOO_CACHE": str(folder / "cache"),
        "PYRAMIDZOO_MANIFEST": str(write_manifest(folder / "manifest.json", *networks)),
    }


def make_mount_prefix(*mounts: str) -> list[str]:
    """Return the beginning of a command that runs with these mounts, which no other process sees.

    Empty if this user may not mount anything.
    """
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
            return []
    except FileNotFoundError:
        return []
    return [*unshare, "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, which must happen within half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
