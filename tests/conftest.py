"""Shared fixtures. Real checkpoints and data are read where PYRAMIDZOO_ORIGINS and PYRAMIDZOO_DATA say, never copied.

Tests that need them skip without; with PYRAMIDZOO_TESTS_COMPLETE=1 a skip fails the run, unless a GPU is what lacks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from command_line import converted_file, ferles_checkpoint, run_command  # noqa: F401 (fixtures)
from hub_server import HubServer
from layout_tools import read_tensors_of_torch_file
from publishing import Json, MakeCheckpoint, UseManifest, make_entry, manifest_text
from torch import Tensor

from pyramidzoo.catalog import manifest
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints import loading
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.convert import read_file
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.files import file_hash
from pyramidzoo.models import build
from pyramidzoo.weights import download as remote

if TYPE_CHECKING:
    from downloading import Commands, PublishedNetwork

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # as in a background job of a shell; the processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"  # the Hub's client reads it when it is imported
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; their children too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# read before any test changes the environment
_ORIGINS = os.environ.get("PYRAMIDZOO_ORIGINS")
_DATA = os.environ.get("PYRAMIDZOO_DATA")

_LARGE_PROCESS = 2 << 30  # bytes
_skipped: list[str] = []
_unpickled: dict[str, dict[str, Tensor]] = {}


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees the user's cache, origins or data, the network, or what another test has verified."""
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "cache"))
    for name in ("PYRAMIDZOO_ORIGINS", "PYRAMIDZOO_DATA", "PYRAMIDZOO_MANIFEST", "PYRAMIDZOO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    loading.forget_verified()
    yield
    loading.forget_verified()


@pytest.fixture(autouse=True)
def return_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give freed memory back to the system after tests of the compiler, and when the process has become large.

    Large networks leave cycles that Python frees late, and small objects between them keep the C library from returning
    freed memory. Without this a worker grows to 6 GB.
    """
    yield
    has_compiled = request.node.get_closest_marker("compiler") is not None
    if has_compiled:
        torch.compiler.reset()
    elif _read_resident_bytes() < _LARGE_PROCESS:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only the C library of GNU has it
    if trim is not None:
        trim(0)


def _read_resident_bytes() -> int:
    """Return how much memory this process uses; 0 if the system does not say it as Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads are allowed, from loopback: nothing stands between, and nobody waits long before trying again."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.01)
    hurried = types.SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(seconds / 100)})
    monkeypatch.setattr("huggingface_hub.utils._http.time", hurried)
    monkeypatch.setattr("huggingface_hub.file_download.time", hurried)


@pytest.fixture
def hub(online: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The real client against a Hub on loopback, with an empty cache of its own."""
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


@pytest.fixture
def commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """An object that runs commands in this process and checks what they fetch."""
    from downloading import Commands  # The module imports this one, so it cannot be imported at the top.

    return Commands(tmp_path, capsys, monkeypatch)


@pytest.fixture(params=["hub", "origin"])
def network(request: pytest.FixtureRequest, hub: HubServer, commands: Commands) -> PublishedNetwork:
    """A network that is published either on the Hub or at its authors' address, and that the manifest in use names."""
    from downloading import publish_network

    published_network = publish_network(hub, request.param)
    commands.use_manifest(published_network)
    return published_network


@pytest.fixture
def owner(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Hub's client has the token of the owner, who may write."""
    from huggingface_hub import close_session

    monkeypatch.setenv("HF_TOKEN", hub.token)
    yield
    close_session()


@pytest.fixture
def use_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseManifest:
    """A function that writes a manifest file with the given entries, and makes it the one in use."""

    def use(weights: Mapping[str, Json]) -> Path:
        path = tmp_path / "zoo" / manifest.MANIFEST_FILE_NAME
        path.parent.mkdir(exist_ok=True)
        path.write_text(manifest_text(weights), encoding="utf-8")
        monkeypatch.setenv(manifest.MANIFEST_VARIABLE, str(path))
        return path

    return use


@pytest.fixture
def make_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCheckpoint:
    """A function that writes a checkpoint with random weights into a folder of PYRAMIDZOO_ORIGINS."""
    folder = tmp_path / "origins"
    folder.mkdir()
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(folder))

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.safetensors"
        write_tensors(path, random_state(architecture), {})
        return path

    return make


@pytest.fixture
def lab_entry(make_checkpoint: MakeCheckpoint, use_manifest: UseManifest) -> WeightsEntry:
    """A small network with random weights, one result and one claim, in the manifest in use."""
    use_manifest({"wrn_16_1.cifar10_lab": make_entry("wrn_16_1", "cifar10", make_checkpoint("wrn_16_1"))})
    return load_manifest().find("wrn_16_1.cifar10_lab")


@pytest.fixture(scope="session")
def origins() -> Path:
    """The folder of real published checkpoints."""
    if not _ORIGINS:
        pytest.skip("PYRAMIDZOO_ORIGINS names no folder of published checkpoints")
    return Path(_ORIGINS).resolve()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real CIFAR files."""
    if not _DATA:
        pytest.skip("PYRAMIDZOO_DATA names no folder of datasets")
    return Path(_DATA).resolve()


@pytest.fixture
def small_set() -> ImageSet:
    """300 random images in ten classes: two ranges of batches of 8, the last one short."""
    generator = np.random.default_rng(7)
    return ImageSet(
        name="cifar10",
        split="test",
        classes=10,
        images=torch.from_numpy(generator.integers(0, 256, (300, 3, 32, 32), dtype=np.uint8)),
        labels=torch.from_numpy(generator.integers(0, 10, 300)),
        fingerprint="0" * 64,
    )


@pytest.fixture
def quick_unpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the unpickling process only once for equal checkpoints: it takes seconds, and test_convert covers it."""

    real = read_file.unpickle

    def memoised(source: Path) -> dict[str, Tensor]:
        digest = file_hash(source)
        if digest not in _unpickled:
            _unpickled[digest] = real(source)
        return _unpickled[digest]

    monkeypatch.setattr(read_file, "unpickle", memoised)


@pytest.fixture
def unpickle_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open checkpoints without a child process, which takes seconds. test_convert and test_safety test the process."""
    monkeypatch.setattr(read_file, "unpickle", read_tensors_of_torch_file)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, because small networks lose time with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_state(architecture: str, *, num_classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state dict with random weights and BN statistics that keep activations in range."""
    torch.manual_seed(seed)
    model = build(get_architecture(architecture), num_classes=num_classes)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model.state_dict()


def foreign_checkpoint(architecture: str, layout: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The flat checkpoint that a layout's authors would have saved for this state, unused tensors included."""
    key_map, row = get_layout(layout), get_architecture(architecture)
    checkpoint = {key_map.get_foreign_name(name, row): tensor.clone() for name, tensor in state.items()}
    for name, part in key_map.list_unused_tensors(row).items():
        checkpoint[name] = torch.zeros(part.shape, dtype=torch.int64 if part.dtype == "I64" else torch.float32)
    return checkpoint


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "gpu" not in report.keywords:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("PYRAMIDZOO_TESTS_COMPLETE") and _skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("PYRAMIDZOO_TESTS_COMPLETE") and _skipped:
        terminalreporter.section("skipped although PYRAMIDZOO_TESTS_COMPLETE is set", sep="=", red=True)
        for nodeid in _skipped:
            terminalreporter.write_line(nodeid)
