"""Foreign checkpoints into the zoo's safetensors files: one small map per layout, strict in both directions."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture, near_matches
from pyramidzoo.catalog.manifest import LAYOUTS, Preprocessing, load_manifest
from pyramidzoo.checkpoints.archives import extract_member, is_archive
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.safetensors_file import read_tensors, write_tensors
from pyramidzoo.checkpoints.signatures import COUNTER
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert._layout import Layout
from pyramidzoo.convert._reading import is_safetensors, is_torch7, read_torch7, unpickle
from pyramidzoo.convert._recognition import (
    Match,
    a_checkpoint,
    ends_of,
    expected_signatures,
    listed,
    matches,
    only_match,
    pick_equivalent_match,
)
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import file_hash

__all__ = [
    "LAYOUTS",
    "Converted",
    "Match",
    "convert_file",
    "get_layout",
    "map_tensors",
    "read_checkpoint",
    "recognise",
    "unpickle",
]

_OWN = "zoo"


@dataclass(frozen=True)
class Converted:
    """A finished conversion: where it is and the hashes that describe it."""

    path: Path
    description: Description
    sha256: str
    tensors_sha256: str


def get_layout(name: str) -> Layout:
    """The map of that name. Raises UsageError."""
    if name not in LAYOUTS:
        raise UsageError(f"no layout is called {name!r}; the layouts are {', '.join(LAYOUTS)}")
    layout: Layout = importlib.import_module(f"pyramidzoo.convert.layouts.{name}").LAYOUT
    return layout


def _all_matches(checkpoint: Mapping[str, Tensor]) -> dict[Match, int]:
    """What a checkpoint fits, with its number of classes; the zoo's own names only where nobody else's fit."""
    foreign = dict(matches(checkpoint, {name: get_layout(name) for name in LAYOUTS if name != _OWN}))
    return foreign or dict(matches(checkpoint, {_OWN: get_layout(_OWN)}))


def _recognised(
    checkpoint: Mapping[str, Tensor],
    layout: str | None,
    architecture: str | None,
    *,
    dataset: str,
    normalised: bool,
    what: str,
) -> Match:
    """The one match of a checkpoint, of which layout or architecture may be given. Raises as `only_match` does."""
    found = recognise(checkpoint)
    if layout == _OWN or (layout is None and architecture not in (None, *(m.architecture for m in found))):
        own = matches(checkpoint, {_OWN: get_layout(_OWN)})
        found += [match for match, _ in own if match not in found]
    fitting = [m for m in found if layout in (None, m.layout) and architecture in (None, m.architecture)]
    layouts = [get_layout(match.layout) for match in fitting]
    if taken := pick_equivalent_match(fitting, layouts, dataset, normalised=normalised):
        return taken
    return only_match(found, layout, architecture, checkpoint=checkpoint, what=what)


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
) -> Converted:
    """Convert a foreign checkpoint to a safetensors file that says what it holds.

    `source` is a torch checkpoint, a zip around one, a Torch7 or a safetensors file. Without `layout` or `architecture`
    the one that fits is taken, if it is only one, or if all would read the same tensors into the same network: then the
    one whose authors' preprocessing for `dataset` is known. `arguments` are the network's beside the table's;
    `preprocessing` defaults to what the layout's authors trained with on that data set; `origin_sha256` is given where
    the caller has hashed the source already, `expected_tensors` where the content is known. `destination` is replaced
    as a whole, or left alone on any error. `force` converts even where the manifest knows these tensors from another
    data set.

    Raises UsageError for unknown names, where several layouts or architectures fit, and where the manifest contradicts
    `dataset`; IntegrityError where the checkpoint is damaged or is not that network.
    """
    key_map = None if layout is None else get_layout(layout)
    row = None if architecture is None else get_architecture(architecture)
    if key_map and row:
        _require_support(key_map, row)
    if key_map and preprocessing is None:
        _default_preprocessing(key_map, dataset)  # an error about it should not wait for the file
    if not source.is_file():
        raise UnavailableError(f"there is no file {source}")
    if destination.exists() and destination.samefile(source):
        raise UsageError(f"{destination} is the checkpoint itself; name another output")

    checkpoint = read_checkpoint(source)
    if key_map is None or row is None:
        match = _recognised(
            checkpoint,
            layout,
            architecture,
            dataset=dataset,
            normalised=preprocessing is not None,
            what=str(source),
        )
        key_map, row = get_layout(match.layout), get_architecture(match.architecture)
    if preprocessing is None:
        preprocessing = _default_preprocessing(key_map, dataset)
    description = Description(
        architecture=row.name,
        arguments=dict(arguments or {}),
        dataset=dataset,
        num_classes=num_classes,
        preprocessing=preprocessing,
        layout=key_map.name,
        origin_sha256=origin_sha256 or file_hash(source),
    )
    settings = {"num_classes": num_classes, "in_chans": preprocessing.input_size[0], **description.arguments}
    tensors = map_tensors(checkpoint, key_map, row, settings=settings, what=str(source))
    content = tensors_sha256(tensors)
    if expected_tensors not in (None, content):
        raise IntegrityError(
            f"{source}: its tensors have sha256 {content}, the manifest says {expected_tensors}; please report this"
        )
    if not force:
        _require_dataset(content, dataset, what=str(source))
    write_tensors(destination, tensors, description.to_metadata() | _remarks(checkpoint, key_map, row))
    return Converted(destination, description, file_hash(destination), content)


def map_tensors(
    checkpoint: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    *,
    settings: Mapping[str, Any],
    what: str,
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under the zoo's names; every name, dtype, shape and value is checked.

    The file must hold exactly what the layout names: the network's tensors and the layout's unused ones, which are
    dropped. Raises IntegrityError, which says what the checkpoint looks like instead, if that is known.
    """
    expected = expected_signatures(architecture, **settings)
    classes = settings.get("num_classes", architecture.num_classes)
    problem = f"{what} is not {a_checkpoint(layout.name, architecture.name)} with {classes} classes"
    opened = layout.opened(checkpoint, ends_of(layout, architecture).stem, what=what)
    try:
        tensors = layout.read(opened, expected, architecture, what=problem)
    except IntegrityError as error:
        if not (fitting := _all_matches(checkpoint)):
            raise
        raise IntegrityError(
            f"{error}; it looks like {listed(fitting)} with {max(fitting.values())} classes"
        ) from error
    check_finite({name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}, what=what)
    return tensors


def recognise(checkpoint: Path | Mapping[str, Tensor]) -> list[Match]:
    """Every layout and architecture that a checkpoint fits exactly, by names, dtypes and shapes.

    Several fit where they differ in what a file cannot show: the place of a stride, two authors with the same names.
    Raises IntegrityError where a file cannot be read, UnavailableError.
    """
    tensors = read_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    return list(_all_matches(tensors))


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """All tensors of a foreign file of any kind, by their path in it. Raises IntegrityError, UnavailableError."""
    return _from_archive(source) if is_archive(source) else _from_file(source)


def _from_file(source: Path) -> dict[str, Tensor]:
    if is_safetensors(source):
        return read_tensors(source)
    return read_torch7(source) if is_torch7(source) else unpickle(source)


def _from_archive(source: Path) -> dict[str, Tensor]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="pyramidzoo-")
    except OSError as error:
        raise NotWritableError(f"cannot unpack {source}: {error.strerror or error}; name a folder in TMPDIR") from error
    with folder as name:
        member = Path(name) / source.with_suffix("").name
        extract_member(source, member)
        try:
            return _from_file(member)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(str(member), f"{source}: its one file")) from error


def _require_support(layout: Layout, row: Architecture) -> None:
    if layout.supports(row):
        return
    known = [name for name, other in architectures().items() if layout.supports(other)]
    which = f"it has {', '.join(known)}" if len(known) < 20 else near_matches(row.name, known)
    raise UsageError(f"layout {layout.name} is that of {layout.repository}, which has no {row.name}; {which}")


def _default_preprocessing(layout: Layout, dataset: str) -> Preprocessing:
    if dataset in layout.preprocessing:
        return layout.preprocessing[dataset]
    if not layout.preprocessing:
        raise UsageError(f"each file of {layout.repository} has its own normalisation; give --mean and --std")
    known = ", ".join(layout.preprocessing)
    raise UsageError(
        f"{layout.repository} trained on {known} only, so the normalisation of {dataset} weights is unknown; "
        "give --mean and --std"
    )


def _require_dataset(content: str, dataset: str, *, what: str) -> None:
    """Refuse another data set than that of the manifest's entry with these tensors: the file would mislead."""
    known = load_manifest().with_tensors(content, dataset=dataset)
    if known and known.dataset != dataset:
        raise UsageError(
            f"{what} holds the tensors of {known.id}, which were trained on {known.dataset}, not on {dataset}; give "
            f"--dataset {known.dataset}, or --force (in Python force=True) to call them {dataset} weights all the same"
        )


def _remarks(checkpoint: Mapping[str, Tensor], layout: Layout, row: Architecture) -> dict[str, str]:
    """What happened to the values on the way, as metadata of the converted file."""
    notes = [layout.remark(row)]
    if any(tensor.dtype == torch.float16 for tensor in checkpoint.values()):
        notes.append("float16 in the origin, float32 here: the same values")
    text = "; ".join(note for note in notes if note)
    return {"conversion": text} if text else {}
