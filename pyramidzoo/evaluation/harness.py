"""One set of weights on one split: predictions in index ranges, reduced to counts, judged, recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pyramidzoo.architectures import get_architecture
from pyramidzoo.containers import Description, tensors_sha256
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import records
from pyramidzoo.evaluation.datasets import Reading, Split
from pyramidzoo.evaluation.environment import device_name, strict_arithmetic, versions
from pyramidzoo.evaluation.metrics import STATISTICS, label_ranks, prediction_sha256
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
from pyramidzoo.factory import assemble
from pyramidzoo.files import make_folder, weights_file
from pyramidzoo.loading import memoised_hash, read_weights
from pyramidzoo.manifest import Preprocessing, Result, WeightsEntry, foreign_manifest, load_manifest
from pyramidzoo.preprocessing import Normalize, Override
from pyramidzoo.weights import fetch

_BATCHES_PER_FILE = 4  # so that a small set is work for many processes, and little is lost with one
_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a verified safetensors file, and how its images must be prepared.

    `entry` is the manifest's entry whose tensors these are, if any; then its record and its claims apply.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    preprocessing: Preprocessing
    path: Path
    file_sha256: str
    entry: WeightsEntry | None = None

    @classmethod
    def of_entry(cls, entry: WeightsEntry) -> Subject:
        """Fetch an entry's file. Raises IntegrityError, UnavailableError."""
        located = fetch(entry)
        return cls(
            name=entry.id,
            architecture=entry.architecture,
            arguments=entry.arguments,
            dataset=entry.dataset,
            preprocessing=entry.preprocessing,
            path=located.path,
            file_sha256=located.sha256,
            entry=entry,
        )

    @classmethod
    def of_file(cls, path: Path) -> Subject:
        """A file of the zoo, or a folder with one; it says itself what it holds. Raises UsageError, IntegrityError."""
        path = weights_file(path)
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path} is not a safetensors file; `pyramidzoo convert {path} --dataset ... --output ...` makes one "
                "that can be evaluated"
            )
        description = Description.of(path)
        if description is None:
            raise UsageError(
                f"{path} does not say what it holds (architecture, data set, preprocessing); "
                "`pyramidzoo convert` makes files that do"
            )
        get_architecture(description.architecture)
        sha256 = memoised_hash(path)
        return cls(
            name=f"{path.stem}@{sha256[:8]}",  # never an id, and never another file's name
            architecture=description.architecture,
            arguments=description.arguments,
            dataset=description.dataset,
            preprocessing=description.preprocessing,
            path=path,
            file_sha256=sha256,
        )


@dataclass(frozen=True)
class Settings:
    """How to compute. Strict is fp32 without TF32, fixed algorithms; anything else is recorded as a flag.

    `reading` is for images that have to be decoded, `override` for another protocol than that of the weights.
    """

    device: torch.device
    batch_size: int = 128
    amp: str | None = None
    channels_last: bool = False
    reading: Reading = field(default_factory=Reading)
    override: Override = field(default_factory=Override)

    @property
    def precision(self) -> str:
        return self.amp or "fp32"

    @property
    def flags(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "channels_last": self.channels_last, "amp": self.amp}


@dataclass
class Job:
    """One evaluation, planned: its units of work are ranges of samples, each of which any process can do.

    With a `folder`, every unit's predictions become a file there; `reused` counts those that were there before.
    `settings` have the batch size in use; `asked` is the one asked for, which the device may have no memory for.
    """

    subject: Subject
    entry: WeightsEntry | None
    images: Split
    preprocessing: Preprocessing
    settings: Settings
    asked: int
    model: nn.Module
    parameters: int
    tensors: str
    units: list[Mapping[str, Any]]
    folder: Path | None
    began: float
    reused: int = 0

    def file_of(self, unit: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / f"predictions-{unit['start']:06d}-{unit['stop']:06d}.safetensors"


def evaluate(subject: Subject, images: Split, settings: Settings, *, output: Path | None = None) -> Record:
    """Evaluate weights on a split and judge the result.

    With `output`, prediction files and the record stay in `output/NAME/DATASET-SPLIT-PRECISION-HASH` (the hash is of
    all that predictions depend on), and valid prediction files found there are not computed again. Raises UsageError,
    IntegrityError, UnavailableError; no record is written then.
    """
    job = plan(subject, images, settings, output=output)
    return conclude(job, work(job, job.units))


def plan(subject: Subject, images: Split, settings: Settings, *, output: Path | None = None) -> Job:
    """Load the network and divide the work. Raises as `evaluate` does."""
    if subject.dataset != images.name:
        raise UsageError(f"{subject.name} was trained on {subject.dataset}, not on {images.name}")
    preprocessing = settings.override.applied(subject.preprocessing)
    images.require(preprocessing, subject.name)
    content = read_weights(subject.path, sha256=subject.file_sha256)
    row = get_architecture(subject.architecture)
    model = assemble(row, content, arguments=subject.arguments, preprocessing=preprocessing)
    if model.num_classes != images.classes:
        raise UsageError(f"{subject.name} tells {model.num_classes} classes apart, {images.name} has {images.classes}")
    tensors = tensors_sha256(model.state_dict())
    if subject.entry and subject.entry.tensors_sha256 not in (None, tensors):
        raise IntegrityError(
            f"{subject.path} does not hold the tensors of {subject.name}: their sha256 is {tensors}, expected "
            f"{subject.entry.tensors_sha256}; `pyramidzoo fetch --force {subject.name}` makes it anew"
        )
    used = _fitting(model, settings, preprocessing)
    job = Job(
        subject=subject,
        entry=subject.entry or _known_as(tensors, subject.preprocessing),
        images=images,
        preprocessing=preprocessing,
        settings=used,
        asked=settings.batch_size,
        model=model,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=tensors,
        units=[],
        folder=None,
        began=time.perf_counter(),
    )
    shared = _unit(job)
    job.units = [{**shared, "start": start, "stop": stop} for start, stop in _ranges(len(images), used)]
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


def conclude(job: Job, parts: Iterable[Part]) -> Record:
    """Reduce the predictions of all units, those in the folder where there is one, and judge them.

    Raises IntegrityError, and gives no number, unless every sample was predicted exactly once.
    """
    if job.folder is not None:
        parts = (read_predictions(job.file_of(unit), unit) for unit in job.units)
    record = _record(job, reduce_predictions(parts, len(job.images)))
    if job.folder is not None:
        write_record(job.folder / records.FILE_NAME, record)
    return record


def _record(job: Job, predictions: Predictions) -> Record:
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
    if images.shortfall:
        recorded, detail = recorded_verdict(measured, None)[0], images.shortfall
    else:
        recorded, detail = recorded_verdict(measured, recorded_result(entry, images.split, protocol))
    # an author is not answerable for our shortcuts: only strict arithmetic is compared with a claim
    judged = is_strict(settings.precision, flags) and not images.shortfall
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
        precision=settings.precision,
        device=device_name(settings.device),
        flags=flags,
        versions=versions(),
        command=_command(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_seconds=None if job.reused else round(time.perf_counter() - job.began, 3),
        reused_files=job.reused,
        recorded=recorded,
        recorded_detail=detail,
        manifest=foreign_manifest(),
        claims=check_claims(entry, images.split, statistics, measured.images, protocol) if judged else (),
    )


def _command() -> str:
    """The command line of this process, as it can be typed again."""
    name = Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m", "pyramidzoo"] if name == "__main__.py" else [name]), *sys.argv[1:]])


def _flags(job: Job) -> dict[str, Any]:
    """How it was computed, and what of it was asked otherwise."""
    flags = {**job.settings.flags, **job.images.flags(job.settings.reading)}
    if job.asked != job.settings.batch_size:
        flags["batch_size_asked"] = job.asked
    if job.preprocessing != job.subject.preprocessing:
        flags["preprocessing"] = dataclasses.asdict(job.preprocessing)
    if job.images.shortfall:
        flags["not_the_split"] = job.images.shortfall
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


def _known_as(content: str, preprocessing: Preprocessing) -> WeightsEntry | None:
    """The entry that a file of any name is, if its tensors and its preprocessing are the entry's."""
    entry = load_manifest().with_tensors(content)
    return entry if entry and entry.preprocessing == preprocessing else None


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


def _ranges(images: int, settings: Settings) -> list[tuple[int, int]]:
    """Index ranges of whole batches, one for each prediction file."""
    step = settings.batch_size * _BATCHES_PER_FILE
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
        "precision": job.settings.precision,
        "device": device_name(job.settings.device),
        "versions": versions(),
        **job.settings.flags,
        **job.images.flags(job.settings.reading),
    }


def _folder(output: Path, job: Job, shared: Mapping[str, Any]) -> Path:
    """A folder for each way to compute, so that no two runs can mix."""
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
    images = job.images
    folder = output / job.subject.name / f"{images.name}-{images.split}-{job.settings.precision}-{digest[:8]}"
    make_folder(folder)
    return folder


def _fitting(model: nn.Module, settings: Settings, preprocessing: Preprocessing) -> Settings:
    """The settings with a batch size that the device has memory for, halved as often as it takes.

    It is found before any work is planned, with images that are all zero: units, files and predictions are those of
    a run that was asked for this batch size. Raises UnavailableError where there is no memory for one image.
    """
    if not _may_run_out(settings.device):
        return settings
    while True:
        try:
            with _computing(model, settings) as ready:
                zeros = torch.zeros(settings.batch_size, *preprocessing.input_size, device=settings.device)
                _forward(ready, zeros.contiguous(memory_format=_layout(settings)), settings)
            return settings
        except torch.OutOfMemoryError as error:
            if settings.batch_size == 1:
                raise _no_memory(settings) from error
        torch.cuda.empty_cache()
        settings = dataclasses.replace(settings, batch_size=settings.batch_size // 2)


def _may_run_out(device: torch.device) -> bool:
    """Whether too little memory is an error on this device that one can go on after; a CPU's system ends processes."""
    return device.type != "cpu"


def _no_memory(settings: Settings) -> UnavailableError:
    return UnavailableError(f"{settings.device} has no memory for batches of {settings.batch_size}; try a smaller -b")


def _layout(settings: Settings) -> torch.memory_format:
    return torch.channels_last if settings.channels_last else torch.contiguous_format


@contextlib.contextmanager
def _computing(model: nn.Module, settings: Settings) -> Iterator[nn.Module]:
    """The network on its device, in the arithmetic that the settings ask for."""
    device, amp = settings.device, settings.amp
    with (
        strict_arithmetic(),
        torch.inference_mode(),
        torch.autocast(device.type, _AMP[amp] if amp else None, enabled=amp is not None),
    ):
        yield model.eval().to(device).to(memory_format=_layout(settings))


def _spans(unit: Mapping[str, Any], batch_size: int) -> list[tuple[int, int]]:
    """The batches of a unit, as ranges of places."""
    start, stop = unit["start"], unit["stop"]
    return [(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]


def _predict(job: Job, units: Sequence[Mapping[str, Any]], keep: Callable[[Mapping[str, Any], Part], None]) -> None:
    """Compute the predictions of every unit, and give each to `keep` as soon as it is whole."""
    if not units:
        return
    images, settings = job.images, job.settings
    normalize = Normalize(job.preprocessing).to(settings.device)
    spans = [_spans(unit, settings.batch_size) for unit in units]
    batches = images.batches(
        [span for of_unit in spans for span in of_unit], job.preprocessing, settings.device, settings.reading
    )
    with (
        contextlib.closing(batches),
        _computing(job.model, settings) as model,
        tqdm(
            total=sum(unit["stop"] - unit["start"] for unit in units),
            desc=job.subject.name,
            unit="img",
            disable=None,
        ) as bar,
    ):
        for unit, of_unit in zip(units, spans, strict=True):
            start, stop, logits = unit["start"], unit["stop"], []
            for _ in of_unit:
                batch = normalize(next(batches)).contiguous(memory_format=_layout(settings))
                try:
                    logits.append(_forward(model, batch, settings).float())
                except torch.OutOfMemoryError as error:
                    raise _no_memory(settings) from error
                bar.update(len(batch))
            part = Part(
                name=f"samples {start} to {stop - 1}",
                index=images.index(start, stop),
                labels=images.labels[start:stop].numpy(),
                logits=torch.cat(logits).cpu().numpy(),
            )
            keep(unit, part)


def _forward(model: nn.Module, batch: torch.Tensor, settings: Settings) -> torch.Tensor:
    logits: torch.Tensor = model(batch)
    return logits
