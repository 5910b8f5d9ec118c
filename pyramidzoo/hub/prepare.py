"""Prepare the folder that is published: the weights, the configuration for timm, and the model card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.weights_entry import FileHash, Origin, WeightsEntry
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.loading import read_weights
from pyramidzoo.checkpoints.safetensors_file import Content, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.records import Record
from pyramidzoo.factory import assemble
from pyramidzoo.files import file_hash, make_folder, replacing, write_text
from pyramidzoo.hub.model_card import PublishedFile, render_card
from pyramidzoo.hub.permission import merge_results, require_permission
from pyramidzoo.hub.timm_config import find_timm_name, make_timm_config
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.weights.fetch import WeightsFile, fetch
from pyramidzoo.weights.hub_errors import first_line

# The names of the three files that are published: the weights, the configuration for timm, and the model card.
WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = FILE_NAMES = ("model.safetensors", "config.json", "README.md")


@dataclass(frozen=True)
class PreparedFolder:
    """A folder with the three files that are published.

    Attributes:
        entry: The manifest's entry of the weights. Its results are those on the model card. Its origin is filled in if
            the weights came from another repository on the Hub.
        repo_id: The repository to publish to, as OWNER/NAME.
        folder: The folder.
        sha256: The hash of `model.safetensors`.
        bytes: The size of `model.safetensors`.
        tensors_sha256: The hash of the tensors in `model.safetensors`. It does not depend on the file format.
    """

    entry: WeightsEntry
    repo_id: str
    folder: Path
    sha256: str
    bytes: int
    tensors_sha256: str


def check_repo_id(repo_id: str) -> str:
    """Check the name of a repository.

    Args:
        repo_id: The name, as OWNER/NAME.

    Returns:
        The same name.

    Raises:
        UsageError: If the Hub does not allow this name, or the owner is missing.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} is not a valid name of a repository on the Hub: {first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id!r} does not name the owner of the repository; give OWNER/NAME")
    return repo_id


def prepare_folder(
    entry: WeightsEntry, folder: Path, repo_id: str, *, records: Sequence[Record] = ()
) -> PreparedFolder:
    """Write the three files that are published: the verified weights, the configuration for timm, and the model card.

    The published file of weights describes its network in its metadata. If the fetched file already contains exactly
    this description, it is copied byte for byte. Otherwise a new file is written, with the same tensors and with the
    description.

    Args:
        entry: The manifest's entry of the weights. They are fetched if they are not on this machine.
        folder: A new or empty folder, or a folder that was prepared for the same weights before.
        repo_id: The repository to publish to, as OWNER/NAME. The model card names it.
        records: Evaluation records that are used in addition to the manifest's results, see `merge_results`.

    Returns:
        The folder, and the hashes of its content.

    Raises:
        UsageError: If the weights may not be published, or the folder contains other files.
        IntegrityError: If the file does not contain the tensors whose hash is in the manifest.
        UnavailableError: If the weights cannot be fetched.
    """
    check_repo_id(repo_id)
    # This check comes before the weights are fetched, which takes long. The hash of their tensors may still be unknown.
    require_permission(entry, merge_results(entry, records))
    _check_folder(folder, entry)
    weights_file = fetch(entry)
    content = read_weights(weights_file.path, sha256=weights_file.sha256)
    model = assemble(
        get_architecture(entry.architecture), content, arguments=entry.arguments, preprocessing=entry.preprocessing
    )
    hash_of_tensors = tensors_sha256(content.tensors)
    _check_tensors(entry, weights_file, hash_of_tensors, model)
    results = merge_results(entry, records, tensors_sha256=hash_of_tensors)
    # Now the hash of the tensors is known. Records of other tensors do not count any more, so the check is repeated.
    require_permission(entry, results)
    entry = dataclasses.replace(entry, results=results, origin=_find_origin(entry, repo_id))

    make_folder(folder)
    timm_name = find_timm_name(entry)
    # The configuration is written first. If this run is killed, the next run reads there which weights it was for.
    config = json.dumps(make_timm_config(entry, model, timm_name), indent=2, ensure_ascii=False)
    write_text(folder / CONFIG_NAME, config + "\n")
    sha256, description = _write_weights(entry, weights_file, content, folder / WEIGHTS_NAME)
    published_file = PublishedFile(
        repo_id=repo_id,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        timm_name=timm_name,
        sha256=sha256,
        bytes=(folder / WEIGHTS_NAME).stat().st_size,
        tensors_sha256=hash_of_tensors,
        conversion=_describe_conversion(description, content),
    )
    write_text(folder / CARD_NAME, render_card(entry, published_file))
    return PreparedFolder(entry, repo_id, folder, sha256, published_file.bytes, hash_of_tensors)


def _check_folder(folder: Path, entry: WeightsEntry) -> None:
    """Raise UsageError unless the folder is new, empty, or was prepared for the same weights."""
    for part_file in [path for name in FILE_NAMES for path in folder.glob(f".{name}.*.part")]:
        part_file.unlink(missing_ok=True)  # an unfinished file of an earlier run that was killed
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    try:
        weights_id = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["pyramidzoo"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        weights_id = None
    if weights_id != entry.id or not names <= set(FILE_NAMES):
        raise UsageError(f"{folder} holds something else than {entry.id}; name another folder with --output")


def _check_tensors(
    entry: WeightsEntry, weights_file: WeightsFile, hash_of_tensors: str, model: ImageClassifier
) -> None:
    """Raise IntegrityError unless the tensors and the number of classes are those of the manifest's entry."""
    if entry.tensors_sha256 in (None, hash_of_tensors) and model.num_classes == entry.num_classes:
        return
    raise IntegrityError(
        f"{weights_file.path} does not hold {entry.id}: its tensors have sha256 {hash_of_tensors} and "
        f"{model.num_classes} classes, expected {entry.tensors_sha256 or 'any sha256'} and {entry.num_classes} "
        f"classes; get the file again with `pyramidzoo fetch --force {entry.id}`"
    )


def _find_origin(entry: WeightsEntry, repo_id: str) -> Origin | None:
    """Return where the weights come from.

    This is the entry's origin. If the entry has none, it is the file on the Hub from which the weights were fetched, if
    that file is in another repository than the one to publish to.
    """
    if entry.origin or entry.hub is None or entry.hub.repo_id == repo_id:
        return entry.origin
    hub = entry.hub
    return Origin(
        url=f"https://huggingface.co/{hub.repo_id}/resolve/{hub.revision or 'main'}/{hub.filename}",
        format="safetensors",
        bytes=hub.bytes,
        hash=FileHash("sha256", "file", hub.sha256) if hub.sha256 else None,
        layout=hub.layout or "zoo",
    )


def _write_weights(
    entry: WeightsEntry, weights_file: WeightsFile, content: Content, destination: Path
) -> tuple[str, Description]:
    """Write the file to publish, and return its sha256 and the description in it."""
    present_description = Description.from_file(weights_file.path, content.metadata)
    layout = entry.hub.layout if entry.hub and entry.hub.layout else "zoo"
    published_description = Description(
        architecture=entry.architecture,
        arguments=dict(entry.arguments),
        dataset=entry.dataset,
        num_classes=entry.num_classes,
        preprocessing=entry.preprocessing,
        layout=present_description.layout if present_description else layout,
        # A file without a description was not converted by pyramidzoo, so it is the original file.
        origin_sha256=present_description.origin_sha256 if present_description else weights_file.sha256,
    )
    if present_description != published_description:
        write_tensors(destination, content.tensors, {**content.metadata, **published_description.to_metadata()})
        return file_hash(destination), published_description
    with replacing(destination) as new_path:
        shutil.copyfile(weights_file.path, new_path)
    if file_hash(destination) != weights_file.sha256:
        raise IntegrityError(f"{weights_file.path} was changed while it was copied; run the command again")
    return weights_file.sha256, published_description


def _describe_conversion(description: Description, content: Content) -> str | None:
    """Say what happened to the tensors of the original file, or return None if they were never converted."""
    if description.layout is None:
        return None
    if description.layout == "zoo":
        renaming = "the tensors kept their names"
    else:
        renaming = f"the tensors were renamed from the layout `{description.layout}`"
    return f"{renaming}; {content.metadata.get('conversion', 'no value was changed')}"
