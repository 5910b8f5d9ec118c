"""Plan an evaluation: divide the samples into units of work.

A unit also names everything that its predictions depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.data._splits import Split
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine, PreparedNetwork
from pyramidzoo.evaluation.environment import device_name, versions
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel
from pyramidzoo.files import make_folder

# It is a small number for two reasons: a small dataset makes enough files for many processes, and a
# file that is lost costs little time to compute again.
_BATCHES_PER_FILE = 4

# A unit of work. "start" and "stop" give its range of samples, without "stop". The other keys name everything that
# predictions depend on.
Unit = Mapping[str, Any]


@dataclass
class Job:
    """One planned evaluation. Any process can compute any of its units of work.

    Attributes:
        target: The weights.
        entry: The manifest's entry that has the same tensors, if there is one.
        images: The split.
        preprocessing: How the images are prepared.
        tensors_sha256: Hash of the tensors of the network.
        parameters: Number of parameters of the network.
        engine: Computes the logits.
        prepared: The network. When the computation starts, the job sets it to None, so that the
            network's memory can be freed afterwards.
        batch_size: The batch size in use. It is smaller than the batch size of the settings if that
            one does not fit into the memory.
        flags: How the predictions are computed, for the record.
        units: The units of work.
        folder: Folder of the prediction files, one for each unit; None for no files.
        strict_job: The same evaluation in strict arithmetic, if the predictions are compared with
            it; else None.
        reused_files: How many prediction files of an earlier run were used.
        seconds: How long the computation took.
    """

    target: EvaluationTarget
    entry: WeightsEntry | None
    images: Split
    preprocessing: Preprocessing
    tensors_sha256: str
    parameters: int
    engine: Engine
    prepared: PreparedNetwork | None
    batch_size: int
    flags: Mapping[str, Any]
    units: list[Unit] = field(default_factory=list)
    folder: Path | None = None
    strict_job: Job | None = None
    reused_files: int = 0
    seconds: float = 0.0

    @property
    def settings(self) -> ComputeSettings:
        """How the logits are computed."""
        return self.engine.settings

    def prediction_file(self, unit: Unit) -> Path:
        """Return the path of a unit's prediction file. The job must have a folder."""
        assert self.folder is not None
        return self.folder / f"predictions-{unit['start']:06d}-{unit['stop']:06d}.safetensors"


def plan(
    loaded: LoadedModel, engine: Engine, *, output: Path | None = None, strict_engine: Engine | None = None
) -> Job:
    """Plan the evaluation of a loaded model.

    Args:
        loaded: The model and the images.
        engine: Computes the logits.
        output: Folder for the prediction files and the record; None for no files.
        strict_engine: Computes the logits of the strict evaluation that this one is compared with;
            None for no comparison. Both evaluations use the same batch size, the smaller one of the
            two that fit into the memory.

    Returns:
        The job.

    Raises:
        UnavailableError: The device has too little memory, or the folder cannot be made.
    """
    input_size = loaded.preprocessing.input_size
    engines = [engine] if strict_engine is None else [engine, strict_engine]
    networks = [each.prepare(loaded.model, loaded.network_key) for each in engines]
    batch_size = min(each.find_batch_size(network, input_size) for each, network in zip(engines, networks, strict=True))
    job, *strict_jobs = [
        _plan_job(loaded, each, network, batch_size, output) for each, network in zip(engines, networks, strict=True)
    ]
    if strict_jobs:
        job.strict_job = strict_jobs[0]
    return job


def _plan_job(
    loaded: LoadedModel, engine: Engine, prepared: PreparedNetwork, batch_size: int, output: Path | None
) -> Job:
    """Plan the evaluation by one engine, with a batch size that fits into the memory."""
    settings = engine.settings
    job = Job(
        target=loaded.target,
        entry=loaded.entry,
        images=loaded.images,
        preprocessing=loaded.preprocessing,
        tensors_sha256=loaded.tensors_sha256,
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        engine=engine,
        prepared=prepared,
        batch_size=batch_size,
        flags={
            **settings.flags,
            **({"optimized": list(prepared.passes)} if settings.optimized else {}),
            **loaded.images.get_flags(settings.reading),
            "batch_size": batch_size,
        },
    )
    dependencies = _list_dependencies(job)
    samples_per_unit = batch_size * _BATCHES_PER_FILE
    for start in range(0, len(job.images), samples_per_unit):
        stop = min(start + samples_per_unit, len(job.images))
        job.units.append({**dependencies, "start": start, "stop": stop})
    if output is not None:
        job.folder = _make_job_folder(output, job, dependencies)
    return job


def _list_dependencies(job: Job) -> dict[str, Any]:
    """Return everything that predictions depend on, by name.

    A prediction file of an earlier run is used only if all these values are equal.
    """
    return {
        "weights": job.tensors_sha256,
        "architecture": job.target.architecture,
        "arguments": dict(job.target.arguments),
        "preprocessing": job.preprocessing.sha256(),
        "dataset": job.images.fingerprint,
        "images": len(job.images),
        "precision": job.settings.precision_name,
        "device": device_name(job.settings.device),
        "versions": versions(),
        **job.flags,
    }


def _make_job_folder(output: Path, job: Job, dependencies: Mapping[str, Any]) -> Path:
    """Make the folder of a job's files.

    Its name has a hash of the dependencies, so runs with different dependencies have different folders.
    """
    sha256 = hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()
    images = job.images
    folder = output / job.target.name / f"{images.name}-{images.split}-{job.settings.precision_name}-{sha256[:8]}"
    make_folder(folder)
    return folder


def remove_range(unit: Unit) -> dict[str, Any]:
    """Return a unit without its range of samples: everything that the predictions of the job depend on."""
    return {key: value for key, value in unit.items() if key not in ("start", "stop")}
