"""Recognising a checkpoint: finding the layouts and architectures that its tensors fit by names, dtypes and shapes."""

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
from pyramidzoo.checkpoints.signatures import Signature, check_signatures, get_signatures, get_stored_signatures
from pyramidzoo.convert.layout import FlatCheckpoint, Layout
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.models import build, get_model_class, skip_initialisation

_ZOO_LAYOUT = "zoo"  # the layout with the zoo's own names
_MAX_IMAGE_CHANNELS = 100  # A convolution with more input channels is not the first layer of a network.


class Match(NamedTuple):
    """A layout and an architecture that a checkpoint fits exactly.

    Attributes:
        layout: The layout's name.
        architecture: The architecture's name.
    """

    layout: str
    architecture: str


class StemAndHead(NamedTuple):
    """The foreign names of a network's first and last weight, without the prefix of the state dict.

    Attributes:
        stem: The name of the first convolution's weight.
        head: The name of the classifier's weight.
    """

    stem: str
    head: str


def recognise(checkpoint: Path | Mapping[str, Tensor]) -> list[Match]:
    """Find every layout and architecture that a checkpoint fits exactly.

    Several can fit, because two projects can use the same names, and because two architectures can
    have tensors of the same names and shapes. For example, a file does not show which convolution
    of a block has the stride.

    Args:
        checkpoint: A file, or its tensors by their path in it, as "state_dict.conv1.weight".

    Returns:
        All matches. The zoo's own layout is among them only if no other layout fits.

    Raises:
        IntegrityError: The file is not a readable checkpoint.
        UnavailableError: The file cannot be read.
    """
    tensors = read_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    return list(find_matches_with_classes(tensors))


def find_matches_with_classes(checkpoint: Mapping[str, Tensor]) -> dict[Match, int]:
    """Find the same matches as `recognise`.

    Returns:
        The number of classes of the checkpoint's classifier, by match.
    """
    foreign_matches: dict[Match, int] = {}
    for layout_name in LAYOUTS:
        if layout_name != _ZOO_LAYOUT:
            foreign_matches.update(_find_matches_in_layout(checkpoint, layout_name))
    return foreign_matches or dict(_find_matches_in_layout(checkpoint, _ZOO_LAYOUT))


def find_match(
    checkpoint: Mapping[str, Tensor],
    layout: str | None,
    architecture: str | None,
    *,
    dataset: str,
    has_preprocessing: bool,
    source_name: str,
) -> Match:
    """Find the one layout and architecture with which a checkpoint is to be converted.

    Args:
        checkpoint: All tensors of the file, by their path in it.
        layout: The name of the layout that the user has given; None if the user has given none.
        architecture: The name of the architecture that the user has given; None if the user has
            given none.
        dataset: The dataset that the network was trained on. If several layouts read the same
            tensors into the same network, one with preprocessing for this dataset is taken.
        has_preprocessing: Whether the user has given the preprocessing.
        source_name: The name of the file, for error messages.

    Raises:
        UsageError: Several layouts or architectures fit, and the choice makes a difference.
        IntegrityError: No layout and architecture fit.
    """
    matches = recognise(checkpoint)
    # `recognise` leaves the zoo's own layout out if another layout fits. It is a candidate all the
    # same if the user has given its name, or an architecture that fits in no other layout.
    fits_no_match = architecture is not None and architecture not in [match.architecture for match in matches]
    if layout == _ZOO_LAYOUT or (layout is None and fits_no_match):
        zoo_matches = [match for match, _ in _find_matches_in_layout(checkpoint, _ZOO_LAYOUT)]
        matches += [match for match in zoo_matches if match not in matches]
    candidates = [
        match for match in matches if layout in (None, match.layout) and architecture in (None, match.architecture)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        layouts = [get_layout(match.layout) for match in candidates]
        picked = pick_equivalent_match(candidates, layouts, dataset, has_preprocessing=has_preprocessing)
        if picked is None:
            raise UsageError(f"{source_name} fits {describe_matches(candidates)}; say which with --layout and --arch")
        return picked
    if matches:
        requested = f" {layout or architecture}" if layout or architecture else ""
        raise IntegrityError(
            f"{source_name} is not a checkpoint of{requested}; it looks like {describe_matches(matches)}"
        )
    raise IntegrityError(
        f"{source_name} fits no layout and architecture that are known here: it holds {_describe_tensors(checkpoint)}; "
        "give --layout and --arch to see what differs"
    )


def pick_equivalent_match(
    matches: list[Match], layouts: list[Layout], dataset: str, *, has_preprocessing: bool
) -> Match | None:
    """Pick one of several matches, if the choice makes no difference to the converted network.

    This is so if all matches read the same tensors into the same network, and if their layouts
    prepare images in the same way.

    Args:
        matches: The layouts and architectures that a checkpoint fits; at least one.
        layouts: The layouts of the matches, in the same order.
        dataset: The dataset that the network was trained on.
        has_preprocessing: Whether the user has given the preprocessing. Then the preprocessing of
            the layouts is not used, and may differ.

    Returns:
        The first match whose layout has preprocessing for the dataset. If no layout has any, the
        first match. None if the choice makes a difference.
    """
    if len({match.architecture for match in matches}) > 1:
        return None
    architecture = get_architecture(matches[0].architecture)
    expected = compute_expected_signatures(architecture)
    sources_by_layout = [
        [layout.locate(name, signature, architecture) for name, signature in expected.items()] for layout in layouts
    ]
    if any(sources != sources_by_layout[0] for sources in sources_by_layout):
        return None
    # A layout with unused tensors is never equivalent to another one.
    if any(layout.list_unused_tensors(architecture) for layout in layouts):
        return None
    with_preprocessing = [index for index, layout in enumerate(layouts) if dataset in layout.preprocessing]
    if not has_preprocessing and len({layouts[index].preprocessing[dataset] for index in with_preprocessing}) > 1:
        return None
    return matches[with_preprocessing[0] if with_preprocessing else 0]


def find_stem_and_head(layout: Layout, architecture: Architecture) -> StemAndHead:
    """Return the foreign names of a network's first and last weight. The network is not built for this."""
    network_class = get_model_class(architecture)
    names = (f"{module}.weight" for module in (network_class.stem_name, network_class.classifier_name))
    return StemAndHead(*(layout.get_foreign_name(name, architecture) for name in names))


def compute_expected_signatures(architecture: Architecture, **settings: Any) -> dict[str, Signature]:
    """Return the signatures of all tensors in a weights file of a network, by the zoo's names.

    The network is built for this, but its weights are not initialised, which would take most of the
    time.

    Args:
        architecture: The architecture.
        settings: Arguments for `models.build`, as `num_classes`. The errors of `models.build` are
            raised.
    """
    with skip_initialisation():
        return get_stored_signatures(build(architecture, **settings))


def describe_matches(matches: Iterable[Match]) -> str:
    """Name the layouts and architectures of matches, for an error message."""
    return " or ".join(describe_match(match.layout, match.architecture) for match in matches)


def describe_match(layout: str, architecture: str) -> str:
    """Name a layout and an architecture for an error message, as "a timm checkpoint of resnet18"."""
    return f"{'an' if layout[0] in 'aeiou' else 'a'} {layout} checkpoint of {architecture}"


def _find_matches_in_layout(checkpoint: Mapping[str, Tensor], layout_name: str) -> Iterator[tuple[Match, int]]:
    """Yield each match of a checkpoint with one layout, and the number of classes of its classifier."""
    layout = get_layout(layout_name)
    # Most architectures have the same name for the stem. One search for the state dict serves all of them.
    flat_by_stem_name: dict[str, FlatCheckpoint] = {}
    for architecture in filter(layout.supports, architectures().values()):
        names = find_stem_and_head(layout, architecture)
        if names.stem not in flat_by_stem_name:
            try:
                flat_by_stem_name[names.stem] = layout.find_state_dict(checkpoint, names.stem, source_name="")
            except IntegrityError:
                flat_by_stem_name[names.stem] = FlatCheckpoint("", {})  # It fits no architecture.
        flat = flat_by_stem_name[names.stem]
        if _is_plausible(flat, names, architecture) and _has_required_signatures(flat, names, layout, architecture):
            num_classes = flat.tensors[flat.state_dict_prefix + names.head].shape[0]
            yield Match(layout.name, architecture.name), num_classes


def _is_plausible(flat: FlatCheckpoint, names: StemAndHead, architecture: Architecture) -> bool:
    """Return whether a checkpoint has a stem, a head, and about as many weights as the architecture's depth says.

    This is a quick check, which saves building most of the networks for the exact check.
    """
    stem, head = (flat.tensors.get(flat.state_dict_prefix + name) for name in names)
    if stem is None or stem.dim() != 4 or not 0 < stem.shape[1] < _MAX_IMAGE_CHANNELS:
        return False
    if head is None or head.dim() != 2 or not 0 < head.shape[0] < MAX_CLASSES:
        return False
    # A network has at least depth - 2 convolutions and linear layers; a WRN has this number. It has
    # at most twice its depth, as shake-shake with its two branches, and a few in shortcuts.
    weight_count = sum(tensor.dim() > 1 for tensor in flat.tensors.values())
    depth = architecture.arguments.get("depth")
    return depth is None or depth - 3 < weight_count < 2 * depth + 10


def _has_required_signatures(
    flat: FlatCheckpoint, names: StemAndHead, layout: Layout, architecture: Architecture
) -> bool:
    """Return whether a checkpoint has exactly the tensors that its layout requires for a network.

    The shapes of the checkpoint's head and stem say how many classes and image channels the network
    has.
    """
    stem, head = (flat.tensors[flat.state_dict_prefix + name] for name in names)
    num_classes, image_channels = head.shape[0], stem.shape[1]
    expected = _compute_signatures_once(architecture.name, num_classes, image_channels)
    required = layout.list_required_signatures(flat, expected, architecture)
    try:
        check_signatures(get_signatures(flat.tensors), required, error_start="", next_step="")
    except IntegrityError:
        return False
    return True


@lru_cache(maxsize=256)
def _compute_signatures_once(architecture_name: str, num_classes: int, image_channels: int) -> Mapping[str, Signature]:
    """Compute what `compute_expected_signatures` computes, and keep the result.

    Several layouts can have the same network, which is then built only once.
    """
    architecture = get_architecture(architecture_name)
    signatures = compute_expected_signatures(architecture, num_classes=num_classes, in_chans=image_channels)
    return MappingProxyType(signatures)  # read-only, because all callers get the same object


def _describe_tensors(checkpoint: Mapping[str, Tensor]) -> str:
    """Describe the tensors of an unknown checkpoint for an error message.

    The description says how many tensors there are, the first three of them, the first parts of the
    names, and the number of outputs of the last linear layer.
    """
    signatures = get_signatures(checkpoint)
    first_tensors = [f"{name} {signature}" for name, signature in islice(signatures.items(), 3)]
    first_name_parts = list(dict.fromkeys(name.partition(".")[0] for name in signatures))
    linear_outputs = [
        signature.shape[0]
        for name, signature in signatures.items()
        if len(signature.shape) == 2 and name.endswith(".weight")
    ]
    return (
        f"{len(signatures)} tensor{'s' * (len(signatures) != 1)} "
        f"({', '.join(first_tensors)}{', ...' * (len(signatures) > 3)}) under "
        f"{', '.join(first_name_parts[:6])}{', ...' * (len(first_name_parts) > 6)}"
        + (f", and its last linear layer has {linear_outputs[-1]} outputs" if linear_outputs else "")
    )
