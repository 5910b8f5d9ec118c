"""Several processes under torchrun do the work of one command: each its own units, and one of them reduces.

Nothing is exchanged while networks run. What a process has done goes to the first one at the end, and with an output
folder it lies there already, so that a worker that is killed, and started again by torchrun, loses one unit, on a GPU
two.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.evaluation.evaluation_target import LoadedModel
from pyramidzoo.evaluation.harness import Job, conclude, work
from pyramidzoo.evaluation.predictions import Part
from pyramidzoo.evaluation.records import Record
from pyramidzoo.weights.context import cancel_on

_WAITING = datetime.timedelta(days=7)  # for the slowest of the others; torchrun ends everything when one of them fails


@dataclass(frozen=True)
class Worker:
    """This process among `count` of them: its `rank` among all, and among those of its machine.

    `starts_left` is how often torchrun will start them again where one of them fails.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    starts_left: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class Failure:
    """Why there is no number for one set of weights."""

    name: str
    error: str
    exit_code: int

    @classmethod
    def of(cls, name: str, error: PyramidzooError | OSError) -> Failure:
        known = error if isinstance(error, PyramidzooError) else UnavailableError.of(error)
        return cls(name, str(known), known.exit_code)


@dataclass
class WorkerOutput:
    """One process's part of a job: parts where there is no folder, and what all its units have in common."""

    unit: dict[str, Any]
    parts: list[Part]
    reused: int
    seconds: float


@dataclass
class EntryOutput:
    """What one process has of one set of weights: its share of the job and of the strict one, or why it failed."""

    name: str
    shares: list[WorkerOutput] = field(default_factory=list)
    failure: Failure | None = None


def this_worker() -> Worker:
    """What torchrun says of this process; outside of torchrun it is the only one."""
    if not torch.distributed.is_torchelastic_launched():
        return Worker()
    rank, count, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    started, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return Worker(rank, count, local_rank, max(0, most - started))


def evaluate_all(
    names: Sequence[str], load: Callable[[int], LoadedModel], plan: Callable[[LoadedModel], Job], worker: Worker
) -> Iterator[Record | Failure]:
    """Evaluate many sets of weights, which `load` makes by their position, with all processes of a command.

    Each is loaded while the one before it runs, in a thread. The units are dealt in turn, beginning with another
    process for each set. The first process yields a record or a failure for each, in order: at once where it is the
    only one, else when all are done. The others yield nothing. A failure, in whatever process, is one of these weights
    alone.
    """
    mine: list[tuple[Job | None, EntryOutput]] = []
    with contextlib.closing(_ahead(load, len(names))) as coming:
        for position, loaded in enumerate(coming):
            job, done = _share(position, names[position], loaded, plan, worker)
            if worker.count == 1:
                yield _concluded(job, [done])
            else:
                mine.append((job if worker.is_first else None, done))
    if worker.count == 1:
        return
    everybody = _gathered([done for _, done in mine], worker)
    if worker.is_first:
        for (job, _), of_all in zip(mine, zip(*everybody, strict=True), strict=True):
            yield _concluded(job, of_all)


def _ahead(load: Callable[[int], LoadedModel], count: int) -> Generator[Future[LoadedModel], None, None]:
    """What `load` gave or raised for each position; the next one is under way, in a thread, meanwhile."""
    stop = threading.Event()

    def loading(position: int) -> LoadedModel:
        with cancel_on(stop):
            return load(position)

    pool = ThreadPoolExecutor(1, thread_name_prefix="load")
    try:
        coming: list[Future[LoadedModel]] = []
        for position in range(count):
            loaded = coming.pop() if coming else _settled(load, position)  # the first one where an interrupt reaches it
            wait([loaded])
            if position + 1 < count:
                coming.append(pool.submit(loading, position + 1))
            yield loaded
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _settled(load: Callable[[int], LoadedModel], position: int) -> Future[LoadedModel]:
    settled: Future[LoadedModel] = Future()
    try:
        settled.set_result(load(position))
    except (PyramidzooError, OSError) as error:
        settled.set_exception(error)
    return settled


def _share(
    position: int, name: str, loaded: Future[LoadedModel], plan: Callable[[LoadedModel], Job], worker: Worker
) -> tuple[Job | None, EntryOutput]:
    """Do this process's part of one set of weights."""
    done, job = EntryOutput(name), None
    try:
        job = plan(loaded.result())
        # the strict one first: its network is the plain one, which others may change
        done.shares = [_done(each, position, worker) for each in reversed(_jobs(job))][::-1]
    except (PyramidzooError, OSError) as error:
        done.failure = Failure.of(name, error)
    return job, done


def _jobs(job: Job) -> list[Job]:
    return [job] if job.strict is None else [job, job.strict]


def _done(job: Job, position: int, worker: Worker) -> WorkerOutput:
    units = [unit for k, unit in enumerate(job.units, position) if k % worker.count == worker.rank]
    parts = work(job, units)
    unit = {key: value for key, value in job.units[0].items() if key not in ("start", "stop")}
    return WorkerOutput(unit, parts, job.reused, job.seconds)


def _concluded(job: Job | None, done: Sequence[EntryOutput]) -> Record | Failure:
    for one in done:
        if one.failure:
            return one.failure
    assert job is not None  # the first process has failed otherwise
    of_jobs = list(zip(*(one.shares for one in done), strict=True))
    for each, shares in zip(_jobs(job), of_jobs, strict=True):
        units = [share.unit for share in shares]
        different = sorted({key for unit in units for key in unit if unit[key] != units[0][key]})
        if different:
            values = ", ".join(f"{key} {unit[key]}" for key in different for unit in units)
            advice = "a -b that all have memory for" if different == ["batch_size"] else "the same machine and versions"
            return Failure(done[0].name, f"the processes do not agree ({values}); give all of them {advice}", 5)
        each.reused = sum(share.reused for share in shares)
        each.seconds = max(share.seconds for share in shares)
    try:
        return conclude(job, *(chain.from_iterable(share.parts for share in shares) for shares in of_jobs))
    except (PyramidzooError, OSError) as error:
        return Failure.of(done[0].name, error)


def _gathered(mine: list[EntryOutput], worker: Worker) -> list[list[EntryOutput]]:
    """What each process has done, for the first one; the others get nothing."""
    from torch import distributed

    with _data_only():
        distributed.init_process_group("gloo", timeout=_WAITING)
    try:
        found: list[Any] | None = [None] * worker.count if worker.is_first else None
        distributed.gather_object(mine, found)
        return found or []
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _data_only() -> Iterator[None]:
    """What libraries print of themselves goes to stderr: the Gloo of PyTorch 2.10 greets its peers on stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
