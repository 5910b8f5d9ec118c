"""Find, download and verify weights. Nothing is trusted because of its name or place, only by its hash."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from pyramidzoo.containers import read_tensors, tensors_sha256
from pyramidzoo.convert import convert_file
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError, UsageError
from pyramidzoo.files import file_hash, packaged, user_path, write_text
from pyramidzoo.loading import memoised_hash, require_hash
from pyramidzoo.manifest import Manifest, Origin, WeightsEntry

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Located:
    """A verified safetensors file, its sha256, and where it was found ("cache", "origins", "hub", ...)."""

    path: Path
    sha256: str
    place: str


def cache_dir() -> Path:
    """`PYRAMIDZOO_CACHE`, else `pyramidzoo` in `XDG_CACHE_HOME` or ~/.cache."""
    named = os.environ.get("PYRAMIDZOO_CACHE")
    if named:
        return user_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "pyramidzoo"
    except RuntimeError as error:
        raise UnavailableError("this user has no home folder; name one for the cache in PYRAMIDZOO_CACHE") from error


def fetch(entry: WeightsEntry, *, force: bool = False) -> Located:
    """The entry's verified file: bundled, cached, or from `PYRAMIDZOO_ORIGINS`, the Hub, the origin, in this order.

    A foreign checkpoint is converted on arrival and kept in the cache; `force` does so again. Raises IntegrityError
    where bytes are not what the manifest says, UnavailableError (it lists every place tried) where there are none.
    """
    if entry.bundled is not None:
        path = packaged(entry.bundled.path)
        return Located(path, require_hash(path, entry.bundled.sha256, "reinstall pyramidzoo"), "bundled")
    if not force and (cached := _cached(entry)):
        return cached
    failures: list[PyramidzooError] = []
    for attempt in (_from_folders, _from_hub, _from_url):
        try:
            if located := attempt(entry):
                return located
        except NotWritableError:
            raise  # no other place would help
        except (IntegrityError, UnavailableError) as error:
            failures.append(error)
    worst = IntegrityError if any(isinstance(error, IntegrityError) for error in failures) else UnavailableError
    reasons = "".join(f"\n  - {error}" for error in failures)
    raise worst(
        f"cannot get {entry.id}:{reasons}\n  Fetch it where there is a network, or name a folder that holds "
        f"{_wanted(entry)} in PYRAMIDZOO_ORIGINS"
    ) from failures[-1]


@dataclass(frozen=True)
class State:
    """What `verify` found: "good", "altered", "missing", or "unknown" (a file in the cache that no entry names)."""

    name: str
    state: Literal["good", "altered", "missing", "unknown"]
    path: Path | None
    detail: str


def verify(entry: WeightsEntry) -> State:
    """Hash an entry's local file again, and its tensors where the manifest knows their hash."""
    path, expected = cache_paths(entry)[0], None
    if entry.bundled is not None:
        path, expected = packaged(entry.bundled.path), entry.bundled.sha256
    if not path.is_file():
        get = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch {entry.id}` gets it"
        return State(entry.id, "missing", None, get)
    again = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch --force {entry.id}` makes it anew"
    noted = expected or (_read_sidecar(entry) or {}).get("sha256")
    if noted is None:
        return State(entry.id, "altered", path, f"nothing vouches for it: its sidecar is missing or damaged; {again}")
    try:
        found = file_hash(path)
    except UnavailableError as error:
        return State(entry.id, "altered", path, str(error))
    if found != noted:
        return State(entry.id, "altered", path, f"sha256 {found}, expected {noted}; {again}")
    content = tensors_sha256(read_tensors(path))
    if entry.tensors_sha256 not in (None, content):
        return State(entry.id, "altered", path, f"tensors sha256 {content}, expected {entry.tensors_sha256}; {again}")
    return State(entry.id, "good", path, f"sha256 {found}")


def unknown_files(manifest: Manifest) -> list[State]:
    """Files in the cache that belong to no entry; what is being written right now is younger than a day."""
    known = {path for entry in manifest.entries.values() for path in cache_paths(entry)}
    yesterday = time.time() - 86_400
    found = [
        path
        for path in sorted((cache_dir() / "weights").glob("*"))
        if path not in known and not (path.name.startswith(".") and path.stat().st_mtime > yesterday)
    ]
    return [State(path.name, "unknown", path, "no entry of the manifest names it; delete it") for path in found]


def cache_paths(entry: WeightsEntry) -> tuple[Path, Path]:
    """The entry's converted file in the cache, and the sidecar that says what it must be."""
    folder = cache_dir() / "weights"
    return folder / f"{entry.id}.safetensors", folder / f"{entry.id}.json"


def _cached(entry: WeightsEntry) -> Located | None:
    path, noted = cache_paths(entry)[0], _read_sidecar(entry)
    if noted is None or not path.is_file():
        return None
    sha256 = require_hash(path, noted["sha256"], f"`pyramidzoo fetch --force {entry.id}` makes it anew")
    return Located(path, sha256, "cache")


def _read_sidecar(entry: WeightsEntry) -> dict[str, str] | None:
    """What was noted when the cached file was made; None where nothing readable vouches for it.

    Also None where it was made from another file, or has other tensors, than the manifest says now.
    """
    try:
        noted = json.loads(cache_paths(entry)[1].read_text(encoding="utf-8"))
        same = entry.origin is not None and noted["origin"] == entry.origin.hash.value
        known = entry.tensors_sha256 in (None, noted["tensors_sha256"])
        return noted if same and known and noted["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_folders(entry: WeightsEntry) -> Located | None:
    """Search the folders of `PYRAMIDZOO_ORIGINS` for the content, under any name."""
    folders = [user_path(p) for p in os.environ.get("PYRAMIDZOO_ORIGINS", "").split(os.pathsep) if p]
    names = {source.filename for source in (entry.hub, entry.origin) if source}
    altered: list[Path] = []
    for candidate in (path for folder in folders for path in _files_below(folder)):
        try:
            if entry.hub and _is(candidate, entry.hub.bytes, "sha256", entry.hub.sha256):
                return Located(candidate, entry.hub.sha256, "origins")
            if entry.origin and _is(
                candidate, entry.origin.bytes, entry.origin.hash.algorithm, entry.origin.hash.value
            ):
                return _convert(entry, entry.origin, candidate, "origins")
        except UnavailableError as error:
            if isinstance(error, NotWritableError) or candidate.name in names:
                raise
            continue  # a file that cannot be read and has another name is none of ours
        if candidate.name in names:
            altered.append(candidate)
    if altered:
        raise IntegrityError(
            f"{', '.join(map(str, altered))}: the name but not the content of {entry.id} (expected {_wanted(entry)})"
        )
    for folder in folders:
        if not folder.is_dir():
            raise UnavailableError(f"PYRAMIDZOO_ORIGINS names {folder}, which is not a folder")
    if folders:
        raise UnavailableError(f"not in PYRAMIDZOO_ORIGINS ({os.pathsep.join(map(str, folders))})")
    return None


def _files_below(folder: Path) -> Iterator[Path]:
    """All files, linked folders included, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen)  # noqa: PTH118
        seen.add(os.path.realpath(place))
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file())


def _from_hub(entry: WeightsEntry) -> Located | None:
    hub = entry.hub
    if hub is None:
        return None
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(hub.repo_id, hub.filename, revision=hub.revision))
    except Exception as error:  # the client has many error classes of its own, and those of its HTTP library
        raise UnavailableError(f"Hub {hub.repo_id}: {type(error).__name__}: {_first_line(error)}") from error
    try:
        require_hash(path, hub.sha256, "it was removed; fetch it again")
    except IntegrityError:
        _remove_from_hub_cache(path)
        raise
    return Located(path, hub.sha256, "hub")


def _remove_from_hub_cache(path: Path) -> None:
    # a revision is immutable, so a file that differs from its pin is damaged; the snapshot is a link to the blob
    for part in {path.resolve(), path}:
        part.unlink(missing_ok=True)


def _from_url(entry: WeightsEntry) -> Located | None:
    if entry.origin is None:
        return None
    with _temporary_folder() as folder:
        source = folder / entry.origin.filename
        _download(entry.origin, source)
        return _convert(entry, entry.origin, source, "origin")


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".download-", dir=cache_dir())
    except OSError as error:
        raise NotWritableError(
            f"cannot write to the cache {cache_dir()}: {error.strerror or error}; name another in PYRAMIDZOO_CACHE"
        ) from error
    with folder as name:
        yield Path(name)


def _download(origin: Origin, destination: Path) -> None:
    """Stream an origin's file to disk and require its hash. Raises UnavailableError, IntegrityError."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{origin.url}: offline, as HF_HUB_OFFLINE says")
    try:
        with (
            urllib.request.urlopen(origin.url, timeout=_TIMEOUT_SECONDS) as answer,
            destination.open("wb") as stream,
            tqdm(total=origin.bytes, desc=origin.filename, unit="B", unit_scale=True, disable=None) as bar,
        ):
            announced = answer.headers.get("Content-Length")
            while chunk := answer.read(1 << 16):
                bar.update(stream.write(chunk))
                if origin.bytes is not None and bar.n > origin.bytes:
                    raise IntegrityError(f"{origin.url} sends more than the {origin.bytes} bytes it should have")
    except urllib.error.HTTPError as error:
        error.close()
        raise UnavailableError(f"{origin.url}: {_first_line(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnavailableError(f"{origin.url}: {_first_line(error)}") from error
    received = destination.stat().st_size
    if announced and announced.isdigit() and received < int(announced):
        raise UnavailableError(f"{origin.url}: the connection ended after {received} of {announced} bytes; try again")
    found = file_hash(destination, origin.hash.algorithm)
    if found != origin.hash.value:
        raise IntegrityError(
            f"{origin.url} sent {received} bytes with {origin.hash.algorithm} {found}, expected "
            f"{origin.hash.value}; a proxy's page, or the file was changed upstream"
        )


def _convert(entry: WeightsEntry, origin: Origin, source: Path, place: str) -> Located:
    path, sidecar = cache_paths(entry)
    converted = convert_file(
        source,
        path,
        layout=origin.layout,
        architecture=entry.architecture,
        dataset=entry.dataset,
        num_classes=entry.num_classes,
        arguments=entry.arguments,
        preprocessing=entry.preprocessing,
        origin_sha256=origin.hash.value if origin.hash.algorithm == "sha256" else None,
        expected_tensors=entry.tensors_sha256,
    )
    noted = {"origin": origin.hash.value, "sha256": converted.sha256, "tensors_sha256": converted.tensors_sha256}
    # written last: a file whose sidecar is missing or old is made anew
    write_text(sidecar, json.dumps(noted, indent=1, sort_keys=True) + "\n")
    return Located(path, converted.sha256, place)


def _is(path: Path, size: int | None, algorithm: str, value: str) -> bool:
    return (size is None or path.stat().st_size == size) and memoised_hash(path, algorithm) == value


def _wanted(entry: WeightsEntry) -> str:
    if entry.hub:
        return f"{entry.hub.filename}, sha256 {entry.hub.sha256}"
    if entry.origin:
        return f"{entry.origin.filename}, {entry.origin.hash.algorithm} {entry.origin.hash.value}"
    raise UsageError(f"{entry.id} is bundled")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
