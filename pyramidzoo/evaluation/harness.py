"""One set of weights on one split: predictions in index ranges, reduced to counts, judged, recorded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy
import safetensors
import torch
from torch import nn
from tqdm import tqdm

import pyramidzoo
from pyramidzoo.architectures import get_architecture
from pyramidzoo.containers import Description, tensors_sha256
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import records
from pyramidzoo.evaluation.datasets import ImageSet
from pyramidzoo.evaluation.metrics import STATISTICS, label_ranks, prediction_sha256
from pyramidzoo.evaluation.predictions import Predictions, is_valid, reduce_predictions, write_predictions
from pyramidzoo.evaluation.records import ClaimCheck, Record, write_record
from pyramidzoo.evaluation.verdicts import Measured, claim_verdict, recorded_verdict
from pyramidzoo.factory import create_model
from pyramidzoo.files import make_folder
from pyramidzoo.manifest import Preprocessing, Result, WeightsEntry, load_manifest
from pyramidzoo.preprocessing import Normalize
from pyramidzoo.weights import fetch, memoised_hash

PROTOCOL = "full 32x32 image, one pass"
_BATCHES_PER_FILE = 20
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
        """A file made by `convert`, which says itself what it holds. Raises UsageError, IntegrityError."""
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a safetensors file in it")
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path} is not a safetensors file; `pyramidzoo convert {path} --layout ... --arch ... --dataset ... "
                "--output ...` makes one that can be evaluated"
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


def pick_device(name: str) -> torch.device:
    """A torch device by name; "auto" is the GPU where there is one. Raises UsageError, UnavailableError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}; cpu, cuda and cuda:1 are examples") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"evaluation runs on cpu and cuda, not on {device.type}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"there is no device {name}: {torch.cuda.device_count()} CUDA devices are visible")
    return device


def evaluate(subject: Subject, images: ImageSet, settings: Settings, *, output: Path | None = None) -> Record:
    """Evaluate weights on a split and judge the result.

    With `output`, prediction files and the record stay in `output/NAME/DATASET-SPLIT-PRECISION-HASH` (the hash is of
    all that predictions depend on), and valid prediction files found there are not computed again. Raises UsageError,
    IntegrityError, UnavailableError; no record is written then.
    """
    if subject.dataset != images.name:
        raise UsageError(f"{subject.name} was trained on {subject.dataset}, not on {images.name}")
    _check_protocol(subject, images)
    model = create_model(subject.architecture, weights=subject.path)
    if model.num_classes != images.classes:
        raise UsageError(f"{subject.name} tells {model.num_classes} classes apart, {images.name} has {images.classes}")
    content = tensors_sha256(model.state_dict())
    if subject.entry and subject.entry.tensors_sha256 not in (None, content):
        raise IntegrityError(
            f"{subject.path} does not hold the tensors of {subject.name}: their sha256 is {content}, expected "
            f"{subject.entry.tensors_sha256}; `pyramidzoo fetch --force {subject.name}` makes it anew"
        )
    entry = subject.entry or _known_as(content, subject.preprocessing)
    shared = _unit(subject, images, settings, content)
    with contextlib.ExitStack() as stack:
        if output is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyramidzoo-")))
        else:  # a folder for each way to compute, so that no two runs can mix
            digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
            folder = output / subject.name / f"{images.name}-{images.split}-{settings.precision}-{digest[:8]}"
        make_folder(folder)
        units = {
            folder / f"predictions-{start:06d}-{stop:06d}.safetensors": {**shared, "start": start, "stop": stop}
            for start, stop in _ranges(len(images), settings)
        }
        began = time.perf_counter()
        reused = _predict(model, subject, images, settings, units)
        predictions = reduce_predictions(units, len(images))
        duration = time.perf_counter() - began
        record = _record(
            subject,
            entry,
            images,
            settings,
            predictions,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            content=content,
            reused=reused,
            duration=duration,
        )
        if output is not None:
            write_record(folder / records.FILE_NAME, record)
    return record


def _record(
    subject: Subject,
    entry: WeightsEntry | None,
    images: ImageSet,
    settings: Settings,
    predictions: Predictions,
    *,
    parameters: int,
    content: str,
    reused: int,
    duration: float,
) -> Record:
    """Count, judge and describe."""
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
        parameters=parameters,
        file_sha256=subject.file_sha256,
        tensors_sha256=content,
        preprocessing_sha256=subject.preprocessing.sha256(),
        dataset=images.name,
        split=images.split,
        protocol=PROTOCOL,
        dataset_fingerprint=images.fingerprint,
        images=measured.images,
        top1_correct=measured.top1_correct,
        top5_correct=measured.top5_correct,
        statistics=statistics,
        prediction_sha256=measured.prediction_sha256,
        precision=settings.precision,
        device=_device_name(settings.device),
        flags=settings.flags,
        versions=_versions(),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        duration_seconds=None if reused else round(duration, 3),
        reused_files=reused,
        recorded=recorded,
        recorded_detail=detail,
        # an author is not answerable for our shortcuts: only strict arithmetic is compared with a claim
        claims=check_claims(entry, images.split, statistics, measured.images) if settings.strict else (),
    )


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
    for result in entry.results if entry else ():
        if (result.split, result.protocol, result.precision) == (split, PROTOCOL, "fp32"):
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
        if (claim.split, claim.protocol) == (split, PROTOCOL)
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
        "device": _device_name(settings.device),
        "versions": _versions(),
        **settings.flags,
    }


def _predict(
    model: nn.Module,
    subject: Subject,
    images: ImageSet,
    settings: Settings,
    units: Mapping[Path, Mapping[str, Any]],
) -> int:
    """Write the prediction file of every unit that has no valid one yet; how many there were already."""
    device = settings.device
    todo = {path: unit for path, unit in units.items() if not is_valid(path, unit)}
    reused = len(units) - len(todo)
    if reused:
        print(f"{subject.name}: {reused} of {len(units)} prediction files are there already", file=sys.stderr)
    if not todo:
        return reused
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = model.eval().to(device).to(memory_format=layout)
    normalize = Normalize(subject.preprocessing).to(device)
    pixels = images.images.to(device)
    with (
        _strict_arithmetic(),
        torch.inference_mode(),
        torch.autocast(device.type, _AMP[settings.amp] if settings.amp else None, enabled=settings.amp is not None),
        tqdm(
            total=sum(unit["stop"] - unit["start"] for unit in todo.values()),
            desc=subject.name,
            unit="img",
            disable=None,
        ) as bar,
    ):
        for path, unit in todo.items():
            start, stop, logits = unit["start"], unit["stop"], []
            for first in range(start, stop, settings.batch_size):
                batch = normalize(pixels[first : min(first + settings.batch_size, stop)])
                logits.append(_forward(model, batch.contiguous(memory_format=layout), settings).float())
                bar.update(len(batch))
            write_predictions(
                path,
                start=start,
                labels=images.labels[start:stop],
                logits=torch.cat(logits),
                unit=unit,
            )
    return reused


def _forward(model: nn.Module, batch: torch.Tensor, settings: Settings) -> torch.Tensor:
    try:
        logits: torch.Tensor = model(batch)
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"{settings.device} has no memory for batches of {settings.batch_size}; try a smaller -b"
        ) from error
    return logits


@contextlib.contextmanager
def _strict_arithmetic() -> Iterator[None]:
    """fp32 as IEEE has it, and the same algorithm every time; the process's own settings come back afterwards."""
    cudnn = torch.backends.cudnn
    places = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.conv", "mkldnn.matmul")
    precisions: list[Any] = [torch.backends, *(attrgetter(place)(torch.backends) for place in places)]
    before = [part.fp32_precision for part in precisions]
    algorithms = cudnn.benchmark, cudnn.deterministic
    try:
        for part in precisions:
            part.fp32_precision = "ieee"
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = algorithms
        for part, precision in zip(precisions, before, strict=True):
            part.fp32_precision = precision


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({_processor()}, {torch.get_num_threads()} threads)"


@cache
def _processor() -> str:
    """The processor's model where Linux tells it, else its architecture: arithmetic differs between models."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    cuda = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return {
        "pyramidzoo": pyramidzoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
        **(cuda if torch.cuda.is_available() else {}),
    }
