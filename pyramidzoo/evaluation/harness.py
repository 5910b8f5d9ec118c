"""One set of weights on one split: predictions in index ranges, reduced to counts, judged, recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pyramidzoo.catalog.manifest import foreign_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import Result, WeightsEntry
from pyramidzoo.data._source import Split
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation import records
from pyramidzoo.evaluation.engine import ComputeSettings, Engine, PreparedNetwork, memory_of
from pyramidzoo.evaluation.environment import device_name, versions
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel, load
from pyramidzoo.evaluation.metrics import STATISTICS, Flips, flips, label_ranks, prediction_sha256
from pyramidzoo.evaluation.predictions import (
    Part,
    Predictions,
    is_valid,
    read_predictions,
    reduce_predictions,
    write_predictions,
)
from pyramidzoo.evaluation.records import ClaimCheck, Record, is_strict, write_record
from pyramidzoo.evaluation.verdicts import Measured, claim_verdict, recorded_verdict
from pyramidzoo.files import make_folder

_BATCHES_PER_FILE = 4  # so that a small set is work for many processes, and little is lost with one


@dataclass
class Job:
    """One evaluation, planned: its units of work are ranges of samples, each of which any process can do.

    With a `folder`, every unit's predictions become a file there; `reused` counts those that were there before.
    `batch_size` is the one in use; the one asked for may be more than the device has memory for. `strict` is the same
    evaluation in strict arithmetic, where this one is to be compared with it. The job lets go of its network when that
    begins its work; `seconds` is what that took.
    """

    subject: EvaluationTarget
    entry: WeightsEntry | None
    images: Split
    preprocessing: Preprocessing
    tensors: str
    parameters: int
    engine: Engine
    form: PreparedNetwork | None
    batch_size: int
    flags: Mapping[str, Any]
    units: list[Mapping[str, Any]] = field(default_factory=list)
    folder: Path | None = None
    strict: Job | None = None
    reused: int = 0
    seconds: float = 0.0

    @property
    def settings(self) -> ComputeSettings:
        return self.engine.settings

    def file_of(self, unit: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / f"predictions-{unit['start']:06d}-{unit['stop']:06d}.safetensors"


def evaluate(
    subject: EvaluationTarget,
    images: Split,
    settings: ComputeSettings,
    *,
    output: Path | None = None,
    compare: bool = False,
) -> Record:
    """Evaluate weights on a split and judge the result.

    With `output`, prediction files and the record stay in `output/NAME/DATASET-SPLIT-PRECISION-HASH` (the hash is of
    all that predictions depend on), and valid prediction files found there are not computed again. With `compare`, it
    is done in strict arithmetic too, and the record lists the predictions that moved. Raises UsageError,
    IntegrityError, UnavailableError; no record is written then.
    """
    loaded = load(subject, images, settings.override)
    job = plan(loaded, Engine(settings), output=output, strict=Engine(strictly(settings)) if compare else None)
    strict = work(job.strict, job.strict.units) if job.strict else []
    return conclude(job, work(job, job.units), strict)


def strictly(settings: ComputeSettings) -> ComputeSettings:
    """The settings for what others are compared with: the same device, batch size and protocol. Raises UsageError."""
    strict = ComputeSettings(settings.device, settings.batch_size, override=settings.override)
    strict = dataclasses.replace(strict, reading=dataclasses.replace(settings.reading, tensor_resize=False))
    if strict == settings:
        raise UsageError("this is the strict evaluation itself: there is nothing to compare it with")
    return strict


def plan(loaded: LoadedModel, engine: Engine, *, output: Path | None = None, strict: Engine | None = None) -> Job:
    """Divide the work. `strict` computes what it is compared with, in batches as large. Raises UnavailableError."""
    engines = [engine, strict] if strict else [engine]
    forms = [each.form(loaded.model, loaded.network) for each in engines]
    size = loaded.preprocessing.input_size
    batch_size = min(each.batch_size(form, size) for each, form in zip(engines, forms, strict=True))
    jobs = [_planned(loaded, each, form, batch_size, output) for each, form in zip(engines, forms, strict=True)]
    jobs[0].strict = jobs[1] if strict else None
    return jobs[0]


def _planned(loaded: LoadedModel, engine: Engine, form: PreparedNetwork, batch_size: int, output: Path | None) -> Job:
    settings = engine.settings
    job = Job(
        subject=loaded.subject,
        entry=loaded.entry,
        images=loaded.images,
        preprocessing=loaded.preprocessing,
        tensors=loaded.tensors,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        engine=engine,
        form=form,
        batch_size=batch_size,
        flags={
            **settings.flags,
            **({"optimized": list(form.passes)} if settings.optimized else {}),
            **loaded.images.flags(settings.reading),
            "batch_size": batch_size,
        },
    )
    shared = _unit(job)
    job.units = [{**shared, "start": start, "stop": stop} for start, stop in _ranges(len(job.images), batch_size)]
    job.folder = None if output is None else _folder(output, job, shared)
    return job


def work(job: Job, units: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Predict some of a job's units: into its folder, where valid files are left as they are, else as parts."""
    parts: list[Part] = []
    if job.folder is None:
        _predict(job, units, lambda unit, part: parts.append(part))
        return parts
    todo = [unit for unit in units if not is_valid(job.file_of(unit), unit)]
    job.reused += len(units) - len(todo)
    if len(todo) < len(units):
        print(
            f"{job.subject.name}: {len(units) - len(todo)} of {len(units)} prediction files are there already",
            file=sys.stderr,
        )

    def keep(unit: Mapping[str, Any], part: Part) -> None:
        write_predictions(job.file_of(unit), part, unit)

    _predict(job, todo, keep)
    return parts


def conclude(job: Job, parts: Iterable[Part], strict: Iterable[Part] = ()) -> Record:
    """Reduce the predictions of all units, those in the folder where there is one, and judge them.

    `strict` are those of the job that this one is compared with. Raises IntegrityError, and gives no number, unless
    every sample was predicted exactly once.
    """
    predictions = _whole(job, parts)
    against = None
    if job.strict is not None:
        reference = _whole(job.strict, strict)
        _kept(job.strict, _record(job.strict, reference))
        against = flips(reference.logits, predictions.logits, predictions.labels)
    return _kept(job, _record(job, predictions, against))


def _whole(job: Job, parts: Iterable[Part]) -> Predictions:
    if job.folder is not None:
        parts = (read_predictions(job.file_of(unit), unit) for unit in job.units)
    return reduce_predictions(parts, len(job.images))


def _kept(job: Job, record: Record) -> Record:
    """The record, written beside its predictions where those are files."""
    if job.folder is not None:
        write_record(job.folder / records.FILE_NAME, record)
    return record


def _record(job: Job, predictions: Predictions, against: Flips | None = None) -> Record:
    """Count, judge and describe."""
    subject, entry, images, settings = job.subject, job.entry, job.images, job.settings
    ranks = label_ranks(predictions.logits, predictions.labels)
    measured = Measured(
        images=len(images),
        top1_correct=int((ranks < 1).sum()),
        top5_correct=int((ranks < 5).sum()),
        prediction_sha256=prediction_sha256(predictions.logits),
    )
    statistics = {name: statistic(ranks < 1) for name, statistic in STATISTICS.items()}
    protocol = protocol_of(job.preprocessing, subject.preprocessing)
    flags = _flags(job)
    if images.not_the_split:
        recorded, detail = recorded_verdict(measured, None)[0], images.not_the_split
    else:
        recorded, detail = recorded_verdict(measured, recorded_result(entry, images.split, protocol))
    # an author is not answerable for our shortcuts: only strict arithmetic is compared with a claim
    judged = is_strict(settings.arithmetic, flags) and not images.not_the_split
    return Record(
        format=records.FORMAT,
        weights=subject.name,
        architecture=subject.architecture,
        arguments=dict(subject.arguments),
        parameters=job.parameters,
        file_sha256=subject.file_sha256,
        tensors_sha256=job.tensors,
        preprocessing_sha256=job.preprocessing.sha256(),
        dataset=images.name,
        split=images.split,
        protocol=protocol,
        dataset_fingerprint=images.fingerprint,
        images=measured.images,
        top1_correct=measured.top1_correct,
        top5_correct=measured.top5_correct,
        statistics=statistics,
        prediction_sha256=measured.prediction_sha256,
        precision=settings.arithmetic,
        device=device_name(settings.device),
        flags=flags,
        versions=versions(),
        command=_command(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_seconds=None if job.reused else round(job.seconds, 3),
        reused_files=job.reused,
        recorded=recorded,
        recorded_detail=detail,
        manifest=foreign_manifest(),
        against_strict=against,
        claims=check_claims(entry, images.split, statistics, measured.images, protocol) if judged else (),
    )


def _command() -> str:
    """The command line of this process, as it can be typed again."""
    name = Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m", "pyramidzoo"] if name == "__main__.py" else [name]), *sys.argv[1:]])


def _flags(job: Job) -> dict[str, Any]:
    """How it was computed, and what of it was asked otherwise."""
    flags = dict(job.flags)
    if job.batch_size != job.settings.batch_size:
        flags["batch_size_asked"] = job.settings.batch_size
    if job.preprocessing != job.subject.preprocessing:
        flags["preprocessing"] = dataclasses.asdict(job.preprocessing)
    if job.images.not_the_split:
        flags["not_the_split"] = job.images.not_the_split
    return flags


def protocol_of(preprocessing: Preprocessing, own: Preprocessing | None = None) -> str:
    """What a network sees of each test image, in the words of the manifest's claims and results.

    They leave out the interpolation, which is the weights' `own`; another one is named.
    """
    if preprocessing.resize is None and preprocessing.crop is None:
        return "full {}x{} image, one pass".format(*preprocessing.input_size[1:])
    text = f"resize {preprocessing.resize}, center crop {preprocessing.crop}, one pass"
    other = own is not None and preprocessing.interpolation != own.interpolation
    return f"{text}, {preprocessing.interpolation}" if other else text


def recorded_result(entry: WeightsEntry | None, split: str, protocol: str | None = None) -> Result | None:
    """The manifest's strict measurement of an entry on a split, by a protocol or its own, if there is one."""
    if entry is None:
        return None
    wanted = split, protocol or protocol_of(entry.preprocessing), "fp32"
    for result in entry.results:
        if (result.split, result.protocol, result.precision) == wanted:
            return result
    return None


def check_claims(
    entry: WeightsEntry | None,
    split: str,
    statistics: Mapping[str, float],
    images: int,
    protocol: str | None = None,
) -> tuple[ClaimCheck, ...]:
    """Every published error of these weights on this split by this protocol, beside ours by its own statistic."""
    return tuple(
        ClaimCheck(
            by=claim.by,
            published=str(claim.top1_error),
            statistic=claim.statistic,
            ours=statistics[claim.statistic],
            verdict=claim_verdict(claim.top1_error, statistics[claim.statistic], images),
        )
        for claim in (entry.claims if entry else ())
        if entry and (claim.split, claim.protocol) == (split, protocol or protocol_of(entry.preprocessing))
    )


def _ranges(images: int, batch_size: int) -> list[tuple[int, int]]:
    """Index ranges of whole batches, one for each prediction file."""
    step = batch_size * _BATCHES_PER_FILE
    return [(start, min(start + step, images)) for start in range(0, images, step)]


def _unit(job: Job) -> dict[str, Any]:
    """Everything that predictions depend on; they are reused only where all of it is equal."""
    return {
        "weights": job.tensors,
        "architecture": job.subject.architecture,
        "arguments": dict(job.subject.arguments),
        "preprocessing": job.preprocessing.sha256(),
        "dataset": job.images.fingerprint,
        "images": len(job.images),
        "precision": job.settings.arithmetic,
        "device": device_name(job.settings.device),
        "versions": versions(),
        **job.flags,
    }


def _folder(output: Path, job: Job, shared: Mapping[str, Any]) -> Path:
    """A folder for each way to compute, so that no two runs can mix."""
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
    images = job.images
    folder = output / job.subject.name / f"{images.name}-{images.split}-{job.settings.arithmetic}-{digest[:8]}"
    make_folder(folder)
    return folder


def _spans(unit: Mapping[str, Any], batch_size: int) -> list[tuple[int, int]]:
    """The batches of a unit, as ranges of places."""
    start, stop = unit["start"], unit["stop"]
    return [(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]


def _predict(job: Job, units: Sequence[Mapping[str, Any]], keep: Callable[[Mapping[str, Any], Part], None]) -> None:
    """Compute the predictions of every unit, and give each to `keep` as soon as it is whole."""
    assert job.form is not None
    form, job.form = job.form, None
    if not units:
        return
    images, device = job.images, job.settings.device
    spans = [_spans(unit, job.batch_size) for unit in units]
    batches = images.batches(
        [span for of_unit in spans for span in of_unit], job.preprocessing, device, job.settings.reading
    )
    began = time.perf_counter()
    with (
        memory_of(device),
        contextlib.closing(batches),
        job.engine.running(form, job.batch_size) as run,
        tqdm(
            total=sum(unit["stop"] - unit["start"] for unit in units), desc=job.subject.name, unit="img", disable=None
        ) as bar,
    ):
        normalize = Normalize(job.preprocessing).to(device)
        leaving: deque[Callable[[], None]] = deque()
        for unit, of_unit in zip(units, spans, strict=True):
            logits = []
            for start, stop in of_unit:
                logits.append(run(normalize(next(batches))))
                bar.update(stop - start)
            leaving.append(partial(_keep, job, unit, _leaving(torch.cat(logits)), keep))
            while len(leaving) > (device.type != "cpu"):  # a GPU computes the next unit meanwhile
                leaving.popleft()()
        for rest in leaving:
            rest()
    job.seconds += time.perf_counter() - began


def _leaving(logits: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A tensor on its way from the device; when it is called for, it is waited for."""
    if logits.device.type == "cpu":
        return lambda: logits
    here = torch.empty_like(logits, device="cpu", pin_memory=True)
    here.copy_(logits, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()

    def arrived() -> torch.Tensor:
        done.synchronize()
        return here.clone()  # in ordinary memory

    return arrived


def _keep(
    job: Job,
    unit: Mapping[str, Any],
    logits: Callable[[], torch.Tensor],
    keep: Callable[[Mapping[str, Any], Part], None],
) -> None:
    start, stop = unit["start"], unit["stop"]
    part = Part(
        name=f"samples {start} to {stop - 1}",
        index=job.images.index(start, stop),
        labels=job.images.labels[start:stop].numpy(),
        logits=logits().numpy(),
    )
    keep(unit, part)
