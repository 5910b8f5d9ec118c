"""Evaluate one set of weights on one split."""

from __future__ import annotations

from pathlib import Path

from pyramidzoo.data._splits import Split
from pyramidzoo.evaluation.compute_settings import ComputeSettings, make_strict_settings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.judging import conclude
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.predicting import predict
from pyramidzoo.evaluation.records import Record


def evaluate(
    target: EvaluationTarget,
    images: Split,
    settings: ComputeSettings,
    *,
    output: Path | None = None,
    compare: bool = False,
) -> Record:
    """Evaluate weights on a split and judge the result.

    Args:
        target: The weights.
        images: The images and labels.
        settings: How to compute.
        output: Folder for the results; None for no files. Prediction files and the record are
            written to `output/NAME/DATASET-SPLIT-PRECISION-HASH`, where HASH is a hash of
            everything that predictions depend on. Predictions are not computed again if their file
            is there already and is valid.
        compare: Also evaluate in strict arithmetic, and list in the record which predictions differ.

    Returns:
        The record. No record is written if an error is raised.

    Raises:
        UsageError: The weights do not fit the images, or `compare` is given and the settings are
            strict already.
        IntegrityError: A file is damaged, or its tensors are not those of the network.
        UnavailableError: The device has too little memory, or a file cannot be read or written.
    """
    loaded = load_model(target, images, settings.override)
    strict_engine = Engine(make_strict_settings(settings)) if compare else None
    job = plan(loaded, Engine(settings), output=output, strict_engine=strict_engine)
    # The strict job runs first. Both jobs can use the same network object, and the other job can change the memory
    # layout of its weights.
    strict_parts = predict(job.strict_job, job.strict_job.units) if job.strict_job else []
    parts = predict(job, job.units)
    return conclude(job, parts, strict_parts)
