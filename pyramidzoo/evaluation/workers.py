"""Evaluate many sets of weights with all processes of a command.

There is one process, or several under torchrun. Each process predicts its own units of work. The
processes exchange nothing while networks run. At the end each process sends its results to the
first process, which judges them. With an output folder, the predictions of each unit are written to
a file as soon as they are complete. So if a process is killed, and torchrun starts it again, only
the work on unfinished units is lost: one unit on a CPU, two units on a GPU.
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
from pyramidzoo.evaluation.planning import Job, remove_range
from pyramidzoo.evaluation.predicting import predict
from pyramidzoo.evaluation.predictions import Part
from pyramidzoo.evaluation.prefetching import ModelPrefetcher
from pyramidzoo.evaluation.records import Record

# How long the first process waits for the slowest one. It may be long: if a process fails, torchrun
# ends all the others, so nobody waits for a process that has failed.
_GATHER_TIMEOUT = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Worker:
    """This process, as one of the processes of a command.

    Attributes:
        rank: Rank among all processes.
        count: Number of processes.
        local_rank: Rank among the processes of this machine.
        starts_left: How many more times torchrun would start all processes again after a failure.
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
    def from_error(cls, name: str, error: PyramidzooError | OSError) -> Failure:
        """Make the failure of the weights with this name from the error that was raised."""
        reported = error if isinstance(error, PyramidzooError) else UnavailableError.from_os_error(error)
        return cls(name, str(reported), reported.exit_code)


@dataclass
class WorkerOutput:
    """The results of one process for one job.

    Attributes:
        dependencies: Everything that the job's predictions depend on. It must be equal in all
            processes.
        parts: The predictions, if the job has no folder for them; else empty.
        reused_files: How many prediction files of an earlier run the process used.
        seconds: How long the computation took.
    """

    dependencies: dict[str, Any]
    parts: list[Part]
    reused_files: int
    seconds: float


@dataclass
class EntryOutput:
    """The results of one process for one set of weights.

    Attributes:
        name: Name of the weights.
        outputs: The output of the job, then the output of the strict job if there is one. Empty
            after a failure.
        failure: Why the process failed; None if it did not fail.
    """

    name: str
    outputs: list[WorkerOutput] = field(default_factory=list)
    failure: Failure | None = None


def get_this_worker() -> Worker:
    """Describe this process, as torchrun's environment variables tell. Without torchrun it is the only process."""
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

    If one process fails for a set of weights, then this set has no result, and the next sets are
    still evaluated. While one set of weights is evaluated, the next one is loaded.

    Args:
        names: Names of the weights, for messages.
        load: Function that loads the weights of a position in `names`.
        plan: Function that plans the evaluation of a loaded model.
        worker: This process.

    Yields:
        A record or a failure for each set of weights, in order. A process that is alone yields each
        one as soon as it is known. Among several processes, only the first one yields them, when
        all processes have finished.
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
    outputs_by_rank = _gather_outputs(outputs, worker)
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
    """Load the next weights, plan their jobs, and predict this process's units.

    Args:
        position: Position of the weights among all weights.
        name: Name of the weights.
        load_next: Function that loads these weights.
        plan: Function that plans the evaluation of a loaded model.
        worker: This process.

    Returns:
        The job, or None if the weights could not be loaded or the job could not be planned; and the
        results of this process.
    """
    output, job = EntryOutput(name), None
    try:
        job = plan(load_next())
        # The strict job runs first. Both jobs can use the same network object, and the other job can change the
        # memory layout of its weights.
        outputs_strict_first = [_predict_job(each, position, worker) for each in reversed(_list_jobs(job))]
        output.outputs = outputs_strict_first[::-1]
    except (PyramidzooError, OSError) as error:
        output.failure = Failure.from_error(name, error)
    return job, output


def _list_jobs(job: Job) -> list[Job]:
    """Return a job, and after it its strict job if it has one."""
    return [job] if job.strict_job is None else [job, job.strict_job]


def _predict_job(job: Job, position: int, worker: Worker) -> WorkerOutput:
    """Predict this process's units of a job.

    The units are given to the processes in turn. For the weights at position p, the turns begin with
    the process of rank p modulo the number of processes. Otherwise the first process would always
    get the most units.
    """
    units = [unit for turn, unit in enumerate(job.units, start=position) if turn % worker.count == worker.rank]
    parts = predict(job, units)
    return WorkerOutput(remove_range(job.units[0]), parts, job.reused_files, job.seconds)


def _conclude_entry(job: Job | None, entry_outputs: Sequence[EntryOutput]) -> Record | Failure:
    """Join the results of all processes for one set of weights, and judge them."""
    name = entry_outputs[0].name
    for entry_output in entry_outputs:
        if entry_output.failure:
            return entry_output.failure
    assert job is not None, "a job is missing only after a failure of the first process"
    # For the job, and for the strict job if there is one: the outputs of all processes.
    outputs_by_job = list(zip(*(entry_output.outputs for entry_output in entry_outputs), strict=True))
    for each, outputs in zip(_list_jobs(job), outputs_by_job, strict=True):
        disagreement = _describe_disagreement([output.dependencies for output in outputs])
        if disagreement:
            return Failure(name, disagreement, UnavailableError.exit_code)
        each.reused_files = sum(output.reused_files for output in outputs)
        each.seconds = max(output.seconds for output in outputs)
    try:
        return conclude(job, *(chain.from_iterable(output.parts for output in outputs) for outputs in outputs_by_job))
    except (PyramidzooError, OSError) as error:
        return Failure.from_error(name, error)


def _describe_disagreement(dependencies_by_process: Sequence[dict[str, Any]]) -> str | None:
    """Describe in which dependencies of a job the processes differ; None if all are equal."""
    first, *others = dependencies_by_process
    keys = sorted({key for other in others for key in other if other[key] != first[key]})
    if not keys:
        return None
    values = ", ".join(f"{key} {dependencies[key]}" for key in keys for dependencies in dependencies_by_process)
    advice = "a -b that fits into the memory of all" if keys == ["batch_size"] else "the same machine and versions"
    return f"the processes do not agree ({values}); give all of them {advice}"


def _gather_outputs(outputs: list[EntryOutput], worker: Worker) -> list[list[EntryOutput]]:
    """Send this process's outputs to the first process.

    Return the outputs of all processes, by rank, in the first process. Return an empty list in the
    other processes.
    """
    from torch import distributed

    with _redirect_stdout_to_stderr():
        distributed.init_process_group("gloo", timeout=_GATHER_TIMEOUT)
    try:
        outputs_by_rank: list[Any] | None = [None] * worker.count if worker.is_first else None
        distributed.gather_object(outputs, outputs_by_rank)
        return outputs_by_rank or []
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _redirect_stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what C++ libraries print to stdout, inside a `with` block.

    stdout is only for the data of a command, and PyTorch 2.10's library Gloo prints its connections.
    Such a library does not use `sys.stdout`, so the file descriptor itself (1) is replaced.
    """
    sys.stdout.flush()
    stdout_copy = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(stdout_copy, 1)
        os.close(stdout_copy)
