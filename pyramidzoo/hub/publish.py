"""Weights onto the Hub: a folder that describes itself, uploaded in one commit, read back, and named in the manifest.

Nothing is published whose licence does not allow it, or whose error nobody has measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo import __version__
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import (
    FILE_NAME,
    VARIABLE,
    FileHash,
    Hub,
    Origin,
    Result,
    WeightsEntry,
    manifest_path,
    own_manifest_path,
    read_manifest,
)
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.hashes import compute_published_hash
from pyramidzoo.checkpoints.loading import read_weights
from pyramidzoo.checkpoints.safetensors_file import Content, write_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.layouts.timm import SHARED_ARCHITECTURES, timm_name
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError, UsageError
from pyramidzoo.evaluation.records import Record, result_of
from pyramidzoo.factory import assemble
from pyramidzoo.files import file_hash, make_folder, packaged, replacing, write_text
from pyramidzoo.hub.model_card import Facts, card
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.timm_adapter import PREFIX, cfg_of_weights, fitted
from pyramidzoo.weights.download import first_line
from pyramidzoo.weights.fetch import WeightsFile, fetch

WEIGHTS, CONFIG, CARD = FILES = ("model.safetensors", "config.json", "README.md")
_GIT_BLOB = FileHash("git_blob_sha1", "file", "0" * 40)
_LOCK_SECONDS = 600


@dataclass(frozen=True)
class Prepared:
    """A folder with the three files of a publication, and the entry that they are of, with the results on its card."""

    entry: WeightsEntry
    repo_id: str
    folder: Path
    sha256: str
    bytes: int
    tensors_sha256: str


@dataclass(frozen=True)
class Published:
    """A repository that holds exactly what was prepared; `new` where this took a commit."""

    prepared: Prepared
    revision: str
    new: bool

    @property
    def url(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.prepared.repo_id}/tree/{self.revision}"

    @property
    def hub(self) -> Hub:
        """Where the manifest finds the weights from now on."""
        at = self.prepared
        return Hub(at.repo_id, self.revision, WEIGHTS, at.sha256, at.bytes)


def measured(entry: WeightsEntry, records: Sequence[Record] = (), *, tensors: str | None = None) -> tuple[Result, ...]:
    """The manifest's results, each replaced by a record of the same split and protocol, and those of other records.

    Only strict records of the very same tensors and preprocessing count. Without a known hash of the tensors the name
    has to do, until `prepare` knows it.
    """
    known = tensors or entry.tensors_sha256
    found = {(result.split, result.protocol): result for result in entry.results}
    for record in sorted(records, key=lambda record: record.date):
        same = record.weights == entry.id if known is None else record.tensors_sha256 == known
        if (
            same
            and record.strict
            and record.not_the_split is None
            and record.preprocessing_sha256 == entry.preprocessing.sha256()
        ):
            found[record.split, record.protocol] = Result(**result_of(record))
    return tuple(found.values())


def refusal(entry: WeightsEntry, results: Sequence[Result]) -> str | None:
    """Why these weights are not published, and what would change that; None where nothing is in the way."""
    if not entry.license.redistributable:
        licence = entry.license.weights
        under = {None: "is unknown", "none stated": "is stated nowhere"}.get(licence, f"is {licence}")
        return (
            f"the licence of the weights {under}, which does not let others publish them; where their authors allow "
            "it, put their licence into the manifest's entry"
        )
    if not any(result.precision == "fp32" for result in results):
        return "nothing was measured; `pyramidzoo evaluate --output DIR` does it, and --records DIR names that folder"
    return None


def check_repo_id(repo_id: str) -> str:
    """The id of a repository, as OWNER/NAME. Raises UsageError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id!r} cannot be a repository on the Hub: {first_line(error)}") from error
    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id!r} does not say whose repository it is; give OWNER/NAME")
    return repo_id


def prepare(entry: WeightsEntry, folder: Path, repo_id: str, *, records: Sequence[Record] = ()) -> Prepared:
    """Write what is published into a folder: the verified weights, timm's configuration, and the card.

    The file is the fetched one, byte for byte, where that describes itself as the manifest does; else the same tensors
    with such a description. Raises UsageError for what must not be published and for a folder with other content,
    IntegrityError, UnavailableError.
    """
    check_repo_id(repo_id)
    _require(entry, measured(entry, records))
    _own_folder(folder, entry)
    located = fetch(entry)
    content = read_weights(located.path, sha256=located.sha256)
    model = assemble(
        get_architecture(entry.architecture), content, arguments=entry.arguments, preprocessing=entry.preprocessing
    )
    tensors = tensors_sha256(content.tensors)
    if entry.tensors_sha256 not in (None, tensors) or model.num_classes != entry.num_classes:
        raise IntegrityError(
            f"{located.path} does not hold {entry.id}: its tensors have sha256 {tensors}, expected "
            f"{entry.tensors_sha256}, and tell {model.num_classes} classes apart; `pyramidzoo fetch --force {entry.id}`"
        )
    results = measured(entry, records, tensors=tensors)
    _require(entry, results)
    entry = dataclasses.replace(entry, results=results, origin=_source_of(entry, repo_id))

    make_folder(folder)
    timm_name = _timm_name(entry)
    config = json.dumps(_config(entry, model, timm_name), indent=2, ensure_ascii=False)
    write_text(folder / CONFIG, config + "\n")  # first: it tells the next run whose folder this is
    sha256, description = _write_weights(entry, located, content, folder / WEIGHTS)
    facts = Facts(
        repo_id=repo_id,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        timm_name=timm_name,
        sha256=sha256,
        bytes=(folder / WEIGHTS).stat().st_size,
        tensors_sha256=tensors,
        conversion=_conversion(description, content),
    )
    write_text(folder / CARD, card(entry, facts))
    return Prepared(entry, repo_id, folder, sha256, facts.bytes, tensors)


def upload(prepared: Prepared, *, private: bool = False) -> Published:
    """Have the repository hold what was prepared, in one commit, then read all of it back and compare every byte.

    What is there already is not uploaded again, and where all is, there is no new commit. Raises UnavailableError
    without a token, a right, or a network, IntegrityError where other bytes come back.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.hf_api import RepoFile

    repo_id = prepared.repo_id
    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"cannot publish {repo_id}: offline, as HF_HUB_OFFLINE says; unset it, or --dry-run")
    api = HfApi()
    with _asking(repo_id):
        if get_token() is None:
            raise UnavailableError(f"cannot publish {repo_id} without a token; {_LOGIN}")
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        head = api.model_info(repo_id).sha
        there = {file.path: file for file in api.list_repo_tree(repo_id, revision=head) if isinstance(file, RepoFile)}
        missing = [name for name in FILES if not _same(prepared.folder / name, there.get(name))]
        if missing:
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, prepared.folder / name) for name in missing],
                commit_message=f"{prepared.entry.id}, published by pyramidzoo {__version__}",
                parent_commit=head,  # what somebody else has committed meanwhile is not overwritten unseen
            )
            head = commit.oid
    _read_back(api, prepared, str(head))
    return Published(prepared, str(head), new=bool(missing))


def entry_of(published: Published, content: dict[str, Any]) -> dict[str, Any]:
    """The manifest's entry, as JSON, with the new place; what was the place on the Hub before becomes the origin.

    A hash of the tensors that was null is filled in, and so are results that came from records.
    """
    prepared, entry = published.prepared, published.prepared.entry
    return {
        **content,
        "default": entry.default,
        "hub": dataclasses.asdict(published.hub),
        "origin": entry.origin and dataclasses.asdict(entry.origin),
        "tensors_sha256": prepared.tensors_sha256,
        "results": [_plain(result) for result in entry.results],
    }


def manifest_content(entry: WeightsEntry) -> dict[str, Any]:
    """An entry as the JSON has it: that of the manifest in use, or of the package's, which it extends."""
    for path in (manifest_path(), own_manifest_path()):
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        if entry.id in weights:
            found: dict[str, Any] = weights[entry.id]
            return found
    raise UsageError(f"{manifest_path()} has no {entry.id}")


def writable_manifest() -> Path:
    """The manifest that `--write` changes. Raises UsageError where it belongs to an installed package."""
    path = manifest_path()
    if path == packaged(FILE_NAME):
        raise UsageError(
            f"--write would change {path}, which the next installation overwrites; name a manifest of your own in "
            f"{VARIABLE}, or work in a clone"
        )
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise NotWritableError(f"--write cannot change {path}; name a manifest of your own in {VARIABLE}")
    return path


def write_entry(path: Path, weights_id: str, make: Callable[[], dict[str, Any]]) -> None:
    """Put an entry into a manifest file; all else in it stays, also what other processes write at the same time.

    `make` is called while they wait. Raises IntegrityError, and leaves the file alone, where the result would not be a
    valid manifest.
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_SECONDS):
            document = json.loads(path.read_text(encoding="utf-8"))
            document["weights"][weights_id] = make()
            with replacing(path) as part:
                part.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                read_manifest(part)
    except Timeout as error:
        raise UnavailableError(f"another process has been writing to {path} for {_LOCK_SECONDS} s") from error


def _require(entry: WeightsEntry, results: Sequence[Result]) -> None:
    if reason := refusal(entry, results):
        raise UsageError(f"{entry.id} is not published: {reason}")


def _own_folder(folder: Path, entry: WeightsEntry) -> None:
    """Only a new or empty folder is written to, or one that was made for the same weights. Raises UsageError."""
    for part in [part for name in FILES for part in folder.glob(f".{name}.*.part")]:
        part.unlink(missing_ok=True)  # of a run that was killed
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not names:
        return
    try:
        made_for = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["pyramidzoo"]["id"]
    except (OSError, ValueError, KeyError, TypeError):
        made_for = None
    if made_for != entry.id or not names <= set(FILES):
        raise UsageError(f"{folder} holds something else than {entry.id}; name another folder in --output")


def _source_of(entry: WeightsEntry, repo_id: str) -> Origin | None:
    """Where the weights came from: the entry's origin, else the Hub repository that this publication takes over from.

    A file that lies in that very repository already came from nowhere else.
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
    entry: WeightsEntry, located: WeightsFile, content: Content, destination: Path
) -> tuple[str, Description]:
    """The file to publish, its sha256, and what it says of itself."""
    found = Description.of(located.path, content.metadata)
    layout = entry.hub.layout if entry.hub and entry.hub.layout else "zoo"
    description = Description(
        architecture=entry.architecture,
        arguments=dict(entry.arguments),
        dataset=entry.dataset,
        num_classes=entry.num_classes,
        preprocessing=entry.preprocessing,
        layout=found.layout if found else layout,
        origin_sha256=found.origin_sha256 if found else located.sha256,
    )
    if found != description:
        write_tensors(destination, content.tensors, {**content.metadata, **description.to_metadata()})
        return file_hash(destination), description
    with replacing(destination) as part:
        shutil.copyfile(located.path, part)
    if file_hash(destination) != located.sha256:
        raise IntegrityError(f"{located.path} was changed while it was copied; run again")
    return located.sha256, description


def _timm_name(entry: WeightsEntry) -> str | None:
    """timm's own name for the network, where timm's own class reads our file."""
    if entry.architecture not in SHARED_ARCHITECTURES or entry.arguments:
        return None
    return timm_name(entry.architecture)


def _config(entry: WeightsEntry, model: ImageClassifier, timm_name: str | None) -> dict[str, Any]:
    """What timm reads of a repository, and beside it what the zoo knows."""
    cfg = fitted(cfg_of_weights(get_architecture(entry.architecture), entry), model)
    if timm_name and timm_name.startswith("vgg"):  # timm turns the head's linear layers into convolutions on loading
        cfg = dataclasses.replace(cfg, classifier="head.fc")
    known = {name: value for name, value in dataclasses.asdict(cfg).items() if name != "url" and value is not None}
    channels = entry.preprocessing.input_size[0]
    arguments = {**entry.arguments, **({"in_chans": channels} if channels != 3 else {})}
    return {
        "architecture": timm_name or PREFIX + entry.architecture,
        "num_classes": entry.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": {**known, "tag": entry.tag},
        **({"model_args": arguments} if arguments else {}),
        "pyramidzoo": {
            "id": entry.id,
            "architecture": entry.architecture,
            "arguments": dict(entry.arguments),
            "dataset": entry.dataset,
            "preprocessing": dataclasses.asdict(entry.preprocessing),
        },
    }


def _conversion(description: Description, content: Content) -> str | None:
    """What happened to the original file."""
    if description.layout is None:
        return None
    names = "names as they were" if description.layout == "zoo" else f"names from the layout `{description.layout}`"
    return f"{names}; {content.metadata.get('conversion', 'every value as it was')}"


_LOGIN = "set HF_TOKEN to one that may write there, or run `hf auth login`"


@contextlib.contextmanager
def _asking(repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into errors that say what to do. Raises UsageError, UnavailableError."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        yield
    except PyramidzooError:
        raise
    except Exception as error:  # the client has many error classes of its own, and those of its HTTP library
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = f"cannot publish {repo_id}: {type(error).__name__}: {first_line(error)}"
        if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            raise UnavailableError(f"{said}; the token lacks the right: {_LOGIN}") from error
        if status == 412:
            raise UnavailableError(f"{said}; somebody else has committed meanwhile: look, then run again") from error
        if status == 400:
            raise UsageError(f"{said}; look at the folder that --dry-run makes") from error
        raise UnavailableError(f"{said}; run again: what arrived is not uploaded a second time") from error


def _same(path: Path, there: Any) -> bool:
    """Whether a file of the repository is this one, by the hash that the Hub lists."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file_hash(path))
    return bool(there.blob_id == compute_published_hash(path, _GIT_BLOB))


def _read_back(api: Any, prepared: Prepared, revision: str) -> None:
    """Download every file of the commit anew, and compare it with what was prepared. Raises IntegrityError."""
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as cache:
        for name in FILES:
            with _asking(prepared.repo_id):
                path = api.hf_hub_download(
                    prepared.repo_id, name, revision=revision, cache_dir=cache, force_download=True
                )
            found, expected = file_hash(Path(path)), file_hash(prepared.folder / name)
            if found != expected:
                raise IntegrityError(
                    f"{prepared.repo_id} gives other bytes than it was given: {name} at {revision} has sha256 {found}, "
                    f"expected {expected}; delete the file there and publish again"
                )


def _plain(result: Result) -> dict[str, Any]:
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: dict(value) if hasattr(value, "items") else value for name, value in values.items()}
