"""Converting a checkpoint of another project to a safetensors file of the zoo.

The name, dtype, shape and values of every tensor are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture, suggest_names
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.checkpoints.signatures import COUNTER
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint
from pyramidzoo.convert.recognition import (
    compute_expected_signatures,
    describe_match,
    describe_matches,
    find_match,
    find_matches_with_classes,
    find_stem_and_head,
)
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash


@dataclass(frozen=True)
class ConvertedFile:
    """A safetensors file that a conversion has written.

    Attributes:
        path: The file.
        description: The description of the network in the file's metadata.
        sha256: The sha256 of the file.
        tensors_sha256: The hash of the file's tensors, see
            `checkpoints.tensor_hash.tensors_sha256`.
    """

    path: Path
    description: Description
    sha256: str
    tensors_sha256: str


def convert_file(
    source: Path,
    destination: Path,
    *,
    layout: str | None = None,
    architecture: str | None = None,
    dataset: str,
    num_classes: int,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    origin_sha256: str | None = None,
    expected_tensors: str | None = None,
    force: bool = False,
) -> ConvertedFile:
    """Convert a checkpoint of another project to a safetensors file of the zoo.

    The metadata of the safetensors file describe the network, so that no other file is needed to
    build and to evaluate it.

    Args:
        source: The checkpoint: a torch checkpoint, a Torch7 file, a safetensors file, or a zip
            archive that holds one of them.
        destination: The file to write. A file that is already there is replaced. On an error it
            stays as it was.
        layout: The name of the checkpoint's layout. By default it is found by the names and shapes
            of the tensors. If several layouts read the same tensors into the same network, the one
            with preprocessing for `dataset` is taken.
        architecture: The name of the network's architecture. By default it is found by the names
            and shapes of the tensors.
        dataset: The dataset that the network was trained on, as "cifar10".
        num_classes: The number of classes of the network.
        arguments: Further arguments of the network's class. They add to the arguments that the
            catalog of architectures has under the architecture's name, or replace them.
        preprocessing: How images are prepared for the network. By default it is the preprocessing
            with which the layout's authors trained on `dataset`.
        origin_sha256: The sha256 of `source`, if the caller has computed it already.
        expected_tensors: The `tensors_sha256` that the written file must have, if it is known.
        force: Whether to convert even if the manifest says that these tensors were trained on
            another dataset than `dataset`.

    Returns:
        The path of the written file, its description and its hashes.

    Raises:
        UsageError: A name is unknown; several layouts or architectures fit; the preprocessing is
            not known; or the manifest says that the tensors were trained on another dataset.
        IntegrityError: The checkpoint is damaged, or it is not a checkpoint of this network.
        UnavailableError: `source` cannot be read, or `destination` cannot be written.

    Example:
        >>> convert_file(Path("resnet20.th"), Path("resnet20.safetensors"), dataset="cifar10",
        num_classes=10)
    """
    # Reading the file may take long. Therefore the arguments are checked first.
    chosen_layout = None if layout is None else get_layout(layout)
    chosen_architecture = None if architecture is None else get_architecture(architecture)
    if chosen_layout and chosen_architecture:
        _require_support(chosen_layout, chosen_architecture)
    if chosen_layout and preprocessing is None:
        _get_default_preprocessing(chosen_layout, dataset)  # It raises an error if there is none.
    _require_files(source, destination)

    checkpoint = read_checkpoint(source)
    if chosen_layout is None or chosen_architecture is None:
        match = find_match(
            checkpoint,
            layout,
            architecture,
            dataset=dataset,
            has_preprocessing=preprocessing is not None,
            source_name=str(source),
        )
        chosen_layout, chosen_architecture = get_layout(match.layout), get_architecture(match.architecture)
    description = Description(
        architecture=chosen_architecture.name,
        arguments=dict(arguments or {}),
        dataset=dataset,
        num_classes=num_classes,
        preprocessing=preprocessing or _get_default_preprocessing(chosen_layout, dataset),
        layout=chosen_layout.name,
        origin_sha256=origin_sha256 or file_hash(source),
    )
    image_channels = description.preprocessing.input_size[0]
    settings = {"num_classes": num_classes, "in_chans": image_channels, **description.arguments}
    tensors = map_tensors(checkpoint, chosen_layout, chosen_architecture, settings=settings, source_name=str(source))

    content_hash = tensors_sha256(tensors)
    if expected_tensors not in (None, content_hash):
        raise IntegrityError(
            f"{source}: its tensors have sha256 {content_hash}, the manifest says {expected_tensors}; "
            "please report this"
        )
    if not force:
        _require_dataset(content_hash, dataset, source_name=str(source))
    metadata = description.to_metadata() | _make_conversion_metadata(checkpoint, chosen_layout, chosen_architecture)
    write_tensors(destination, tensors, metadata)
    return ConvertedFile(destination, description, file_hash(destination), content_hash)


def map_tensors(
    checkpoint: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    *,
    settings: Mapping[str, Any],
    source_name: str,
) -> dict[str, Tensor]:
    """Take the tensors of a network out of a checkpoint of another project, and give them the zoo's names.

    The checkpoint must hold exactly the tensors that its layout lists. These are the tensors of the
    network. Some layouts also list tensors that the network does not use; those are not returned.

    Args:
        checkpoint: All tensors of the file, by their path in it, as "state_dict.conv1.weight".
        layout: The way in which the project names its tensors.
        architecture: The network's architecture in the zoo.
        settings: Arguments with which the network is built, as `num_classes`. They add to the
            arguments of the architecture, or replace them.
        source_name: The name of the file, for error messages.

    Returns:
        The tensors of the network's state dict, by the zoo's names. Batch counters may be absent.

    Raises:
        IntegrityError: A name, a dtype, a shape or a value is wrong. If the checkpoint fits other
            layouts and architectures, the message names those.
    """
    expected = compute_expected_signatures(architecture, **settings)
    num_classes = settings.get("num_classes", architecture.num_classes)
    error_start = f"{source_name} is not {describe_match(layout.name, architecture.name)} with {num_classes} classes"
    stem_name = find_stem_and_head(layout, architecture).stem
    flat = layout.find_state_dict(checkpoint, stem_name, source_name=source_name)
    try:
        tensors = layout.extract_tensors(flat, expected, architecture, error_start=error_start)
    except IntegrityError as error:
        matches = find_matches_with_classes(checkpoint)
        if not matches:
            raise
        raise IntegrityError(
            f"{error}; it looks like {describe_matches(matches)} with {max(matches.values())} classes"
        ) from error
    # Batch counters are integers that nothing computes with.
    values = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    check_finite(values, error_start=source_name)
    return tensors


def _require_support(layout: Layout, architecture: Architecture) -> None:
    """Raise UsageError if the project of a layout has no network of an architecture."""
    if layout.supports(architecture):
        return
    supported = [name for name, other in architectures().items() if layout.supports(other)]
    hint = f"it has {', '.join(supported)}" if len(supported) < 20 else suggest_names(architecture.name, supported)
    raise UsageError(f"layout {layout.name} is that of {layout.repository}, which has no {architecture.name}; {hint}")


def _get_default_preprocessing(layout: Layout, dataset: str) -> Preprocessing:
    """Return the preprocessing with which a layout's authors trained on a dataset; raise UsageError if it is unknown.

    A layout without any preprocessing is that of a project whose files differ in their
    preprocessing.
    """
    if dataset in layout.preprocessing:
        return layout.preprocessing[dataset]
    if not layout.preprocessing:
        raise UsageError(f"each file of {layout.repository} has its own normalization; give --mean and --std")
    raise UsageError(
        f"{layout.repository} trained on {', '.join(layout.preprocessing)} only, so the normalization of {dataset} "
        "weights is unknown; give --mean and --std"
    )


def _require_files(source: Path, destination: Path) -> None:
    """Raise an error if the checkpoint does not exist, or if the output would replace the checkpoint."""
    if not source.is_file():
        raise UnavailableError(f"there is no file {source}")
    if destination.exists() and destination.samefile(source):
        raise UsageError(f"{destination} is the checkpoint itself; name another output")


def _require_dataset(content_hash: str, dataset: str, *, source_name: str) -> None:
    """Raise UsageError if the manifest says that tensors were trained on another dataset than `dataset`.

    The converted file would state the wrong dataset.

    Args:
        content_hash: The `tensors_sha256` of the tensors.
        dataset: The dataset that the user has named.
        source_name: The name of the file, for the error message.
    """
    entry = load_manifest().find_by_tensors_hash(content_hash, dataset=dataset)
    if entry and entry.dataset != dataset:
        raise UsageError(
            f"{source_name} holds the tensors of {entry.id}, which were trained on {entry.dataset}, not on {dataset}; "
            f"give --dataset {entry.dataset}, or --force (in Python force=True) to call them {dataset} weights "
            "all the same"
        )


def _make_conversion_metadata(
    checkpoint: Mapping[str, Tensor], layout: Layout, architecture: Architecture
) -> dict[str, str]:
    """Make the metadata that say how values were changed by the conversion; empty if none was changed."""
    notes = [layout.make_remark(architecture)]
    if any(tensor.dtype == torch.float16 for tensor in checkpoint.values()):
        notes.append("float16 in the origin, float32 here: the same values")
    text = "; ".join(note for note in notes if note)
    return {"conversion": text} if text else {}
