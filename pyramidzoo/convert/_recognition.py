"""Which layouts and architectures a checkpoint fits, by names, dtypes and shapes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture
from pyramidzoo.checkpoints.description import MAX_CLASSES
from pyramidzoo.checkpoints.signatures import Signature, check_signatures, signatures_of, stored_signatures
from pyramidzoo.convert._layout import FlatCheckpoint, Layout
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.models import build, uninitialised


class Match(NamedTuple):
    """Names that a checkpoint fits exactly."""

    layout: str
    architecture: str


class StemAndHead(NamedTuple):
    """What a network's stem and classifier are called in a file."""

    stem: str
    classifier: str


def ends_of(layout: Layout, row: Architecture) -> StemAndHead:
    """The foreign names of the first and the last weight, which the class alone tells: nothing is built."""
    builder: Any = getattr(importlib.import_module(f"pyramidzoo.models.{row.family}"), row.builder)
    names = (f"{module}.weight" for module in (builder.stem_name, builder.classifier_name))
    return StemAndHead(*(layout.foreign_name(name, row) for name in names))


def matches(checkpoint: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> Iterator[tuple[Match, int]]:
    """Each fitting layout and architecture with the number of classes in the file."""
    for layout in layouts.values():
        seen: dict[str, FlatCheckpoint] = {}
        for row in filter(layout.supports, architectures().values()):
            ends = ends_of(layout, row)
            if ends.stem not in seen:
                try:
                    seen[ends.stem] = layout.opened(checkpoint, ends.stem, what="")
                except IntegrityError:
                    seen[ends.stem] = FlatCheckpoint("", {})
            opened = seen[ends.stem]
            if _plausible(opened, ends, row) and _fits(layout, row, opened, ends):
                yield Match(layout.name, row.name), opened.tensors[opened.container + ends.classifier].shape[0]


def _plausible(opened: FlatCheckpoint, ends: StemAndHead, row: Architecture) -> bool:
    """A look without building the network: both ends are there, and about as many layers as its depth says."""
    stem, head = (opened.tensors.get(opened.container + name) for name in ends)
    if stem is None or stem.dim() != 4 or not 0 < stem.shape[1] < 100:
        return False
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        return False
    # every network has at least depth - 2 weights (a WRN has), at most two branches (shake-shake) and shortcuts
    weights = sum(tensor.dim() > 1 for tensor in opened.tensors.values())
    depth = row.arguments.get("depth")
    return depth is None or depth - 3 < weights < 2 * depth + 10


def _fits(layout: Layout, row: Architecture, opened: FlatCheckpoint, ends: StemAndHead) -> bool:
    stem, head = (opened.tensors[opened.container + name] for name in ends)
    expected = _remembered(row.name, head.shape[0], stem.shape[1])
    try:
        check_signatures(signatures_of(opened.tensors), layout.wanted(opened, expected, row), what="", next_step="")
    except IntegrityError:
        return False
    return True


def pick_equivalent_match(
    fitting: list[Match], layouts: list[Layout], dataset: str, *, normalised: bool
) -> Match | None:
    """The match to take of several that read the same tensors into the same network, their `layouts` in that order.

    It is the one with preprocessing for the data set. None where they differ in more than that, or where more than one
    has its own; the latter does not matter if the preprocessing is known (`normalised`).
    """
    if not fitting or len({match.architecture for match in fitting}) > 1:
        return None
    row = get_architecture(fitting[0].architecture)
    expected = expected_signatures(row)
    sources = [[layout.locate(name, part, row) for name, part in expected.items()] for layout in layouts]
    if any(other != sources[0] for other in sources) or any(layout.unused(row) for layout in layouts):
        return None
    known = [k for k, layout in enumerate(layouts) if dataset in layout.preprocessing]
    ways = {layouts[k].preprocessing[dataset] for k in known}
    return fitting[known[0] if known else 0] if normalised or len(ways) < 2 else None


def only_match(
    found: list[Match],
    layout: str | None,
    architecture: str | None,
    *,
    checkpoint: Mapping[str, Tensor],
    what: str,
) -> Match:
    """The one match that a given layout or architecture leaves.

    Raises UsageError where several are left, IntegrityError for none.
    """
    fitting = [m for m in found if layout in (None, m.layout) and architecture in (None, m.architecture)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{what} fits {listed(fitting)}; say which with --layout and --arch")
    asked = f" {layout or architecture}" if layout or architecture else ""
    if found:
        raise IntegrityError(f"{what} is not a checkpoint of{asked}; it looks like {listed(found)}")
    raise IntegrityError(
        f"{what} fits no layout and architecture that are known here: it holds {_contents(checkpoint)}; --layout and "
        "--arch say what differs"
    )


def listed(found: Iterable[Match]) -> str:
    """Matches in words."""
    return " or ".join(a_checkpoint(match.layout, match.architecture) for match in found)


def a_checkpoint(layout: str, architecture: str) -> str:
    """One match in words, with its article."""
    return f"{'an' if layout[0] in 'aeiou' else 'a'} {layout} checkpoint of {architecture}"


def _contents(checkpoint: Mapping[str, Tensor]) -> str:
    """What to recognise an unknown checkpoint by: how much it holds, under which keys, for how many classes."""
    parts = signatures_of(checkpoint)
    names = [f"{name} {part.dtype}[{'x'.join(map(str, part.shape))}]" for name, part in islice(parts.items(), 3)]
    keys = list(dict.fromkeys(name.partition(".")[0] for name in parts))
    heads = [part.shape[0] for name, part in parts.items() if len(part.shape) == 2 and name.endswith(".weight")]
    return (
        f"{len(parts)} tensor{'s' * (len(parts) != 1)} ({', '.join(names)}{', ...' * (len(parts) > 3)}) under "
        f"{', '.join(keys[:6])}{', ...' * (len(keys) > 6)}"
        + (f", and its last linear layer has {heads[-1]} outputs" if heads else "")
    )


def expected_signatures(row: Architecture, **settings: Any) -> dict[str, Signature]:
    """What a file of this network holds under the zoo's names. Raises what `build` raises."""
    with uninitialised():
        return stored_signatures(build(row, **settings))


@lru_cache(maxsize=256)
def _remembered(architecture: str, num_classes: int, in_chans: int) -> Mapping[str, Signature]:
    row = get_architecture(architecture)
    return MappingProxyType(expected_signatures(row, num_classes=num_classes, in_chans=in_chans))
