"""Recognising a checkpoint: which layouts and architectures it fits, by names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture
from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.checkpoints.description import MAX_CLASSES
from pyramidzoo.checkpoints.signatures import Signature, check_signatures, signatures_of, stored_signatures
from pyramidzoo.convert.layout import FlatCheckpoint, Layout
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.models import build, get_model_class, skip_initialisation

_OWN = "zoo"  # the layout with the zoo's own names
_MAX_CHANNELS = 100  # of images; a first layer with more inputs is another layer


class Match(NamedTuple):
    """A layout and an architecture that a checkpoint fits exactly.

    Attributes:
        layout: The layout's name.
        architecture: The architecture's name.
    """

    layout: str
    architecture: str


class StemAndHead(NamedTuple):
    """The names that a network's first and last weight have in a file.

    Attributes:
        stem: The first convolution's weight.
        head: The classifier's weight.
    """

    stem: str
    head: str


def recognise(checkpoint: Path | Mapping[str, Tensor]) -> list[Match]:
    """Find every layout and architecture that a checkpoint fits exactly.

    Several can fit where they differ in what a file does not show: the place of a stride, or two
    projects that use the same names.

    Args:
        checkpoint: A file, or its tensors by their path in it.

    Returns:
        All matches. The zoo's own layout is among them only if no other layout fits.

    Raises:
        IntegrityError: The file is not a readable checkpoint.
        UnavailableError: The file cannot be read.
    """
    tensors = read_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    return list(matches_with_classes(tensors))


def matches_with_classes(checkpoint: Mapping[str, Tensor]) -> dict[Match, int]:
    """Find the same matches as `recognise`, and for each the number of classes in the file."""
    foreign = {match: classes for name in LAYOUTS if name != _OWN for match, classes in _fits(checkpoint, name)}
    return foreign or dict(_fits(checkpoint, _OWN))


def find_match(
    checkpoint: Mapping[str, Tensor],
    layout: str | None,
    architecture: str | None,
    *,
    dataset: str,
    has_preprocessing: bool,
    what: str,
) -> Match:
    """Find the one layout and architecture to convert a checkpoint with.

    Args:
        checkpoint: All tensors of the file by their path.
        layout: The layout that the user asked for, if any.
        architecture: The architecture that the user asked for, if any.
        dataset: What the network was trained on. If all matches read the same tensors into the same
            network, the layout whose preprocessing for this dataset is known is taken.
        has_preprocessing: Whether the user has given the preprocessing.
        what: The file, for an error message.

    Raises:
        UsageError: Several are possible.
        IntegrityError: None is.
    """
    matches = recognise(checkpoint)
    if layout == _OWN or (layout is None and architecture not in (None, *(match.architecture for match in matches))):
        matches += [match for match, _ in _fits(checkpoint, _OWN) if match not in matches]
    fitting = [m for m in matches if layout in (None, m.layout) and architecture in (None, m.architecture)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        layouts = [get_layout(match.layout) for match in fitting]
        picked = pick_equivalent_match(fitting, layouts, dataset, has_preprocessing=has_preprocessing)
        if picked is None:
            raise UsageError(f"{what} fits {describe_matches(fitting)}; say which with --layout and --arch")
        return picked
    if matches:
        asked = f" {layout or architecture}" if layout or architecture else ""
        raise IntegrityError(f"{what} is not a checkpoint of{asked}; it looks like {describe_matches(matches)}")
    raise IntegrityError(
        f"{what} fits no layout and architecture that are known here: it holds {_describe_tensors(checkpoint)}; "
        "--layout and --arch say what differs"
    )


def pick_equivalent_match(
    matches: list[Match], layouts: list[Layout], dataset: str, *, has_preprocessing: bool
) -> Match | None:
    """Pick one of several matches, if all of them read the same tensors into the same network.

    Args:
        matches: What the checkpoint fits; at least one.
        layouts: The layouts of the matches, in the same order.
        dataset: What the network was trained on.
        has_preprocessing: Whether the user has given the preprocessing, so that it does not matter
            that layouts differ in it.

    Returns:
        The first match whose layout has preprocessing for the dataset, or the first of all if none
        has. None if the matches read other tensors or networks, or if their layouts prepare images
        in different ways.
    """
    if len({match.architecture for match in matches}) > 1:
        return None
    row = get_architecture(matches[0].architecture)
    expected = expected_signatures(row)
    sources = [[layout.locate(name, part, row) for name, part in expected.items()] for layout in layouts]
    if any(other != sources[0] for other in sources) or any(layout.unused(row) for layout in layouts):
        return None
    trained = [index for index, layout in enumerate(layouts) if dataset in layout.preprocessing]
    if not has_preprocessing and len({layouts[index].preprocessing[dataset] for index in trained}) > 1:
        return None
    return matches[trained[0] if trained else 0]


def stem_and_head(layout: Layout, row: Architecture) -> StemAndHead:
    """Return the foreign names of a network's first and last weight, without building the network."""
    network = get_model_class(row)
    names = (f"{module}.weight" for module in (network.stem_name, network.classifier_name))
    return StemAndHead(*(layout.foreign_name(name, row) for name in names))


def expected_signatures(row: Architecture, **settings: Any) -> dict[str, Signature]:
    """Return what a file of a network holds under the zoo's names.

    Args:
        row: The architecture.
        settings: Arguments for `models.build`, whose errors are raised.
    """
    with skip_initialisation():
        return stored_signatures(build(row, **settings))


def describe_matches(matches: Iterable[Match]) -> str:
    """Return matches in words, for a message."""
    return " or ".join(describe_match(match.layout, match.architecture) for match in matches)


def describe_match(layout: str, architecture: str) -> str:
    """Return one match in words, with its article, for a message."""
    return f"{'an' if layout[0] in 'aeiou' else 'a'} {layout} checkpoint of {architecture}"


def _fits(checkpoint: Mapping[str, Tensor], layout_name: str) -> Iterator[tuple[Match, int]]:
    """Each architecture that a checkpoint fits in one layout, with the number of classes in the file."""
    layout = get_layout(layout_name)
    by_stem: dict[str, FlatCheckpoint] = {}
    for row in filter(layout.supports, architectures().values()):
        names = stem_and_head(layout, row)
        if names.stem not in by_stem:
            try:
                by_stem[names.stem] = layout.find_state_dict(checkpoint, names.stem, what="")
            except IntegrityError:
                by_stem[names.stem] = FlatCheckpoint("", {})
        flat = by_stem[names.stem]
        if _is_plausible(flat, names, row) and _has_signatures(flat, names, layout, row):
            yield Match(layout.name, row.name), flat.tensors[flat.container + names.head].shape[0]


def _is_plausible(flat: FlatCheckpoint, names: StemAndHead, row: Architecture) -> bool:
    """Whether stem and head are there, and about as many layers as the depth says. Nothing is built for this."""
    stem, head = (flat.tensors.get(flat.container + name) for name in names)
    if stem is None or stem.dim() != 4 or not 0 < stem.shape[1] < _MAX_CHANNELS:
        return False
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        return False
    # Every network has at least depth - 2 weights, as a WRN. It has at most two branches, as
    # shake-shake, and shortcuts.
    weights = sum(tensor.dim() > 1 for tensor in flat.tensors.values())
    depth = row.arguments.get("depth")
    return depth is None or depth - 3 < weights < 2 * depth + 10


def _has_signatures(flat: FlatCheckpoint, names: StemAndHead, layout: Layout, row: Architecture) -> bool:
    stem, head = (flat.tensors[flat.container + name] for name in names)
    expected = _cached_signatures(row.name, head.shape[0], stem.shape[1])
    required = layout.required_signatures(flat, expected, row)
    try:
        check_signatures(signatures_of(flat.tensors), required, what="", next_step="")
    except IntegrityError:
        return False
    return True


@lru_cache(maxsize=256)
def _cached_signatures(architecture: str, num_classes: int, in_chans: int) -> Mapping[str, Signature]:
    row = get_architecture(architecture)
    return MappingProxyType(expected_signatures(row, num_classes=num_classes, in_chans=in_chans))


def _describe_tensors(checkpoint: Mapping[str, Tensor]) -> str:
    """What helps to identify an unknown checkpoint: how many tensors, under which keys, for how many classes."""
    parts = signatures_of(checkpoint)
    first = [f"{name} {part}" for name, part in islice(parts.items(), 3)]
    keys = list(dict.fromkeys(name.partition(".")[0] for name in parts))
    heads = [part.shape[0] for name, part in parts.items() if len(part.shape) == 2 and name.endswith(".weight")]
    return (
        f"{len(parts)} tensor{'s' * (len(parts) != 1)} ({', '.join(first)}{', ...' * (len(parts) > 3)}) under "
        f"{', '.join(keys[:6])}{', ...' * (len(keys) > 6)}"
        + (f", and its last linear layer has {heads[-1]} outputs" if heads else "")
    )
