"""One set of weights on one split: predictions in index ranges, reduced to counts, judged, recorded."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pyramidzoo.architectures import get_architecture
from pyramidzoo.containers import Description, tensors_sha256
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import records
from pyramidzoo.evaluation.datasets import ImageSet
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
from pyramidzoo.evaluation.records import ClaimCheck, Record, write_record
from pyramidzoo.evaluation.verdicts import Measured, claim_verdict, recorded_verdict
from pyramidzoo.factory import assemble
from pyramidzoo.files import make_folder, weights_file
from pyramidzoo.loading import memoised_hash, read_weights
from pyramidzoo.manifest import Preprocessing, Result, WeightsEntry, foreign_manifest, load_manifest
from pyramidzoo.preprocessing import Normalize
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
    """How to compute. Strict is fp32 without TF32, fixed algorithms; anything else is recorded as a flag."""

    device: torch.device
    batch_size: int = 128
    amp: str | None = None
    channels_last: bool = False

    @property
    def precision(self) -> str:
        return self.amp or "fp32"

    @property
    def strict(self) -> bool:
        return self.amp is None and not self.channels_last

    @property
    def flags(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "channels_last": self.channels_last, "amp": self.amp}


@dataclass
class Job:
    """One evaluation, planned: its units of work are index ranges, each of which any process can do.

    With a `folder`, every unit's predictions become a file there; `reused` counts those that were there before.
    """

    subject: Subject
    entry: WeightsEntry | None
    images: ImageSet
    settings: Settings
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


def evaluate(subject: Subject, images: ImageSet, settings: Settings, *, output: Path | None = None) -> Record:
    """Evaluate weights on a split and judge the result.

    With `output`, prediction files and the record stay in `output/NAME/DATASET-SPLIT-PRECISION-HASH` (the hash is of
    all that predictions depend on), and valid prediction files found there are not computed again. Raises UsageError,
    IntegrityError, UnavailableError; no record is written then.
    """
    job = plan(subject, images, settings, output=output)
    return conclude(job, work(job, job.units))


def plan(subject: Subject, images: ImageSet, settings: Settings, *, output: Path | None = None) -> Job:
    """Load the network and divide the work. Raises as `evaluate` does."""
    if subject.dataset != images.name:
        raise UsageError(f"{subject.name} was trained on {subject.dataset}, not on {images.name}")
    _check_protocol(subject, images)
    content = read_weights(subject.path, sha256=subject.file_sha256)
    row = get_architecture(subject.architecture)
    model = assemble(row, content, arguments=subject.arguments, preprocessing=subject.preprocessing)
    if model.num_classes != images.classes:
        raise UsageError(f"{subject.name} tells {model.num_classes} classes apart, {images.name} has {images.classes}")
    tensors = tensors_sha256(model.state_dict())
    if subject.entry and subject.entry.tensors_sha256 not in (None, tensors):
        raise IntegrityError(
            f"{subject.path} does not hold the tensors of {subject.name}: their sha256 is {tensors}, expected "
            f"{subject.entry.tensors_sha256}; `pyramidzoo fetch --force {subject.name}` makes it anew"
        )
    shared = _unit(subject, images, settings, tensors)
    return Job(
        subject=subject,
        entry=subject.entry or _known_as(tensors, subject.preprocessing),
        images=images,
        settings=settings,
        model=model,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tensors=tensors,
        units=[{**shared, "start": start, "stop": stop} for start, stop in _ranges(len(images), settings)],
        folder=None if output is None else _folder(output, subject, images, settings, shared),
        began=time.perf_counter(),
    )


def work(job: Job, units: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Predict some of a job's units: into its folder, where valid files are left as they are, else as parts."""
    parts: list[Part] = []
    if job.folder is None:
        _predict(job, units, parts.append)
        return parts
    todo = {unit["start"]: unit for unit in units if not is_valid(job.file_of(unit), unit)}
    job.reused += len(units) - len(todo)
    if len(todo) < len(units):
        print(
            f"{job.subject.name}: {len(units) - len(todo)} of {len(units)} prediction files are there already",
            file=sys.stderr,
        )

    def keep(part: Part) -> None:
        unit = todo[part.start]
        write_predictions(job.file_of(unit), part, unit)

    _predict(job, list(todo.values()), keep)
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
    recorded, detail = recorded_verdict(measured, recorded_result(entry, images.split))
    return Record(
        format=records.FORMAT,
        weights=subject.name,
        architecture=subject.architecture,
        arguments=dict(subject.arguments),
        parameters=job.parameters,
        file_sha256=subject.file_sha256,
        tensors_sha256=job.tensors,
        preprocessing_sha256=subject.preprocessing.sha256(),
        dataset=images.name,
        split=images.split,
        protocol=protocol_of(subject.preprocessing),
        dataset_fingerprint=images.fingerprint,
        images=measured.images,
        top1_correct=measured.top1_correct,
        top5_correct=measured.top5_correct,
        statistics=statistics,
        prediction_sha256=measured.prediction_sha256,
        precision=settings.precision,
        device=device_name(settings.device),
        flags=settings.flags,
        versions=versions(),
        command=_command(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_seconds=None if job.reused else round(time.perf_counter() - job.began, 3),
        reused_files=job.reused,
        recorded=recorded,
        recorded_detail=detail,
        manifest=foreign_manifest(),
        # an author is not answerable for our shortcuts: only strict arithmetic is compared with a claim
        claims=check_claims(entry, images.split, statistics, measured.images) if settings.strict else (),
    )


def _command() -> str:
    """The command line of this process, as it can be typed again."""
    name = Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m", "pyramidzoo"] if name == "__main__.py" else [name]), *sys.argv[1:]])


def protocol_of(preprocessing: Preprocessing) -> str:
    """What a network sees of each test image, in the words of the manifest's claims and results."""
    return "full {}x{} image, one pass".format(*preprocessing.input_size[1:])


def _check_protocol(subject: Subject, images: ImageSet) -> None:
    """Here is one full image and nothing else; weights that want another input cannot be judged by it."""
    wanted, size = subject.preprocessing, tuple(images.images.shape[1:])
    if wanted.input_size != size or wanted.resize is not None or wanted.crop is not None:
        raise UsageError(
            f"{subject.name} wants images of {wanted.input_size}, resize {wanted.resize}, crop {wanted.crop}; "
            f"{images.name} is evaluated on full images of {size} only"
        )


def _known_as(content: str, preprocessing: Preprocessing) -> WeightsEntry | None:
    """The entry that a file of any name is, if its tensors and its preprocessing are the entry's."""
    entry = load_manifest().with_tensors(content)
    return entry if entry and entry.preprocessing == preprocessing else None


def recorded_result(entry: WeightsEntry | None, split: str) -> Result | None:
    """The manifest's strict measurement of an entry on a split, if there is one."""
    if entry is None:
        return None
    for result in entry.results:
        if (result.split, result.protocol, result.precision) == (split, protocol_of(entry.preprocessing), "fp32"):
            return result
    return None


def check_claims(
    entry: WeightsEntry | None, split: str, statistics: Mapping[str, float], images: int
) -> tuple[ClaimCheck, ...]:
    """Every published error of these weights on this split, beside ours by its own statistic."""
    return tuple(
        ClaimCheck(
            by=claim.by,
            published=str(claim.top1_error),
            statistic=claim.statistic,
            ours=statistics[claim.statistic],
            verdict=claim_verdict(claim.top1_error, statistics[claim.statistic], images),
        )
        for claim in (entry.claims if entry else ())
        if entry and (claim.split, claim.protocol) == (split, protocol_of(entry.preprocessing))
    )


def _ranges(images: int, settings: Settings) -> list[tuple[int, int]]:
    """Index ranges of whole batches, one for each prediction file."""
    step = settings.batch_size * _BATCHES_PER_FILE
    return [(start, min(start + step, images)) for start in range(0, images, step)]


def _unit(subject: Subject, images: ImageSet, settings: Settings, content: str) -> dict[str, Any]:
    """Everything that predictions depend on; they are reused only where all of it is equal."""
    return {
        "weights": content,
        "architecture": subject.architecture,
        "arguments": dict(subject.arguments),
        "preprocessing": subject.preprocessing.sha256(),
        "dataset": images.fingerprint,
        "images": len(images),
        "precision": settings.precision,
        "device": device_name(settings.device),
        "versions": versions(),
        **settings.flags,
    }


def _folder(output: Path, subject: Subject, images: ImageSet, settings: Settings, shared: Mapping[str, Any]) -> Path:
    """A folder for each way to compute, so that no two runs can mix."""
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
    folder = output / subject.name / f"{images.name}-{images.split}-{settings.precision}-{digest[:8]}"
    make_folder(folder)
    return folder


def _predict(job: Job, units: Sequence[Mapping[str, Any]], keep: Callable[[Part], None]) -> None:
    """Compute the predictions of every unit, and give each to `keep` as soon as it is whole."""
    if not units:
        return
    images, settings = job.images, job.settings
    device = settings.device
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = job.model.eval().to(device).to(memory_format=layout)
    normalize = Normalize(job.subject.preprocessing).to(device)
    pixels = images.images.to(device)
    with (
        strict_arithmetic(),
        torch.inference_mode(),
        torch.autocast(device.type, _AMP[settings.amp] if settings.amp else None, enabled=settings.amp is not None),
        tqdm(
            total=sum(unit["stop"] - unit["start"] for unit in units),
            desc=job.subject.name,
            unit="img",
            disable=None,
        ) as bar,
    ):
        for unit in units:
            start, stop, logits = unit["start"], unit["stop"], []
            for first in range(start, stop, settings.batch_size):
                batch = normalize(pixels[first : min(first + settings.batch_size, stop)])
                logits.append(_forward(model, batch.contiguous(memory_format=layout), settings).float())
                bar.update(len(batch))
            keep(
                Part(
                    name=f"samples {start} to {stop - 1}",
                    index=np.arange(start, stop),
                    labels=images.labels[start:stop].numpy(),
                    logits=torch.cat(logits).cpu().numpy(),
                )
            )


def _forward(model: nn.Module, batch: torch.Tensor, settings: Settings) -> torch.Tensor:
    try:
        logits: torch.Tensor = model(batch)
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"{settings.device} has no memory for batches of {settings.batch_size}; try a smaller -b"
        ) from error
    return logits
