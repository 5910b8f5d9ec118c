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

WEIGHTS, CONFIG, CARD = FILES = ("model.safetensors", "config.json", "README.md")


@dataclass(frozen=True)
class PreparedFolder:
    """A folder with the three files that are published.

    Attributes:
        entry: The entry of the manifest, with the results that are on the card and the origin of the weights.
        repo_id: The repository to publish to, as OWNER/NAME.
        folder: The folder.
        sha256: The hash of `model.safetensors`.
        bytes: The size of `model.safetensors`.
        tensors_sha256: The hash of the tensors in it, independent of the container.
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
    """Write what is published into a folder: the verified weights, the configuration for timm, and the model card.

    If the fetched file already describes itself as the manifest does, it is copied byte for byte. Otherwise the same
    tensors are written with such a description.

    Args:
        entry: The weights. They are fetched if they are not on this machine.
        folder: A new or empty folder, or one that was prepared for the same weights before.
        repo_id: The repository to publish to, as OWNER/NAME. The card names it.
        records: Evaluation records that count in addition to the manifest's results.

    Returns:
        The folder, and what it holds.

    Raises:
        UsageError: If the weights may not be published, or the folder holds something else.
        IntegrityError: If the file does not hold the tensors that the manifest names.
        UnavailableError: If the weights cannot be fetched.
    """
    check_repo_id(repo_id)
    require_permission(entry, merge_results(entry, records))
    _check_folder(folder, entry)
    find_weights_file = fetch(entry)
    content = read_weights(find_weights_file.path, sha256=find_weights_file.sha256)
    model = assemble(
        get_architecture(entry.architecture), content, arguments=entry.arguments, preprocessing=entry.preprocessing
    )
    hash_of_tensors = tensors_sha256(content.tensors)
    _check_tensors(entry, find_weights_file, hash_of_tensors, model)
    results = merge_results(entry, records, tensors_sha256=hash_of_tensors)
    require_permission(entry, results)  # again: now the hash of the tensors is known
    entry = dataclasses.replace(entry, results=results, origin=_find_origin(entry, repo_id))

    make_folder(folder)
    timm_name = find_timm_name(entry)
    # The configuration is written first, because it tells the next run which weights the folder is for.
    config = json.dumps(make_timm_config(entry, model, timm_name), indent=2, ensure_ascii=False)
    write_text(folder / CONFIG, config + "\n")
    sha256, description = _write_weights(entry, find_weights_file, content, folder / WEIGHTS)
    published_file = PublishedFile(
        repo_id=repo_id,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        timm_name=timm_name,
        sha256=sha256,
        bytes=(folder / WEIGHTS).stat().st_size,
        tensors_sha256=hash_of_tensors,
        conversion=_describe_conversion(description, content),
    )
    write_text(folder / CARD, render_card(entry, published_file))
    return PreparedFolder(entry, repo_id, folder, sha256, published_file.bytes, hash_of_tensors)


def _check_folder(folder: Path, entry: WeightsEntry) -> None:
    """Raise UsageError unless the folder is new, empty, or was prepared for the same weights."""
    for leftover in [part for name in FILES for part in folder.glob(f".{name}.*.part")]:
        leftover.unlink(missing_ok=True)  # a run that was killed left it
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    try:
        prepared_for = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["pyramidzoo"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        prepared_for = None
    if prepared_for != entry.id or not names <= set(FILES):
        raise UsageError(f"{folder} holds something else than {entry.id}; name another folder with --output")


def _check_tensors(
    entry: WeightsEntry, find_weights_file: WeightsFile, hash_of_tensors: str, model: ImageClassifier
) -> None:
    """Raise IntegrityError unless the file holds the tensors and the number of classes that the manifest names."""
    if entry.tensors_sha256 in (None, hash_of_tensors) and model.num_classes == entry.num_classes:
        return
    raise IntegrityError(
        f"{find_weights_file.path} does not hold {entry.id}: its tensors have sha256 {hash_of_tensors} and "
        f"{model.num_classes} classes, expected {entry.tensors_sha256 or 'any sha256'} and {entry.num_classes} "
        f"classes; get the file again with `pyramidzoo fetch --force {entry.id}`"
    )


def _find_origin(entry: WeightsEntry, repo_id: str) -> Origin | None:
    """Say where the weights came from: the entry's origin, else the repository on the Hub that held them before."""
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
    entry: WeightsEntry, find_weights_file: WeightsFile, content: Content, destination: Path
) -> tuple[str, Description]:
    """Write the file to publish, and return its sha256 and the description in it."""
    present = Description.from_file(find_weights_file.path, content.metadata)
    layout = entry.hub.layout if entry.hub and entry.hub.layout else "zoo"
    wanted = Description(
        architecture=entry.architecture,
        arguments=dict(entry.arguments),
        dataset=entry.dataset,
        num_classes=entry.num_classes,
        preprocessing=entry.preprocessing,
        layout=present.layout if present else layout,
        origin_sha256=present.origin_sha256 if present else find_weights_file.sha256,
    )
    if present != wanted:
        write_tensors(destination, content.tensors, {**content.metadata, **wanted.to_metadata()})
        return file_hash(destination), wanted
    with replacing(destination) as part:
        shutil.copyfile(find_weights_file.path, part)
    if file_hash(destination) != find_weights_file.sha256:
        raise IntegrityError(f"{find_weights_file.path} was changed while it was copied; run the command again")
    return find_weights_file.sha256, wanted


def _describe_conversion(description: Description, content: Content) -> str | None:
    """Say what happened to the tensors of the original file, or return None if they were never converted."""
    if description.layout is None:
        return None
    if description.layout == "zoo":
        names = "the tensors kept their names"
    else:
        names = f"the tensors were renamed from the layout `{description.layout}`"
    return f"{names}; {content.metadata.get('conversion', 'no value was changed')}"
