"""What is evaluated: verified weights, and the network that holds them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.training_record import Training, read_training
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.hashes import cached_file_hash
from pyramidzoo.checkpoints.loading import read_weights
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.data._splits import Split
from pyramidzoo.data.transforms import Override
from pyramidzoo.data.whitening import check_whitening
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.factory import assemble
from pyramidzoo.files import find_weights_file
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.weights.fetch import fetch


@dataclass(frozen=True)
class EvaluationTarget:
    """The weights to evaluate: a verified safetensors file, and how its images must be prepared.

    Attributes:
        name: The weights id of a manifest's entry. A file of the user has a name made of the file's
            name and a part of its hash.
        architecture: Name of the architecture.
        arguments: Arguments of the architecture that differ from its defaults.
        dataset: Name of the dataset that the weights were trained on.
        preprocessing: How images must be prepared for these weights.
        path: The safetensors file.
        file_sha256: Hash of the file.
        entry: The manifest's entry that the file was fetched for; None for a file of the user. The
            entry's recorded results and claims apply to these weights.
        training: How the network was trained, if the file's metadata have it; None for the file of an entry.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    preprocessing: Preprocessing
    path: Path
    file_sha256: str
    entry: WeightsEntry | None = None
    training: Training | None = None

    @classmethod
    def from_entry(cls, entry: WeightsEntry) -> EvaluationTarget:
        """Fetch the file of a manifest's entry, and make a target of it.

        Args:
            entry: The entry.

        Returns:
            The target.

        Raises:
            IntegrityError: The file is not what the manifest says.
            UnavailableError: The file cannot be fetched.
        """
        fetched = fetch(entry)
        return cls(
            name=entry.id,
            architecture=entry.architecture,
            arguments=entry.arguments,
            dataset=entry.dataset,
            preprocessing=entry.preprocessing,
            path=fetched.path,
            file_sha256=fetched.sha256,
            entry=entry,
        )

    @classmethod
    def from_file(cls, path: Path) -> EvaluationTarget:
        """Make a target of a safetensors file, whose metadata must hold a description of its weights.

        Args:
            path: The file, or a folder with one such file.

        Returns:
            The target.

        Raises:
            UsageError: The file is not a safetensors file, or it has no description.
            IntegrityError: The file or its description is damaged.
        """
        path = find_weights_file(path)
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path} is not a safetensors file; `pyramidzoo convert {path} --dataset ... --output ...` makes one "
                "that can be evaluated"
            )
        metadata = read_metadata(path)
        description = Description.from_file(path, metadata)
        if description is None:
            raise UsageError(
                f"{path} has no description of its weights (architecture, dataset, preprocessing); "
                "`pyramidzoo convert` makes files that have one"
            )
        get_architecture(description.architecture)  # This raises UsageError if there is no such architecture.
        sha256 = cached_file_hash(path)
        return cls(
            # No weights id has an "@". Files with the same name but other contents have different hashes.
            name=f"{path.stem}@{sha256[:8]}",
            architecture=description.architecture,
            arguments=description.arguments,
            dataset=description.dataset,
            preprocessing=description.preprocessing,
            path=path,
            file_sha256=sha256,
            training=read_training(metadata, path),
        )


@dataclass
class LoadedModel:
    """Weights in their network, on the CPU, checked against the images of an evaluation.

    Attributes:
        target: The weights.
        images: The images.
        preprocessing: How the images will be prepared.
        model: The network with the weights.
        tensors_sha256: Hash of the network's tensors.
        entry: The manifest's entry that has the same tensors and the same preprocessing; None if
            there is none.
    """

    target: EvaluationTarget
    images: Split
    preprocessing: Preprocessing
    model: ImageClassifier
    tensors_sha256: str
    entry: WeightsEntry | None

    @property
    def network_key(self) -> Hashable:
        """Identifies the network without the values of its tensors.

        It is equal for two sets of weights of the same network.
        """
        target = self.target
        return target.architecture, json.dumps(dict(target.arguments), sort_keys=True), self.model.num_classes


def load_model(target: EvaluationTarget, images: Split, override: Override | None = None) -> LoadedModel:
    """Build the network of some weights, load them, and check that they fit the images.

    Args:
        target: The weights.
        images: The images to evaluate on.
        override: Changes to the preprocessing of the weights, for another published protocol.

    Returns:
        The loaded model.

    Raises:
        UsageError: The weights were trained on another dataset, or the images cannot be prepared as
            the weights need it. Or the weights were trained on whitened images, and these are not.
        IntegrityError: The file does not hold exactly the tensors that the network has, or their
            hash is not that of the manifest's entry.
    """
    if target.dataset != images.name:
        raise UsageError(f"{target.name} was trained on {target.dataset}, not on {images.name}")
    preprocessing = (override or Override()).apply_to(target.preprocessing)
    images.check_preprocessing(preprocessing, target.name)
    check_whitening(images, preprocessing, target.name)
    content = read_weights(target.path, sha256=target.file_sha256)
    model = assemble(
        get_architecture(target.architecture), content, arguments=target.arguments, preprocessing=preprocessing
    )
    if model.num_classes != images.classes:
        raise UsageError(f"{target.name} has {model.num_classes} classes, and {images.name} has {images.classes}")
    sha256 = tensors_sha256(model.state_dict())
    if target.entry and target.entry.tensors_sha256 not in (None, sha256):
        raise IntegrityError(
            f"{target.path} does not hold the tensors of {target.name}: their sha256 is {sha256}, expected "
            f"{target.entry.tensors_sha256}; `pyramidzoo fetch --force {target.name}` makes the file again"
        )
    entry = target.entry or _find_entry(sha256, target.preprocessing, target.dataset)
    return LoadedModel(target, images, preprocessing, model, sha256, entry)


def _find_entry(sha256: str, preprocessing: Preprocessing, dataset: str | None = None) -> WeightsEntry | None:
    """Find the manifest's entry that has these tensors, this preprocessing and this dataset.

    Return None if there is none. The tensors alone are not enough: with `convert --force` a user
    can make a file that has the tensors of an entry but names another dataset. Then the claims and
    the recorded results of the entry are not valid for the file.
    """
    entry = load_manifest().find_by_tensors_hash(sha256, dataset=dataset)
    if entry is None or entry.preprocessing != preprocessing or dataset not in (None, entry.dataset):
        return None
    return entry
