"""Faults while weights are fetched: broken connections, wrong files, killed processes, full disks.

No fault may end in wrong weights, or leave a file that a later run trusts. When it is over, the next fetch must work.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from downloading import (
    SOURCES,
    CommandResult,
    Commands,
    ProcessStarter,
    PublishedNetwork,
    RunningCommand,
    assert_no_lock_held,
    assert_nothing_left,
    empty_caches,
    list_files,
    make_child_variables,
    make_environment,
    make_mount_prefix,
    publish_network,
    wait_until,
)
from filelock import FileLock
from hub_faults import PAGE
from hub_server import HubServer

from pyramidzoo.files import file_hash
from pyramidzoo.weights import _session

pytestmark = pytest.mark.server

CLIENT_VERSION = int(huggingface_hub.__version__.partition(".")[0])
SECONDS_TO_END = 8  # in which an interrupted process must end, on a busy machine


@pytest.fixture
def hub_network(hub: HubServer, commands: Commands) -> PublishedNetwork:
    """A network that is on the Hub."""
    published = publish_network(hub, "hub")
    commands.use_manifest(published)
    return published


def assert_fetch_succeeds(network: PublishedNetwork, commands: Commands, *, downloads: int, message: str = "") -> None:
    """Require that one run gets the right file, after so many requests for it, and that stderr has the message."""
    result = commands.fetch_and_check(network)
    assert message in result.err
    assert network.count_downloads() == downloads


def assert_fetch_fails(
    network: PublishedNetwork, commands: Commands, code: int, message: str, *options: str
) -> CommandResult:
    """Require that the run fails with this exit code and message (a regular expression), and leaves nothing."""
    result = commands.fetch(network, *options)
    assert result.code == code, result.err
    assert re.search(message, result.err), result.err
    assert_nothing_left(commands.folder)
    return result


def assert_fetch_fails_until_repaired(network: PublishedNetwork, commands: Commands, code: int, message: str) -> None:
    """Require that the run fails as above, says what to do, and that the next one succeeds without the faults."""
    result = assert_fetch_fails(network, commands, code, message)
    assert "Fetch the file on a machine that has a network, or " in result.err
    network.server.stop_failing()
    commands.fetch_and_check(network)


# faults of a server that end after one or two requests

TEMPORARY_FAULTS: dict[str, dict[str, Any]] = {
    "truncated": {"kind": "truncate", "after": 100_000},
    "no body": {"kind": "truncate", "after": 0},
    "no answer": {"kind": "truncate", "after": None},
    "reset": {"kind": "reset", "after": 100_000},
    "reset before the headers": {"kind": "reset", "after": None},
    **{f"status {status}": {"kind": "status", "status": status} for status in (429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("fault", TEMPORARY_FAULTS.values(), ids=TEMPORARY_FAULTS)
def test_a_temporary_fault_is_tried_again(
    network: PublishedNetwork, commands: Commands, fault: dict[str, Any], times: int
) -> None:
    network.fail_next(times, **fault)
    assert_fetch_succeeds(network, commands, downloads=times + 1)


# faults that do not end

BROKEN_OFF = r"without sending|disconnected|broken|reset by peer"
PERMANENT_FAULTS: dict[str, tuple[dict[str, Any], str]] = {  # the fault, and a regular expression of the message
    "truncated": ({"kind": "truncate", "after": 1000}, BROKEN_OFF),
    "no body": ({"kind": "truncate", "after": 0}, BROKEN_OFF),
    "no answer": ({"kind": "truncate", "after": None}, BROKEN_OFF),
    "reset": ({"kind": "reset", "after": 1000}, BROKEN_OFF),
    "reset before the headers": ({"kind": "reset", "after": None}, BROKEN_OFF),
    **{
        f"status {status}": ({"kind": "status", "status": status}, rf"{status} .*try again later")
        for status in (429, 500, 503)
    },
    "status 401": ({"kind": "status", "status": 401}, r"401 .*(HF_TOKEN|users with permission)"),
    "status 403": ({"kind": "status", "status": 403}, r"403 .*users with permission"),
    "status 404": ({"kind": "status", "status": 404}, r"404 .*has moved"),
    "status 410": ({"kind": "status", "status": 410}, r"410 .*has moved"),
}


@pytest.mark.parametrize(("fault", "message"), PERMANENT_FAULTS.values(), ids=PERMANENT_FAULTS)
def test_a_permanent_fault_is_named(
    network: PublishedNetwork, commands: Commands, fault: dict[str, Any], message: str
) -> None:
    network.fail_always(**fault)
    assert_fetch_fails_until_repaired(network, commands, 5, message)


# files with a wrong content


@pytest.mark.parametrize("offset", [20, -9], ids=["header", "tensor"])
def test_a_corrupt_file_of_the_right_size_is_refused(
    network: PublishedNetwork, commands: Commands, offset: int
) -> None:
    network.fail_always("same_size_corruption", offset=offset)
    came = "came with sha256" if network.source == "hub" else r"sent \d+ bytes with sha256"
    assert_fetch_fails_until_repaired(network, commands, 4, rf"{came} [0-9a-f]{{64}}, expected [0-9a-f]{{64}}")


def test_a_corrupt_file_of_the_hub_is_downloaded_once_more(hub_network: PublishedNetwork, commands: Commands) -> None:
    hub_network.fail_next(1, "same_size_corruption", offset=-9)
    assert_fetch_succeeds(hub_network, commands, downloads=2, message="is downloaded once more")


@pytest.mark.parametrize("keep_headers", [False, True])
def test_a_web_page_instead_of_the_file(network: PublishedNetwork, commands: Commands, keep_headers: bool) -> None:
    network.fail_always("html", keep_headers=keep_headers)
    if network.source == "hub":
        assert_fetch_fails_until_repaired(network, commands, 5, f"has size {len(PAGE)}")
    else:
        assert_fetch_fails_until_repaired(
            network, commands, 4, f"sent {len(PAGE)} bytes .*a proxy may have sent a page"
        )


def test_a_web_page_of_the_size_of_the_file(network: PublishedNetwork, commands: Commands) -> None:
    network.fail_always("status", status=200, body=PAGE.ljust(len(network.content)))
    assert_fetch_fails_until_repaired(network, commands, 4, "expected [0-9a-f]{64}")


def test_a_web_page_for_every_request_to_the_hub(hub_network: PublishedNetwork, commands: Commands) -> None:
    hub_network.server.fail_always(".", "html")
    assert_fetch_fails_until_repaired(hub_network, commands, 5, r"Hub somebody/wrn_16_1-hub: \w+Error: ")


def test_a_cached_file_that_is_altered_later_is_refused(network: PublishedNetwork, commands: Commands) -> None:
    row = commands.fetch_and_check(network).row
    path, downloads = Path(row["path"]), network.count_downloads()
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.resolve().write_bytes(content)
    commands.fetch(network).assert_failed(
        4, "altered", file_hash(path), f"expected {row['sha256']}", f"`pyramidzoo fetch --force {network.id}`"
    )
    assert commands.run("verify", network.id).code == 4
    assert network.count_downloads() == downloads
    assert commands.fetch(network, "--force").row == {**row, "from": network.source}
    assert commands.fetch_and_check(network).row == {**row, "from": "cache"}


def test_a_cached_file_that_is_cut_or_deleted(network: PublishedNetwork, commands: Commands) -> None:
    row = commands.fetch_and_check(network).row
    path = Path(row["path"])
    os.truncate(path.resolve(), 1000)
    assert commands.fetch(network).code == 4
    assert commands.fetch(network, "--force").code == 0
    path.unlink()  # in the Hub's cache this is a link to the file
    assert commands.fetch_and_check(network).row["sha256"] == row["sha256"]
    path.resolve().unlink()
    assert commands.fetch_and_check(network).row["sha256"] == row["sha256"]
    empty_caches(commands.folder)
    assert commands.run("verify", network.id).code == 5
    commands.fetch_and_check(network)


# servers that cannot be reached, or are too slow


@pytest.mark.parametrize("status", [500, 503])
def test_the_hub_has_no_answer_about_the_file(hub_network: PublishedNetwork, commands: Commands, status: int) -> None:
    hub_network.server.fail_next(2, "^HEAD ", "status", status=status)
    assert_fetch_succeeds(hub_network, commands, downloads=1)
    empty_caches(commands.folder)
    hub_network.server.fail_always("^HEAD ", "status", status=status)
    assert_fetch_fails_until_repaired(hub_network, commands, 5, f"{status} .*try again later")


def test_no_server_at_the_address(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_port = "http://127.0.0.1:9"
    right_origin = network.entry["origin"]
    with monkeypatch.context() as patched:
        if network.source == "hub":
            template = closed_port + "/{repo_id}/resolve/{revision}/{filename}"
            patched.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        else:
            wrong_url = right_origin["url"].replace(network.server.url, closed_port)
            network.entry["origin"] = {**right_origin, "url": wrong_url}
            commands.use_manifest(network)
        assert_fetch_fails(network, commands, 5, "Connection refused.*try again later")
    network.entry["origin"] = right_origin
    commands.use_manifest(network)
    commands.fetch_and_check(network)


def test_a_server_that_sends_too_slowly(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_MEASURED_SECONDS", 0.2)
    network.fail_always("drip", seconds=0.02)
    assert_fetch_fails_until_repaired(network, commands, 5, r"sent \d+ bytes in \d s.*too slow.*try again later")


@pytest.mark.parametrize("after", [None, 0, 1000], ids=["before the headers", "before the body", "in the body"])
def test_a_server_that_sends_nothing_more(
    network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", 0.3)
    # the client before 2.0 sends the request for a file of the Hub only once
    if CLIENT_VERSION >= 2 or after is not None or network.source == "origin":
        network.fail_next(1, "stall", after=after)
        assert_fetch_succeeds(network, commands, downloads=2)
        empty_caches(commands.folder)
    network.fail_always("stall", after=after)
    assert_fetch_fails_until_repaired(network, commands, 5, "timed out")


# rate limits: the Hub has a header of its own; the client reads the general one since 2.0
RATE_LIMIT_HEADERS = {"RateLimit": '"resolvers";r=0;t=37'}
if CLIENT_VERSION >= 2:
    RATE_LIMIT_HEADERS["Retry-After"] = "37"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> list[float]:
    """The seconds that the Hub's client wanted to wait. It does not really wait."""
    seconds: list[float] = []
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", types.SimpleNamespace(**vars(time) | {"sleep": seconds.append}))
    return seconds


@pytest.mark.parametrize("header", RATE_LIMIT_HEADERS)
def test_a_rate_limit_of_the_file_is_waited_for(
    network: PublishedNetwork, commands: Commands, waits: list[float], header: str
) -> None:
    network.fail_next(2, "status", status=429, headers={header: RATE_LIMIT_HEADERS[header]})
    assert_fetch_succeeds(network, commands, downloads=3)
    assert len([seconds for seconds in waits if 37 <= seconds <= 40]) == 2, waits


@pytest.mark.parametrize("header", RATE_LIMIT_HEADERS)
def test_a_rate_limit_of_questions_about_the_file_is_waited_for(
    hub_network: PublishedNetwork, commands: Commands, waits: list[float], header: str
) -> None:
    headers = {header: RATE_LIMIT_HEADERS[header]}
    hub_network.server.fail_next(2, "^HEAD ", "status", status=429, headers=headers)
    assert_fetch_succeeds(hub_network, commands, downloads=1)
    assert [seconds for seconds in waits if seconds >= 37], waits


# repositories of the Hub that this user may not read, or that do not exist


@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("user", ["nobody", "guest"])
def test_a_gated_repository(
    hub_network: PublishedNetwork,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    options: tuple[str, ...],
) -> None:
    hub_network.server.gate(hub_network.repo_id)
    if user == "guest":
        monkeypatch.setenv("HF_TOKEN", hub_network.server.guest_token)
    page = re.escape(f"https://huggingface.co/{hub_network.repo_id},")
    assert_fetch_fails(hub_network, commands, 5, f"must grant access; ask for it on {page}.*HF_TOKEN", *options)
    monkeypatch.setenv("HF_TOKEN", hub_network.server.token)
    commands.fetch_and_check(hub_network)


def test_an_invalid_token(hub_network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert_fetch_fails(hub_network, commands, 5, "HF_TOKEN may have expired.*unset it")
    monkeypatch.delenv("HF_TOKEN")
    commands.fetch_and_check(hub_network)


def test_a_private_repository(
    hub_network: PublishedNetwork, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_network.server.private(hub_network.repo_id)
    commands.fetch(hub_network).assert_failed(5, "it is private", "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", hub_network.server.token)
    commands.fetch_and_check(hub_network)


@pytest.mark.parametrize(
    ("field", "wrong_value", "message"),
    [
        ("repo_id", "no/body", r"Hub no/body: .*no such repository"),
        ("revision", "a" * 40, r"not have the revision a{40}.*https://huggingface\.co/somebody/wrn"),
        ("filename", "no.safetensors", r"revision [0-9a-f]{40} has no file no\.safetensors.*https://huggingface\.co"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--force",)], ids=["", "force"])
def test_the_hub_does_not_have_the_file(
    hub_network: PublishedNetwork,
    commands: Commands,
    field: str,
    wrong_value: str,
    message: str,
    options: tuple[str, ...],
) -> None:
    right_value = hub_network.entry["hub"][field]
    hub_network.entry["hub"][field] = wrong_value
    commands.use_manifest(hub_network)
    assert_fetch_fails(hub_network, commands, 5, message, *options)
    hub_network.entry["hub"][field] = right_value
    commands.use_manifest(hub_network)
    commands.fetch_and_check(hub_network)


def test_a_forced_download_is_tried_again_too(hub_network: PublishedNetwork, commands: Commands) -> None:
    commands.fetch_and_check(hub_network)
    hub_network.server.fail_next(2, "^HEAD ", "status", status=503)
    assert commands.fetch(hub_network, "--force").code == 0
    assert hub_network.count_downloads() == 2
    hub_network.server.fail_always("^HEAD ", "status", status=503)
    commands.fetch(hub_network, "--force").assert_failed(5, "503 ")
    commands.fetch_and_check(hub_network)  # the file in the cache is still good


# errors in the manifest


def test_a_wrong_hash_in_the_manifest(network: PublishedNetwork, commands: Commands) -> None:
    if network.source == "hub":
        hashes, field = network.entry["hub"], "sha256"
    else:
        hashes, field = network.entry["origin"]["hash"], "value"
    right_hash, wrong_hash = hashes[field], "0" * 64
    hashes[field] = wrong_hash
    commands.use_manifest(network)
    assert_fetch_fails(network, commands, 4, f"{right_hash}, expected {wrong_hash}")
    hashes[field] = right_hash
    commands.use_manifest(network)
    commands.fetch_and_check(network)
    # a file in the cache is refused when the manifest says later that its hash is another one
    hashes[field] = wrong_hash
    commands.use_manifest(network)
    assert commands.fetch(network).code == 4


def test_wrong_tensors_in_the_manifest(network: PublishedNetwork, commands: Commands) -> None:
    right_hash, network.entry["tensors_sha256"] = network.entry["tensors_sha256"], "0" * 64
    commands.use_manifest(network)
    assert_fetch_fails(network, commands, 4, "the manifest says 0000")
    network.entry["tensors_sha256"] = right_hash
    commands.use_manifest(network)
    commands.fetch_and_check(network)


def test_the_hash_of_the_tensors_is_enough_without_a_hash_of_the_file(
    hub_network: PublishedNetwork, commands: Commands
) -> None:
    hub_network.entry["hub"]["sha256"] = None
    commands.use_manifest(hub_network)
    hub_network.fail_always("same_size_corruption", offset=-9)
    assert_fetch_fails_until_repaired(hub_network, commands, 4, r"tensors .* the manifest says")


# processes


@dataclasses.dataclass
class FetchProcesses:
    """Starts processes that fetch one network into the same caches.

    Attributes:
        network: The network.
        folder: The caches are below it.
        starter: Who starts the processes.
        env: Their environment variables.
    """

    network: PublishedNetwork
    folder: Path
    starter: ProcessStarter
    env: dict[str, Any]

    def start(self, **env: Any) -> RunningCommand:
        """Start `fetch` in a new process."""
        return self.starter.start("fetch", self.network.id, **self.env, **env)

    def fetch(self, *options: str, **env: Any) -> CommandResult:
        """Run `fetch` in a new process, and wait for its end."""
        return self.starter.run("fetch", *options, self.network.id, **self.env, **env)

    def fetch_without_faults(self) -> CommandResult:
        """Fetch from a server without faults. Require that no lock is in the way, and that the file is right."""
        self.network.server.stop_failing()
        result = self.fetch()
        assert result.code == 0, result.err
        assert "waiting for another process" not in result.err
        self.check(result)
        return result

    def check(self, result: CommandResult) -> None:
        """Require that a process got the right file, and that the cache holds nothing else."""
        path = Path(result.row["path"])
        assert self.network.has_right_tensors(path)
        assert result.row["sha256"] == file_hash(path)
        converted_files = [f"weights/{self.network.id}.json", f"weights/{self.network.id}.safetensors"]
        expected_files = converted_files if self.network.source == "origin" else []
        assert list_files(self.folder / "cache") == expected_files
        assert_no_lock_held(self.folder)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessStarter]:
    with ProcessStarter(tmp_path_factory.mktemp("processes"), {}) as starter:
        starter.run("list", "resnet20")  # so that its imports are done before a test begins
        yield starter


@pytest.fixture(params=SOURCES)
def processes(request: pytest.FixtureRequest, starter: ProcessStarter, tmp_path: Path) -> Iterator[FetchProcesses]:
    with HubServer() as server:
        network = publish_network(server, request.param, "wrn_40_2")
        assert len(network.content) > 8 << 20
        yield FetchProcesses(network, tmp_path, starter, make_child_variables(server, tmp_path, network))


@pytest.mark.kill
def test_killed_at_random_moments(processes: FetchProcesses) -> None:
    network, generator = processes.network, random.Random(processes.network.source)
    network.take_at_least(0.4)
    start = time.monotonic()
    processes.check(processes.fetch())
    seconds_of_a_fetch = time.monotonic() - start
    number_killed = 0
    for _ in range(10):
        empty_caches(processes.folder)
        network.take_at_least(0.4)
        process = processes.start()
        time.sleep(generator.uniform(0, seconds_of_a_fetch))
        process.send_signal(signal.SIGKILL)
        number_killed += process.wait().code == -signal.SIGKILL
        processes.fetch_without_faults()
        assert processes.fetch().source == "cache"
    assert number_killed >= 3


@pytest.mark.kill
def test_the_files_of_several_killed_processes_are_deleted(processes: FetchProcesses) -> None:
    network = processes.network
    for hundredths in (5, 25, 45):
        network.take_at_least(5)
        downloads = network.count_downloads()
        process = processes.start()

        def has_begun(downloads: int = downloads) -> bool:
            return network.count_downloads() > downloads

        wait_until(has_begun)
        time.sleep(hundredths / 100)
        process.send_signal(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
        network.server.stop_failing()
    leftovers = list_files(processes.folder / ("hub" if network.source == "hub" else "cache"))
    assert leftovers, "a killed process cannot clean up"
    assert not any(name.endswith(".safetensors") for name in leftovers)
    processes.fetch_without_faults()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_during_a_download(processes: FetchProcesses, number: signal.Signals) -> None:
    processes.network.take_at_least(30)
    process = processes.start()
    wait_until(processes.network.count_downloads)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(number)
    result = process.wait()
    assert result.code == 130, result.err
    assert result.err.endswith("pyramidzoo: interrupted\n")
    assert time.monotonic() - start < SECONDS_TO_END
    assert_nothing_left(processes.folder)
    processes.fetch_without_faults()


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "truncate", "after": None}],
    ids=["status 503", "no answer"],
)
def test_interrupted_before_another_attempt(processes: FetchProcesses, fault: dict[str, Any]) -> None:
    processes.network.fail_always(**fault)
    process = processes.start()
    wait_until(lambda: processes.network.count_downloads() >= 2)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.wait().code == 130
    assert time.monotonic() - start < 2 * SECONDS_TO_END
    assert_nothing_left(processes.folder)
    processes.fetch_without_faults()


def test_interrupted_while_another_process_has_the_lock(processes: FetchProcesses) -> None:
    lock = processes.folder / "cache" / "locks" / f"{processes.network.id}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        process = processes.start()
        wait_until(lambda: "waiting for another process" in process.read_stderr())
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait().code == 130
        assert time.monotonic() - start < SECONDS_TO_END
    processes.fetch_without_faults()


def test_eight_processes_download_once(processes: FetchProcesses) -> None:
    network = processes.network
    network.take_at_least(0.5)
    running = [processes.start() for _ in range(8)]
    results = [process.wait() for process in running]
    assert [result.code for result in results] == [0] * 8
    assert len({result.row["sha256"] for result in results}) == 1
    assert sorted(result.source for result in results) == sorted([network.source] + ["cache"] * 7)
    assert network.count_downloads() == 1
    processes.check(results[0])


def test_the_process_with_the_lock_is_killed_while_others_wait(processes: FetchProcesses) -> None:
    network = processes.network
    network.take_at_least(30)
    first = processes.start()
    wait_until(network.count_downloads)
    others = [processes.start() for _ in range(3)]
    wait_until(lambda: all("waiting for another process" in other.read_stderr() for other in others))
    network.server.stop_failing()
    first.send_signal(signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    results = [other.wait() for other in others]
    assert [result.code for result in results] == [0] * 3
    assert network.count_downloads() == 2
    for result in results:
        processes.check(result)


def test_offline(processes: FetchProcesses) -> None:
    network = processes.network
    processes.fetch(HF_HUB_OFFLINE="1").assert_failed(
        5, "offline", "HF_HUB_OFFLINE", "on a machine that has a network", "into a folder"
    )
    assert network.server.requests == []
    assert_nothing_left(processes.folder)
    row = processes.fetch_without_faults().row
    requests = len(network.server.requests)
    cached = processes.fetch(HF_HUB_OFFLINE="1")
    assert cached.code == 0
    assert cached.row == {**row, "from": "cache"}
    assert processes.fetch("--force", HF_HUB_OFFLINE="1").code == 5
    assert processes.fetch(HF_HUB_OFFLINE="1").row == cached.row
    assert len(network.server.requests) == requests


_RANK_PROGRAM = """\
import sys
import pyramidzoo
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256

for weights in sys.argv[1:]:
    model = pyramidzoo.create_model(weights.partition(".")[0], weights=weights)
    sys.stdout.write(f"{weights} {tensors_sha256(model.state_dict())}\\n")  # in one call, because four processes write
    sys.stdout.flush()
"""


def test_four_processes_of_torchrun_download_once(tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(_RANK_PROGRAM)
    with HubServer() as server:
        networks = [publish_network(server, "hub", "wrn_16_1"), publish_network(server, "origin", "wrn_16_2")]
        for network in networks:
            network.take_at_least(1)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4"]
        torchrun += ["--master-addr", "127.0.0.1", "--master-port", "0"]
        result = subprocess.run(
            [*torchrun, str(program), *(network.id for network in networks)],
            env=make_environment(make_child_variables(server, tmp_path, *networks)),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        for network in networks:
            assert lines.count(f"{network.id} {network.entry['tensors_sha256']}") == 4
            assert network.count_downloads() == 1
    assert_no_lock_held(tmp_path)


# disks


def test_a_full_disk(processes: FetchProcesses) -> None:
    """The caches are on a file system of 1 MiB. If this user may not mount one, no file may be larger than that."""
    network, folder = processes.network, processes.folder
    disk = folder / "disk"
    disk.mkdir()
    env = {**processes.env, "PYRAMIDZOO_CACHE": f"{disk}/cache", "HF_HUB_CACHE": f"{disk}/hub"}
    mount_prefix = make_mount_prefix(f"mount -t tmpfs -o size=1m tmpfs {disk}")
    largest_file = None if mount_prefix else 1 << 20
    sizes = ["1m"]
    if mount_prefix and network.source == "origin":
        sizes.append("12m")  # there is room for the download, but not for the converted file
    with ProcessStarter(folder, {}, mount_prefix) as starter:
        for size in sizes:
            if mount_prefix:
                starter.run_shell(f"mount -o remount,size={size} {disk}")
            result = starter.run("fetch", network.id, largest_file=largest_file, **env)
            assert result.code == 5
            assert re.search(r"cannot write .*(No space left on device|File too large)", result.err), result.err
            starter.run_shell(f"test -z \"$(find {disk} -name '*.safetensors' -o -name 'net.bin')\"")
        if mount_prefix:
            starter.run_shell(f"mount -o remount,size=64m {disk}")
        result = starter.run("fetch", network.id, **env)
        assert result.code == 0, result.err
        copy = folder / "copy.safetensors"  # the disk is only seen from inside
        starter.run_shell(f"cp -L {result.row['path']} {copy}")
    assert network.has_right_tensors(copy)


def test_a_cache_that_cannot_be_written(processes: FetchProcesses) -> None:
    """The caches are on a read-only file system. If this user may not mount one, no file may be larger than 1 MiB."""
    network, folder = processes.network, processes.folder
    cached_network = publish_network(network.server, network.source, "wrn_16_1")
    env: dict[str, Any] = make_child_variables(network.server, folder, network, cached_network)
    row = processes.starter.run("fetch", cached_network.id, **env).row
    files_before = list_files(folder)
    caches = [folder / name for name in ("cache", "hub", "home")]
    for cache in caches:
        cache.mkdir(exist_ok=True)
    mount_prefix = make_mount_prefix(
        *(f"mount --bind {cache} {cache}" for cache in caches),
        *(f"mount -o remount,bind,ro {cache}" for cache in caches),
    )
    largest_file = None if mount_prefix else 1 << 20
    with ProcessStarter(folder, {}, mount_prefix) as starter:
        # what is in the cache can be used
        assert starter.run("fetch", cached_network.id, **env).row == {**row, "from": "cache"}
        assert starter.run("verify", cached_network.id, **env).code == 0
        # nothing can be added
        result = starter.run("fetch", network.id, largest_file=largest_file, **env)
        assert result.code == 5
        assert re.search(r"cannot write to .*(Read-only file system|File too large); name another", result.err)
    assert [name for name in list_files(folder) if not name.startswith("logs/")] == files_before
    assert processes.starter.run("fetch", network.id, **env).code == 0
