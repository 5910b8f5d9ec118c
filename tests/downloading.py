"""What tests of downloads share: random networks published on loopback in two ways, and processes that fetch them."""

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from conftest import foreign_checkpoint, random_state
from filelock import FileLock
from hub_faults import Fault
from hub_server import HubServer
from safetensors.torch import save
from torch import Tensor

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.catalog.manifest import own_manifest_path
from pyramidzoo.checkpoints.loading import forget_verified
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.files import file_hash

KINDS = ("hub", "origin")
LAYOUT = "ferles"


@functools.cache
def network(architecture: str) -> dict[str, Tensor]:
    return random_state(architecture)


@functools.cache
def file_of(architecture: str, kind: str) -> bytes:
    """Its tensors as a safetensors file: under the zoo's names, or under those of LAYOUT."""
    state = network(architecture)
    return save(state if kind == "hub" else foreign_checkpoint(architecture, LAYOUT, state))


@dataclasses.dataclass
class Published:
    """A network that a server offers as a file of the Hub ("hub") or as one to convert ("origin"), and its entry."""

    kind: str
    architecture: str
    server: HubServer
    entry: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.architecture}.cifar10"

    @property
    def repo_id(self) -> str:
        return f"somebody/{self.architecture}-{self.kind}"

    @property
    def body(self) -> str:
        """The requests for the file itself, as rules of faults and counts name them."""
        if self.kind == "hub":
            return f"^GET /lfs-objects/{hashlib.sha256(self.content).hexdigest()}"
        return f"^GET /{self.repo_id}/"

    @property
    def content(self) -> bytes:
        return file_of(self.architecture, self.kind)

    def bodies(self) -> int:
        """How often the file was asked for."""
        return self.server.count("GET", self.body.removeprefix("^GET "))

    def strike(self, kind: str, times: int | None = None, **details: Any) -> None:
        """Have the file's answers go wrong from now on."""
        self.server.faults.append(Fault(self.body, times, kind, **details))

    def is_right(self, path: Path) -> bool:
        state = network(self.architecture)
        tensors = read_tensors(path)
        return tensors.keys() == state.keys() and all(torch.equal(tensors[name], state[name]) for name in state)


def publish(server: HubServer, kind: str, architecture: str = "wrn_16_1") -> Published:
    content, state = file_of(architecture, kind), network(architecture)
    hub = origin = None
    made = Published(kind, architecture, server, {})
    size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    if kind == "hub":
        commit = server.add(made.repo_id, {"model.safetensors": content})
        known = {"repo_id": made.repo_id, "revision": commit, "filename": "model.safetensors"}
        hub = {**known, "sha256": sha256, "bytes": size, "layout": None}
    else:
        commit = server.add(made.repo_id, {"net.bin": content}, lfs=())
        url = f"{server.url}/{made.repo_id}/resolve/{commit}/net.bin"
        known_hash = {"algorithm": "sha256", "of": "file", "value": sha256}
        origin = {"url": url, "format": "safetensors", "bytes": size, "hash": known_hash, "layout": LAYOUT}
        origin["manual"] = None
    preprocessing = dataclasses.asdict(get_layout(LAYOUT).preprocessing["cifar10"])
    made.entry = {
        "architecture": architecture,
        "arguments": {},
        "dataset": "cifar10",
        "default": True,
        "num_classes": 10,
        "preprocessing": preprocessing,
        "bundled": None,
        "hub": hub,
        "origin": origin,
        "tensors_sha256": tensors_sha256(state),
        "claims": [],
        "results": [],
        "license": {"code": None, "weights": None},
        "training": None,
        "citation": None,
    }
    return made


def write_manifest(path: Path, *offers: Published, **more: Any) -> Path:
    """A manifest of these alone; `more` are other fields of the document."""
    weights = {offer.id: offer.entry for offer in offers}
    path.write_text(json.dumps({"format": 1, "weights": weights, **more}))
    return path


def own_entry(weights_id: str) -> dict[str, Any]:
    """An entry of the zoo's own manifest, as its file has it."""
    return json.loads(own_manifest_path().read_text(encoding="utf-8"))["weights"][weights_id]


@dataclasses.dataclass
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        for text in (self.out, self.err):
            assert "Traceback" not in text, text
            assert "internal error" not in text, text

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What `--format json` printed."""
        return json.loads(self.out)


class Here:
    """Commands in this process, with a cache and a manifest of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch

    def use(self, *offers: Published, **more: Any) -> None:
        """These are the manifest from now on."""
        manifest = write_manifest(self.folder / "manifest.json", *offers, **more)
        self._monkeypatch.setenv("PYRAMIDZOO_MANIFEST", str(manifest))

    def __call__(self, *arguments: object) -> Ran:
        """Run a command as a new process would, which has verified nothing yet."""
        forget_verified()
        self._capsys.readouterr()
        code = cli.main([*map(str, arguments), "--format", "json"])
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    def gets(self, offer: Published) -> Ran:
        """Fetch it, and require that all is right."""
        ran = self("fetch", offer.id)
        assert ran.code == 0, ran.err
        (row,) = ran.rows
        assert offer.is_right(Path(row["path"]))
        assert row["sha256"] == file_hash(Path(row["path"]))
        assert self("verify", offer.id).code == 0
        model = pyramidzoo.create_model(offer.architecture, weights=offer.id)
        assert torch.equal(model.fc.weight, network(offer.architecture)["fc.weight"])
        no_lock_is_held(self.folder)
        return ran


def files_in(folder: Path) -> list[str]:
    """Files that could be taken for weights, or for a part of them: no locks, no marks of the Hub's client."""
    bookkeeping = ("locks", ".locks", "refs", ".no_exist")
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
    kept = [path for path in found if path.name not in ("CACHEDIR.TAG", ".gitignore")]
    return sorted(str(path) for path in kept if not set(path.parts) & set(bookkeeping))


def nothing_is_left(folder: Path) -> None:
    """No file for a later run to trust, and no lock for it to wait for."""
    assert files_in(folder / "cache") == []
    # the Hub's client before 2.0 keeps what came of a file, to go on with
    assert [name for name in files_in(folder / "hub") if not name.endswith(".incomplete")] == []
    no_lock_is_held(folder)


def no_lock_is_held(folder: Path) -> None:
    for path in folder.rglob("*.lock"):
        with FileLock(path, timeout=0):
            pass


@contextlib.contextmanager
def fresh_client() -> Iterator[None]:
    """The Hub's client reads the environment (proxies) when its session begins."""
    huggingface_hub.close_session()
    try:
        yield
    finally:
        huggingface_hub.close_session()


_FORKING = """\
import gc, json, os, resource, signal, subprocess, sys, threading, time, traceback
from pyramidzoo import cli, factory

gc.freeze()  # what the children share

for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        pid, end = asked["wait"], time.monotonic() + 60
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            time.sleep(0.005)
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)  # the test fails by this code
        print(os.waitstatus_to_exitcode(ended[1]), flush=True)
    elif "shell" in asked:
        print(subprocess.run(asked["shell"], shell=True).returncode, flush=True)
    elif pid := os.fork():
        print(pid, flush=True)
    else:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(asked["log"] + name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        if asked["largest_file"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest_file"], resource.RLIM_INFINITY))
        os.environ.update(asked["env"])
        code = 1
        try:
            code = cli.main(asked["arguments"])
        except BaseException:
            traceback.print_exc()
        threading._shutdown()  # as every Python does, it waits for its threads; the rest of its end takes half a second
        os._exit(code)
"""


class Forks:
    """Processes of the command line, forked from one that has imported torch, which takes each of them seconds.

    In all else they are what `python -m pyramidzoo` is, in an environment of `env` and little else. `prefix` is a
    command that starts a command.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self._logs, self._number = folder / "logs", 0
        self._logs.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _FORKING],
            env=environment(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **question: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, *arguments: object, largest_file: int | None = None, **env: str) -> Running:
        self._number += 1
        log = str(self._logs / f"{self._number}.")
        words = [*map(str, arguments), "--format", "json"]
        pid = self._ask(arguments=words, env=env, log=log, largest_file=largest_file)
        return Running(pid, self, log)

    def run(self, *arguments: object, **settings: Any) -> Ran:
        return self.start(*arguments, **settings).ends()

    def wait(self, pid: int) -> int:
        return self._ask(wait=pid)

    def shell(self, command: str) -> None:
        assert self._ask(shell=command) == 0

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


@dataclasses.dataclass
class Running:
    """A process of `Forks`."""

    pid: int
    forks: Forks
    log: str

    def ends(self) -> Ran:
        """Wait for it; the code is negative where a signal ended it."""
        code = self.forks.wait(self.pid)
        return Ran(code, self.said("out"), self.said("err"))

    def said(self, where: str = "err") -> str:
        path = Path(self.log + where)
        return path.read_text(encoding="utf-8") if path.exists() else ""


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env`, and of this process's environment what a Python needs to start."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", **env}


def for_children(server: HubServer, folder: Path, *offers: Published) -> dict[str, str]:
    """Variables for processes that fetch these from this server into the caches below a folder."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "PYRAMIDZOO_CACHE": str(folder / "cache"),
        "PYRAMIDZOO_MANIFEST": str(write_manifest(folder / "manifest.json", *offers)),
    }


def in_a_namespace(*mounts: str) -> list[str]:
    """What starts a command that sees these mounts, alone; empty where this user may not do that."""
    start = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        if subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
            return []
    except FileNotFoundError:
        return []
    return [*start, "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


def forget_everything(folder: Path) -> None:
    """Make both caches empty again."""
    for name in ("cache", "hub"):
        shutil.rmtree(folder / name, ignore_errors=True)
