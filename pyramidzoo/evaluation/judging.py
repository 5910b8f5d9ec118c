"""Conclude an evaluation: reduce the predictions to counts, judge them, and make the record."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.manifest import hash_foreign_manifest
from pyramidzoo.catalog.training_record import get_record
from pyramidzoo.evaluation import records
from pyramidzoo.evaluation.environment import device_name, versions
from pyramidzoo.evaluation.metrics import (
    STATISTICS,
    PredictionChanges,
    compare_predictions,
    label_ranks,
    prediction_sha256,
)
from pyramidzoo.evaluation.planning import Job
from pyramidzoo.evaluation.predictions import Part, Predictions, read_predictions, reduce_predictions
from pyramidzoo.evaluation.records import Record, is_strict, write_record
from pyramidzoo.evaluation.verdicts import (
    Counts,
    check_claims,
    describe_protocol,
    find_recorded_result,
    recorded_verdict,
)


def conclude(job: Job, parts: Iterable[Part], strict_parts: Iterable[Part] = ()) -> Record:
    """Reduce the predictions of all units to counts, and judge them.

    If the job has a folder, the predictions are read from its files, and the record is written
    there. The same is done for the strict job, if there is one.

    Args:
        job: The job. All its units have been predicted.
        parts: The predictions, if the job has no folder.
        strict_parts: Those of the strict job.

    Returns:
        The record.

    Raises:
        IntegrityError: A sample was not predicted exactly once, or a file is damaged. There is no
            number then.
        UnavailableError: A file cannot be read or written.
    """
    predictions = _collect_predictions(job, parts)
    changes = None
    if job.strict_job is not None:
        strict_predictions = _collect_predictions(job.strict_job, strict_parts)
        _save_record(job.strict_job, _make_record(job.strict_job, strict_predictions, None))
        changes = compare_predictions(strict_predictions.logits, predictions.logits, predictions.labels)
    record = _make_record(job, predictions, changes)
    _save_record(job, record)
    return record


def _collect_predictions(job: Job, parts: Iterable[Part]) -> Predictions:
    """Join the predictions of all units: those in the job's files if it has a folder, else the given ones."""
    if job.folder is not None:
        parts = (read_predictions(job.prediction_file(unit), unit) for unit in job.units)
    return reduce_predictions(parts, len(job.images))


def _save_record(job: Job, record: Record) -> None:
    """Write the record beside the prediction files, if the job has files."""
    if job.folder is not None:
        write_record(job.folder / records.FILE_NAME, record)


def _make_record(job: Job, predictions: Predictions, changes: PredictionChanges | None) -> Record:
    """Make the record of a job.

    Args:
        job: The job.
        predictions: The predictions of all images.
        changes: The differences from the strict predictions; None if they were not compared.
    """
    target, entry, images, settings = job.target, job.entry, job.images, job.settings
    ranks = label_ranks(predictions.logits, predictions.labels)
    counts = Counts(
        images=len(images),
        top1_correct=int((ranks < 1).sum()),
        top5_correct=int((ranks < 5).sum()),
        prediction_sha256=prediction_sha256(predictions.logits),
    )
    statistics = {name: statistic(ranks < 1) for name, statistic in STATISTICS.items()}
    protocol = describe_protocol(job.preprocessing, target.preprocessing)
    flags = _make_record_flags(job)
    if images.unofficial_reason:
        recorded, recorded_detail = recorded_verdict(counts, None)[0], images.unofficial_reason
    else:
        recorded, recorded_detail = recorded_verdict(counts, find_recorded_result(entry, images.split, protocol))
    claims: tuple[records.ClaimCheck, ...] = ()
    # A claim is judged only in strict arithmetic. Otherwise a difference could come from our faster arithmetic, and
    # not from the published number.
    if is_strict(settings.precision_name, flags) and not images.unofficial_reason:
        claims = check_claims(entry, images.split, statistics, counts.images, protocol)
    return Record(
        format=records.FORMAT,
        weights=target.name,
        architecture=target.architecture,
        arguments=dict(target.arguments),
        parameters=job.parameters,
        file_sha256=target.file_sha256,
        tensors_sha256=job.tensors_sha256,
        preprocessing_sha256=job.preprocessing.sha256(),
        dataset=images.name,
        split=images.split,
        protocol=protocol,
        dataset_fingerprint=images.fingerprint,
        images=counts.images,
        top1_correct=counts.top1_correct,
        top5_correct=counts.top5_correct,
        statistics=statistics,
        prediction_sha256=counts.prediction_sha256,
        precision=settings.precision_name,
        device=device_name(settings.device),
        flags=flags,
        versions=versions(),
        command=_make_command_line(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_seconds=None if job.reused_files else round(job.seconds, 3),
        reused_files=job.reused_files,
        recorded=recorded,
        recorded_detail=recorded_detail,
        manifest=hash_foreign_manifest(),
        against_strict=changes,
        claims=claims,
        training=get_record(entry.training) if entry else target.training,  # The manifest decides for weights it knows.
    )


def _make_record_flags(job: Job) -> dict[str, Any]:
    """Return the flags of the record.

    They say how the predictions were computed. They also say if the batch size is not the one of
    the settings, if the preprocessing is not the one of the weights, and if the images are not the
    official split.
    """
    flags = dict(job.flags)
    if job.batch_size != job.settings.batch_size:
        flags["batch_size_asked"] = job.settings.batch_size
    if job.preprocessing != job.target.preprocessing:
        flags["preprocessing"] = dataclasses.asdict(job.preprocessing)
    if job.images.unofficial_reason:
        flags["not_the_split"] = job.images.unofficial_reason
    return flags


def _make_command_line() -> str:
    """Return the command line of this process, quoted so that a user can run it again in a shell."""
    name = Path(sys.argv[0]).name
    program = ["python", "-m", "pyramidzoo"] if name == "__main__.py" else [name]
    return shlex.join([*program, *sys.argv[1:]])
