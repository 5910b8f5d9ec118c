"""What is evaluated: verified weights, and the network that has them, ready for a split."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import Preprocessing, WeightsEntry, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.hashes import cached_file_hash
from pyramidzoo.checkpoints.loading import read_weights
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.data.datasets import Split
from pyramidzoo.data.transforms import Override
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.factory import assemble
from pyramidzoo.files import weights_file
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.weights.fetch import fetch


@dataclass(frozen=True)
class EvaluationTarget:
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
    def of_entry(cls, entry: WeightsEntry) -> EvaluationTarget:
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
    def of_file(cls, path: Path) -> EvaluationTarget:
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
        sha256 = cached_file_hash(path)
        return cls(
            name=f"{path.stem}@{sha256[:8]}",  # never an id, and never another file's name
            architecture=description.architecture,
            arguments=description.arguments,
            dataset=description.dataset,
            preprocessing=description.preprocessing,
            path=path,
            file_sha256=sha256,
        )


@dataclass
class LoadedModel:
    """Weights in their network, on the CPU, checked against the images that they are to be evaluated on.

    `preprocessing` is how the images will be prepared, `tensors` the sha256 of what the network holds, `entry` the
    manifest's entry that has the same tensors and wants the same preprocessing.
    """

    subject: EvaluationTarget
    images: Split
    preprocessing: Preprocessing
    model: ImageClassifier
    tensors: str
    entry: WeightsEntry | None

    @property
    def network(self) -> Hashable:
        """Equal for two sets of weights that differ in their tensors alone."""
        subject = self.subject
        return subject.architecture, json.dumps(dict(subject.arguments), sort_keys=True), self.model.num_classes


def load(subject: EvaluationTarget, images: Split, override: Override | None = None) -> LoadedModel:
    """Build the network of some weights and hold both to the images. Raises UsageError, IntegrityError."""
    if subject.dataset != images.name:
        raise UsageError(f"{subject.name} was trained on {subject.dataset}, not on {images.name}")
    preprocessing = (override or Override()).applied(subject.preprocessing)
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
    entry = subject.entry or _known_as(tensors, subject.preprocessing, subject.dataset)
    return LoadedModel(subject, images, preprocessing, model, tensors, entry)


def _known_as(content: str, preprocessing: Preprocessing, dataset: str | None = None) -> WeightsEntry | None:
    """The entry that a file of any name is, if its tensors, its preprocessing and its data set are the entry's.

    A file may say another data set than its tensors' entry (`convert --force`): nothing of that entry holds there.
    """
    entry = load_manifest().with_tensors(content, dataset=dataset)
    if entry is None or entry.preprocessing != preprocessing or dataset not in (None, entry.dataset):
        return None
    return entry
