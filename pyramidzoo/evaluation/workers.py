"""Evaluate many sets of weights with all processes of a command.

There is one process, or several under torchrun. Each process predicts its own units of work, and
the first one judges. The processes exchange nothing while networks run; at the end each one sends
its results to the first one. With an output folder, the predictions are in files there by then. So
a worker that is killed, and that torchrun starts again, loses one unit of work on a CPU and two on
a GPU.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.evaluation.evaluation_target import LoadedModel
from pyramidzoo.evaluation.judging import conclude
from pyramidzoo.evaluation.planning import Job, without_range
from pyramidzoo.evaluation.predicting import predict
from pyramidzoo.evaluation.predictions import Part
from pyramidzoo.evaluation.prefetching import ModelPrefetcher
from pyramidzoo.evaluation.records import Record

# How long the first process waits for the slowest one. It is long, because torchrun ends all
# processes if one fails.
_GATHER_TIMEOUT = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Worker:
    """One process among those of a command.

    Attributes:
        rank: Rank among all processes.
        count: Number of processes.
        local_rank: Rank among the processes of this machine.
        starts_left: How often torchrun will start all processes again if one of them fails.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    starts_left: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process judges and reports."""
        return self.rank == 0


@dataclass(frozen=True)
class Failure:
    """The reason why there is no number for one set of weights.

    Attributes:
        name: Name of the weights.
        error: Message of the error.
        exit_code: Exit code of the error.
    """

    name: str
    error: str
    exit_code: int

    @classmethod
    def of(cls, name: str, error: PyramidzooError | OSError) -> Failure:
        """Make the failure that an error means for some weights."""
        reported = error if isinstance(error, PyramidzooError) else UnavailableError.from_os_error(error)
        return cls(name, str(reported), reported.exit_code)


@dataclass
class WorkerOutput:
    """What one process did of one job.

    Attributes:
        common: What all units of the job have in common: everything that predictions depend on.
        parts: The predictions, if the job has no folder for them.
        reused_files: How many prediction files were there before.
        seconds: How long it took.
    """

    common: dict[str, Any]
    parts: list[Part]
    reused_files: int
    seconds: float


@dataclass
class EntryOutput:
    """What one process did for one set of weights.

    Attributes:
        name: Name of the weights.
        outputs: One output for the job, and one for the strict job if there is one; empty after a
            failure.
        failure: Why the process failed, if it did.
    """

    name: str
    outputs: list[WorkerOutput] = field(default_factory=list)
    failure: Failure | None = None


def this_worker() -> Worker:
    """Return which worker this process is, from the variables of torchrun.

    Without torchrun there is only one.
    """
    if not torch.distributed.is_torchelastic_launched():
        return Worker()
    rank, count, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    max_restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    return Worker(rank, count, local_rank, max(0, max_restarts - restarts))


def evaluate_all(
    names: Sequence[str], load: Callable[[int], LoadedModel], plan: Callable[[LoadedModel], Job], worker: Worker
) -> Iterator[Record | Failure]:
    """Evaluate many sets of weights. All processes of a command share the work.

    A failure in any process is a failure of these weights alone; the others are still evaluated.
    While one set of weights is evaluated, the next one is loaded.

    Args:
        names: Names of the weights, for messages.
        load: Loads the weights that have a position in `names`.
        plan: Plans the evaluation of a loaded model.
        worker: This process.

    Yields:
        A record or a failure for each set of weights, in order. Only the first process yields them:
        at once if it is the only process, else after all processes have finished.
    """
    jobs: list[Job | None] = []
    outputs: list[EntryOutput] = []
    with ModelPrefetcher(load, len(names)) as prefetcher:
        for position, name in enumerate(names):
            job, output = _predict_own_units(position, name, prefetcher.load_next, plan, worker)
            if worker.count == 1:
                yield _conclude_entry(job, [output])
            else:
                jobs.append(job if worker.is_first else None)
                outputs.append(output)
    if worker.count == 1:
        return
    outputs_by_rank = _gather(outputs, worker)
    if worker.is_first:
        for job, *entry_outputs in zip(jobs, *outputs_by_rank, strict=True):
            yield _conclude_entry(job, entry_outputs)


def _predict_own_units(
    position: int,
    name: str,
    load_next: Callable[[], LoadedModel],
    plan: Callable[[LoadedModel], Job],
    worker: Worker,
) -> tuple[Job | None, EntryOutput]:
    """Load the next weights, and predict this process's units of their jobs."""
    output, job = EntryOutput(name), None
    try:
        job = plan(load_next())
        # The strict job runs first: both can share a network, and the other job can change its
        # memory layout.
        strict_first = [_predict_job(each, position, worker) for each in reversed(_list_jobs(job))]
        output.outputs = strict_first[::-1]
    except (PyramidzooError, OSError) as error:
        output.failure = Failure.of(name, error)
    return job, output


def _list_jobs(job: Job) -> list[Job]:
    return [job] if job.strict_job is None else [job, job.strict_job]


def _predict_job(job: Job, position: int, worker: Worker) -> WorkerOutput:
    """Predict every n-th unit of a job, where n is the number of processes.

    Another process begins for each position.
    """
    units = [unit for turn, unit in enumerate(job.units, start=position) if turn % worker.count == worker.rank]
    parts = predict(job, units)
    return WorkerOutput(without_range(job.units[0]), parts, job.reused_files, job.seconds)


def _conclude_entry(job: Job | None, entry_outputs: Sequence[EntryOutput]) -> Record | Failure:
    """Join what all processes did for one set of weights, and judge it."""
    name = entry_outputs[0].name
    for entry_output in entry_outputs:
        if entry_output.failure:
            return entry_output.failure
    assert job is not None, "a job is missing only after a failure of the first process"
    outputs_by_job = list(zip(*(entry_output.outputs for entry_output in entry_outputs), strict=True))
    for each, outputs in zip(_list_jobs(job), outputs_by_job, strict=True):
        disagreement = _describe_disagreement([output.common for output in outputs])
        if disagreement:
            return Failure(name, disagreement, UnavailableError.exit_code)
        each.reused_files = sum(output.reused_files for output in outputs)
        each.seconds = max(output.seconds for output in outputs)
    try:
        return conclude(job, *(chain.from_iterable(output.parts for output in outputs) for outputs in outputs_by_job))
    except (PyramidzooError, OSError) as error:
        return Failure.of(name, error)


def _describe_disagreement(commons: Sequence[dict[str, Any]]) -> str | None:
    """Describe in what the processes differ, if their predictions depend on different things."""
    keys = sorted({key for common in commons for key in common if common[key] != commons[0][key]})
    if not keys:
        return None
    values = ", ".join(f"{key} {common[key]}" for key in keys for common in commons)
    advice = "a -b that fits into the memory of all" if keys == ["batch_size"] else "the same machine and versions"
    return f"the processes do not agree ({values}); give all of them {advice}"


def _gather(outputs: list[EntryOutput], worker: Worker) -> list[list[EntryOutput]]:
    """Send this process's outputs to the first process.

    Return those of all processes there, and nothing elsewhere.
    """
    from torch import distributed

    with _stdout_to_stderr():
        distributed.init_process_group("gloo", timeout=_GATHER_TIMEOUT)
    try:
        outputs_by_rank: list[Any] | None = [None] * worker.count if worker.is_first else None
        distributed.gather_object(outputs, outputs_by_rank)
        return outputs_by_rank or []
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what libraries print to stdout, which is for data.

    PyTorch 2.10's Gloo prints its connections.
    """
    sys.stdout.flush()
    stdout_copy = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout_copy, 1)
        os.close(stdout_copy)
