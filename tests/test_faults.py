"""What goes wrong while weights are fetched: none of it ends in wrong weights, and with it gone the next try works."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from downloading import (
    KINDS,
    Forks,
    Here,
    Published,
    Ran,
    Running,
    environment,
    files_in,
    for_children,
    forget_everything,
    in_a_namespace,
    no_lock_is_held,
    nothing_is_left,
    publish,
)
from filelock import FileLock
from hub_faults import PAGE, Fault
from hub_server import HubServer

from pyramidzoo.files import file_hash
from pyramidzoo.weights import download as remote

pytestmark = pytest.mark.server

CLIENT = int(huggingface_hub.__version__.partition(".")[0])
SOON = 8  # seconds in which an interrupted process must be gone, on a busy machine


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(tmp_path, capsys, monkeypatch)


@pytest.fixture(params=KINDS)
def offer(request: pytest.FixtureRequest, hub: HubServer, here: Here) -> Published:
    """A network that can be had in one way."""
    made = publish(hub, request.param)
    here.use(made)
    return made


@pytest.fixture
def on_hub(hub: HubServer, here: Here) -> Published:
    made = publish(hub, "hub")
    here.use(made)
    return made


def heals(offer: Published, here: Here, said: str = "", *, asked: int) -> None:
    """One run is enough, after that many requests for the file."""
    assert said in here.gets(offer).err
    assert offer.bodies() == asked


def fails(offer: Published, here: Here, code: int, said: str) -> None:
    """The run fails, says why and what to do, and leaves nothing; with the fault gone the next one succeeds."""
    ran = here("fetch", offer.id)
    assert ran.code == code, ran.err
    assert re.search(said, ran.err), ran.err
    assert "Fetch it where there is a network, or " in ran.err
    nothing_is_left(here.folder)
    offer.server.faults.clear()
    here.gets(offer)


PASSING = {
    "truncated": {"kind": "truncate", "after": 100_000},
    "nothing sent": {"kind": "truncate", "after": 0},
    "no answer": {"kind": "truncate", "after": None},
    "reset": {"kind": "reset", "after": 100_000},
    "reset before the headers": {"kind": "reset", "after": None},
    **{str(status): {"kind": "status", "status": status} for status in (429, 500, 502, 503, 504)},
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_waited_for(offer: Published, here: Here, fault: str, times: int) -> None:
    offer.strike(times=times, **PASSING[fault])
    heals(offer, here, asked=times + 1)


BROKEN_OFF = r"without sending|disconnected|broken|reset by peer"
LASTING: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": ({"kind": "truncate", "after": 1000}, BROKEN_OFF),
    "nothing sent": ({"kind": "truncate", "after": 0}, BROKEN_OFF),
    "no answer": ({"kind": "truncate", "after": None}, BROKEN_OFF),
    "reset": ({"kind": "reset", "after": 1000}, BROKEN_OFF),
    "reset before the headers": ({"kind": "reset", "after": None}, BROKEN_OFF),
    **{str(s): ({"kind": "status", "status": s}, rf"{s} .*; try again later") for s in (429, 500, 503)},
    "401": ({"kind": "status", "status": 401}, r"401 .*; (is HF_TOKEN still valid\?|it is for others only)"),
    "403": ({"kind": "status", "status": 403}, r"403 .*; it is for others only"),
    "404": ({"kind": "status", "status": 404}, r"404 .*; look whether it has moved"),
    "410": ({"kind": "status", "status": 410}, r"410 .*; look whether it has moved"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_named(offer: Published, here: Here, fault: str) -> None:
    details, said = LASTING[fault]
    offer.strike(**details)
    fails(offer, here, 5, said)


@pytest.mark.parametrize("offset", [20, -9], ids=["header", "tensor"])
def test_corruption_of_the_same_size(offer: Published, here: Here, offset: int) -> None:
    found = "came with sha256" if offer.kind == "hub" else r"sent \d+ bytes with sha256"
    offer.strike("same_size_corruption", offset=offset)
    fails(offer, here, 4, rf"{found} [0-9a-f]{{64}}, expected [0-9a-f]{{64}}")


def test_one_corruption_on_the_hub_heals_itself_aloud(on_hub: Published, here: Here) -> None:
    on_hub.strike("same_size_corruption", 1, offset=-9)
    heals(on_hub, here, "it was removed, trying once more", asked=2)


@pytest.mark.parametrize("keep_headers", [False, True])
def test_a_page_instead_of_the_file(offer: Published, here: Here, keep_headers: bool) -> None:
    offer.strike("html", keep_headers=keep_headers)
    code, said = (5, f"has size {len(PAGE)}") if offer.kind == "hub" else (4, f"sent {len(PAGE)} bytes .* proxy's page")
    fails(offer, here, code, said)


def test_a_page_padded_to_the_size_of_the_file(offer: Published, here: Here) -> None:
    padded = PAGE.ljust(len(offer.content))
    offer.strike("status", status=200, body=padded)
    fails(offer, here, 4, "expected [0-9a-f]{64}")


def test_a_page_instead_of_the_hub(on_hub: Published, here: Here) -> None:
    on_hub.server.faults.append(Fault(".", None, "html"))
    fails(on_hub, here, 5, r"Hub somebody/wrn_16_1-hub: \w+Error: ")


@pytest.mark.parametrize("status", [500, 503])
def test_the_hub_itself_is_away(on_hub: Published, here: Here, status: int) -> None:
    on_hub.server.faults.append(Fault("^HEAD ", 2, "status", status=status))
    heals(on_hub, here, asked=1)
    forget_everything(here.folder)
    on_hub.server.faults.append(Fault("^HEAD ", None, "status", status=status))
    fails(on_hub, here, 5, f"{status} .*; try again later")


def test_nobody_listens(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9"
    with monkeypatch.context() as patched:
        template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
        patched.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        if offer.kind == "origin":
            url = offer.entry["origin"]["url"]
            offer.entry["origin"]["url"] = url.replace(offer.server.url, nowhere)
            here.use(offer)
        ran = here("fetch", offer.id)
        assert (ran.code, "Connection refused; try again later" in ran.err) == (5, True), ran.err
        nothing_is_left(here.folder)
    if offer.kind == "origin":
        offer.entry["origin"]["url"] = url
        here.use(offer)
    here.gets(offer)


# everybody's header, which the client reads since 2.0, and the Hub's own
LIMITS = {"RateLimit": '"resolvers";r=0;t=37'}
if CLIENT >= 2:
    LIMITS["Retry-After"] = "37"


def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would have slept, which it does not."""
    slept: list[float] = []
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", types.SimpleNamespace(**vars(time) | {"sleep": slept.append}))
    return slept


@pytest.mark.parametrize("limit", LIMITS)
def test_a_rate_limit_says_how_long_to_wait(
    offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    slept = waits(monkeypatch)
    offer.strike("status", 2, status=429, headers={limit: LIMITS[limit]})
    heals(offer, here, asked=3)
    assert len([seconds for seconds in slept if 37 <= seconds <= 40]) == 2, slept


@pytest.mark.parametrize("limit", LIMITS)
def test_a_rate_limit_where_the_hub_is_asked_about_the_file(
    on_hub: Published, here: Here, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    slept = waits(monkeypatch)
    on_hub.server.faults.append(Fault("^HEAD ", 2, "status", status=429, headers={limit: LIMITS[limit]}))
    heals(on_hub, here, asked=1)
    assert [seconds for seconds in slept if seconds >= 37], slept


@pytest.mark.parametrize("options", [(), ("--force",)])
@pytest.mark.parametrize("user", ["nobody", "guest"])
def test_a_gated_repository(
    on_hub: Published, here: Here, monkeypatch: pytest.MonkeyPatch, user: str, options: tuple[str, ...]
) -> None:
    on_hub.server.gate(on_hub.repo_id)
    if user == "guest":
        monkeypatch.setenv("HF_TOKEN", on_hub.server.guest_token)
    ran = here("fetch", *options, on_hub.id)
    page = f"https://huggingface.co/{on_hub.repo_id}"
    assert f"access is granted on {page} only; ask there, then set HF_TOKEN" in ran.err
    assert ran.code == 5
    nothing_is_left(here.folder)
    monkeypatch.setenv("HF_TOKEN", on_hub.server.token)
    here.gets(on_hub)


def test_a_token_that_is_refused(on_hub: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    ran = here("fetch", on_hub.id)
    assert (ran.code, "is HF_TOKEN still valid? Renew it, or unset it" in ran.err) == (5, True), ran.err
    nothing_is_left(here.folder)
    monkeypatch.delenv("HF_TOKEN")
    here.gets(on_hub)


def test_a_private_repository(on_hub: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    on_hub.server.private(on_hub.repo_id)
    ran = here("fetch", on_hub.id)
    assert (ran.code, "or it is private: set HF_TOKEN to see it" in ran.err) == (5, True), ran.err
    monkeypatch.setenv("HF_TOKEN", on_hub.server.token)
    here.gets(on_hub)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("repo_id", "no/body", r"Hub no/body: there is no such repository, or it is private"),
        ("revision", "a" * 40, r"it has no revision a{40} \(any more\); look at https://huggingface\.co/somebody/wrn"),
        ("filename", "no.safetensors", r"there is no no\.safetensors at [0-9a-f]{40}; look at https://huggingface\.co"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--force",)])
def test_what_the_hub_does_not_have(
    on_hub: Published, here: Here, field: str, value: str, said: str, options: tuple[str, ...]
) -> None:
    right = on_hub.entry["hub"][field]
    on_hub.entry["hub"][field] = value
    here.use(on_hub)
    ran = here("fetch", *options, on_hub.id)
    assert ran.code == 5
    assert re.search(said, ran.err), ran.err
    nothing_is_left(here.folder)
    on_hub.entry["hub"][field] = right
    here.use(on_hub)
    here.gets(on_hub)


def test_fetching_anew_is_as_patient(on_hub: Published, here: Here) -> None:
    here.gets(on_hub)
    on_hub.server.faults.append(Fault("^HEAD ", 2, "status", status=503))
    assert here("fetch", "--force", on_hub.id).code == 0
    assert on_hub.bodies() == 2
    on_hub.server.faults.append(Fault("^HEAD ", None, "status", status=503))
    ran = here("fetch", "--force", on_hub.id)
    assert (ran.code, "503 " in ran.err) == (5, True), ran.err
    here.gets(on_hub)  # what was here before is still good


def test_a_server_that_drips(offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WINDOW_SECONDS", 0.2)
    offer.strike("drip", seconds=0.02)
    fails(offer, here, 5, r"the server sent \d+ bytes in \d s, too few for a download; try again later")


@pytest.mark.parametrize("after", [None, 0, 1000])
def test_a_server_that_falls_silent(
    offer: Published, here: Here, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", 0.3)
    if CLIENT >= 2 or after is not None or offer.kind == "origin":  # before, the client asked for a body only once
        offer.strike("stall", 1, after=after)
        heals(offer, here, asked=2)
        forget_everything(here.folder)
    offer.strike("stall", after=after)
    fails(offer, here, 5, r"timed out")


def test_what_was_good_and_is_altered_later(offer: Published, here: Here) -> None:
    (row,) = here.gets(offer).rows
    path, asked = Path(row["path"]), offer.bodies()
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.resolve().write_bytes(content)
    ran = here("fetch", offer.id)
    assert ran.code == 4
    assert f"is altered: its sha256 is {file_hash(path)}, expected {row['sha256']}" in ran.err
    assert f"`pyramidzoo fetch --force {offer.id}` makes it anew" in ran.err
    assert here("verify", offer.id).code == 4
    assert offer.bodies() == asked
    assert here("fetch", "--force", offer.id).rows == [{**row, "from": offer.kind}]
    assert here.gets(offer).rows == [row | {"from": "cache"}]


def test_a_good_file_that_was_cut_or_taken_away(offer: Published, here: Here) -> None:
    (row,) = here.gets(offer).rows
    path = Path(row["path"])
    os.truncate(path.resolve(), 1000)
    assert here("fetch", offer.id).code == 4
    assert here("fetch", "--force", offer.id).code == 0
    path.unlink()  # of the Hub's cache, the link
    assert here.gets(offer).rows[0]["sha256"] == row["sha256"]
    path.resolve().unlink()
    assert here.gets(offer).rows[0]["sha256"] == row["sha256"]
    forget_everything(here.folder)
    assert here("verify", offer.id).code == 5
    here.gets(offer)


def test_a_wrong_hash_in_the_manifest(offer: Published, here: Here) -> None:
    place = offer.entry["hub"] or offer.entry["origin"]["hash"]
    field = "sha256" if offer.kind == "hub" else "value"
    right, wrong = place[field], "0" * 64
    place[field] = wrong
    here.use(offer)
    ran = here("fetch", offer.id)
    assert (ran.code, f"{right}, expected {wrong}" in ran.err) == (4, True), ran.err
    nothing_is_left(here.folder)
    place[field] = right
    here.use(offer)
    here.gets(offer)
    place[field] = wrong  # an erratum: what was good is good no longer
    here.use(offer)
    assert here("fetch", offer.id).code == 4


@pytest.mark.parametrize(
    "offer",
    [
        "hub",
        "origin",
    ],
    indirect=True,
)
def test_wrong_tensors_in_the_manifest(offer: Published, here: Here) -> None:
    right, offer.entry["tensors_sha256"] = offer.entry["tensors_sha256"], "0" * 64
    here.use(offer)
    ran = here("fetch", offer.id)
    assert (ran.code, "the manifest says 0000" in ran.err) == (4, True), ran.err
    nothing_is_left(here.folder)
    offer.entry["tensors_sha256"] = right
    here.use(offer)
    here.gets(offer)


def test_known_tensors_vouch_where_no_file_hash_does(on_hub: Published, here: Here) -> None:
    on_hub.entry["hub"]["sha256"] = None
    here.use(on_hub)
    on_hub.strike("same_size_corruption", offset=-9)
    fails(on_hub, here, 4, r"tensors .* the manifest says")


# processes


@dataclasses.dataclass
class Processes:
    """A network to fetch, and processes that fetch it into caches of their own."""

    offer: Published
    folder: Path
    forks: Forks
    env: dict[str, str]

    def start(self, **settings: Any) -> Running:
        return self.forks.start("fetch", self.offer.id, **self.env, **settings)

    def gets(self) -> Ran:
        """Fetch it without any fault, and require that all is right and nothing else is there."""
        self.offer.server.faults.clear()
        ran = self.start().ends()
        assert ran.code == 0, ran.err
        assert "waiting for another process" not in ran.err
        self.is_right(ran)
        return ran

    def is_right(self, ran: Ran) -> None:
        (row,) = ran.rows
        assert self.offer.is_right(Path(row["path"]))
        assert row["sha256"] == file_hash(Path(row["path"]))
        converted = [f"weights/{self.offer.id}.json", f"weights/{self.offer.id}.safetensors"]
        assert files_in(self.folder / "cache") == (converted if self.offer.kind == "origin" else [])
        no_lock_is_held(self.folder)


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("processes"), {}) as forks:
        forks.run("list", "resnet20")  # it has started
        yield forks


@pytest.fixture(params=KINDS)
def processes(request: pytest.FixtureRequest, forks: Forks, tmp_path: Path) -> Iterator[Processes]:
    with HubServer() as server:
        offer = publish(server, request.param, "wrn_40_2")
        assert len(offer.content) > 8 << 20
        yield Processes(offer, tmp_path, forks, for_children(server, tmp_path, offer))


def slowly(offer: Published, seconds: float) -> None:
    """Have the file take at least so long to send."""
    offer.strike("pause", seconds=seconds / 50, size=len(offer.content) // 50)


@contextlib.contextmanager
def cancel_on(condition: Callable[[], object]) -> Iterator[None]:
    """Wait for what must come."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
    yield


@pytest.mark.kill
def test_killed_at_any_moment(processes: Processes) -> None:
    offer, draw = processes.offer, random.Random(processes.offer.kind)
    slowly(offer, 0.4)
    started = time.monotonic()
    processes.is_right(processes.start().ends())
    undisturbed, killed = time.monotonic() - started, 0
    for _ in range(10):
        forget_everything(processes.folder)
        slowly(offer, 0.4)
        running = processes.start()
        time.sleep(draw.uniform(0, undisturbed))
        os.kill(running.pid, signal.SIGKILL)
        killed += running.ends().code == -signal.SIGKILL
        processes.gets()
        assert processes.start().ends().rows[0]["from"] == "cache"
    assert killed >= 3


@pytest.mark.kill
def test_killed_again_and_again(processes: Processes) -> None:
    """What several leave behind in one cache is swept up by the one that is let be."""
    offer = processes.offer
    for pieces in (5, 25, 45):
        slowly(offer, 5)
        before = offer.bodies()
        running = processes.start()
        with cancel_on(lambda before=before: offer.bodies() > before):
            time.sleep(pieces / 100)
        os.kill(running.pid, signal.SIGKILL)
        assert running.ends().code == -signal.SIGKILL
        offer.server.faults.clear()
    left = files_in(processes.folder / ("hub" if offer.kind == "hub" else "cache"))
    assert left, "a killed process cannot clean up"
    assert not any(name.endswith(".safetensors") for name in left)
    processes.gets()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(processes: Processes, number: signal.Signals) -> None:
    offer = processes.offer
    slowly(offer, 30)
    running = processes.start()
    with cancel_on(offer.bodies):
        time.sleep(0.3)
    started = time.monotonic()
    os.kill(running.pid, number)
    ran = running.ends()
    assert ran.code == 130, ran.err
    assert ran.err.endswith("pyramidzoo: interrupted\n")
    assert time.monotonic() - started < SOON
    nothing_is_left(processes.folder)
    processes.gets()


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "truncate", "after": None}],
    ids=["server in trouble", "no answer"],
)
def test_interrupted_before_another_attempt(processes: Processes, fault: dict[str, Any]) -> None:
    processes.offer.strike(**fault)
    running = processes.start()
    with cancel_on(lambda: processes.offer.bodies() >= 2):
        os.kill(running.pid, signal.SIGINT)
    started = time.monotonic()
    assert running.ends().code == 130
    assert time.monotonic() - started < 2 * SOON
    nothing_is_left(processes.folder)
    processes.gets()


def test_interrupted_while_another_process_fetches(processes: Processes) -> None:
    lock = processes.folder / "cache" / "locks" / f"{processes.offer.id}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        running = processes.start()
        with cancel_on(lambda: "waiting for another process that fetches" in running.said()):
            os.kill(running.pid, signal.SIGINT)
        started = time.monotonic()
        assert running.ends().code == 130
        assert time.monotonic() - started < SOON
    processes.gets()


def test_eight_processes_at_once(processes: Processes) -> None:
    slowly(processes.offer, 0.5)
    ended = [running.ends() for running in [processes.start() for _ in range(8)]]
    assert [ran.code for ran in ended] == [0] * 8
    assert len({ran.rows[0]["sha256"] for ran in ended}) == 1
    assert sorted(ran.rows[0]["from"] for ran in ended) == sorted([processes.offer.kind] + ["cache"] * 7)
    assert processes.offer.bodies() == 1
    processes.is_right(ended[0])


def test_the_owner_of_a_lock_dies_while_others_wait(processes: Processes) -> None:
    offer = processes.offer
    slowly(offer, 30)
    first = processes.start()
    with cancel_on(offer.bodies):
        others = [processes.start() for _ in range(3)]
    with cancel_on(lambda: all("waiting for another process" in other.said() for other in others)):
        offer.server.faults.clear()
    os.kill(first.pid, signal.SIGKILL)
    assert first.ends().code == -signal.SIGKILL
    ended = [running.ends() for running in others]
    assert [ran.code for ran in ended] == [0] * 3
    assert offer.bodies() == 2
    for ran in ended:
        processes.is_right(ran)


def test_offline(processes: Processes) -> None:
    missing = processes.start(HF_HUB_OFFLINE="1").ends()
    assert missing.code == 5
    assert "offline, as HF_HUB_OFFLINE says" in missing.err
    assert "Fetch it where there is a network, or name a folder" in missing.err
    assert processes.offer.server.requests == []
    nothing_is_left(processes.folder)
    (row,) = processes.gets().rows
    asked = len(processes.offer.server.requests)
    there = processes.start(HF_HUB_OFFLINE="1").ends()
    assert there.code == 0
    assert there.rows == [row | {"from": "cache"}]
    assert processes.forks.run("fetch", "--force", processes.offer.id, **processes.env, HF_HUB_OFFLINE="1").code == 5
    assert processes.start(HF_HUB_OFFLINE="1").ends().rows == there.rows
    assert len(processes.offer.server.requests) == asked


_RANK = """\
import sys
import pyramidzoo
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256

for weights in sys.argv[1:]:
    model = pyramidzoo.create_model(weights.partition(".")[0], weights=weights)
    sys.stdout.write(f"{weights} {tensors_sha256(model.state_dict())}\\n")  # at once, for the others write too
    sys.stdout.flush()
"""


def test_four_ranks_of_torchrun(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(_RANK)
    with HubServer() as server:
        offers = [publish(server, "hub", "wrn_16_1"), publish(server, "origin", "wrn_16_2")]
        for offer in offers:
            slowly(offer, 1)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4"]
        launch += ["--master-addr", "127.0.0.1", "--master-port", "0"]
        ran = subprocess.run(
            [*launch, str(tmp_path / "rank.py"), *(offer.id for offer in offers)],
            env=environment(for_children(server, tmp_path, *offers)),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        lines = ran.stdout.splitlines()
        for offer in offers:
            assert lines.count(f"{offer.id} {offer.entry['tensors_sha256']}") == 4
            assert offer.bodies() == 1
    no_lock_is_held(tmp_path)


# disks


def test_a_disk_that_is_full(processes: Processes) -> None:
    """Caches on a file system of 1 MiB; where this user may not mount one, no file may be larger than that."""
    disk = processes.folder / "disk"
    disk.mkdir()
    env = processes.env | {"PYRAMIDZOO_CACHE": f"{disk}/cache", "HF_HUB_CACHE": f"{disk}/hub"}
    prefix = in_a_namespace(f"mount -t tmpfs -o size=1m tmpfs {disk}")
    limit = None if prefix else 1 << 20
    with Forks(processes.folder, {}, prefix) as forks:
        # then there is room for what comes, and none for what it is converted to
        for size in ["1m", "12m"] if prefix and processes.offer.kind == "origin" else ["1m"]:
            if prefix:
                forks.shell(f"mount -o remount,size={size} {disk}")
            ran = forks.run("fetch", processes.offer.id, largest_file=limit, **env)
            assert ran.code == 5
            assert re.search(r"cannot write .*: .*(No space left on device|File too large)", ran.err), ran.err
            forks.shell(f"test -z \"$(find {disk} -name '*.safetensors' -o -name 'net.bin')\"")
        if prefix:
            forks.shell(f"mount -o remount,size=64m {disk}")
        again = forks.run("fetch", processes.offer.id, **env)
        assert again.code == 0, again.err
        forks.shell(f"cp -L {again.rows[0]['path']} {processes.folder / 'kept.safetensors'}")
    assert processes.offer.is_right(processes.folder / "kept.safetensors")


def test_a_cache_that_cannot_be_written(processes: Processes) -> None:
    """Caches on a file system mounted read-only; where this user may not do that, no file may be larger than 1 MiB."""
    offer, folder = processes.offer, processes.folder
    known = publish(offer.server, offer.kind, "wrn_16_1")
    env = for_children(offer.server, folder, offer, known)
    (row,) = processes.forks.run("fetch", known.id, **env).rows
    before = files_in(folder)
    places = [f"mount --bind {folder / name} {folder / name}" for name in ("cache", "hub", "home")]
    places += [f"mount -o remount,bind,ro {folder / name}" for name in ("cache", "hub", "home")]
    for name in ("cache", "hub", "home"):
        (folder / name).mkdir(exist_ok=True)
    prefix = in_a_namespace(*places)
    with Forks(folder, {}, prefix) as forks:
        cached = forks.run("fetch", known.id, **env)
        assert cached.rows == [row | {"from": "cache"}]
        assert forks.run("verify", known.id, **env).code == 0
        ran = forks.run("fetch", offer.id, largest_file=None if prefix else 1 << 20, **env)
        assert ran.code == 5
        assert re.search(r"cannot write to .*: (Read-only file system|File too large); name another in", ran.err)
    assert [name for name in files_in(folder) if not name.startswith("logs/")] == before
    assert processes.forks.run("fetch", offer.id, **env).code == 0
