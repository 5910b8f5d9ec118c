"""Sentences for error messages: what a user can do if the file of an entry cannot be fetched."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.errors import UsageError
from pyramidzoo.weights.folders import is_recognisable


def advise_after_failed_fetch(entry: WeightsEntry) -> str:
    """Say how a user can get an entry's file after no source had it."""
    if entry.origin and entry.origin.manual is not None:
        return "No program can download this file; it must be downloaded by hand"
    if not is_recognisable(entry):
        return f"Fetch the file on a machine that has a network, or {advise_use_by_hand(entry)}"
    return (
        "Fetch the file on a machine that has a network, or put this file into a folder that PYRAMIDZOO_ORIGINS names: "
        f"{describe_published_file(entry)}"
    )


def advise_after_manual_download(entry: WeightsEntry) -> str:
    """Say what a user must do with an entry's file that was downloaded by hand."""
    if is_recognisable(entry):
        return "put the file in a folder of PYRAMIDZOO_ORIGINS"
    return advise_use_by_hand(entry)


def advise_use_by_hand(entry: WeightsEntry) -> str:
    """Say how to use an entry's file without fetching it.

    This is needed if nobody has published a hash of the file, so that it cannot be recognised in a folder.
    """
    layout = entry.origin.layout if entry.origin else entry.hub.layout if entry.hub else None
    if layout is None:  # The file needs no conversion. It does not name its architecture, so the user must.
        return f'load the file itself: `create_model("{entry.architecture}", weights="FILE.safetensors")`'
    preprocessing_options = ""
    if entry.dataset not in get_layout(layout).preprocessing:  # `convert` then does not know the mean and the std
        mean, std = (" ".join(map(str, values)) for values in (entry.preprocessing.mean, entry.preprocessing.std))
        preprocessing_options = f"--mean {mean} --std {std} "
    return (
        f"convert it by hand: `pyramidzoo convert FILE --layout {layout} --arch {entry.architecture} "
        f"--dataset {entry.dataset} {preprocessing_options}--output OUT.safetensors`"
    )


def describe_published_file(entry: WeightsEntry) -> str:
    """Return the name and the hash of an entry's file, as it is on the Hub or at the authors' address."""
    if entry.hub:
        return f"{entry.hub.filename}, sha256 {entry.hub.sha256 or 'unknown'}"
    if entry.origin:
        return f"{entry.origin.manual or entry.origin.filename}, {entry.origin.hash}"
    raise UsageError(f"{entry.id} is part of the package; no such file is published")
