"""What to do about weights that cannot be fetched: the sentences at the end of error messages."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.errors import UsageError
from pyramidzoo.weights.folders import is_recognisable


def advise(entry: WeightsEntry) -> str:
    """Say how to get an entry's file where it could not be fetched."""
    if entry.origin and entry.origin.manual is not None:
        return "Only a person can get it"
    if not is_recognisable(entry):
        return f"Fetch it where there is a network, or {advise_manual_use(entry)}"
    return (
        f"Fetch it where there is a network, or name a folder that holds {describe_file(entry)} in PYRAMIDZOO_ORIGINS"
    )


def advise_manual_download(entry: WeightsEntry) -> str:
    """Say what to do with a file that a person has downloaded."""
    if is_recognisable(entry):
        return "put the file in a folder of PYRAMIDZOO_ORIGINS"
    return advise_manual_use(entry)


def advise_manual_use(entry: WeightsEntry) -> str:
    """Say how to use a file of which nobody has published a hash, so that the zoo cannot recognise it."""
    layout = entry.origin.layout if entry.origin else entry.hub.layout if entry.hub else None
    if layout is None:  # its tensors have the zoo's names, but the file does not say of which network they are
        return f'load the file itself: `create_model("{entry.architecture}", weights="FILE.safetensors")`'
    constants = ""
    if entry.dataset not in get_layout(layout).preprocessing:
        mean, std = (" ".join(map(str, values)) for values in (entry.preprocessing.mean, entry.preprocessing.std))
        constants = f"--mean {mean} --std {std} "
    return (
        f"convert it by hand: `pyramidzoo convert FILE --layout {layout} --arch {entry.architecture} "
        f"--dataset {entry.dataset} {constants}--output OUT.safetensors`"
    )


def describe_file(entry: WeightsEntry) -> str:
    """Name the file that an entry is published as, with its hash."""
    if entry.hub:
        return f"{entry.hub.filename}, sha256 {entry.hub.sha256 or 'unknown'}"
    if entry.origin:
        return f"{entry.origin.manual or entry.origin.filename}, {entry.origin.hash}"
    raise UsageError(f"{entry.id} is bundled")
