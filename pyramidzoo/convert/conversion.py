"""Converting a foreign checkpoint to a safetensors file of the zoo. Every name, dtype, shape and value is checked."""

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
    describe_match,
    describe_matches,
    expected_signatures,
    find_match,
    matches_with_classes,
    stem_and_head,
)
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash


@dataclass(frozen=True)
class ConvertedFile:
    """A finished conversion.

    Attributes:
        path: The safetensors file.
        description: What the file says about itself.
        sha256: The hash of the file.
        tensors_sha256: The hash of its tensors, see `checkpoints.tensor_hash.tensors_sha256`.
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
    """Convert a foreign checkpoint to a safetensors file that describes itself.

    Args:
        source: A torch checkpoint, a zip archive around one, a Torch7 file or a safetensors file.
        destination: The file to write. It is replaced as a whole; on any error it stays as it was.
        layout: The layout's name. By default the one that fits, if there is only one.
        architecture: The architecture's name. By default the one that fits, if there is only one.
            If several layouts read the same tensors into the same network, the one with
            preprocessing for `dataset` is taken.
        dataset: What the network was trained on, as "cifar10".
        num_classes: How many classes it has.
        arguments: Arguments of the network beside those that the architecture's name stands for.
        preprocessing: How images are prepared; by default what the layout's authors trained with on
            `dataset`.
        origin_sha256: The sha256 of `source`, if it was computed already.
        expected_tensors: The `tensors_sha256` that the result must have, if it is known.
        force: Whether to convert even if the manifest knows these tensors from another dataset.

    Returns:
        The file, its description and its hashes.

    Raises:
        UsageError: A name is unknown; several layouts or architectures fit; the preprocessing is
            not known; or the manifest knows the tensors from another dataset.
        IntegrityError: The checkpoint is damaged, or it is not one of that network.
        UnavailableError: `source` cannot be read or `destination` cannot be written.

    Example:
        >>> convert_file(Path("resnet20.th"), Path("resnet20.safetensors"), dataset="cifar10",
        num_classes=10)
    """
    # First everything that can be wrong before the file is read, which may take long.
    key_map = None if layout is None else get_layout(layout)
    row = None if architecture is None else get_architecture(architecture)
    if key_map and row:
        _require_support(key_map, row)
    if key_map and preprocessing is None:
        _default_preprocessing(key_map, dataset)
    _require_files(source, destination)

    checkpoint = read_checkpoint(source)
    if key_map is None or row is None:
        has_preprocessing = preprocessing is not None
        match = find_match(
            checkpoint, layout, architecture, dataset=dataset, has_preprocessing=has_preprocessing, what=str(source)
        )
        key_map, row = get_layout(match.layout), get_architecture(match.architecture)
    description = Description(
        architecture=row.name,
        arguments=dict(arguments or {}),
        dataset=dataset,
        num_classes=num_classes,
        preprocessing=preprocessing or _default_preprocessing(key_map, dataset),
        layout=key_map.name,
        origin_sha256=origin_sha256 or file_hash(source),
    )
    channels = description.preprocessing.input_size[0]
    settings = {"num_classes": num_classes, "in_chans": channels, **description.arguments}
    tensors = map_tensors(checkpoint, key_map, row, settings=settings, what=str(source))

    content_hash = tensors_sha256(tensors)
    if expected_tensors not in (None, content_hash):
        raise IntegrityError(
            f"{source}: its tensors have sha256 {content_hash}, the manifest says {expected_tensors}; "
            "please report this"
        )
    if not force:
        _require_dataset(content_hash, dataset, what=str(source))
    write_tensors(destination, tensors, description.to_metadata() | _remarks(checkpoint, key_map, row))
    return ConvertedFile(destination, description, file_hash(destination), content_hash)


def map_tensors(
    checkpoint: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    *,
    settings: Mapping[str, Any],
    what: str,
) -> dict[str, Tensor]:
    """Map the tensors of a foreign checkpoint to the zoo's names.

    The checkpoint must hold exactly what the layout names: the network's tensors, and unused ones,
    which are dropped.

    Args:
        checkpoint: All tensors of the file by their path.
        layout: The checkpoint's layout.
        architecture: The network.
        settings: Arguments of the network beside those that its name stands for, as `num_classes`.
        what: The file, for an error message.

    Returns:
        The tensors of a state dict of the network. Batch counters may be absent.

    Raises:
        IntegrityError: A name, a dtype, a shape or a value is wrong. The message says what the
            checkpoint looks like instead, if that is known.
    """
    expected = expected_signatures(architecture, **settings)
    classes = settings.get("num_classes", architecture.num_classes)
    problem = f"{what} is not {describe_match(layout.name, architecture.name)} with {classes} classes"
    flat = layout.find_state_dict(checkpoint, stem_and_head(layout, architecture).stem, what=what)
    try:
        tensors = layout.extract_tensors(flat, expected, architecture, what=problem)
    except IntegrityError as error:
        fitting = matches_with_classes(checkpoint)
        if not fitting:
            raise
        raise IntegrityError(
            f"{error}; it looks like {describe_matches(fitting)} with {max(fitting.values())} classes"
        ) from error
    check_finite({name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}, what=what)
    return tensors


def _require_support(layout: Layout, row: Architecture) -> None:
    if layout.supports(row):
        return
    supported = [name for name, other in architectures().items() if layout.supports(other)]
    hint = f"it has {', '.join(supported)}" if len(supported) < 20 else suggest_names(row.name, supported)
    raise UsageError(f"layout {layout.name} is that of {layout.repository}, which has no {row.name}; {hint}")


def _default_preprocessing(layout: Layout, dataset: str) -> Preprocessing:
    """What the layout's authors trained with on a dataset; it is an error if that is not known."""
    if dataset in layout.preprocessing:
        return layout.preprocessing[dataset]
    if not layout.preprocessing:
        raise UsageError(f"each file of {layout.repository} has its own normalization; give --mean and --std")
    raise UsageError(
        f"{layout.repository} trained on {', '.join(layout.preprocessing)} only, so the normalization of {dataset} "
        "weights is unknown; give --mean and --std"
    )


def _require_files(source: Path, destination: Path) -> None:
    if not source.is_file():
        raise UnavailableError(f"there is no file {source}")
    if destination.exists() and destination.samefile(source):
        raise UsageError(f"{destination} is the checkpoint itself; name another output")


def _require_dataset(content_hash: str, dataset: str, *, what: str) -> None:
    """Refuse another dataset than that of the manifest's entry with these tensors: the file would mislead."""
    entry = load_manifest().find_by_tensors_hash(content_hash, dataset=dataset)
    if entry and entry.dataset != dataset:
        raise UsageError(
            f"{what} holds the tensors of {entry.id}, which were trained on {entry.dataset}, not on {dataset}; give "
            f"--dataset {entry.dataset}, or --force (in Python force=True) to call them {dataset} weights all the same"
        )


def _remarks(checkpoint: Mapping[str, Tensor], layout: Layout, row: Architecture) -> dict[str, str]:
    """Metadata of the converted file that say what happened to its values; nothing if they are as they were."""
    notes = [layout.remark(row)]
    if any(tensor.dtype == torch.float16 for tensor in checkpoint.values()):
        notes.append("float16 in the origin, float32 here: the same values")
    text = "; ".join(note for note in notes if note)
    return {"conversion": text} if text else {}
