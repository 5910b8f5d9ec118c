"""Find, download and verify weights. Nothing is trusted because of its name or place, only by its hash."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyramidzoo.catalog.manifest import Hub, Manifest, Origin, WeightsEntry, load_manifest, own_manifest
from pyramidzoo.checkpoints.hashes import cached_file_hash, compute_published_hash, matches_published_hash, require_hash
from pyramidzoo.checkpoints.loading import forget_verified, read_weights
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.conversion import convert_file
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError, UsageError
from pyramidzoo.files import file_hash, packaged, user_path, weights_file
from pyramidzoo.weights import download as remote
from pyramidzoo.weights.cache import (
    cache_dir,
    cache_paths,
    check_sidecar,
    entry_lock,
    sidecar,
    sidecar_for,
    temporary_folder,
    write_sidecar,
)

_converting = threading.BoundedSemaphore(2)  # each takes several times the memory of its file
_UNRECOGNISABLE = "nobody has published a hash of this file, so PYRAMIDZOO_ORIGINS cannot recognise it"


@dataclass(frozen=True)
class WeightsFile:
    """A verified safetensors file, its sha256, and where it was found ("cache", "origins", "hub", ...)."""

    path: Path
    sha256: str
    place: str


def fetch(entry: WeightsEntry, *, force: bool = False) -> WeightsFile:
    """The entry's verified file: bundled, cached, or from `PYRAMIDZOO_ORIGINS`, the Hub, the origin, in this order.

    A foreign checkpoint is converted on arrival and kept in the cache; `force` does so again. A file whose hash nobody
    has published is trusted the first time, which is said on stderr, and held to what it was then. Raises
    IntegrityError where bytes are not what they must be, UnavailableError (it lists every place tried) where there are
    none.
    """
    if entry.bundled is not None:
        path = packaged(entry.bundled.path)
        return WeightsFile(path, require_hash(path, entry.bundled.sha256, "reinstall pyramidzoo"), "bundled")
    if not force and (cached := _cached(entry)):
        return cached
    with entry_lock(entry):
        if not force and (cached := _cached(entry)):
            return cached  # by the process that we waited for
        return _gotten(entry, force=force)


def _gotten(entry: WeightsEntry, *, force: bool) -> WeightsFile:
    """The entry's file from the first place that has it."""
    failures: list[PyramidzooError] = []
    for attempt in (_from_folders, _from_hub, _from_url):
        try:
            if located := attempt(entry, force):
                return located
        except NotWritableError as error:
            if attempt is not _from_hub or entry.origin is None:
                raise  # no other place would help
            failures.append(error)  # that was the cache of the Hub's client
        except (IntegrityError, UnavailableError) as error:
            failures.append(error)
    worst = IntegrityError if any(isinstance(error, IntegrityError) for error in failures) else UnavailableError
    reasons = "".join(f"\n  - {error}" for error in failures)
    raise worst(f"cannot get {entry.id}:{reasons}\n  {_advice(entry)}") from failures[-1]


def fetch_all(
    entries: Iterable[WeightsEntry], *, force: bool = False, jobs: int = 8
) -> Iterator[tuple[WeightsEntry, WeightsFile | PyramidzooError]]:
    """Fetch several entries at once under one progress bar, and yield each as it is done: its file, or what failed.

    When the caller leaves, or is interrupted, the downloads under way stop.
    """
    wanted = list(entries)
    to_come = [entry for entry in wanted if not entry.bundled and (force or not _is_here(entry))]
    together = remote.DownloadGroup(len(wanted), sum(_bytes(entry) or 0 for entry in to_come))

    def one(entry: WeightsEntry) -> WeightsFile | PyramidzooError:
        with remote.in_group(together):
            try:
                return fetch(entry, force=force)
            except PyramidzooError as error:
                return error
            except OSError as error:
                return UnavailableError.of(error)

    pool = ThreadPoolExecutor(max(1, min(jobs, len(wanted))), thread_name_prefix="fetch")
    try:
        futures = {pool.submit(one, entry): entry for entry in wanted}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        together.stop.set()
        pool.shutdown(cancel_futures=True)
        together.close()


@dataclass(frozen=True)
class FileStatus:
    """What `verify` found: "good", "altered", "missing", or "unknown" (a file in the cache that no entry names)."""

    name: str
    state: Literal["good", "altered", "missing", "unknown"]
    path: Path | None
    detail: str


def verify(entry: WeightsEntry) -> FileStatus:
    """Hash an entry's local file again, and its tensors where the manifest knows their hash."""
    path, expected = _local(entry)
    if path is None or not path.is_file():
        get = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch {entry.id}` gets it"
        return FileStatus(entry.id, "missing", None, get)
    again = "reinstall pyramidzoo" if entry.bundled else f"`pyramidzoo fetch --force {entry.id}` makes it anew"
    if expected is None:
        return FileStatus(
            entry.id, "altered", path, f"nothing vouches for it: its sidecar is missing or damaged; {again}"
        )
    try:
        found = file_hash(path)
    except UnavailableError as error:
        return FileStatus(entry.id, "altered", path, str(error))
    if found != expected:
        return FileStatus(entry.id, "altered", path, f"sha256 {found}, expected {expected}; {again}")
    try:
        content = tensors_sha256(read_tensors(path)) if entry.tensors_sha256 else None
    except PyramidzooError as error:
        return FileStatus(entry.id, "altered", path, f"{error}; {again}")
    if content != entry.tensors_sha256:
        return FileStatus(
            entry.id, "altered", path, f"tensors sha256 {content}, expected {entry.tensors_sha256}; {again}"
        )
    return FileStatus(entry.id, "good", path, f"sha256 {found}")


def locate_file(path: Path) -> WeightsFile:
    """A file that the user names, or the one in a folder; nothing but itself vouches for it.

    Raises UsageError for a folder without one, IntegrityError where it is damaged, UnavailableError.
    """
    path = weights_file(path)
    read_weights(path)
    return WeightsFile(path, cached_file_hash(path), "file")


def verify_file(path: Path) -> FileStatus:
    """Read a file, or the one in a folder, and say of which entry it is: "good", or "unknown" where it is of none."""
    name = str(path)
    try:
        path = weights_file(path)
        if not path.is_file():
            return FileStatus(name, "missing", None, "there is no such file")
        forget_verified()
        tensors, sha256 = read_weights(path).tensors, file_hash(path)
    except PyramidzooError as error:
        return FileStatus(name, "altered", path, str(error))
    manifest, content = load_manifest(), tensors_sha256(tensors)
    entry = manifest.with_file(sha256) or manifest.with_tensors(content)
    if entry is None:
        return FileStatus(
            name, "unknown", path, f"sound, but no entry has its sha256 {sha256} or its tensors' {content}"
        )
    return FileStatus(name, "good", path, f"{entry.id}, sha256 {sha256}")


def _local(entry: WeightsEntry) -> tuple[Path | None, str | None]:
    """Where an entry's file is on this machine, without any network, and the sha256 that it must have."""
    if entry.bundled is not None:
        return packaged(entry.bundled.path), entry.bundled.sha256
    path, converted = cache_paths(entry)[0], _usable(entry) or {}
    if entry.hub is None or entry.hub.layout is not None or (converted and path.is_file()):
        return path, converted.get("sha256")
    from huggingface_hub import try_to_load_from_cache

    noted = sidecar_for(entry, entry.hub.url)
    expected = entry.hub.sha256 or noted.get("source_sha256")
    revision = entry.hub.revision or noted.get("commit")
    found = try_to_load_from_cache(entry.hub.repo_id, entry.hub.filename, revision=revision)
    if not isinstance(found, str) or expected is None:
        return None, None  # what another program left there vouches for nothing
    return Path(found), expected


def _is_here(entry: WeightsEntry) -> bool:
    path, _ = _local(entry)
    return path is not None and path.is_file()


def unknown_files(manifest: Manifest) -> list[FileStatus]:
    """Files in the cache that belong to no entry; what is being written right now is younger than a day."""
    entries = [*manifest.entries.values(), *own_manifest().entries.values()]  # the cache serves both
    known = {path for entry in entries for path in cache_paths(entry)}
    yesterday = time.time() - 86_400
    found = [
        path
        for path in sorted((cache_dir() / "weights").glob("*"))
        if path not in known and not (path.name.startswith(".") and path.stat().st_mtime > yesterday)
    ]
    return [FileStatus(path.name, "unknown", path, "no entry of the manifest names it") for path in found]


def _cached(entry: WeightsEntry) -> WeightsFile | None:
    """The entry's file where it is on this machine already. Raises IntegrityError where it is altered."""
    anew = f"`pyramidzoo fetch --force {entry.id}` makes it anew"
    if entry.hub is not None and entry.hub.layout is None:
        path, expected = _local(entry)
        if path is None or expected is None:
            return None
        if cached_file_hash(path) != expected and entry.hub.revision is None and not sidecar_for(entry, entry.hub.url):
            return None  # another commit of main, which another program wanted
        return WeightsFile(path, require_hash(path, expected, anew), "cache")
    path, noted = cache_paths(entry)[0], _usable(entry)
    if noted is None or not path.is_file():
        return None
    return WeightsFile(path, require_hash(path, noted["sha256"], anew), "cache")


def _usable(entry: WeightsEntry) -> dict[str, Any] | None:
    """What was noted when the cached file was made; None where nothing readable vouches for it.

    Also None where it was made from another file, or has other tensors, than the manifest says now.
    """
    noted = sidecar(entry)
    places = [(entry.hub.url, entry.hub.sha256, entry.hub.layout)] if entry.hub and entry.hub.layout else []
    if entry.origin:
        hashed = entry.origin.hash.value if entry.origin.hash else None
        places.append((entry.origin.url, hashed, entry.origin.layout))
    # what nobody has hashed is known by its address alone; a note of before layouts were noted has none
    same = any(
        noted.get("origin", "") == hashed
        and (hashed is not None or noted.get("url") == url)
        and noted.get("layout", layout) == layout
        for url, hashed, layout in places
    )
    known = entry.tensors_sha256 in (None, noted.get("tensors_sha256"))
    return noted if same and known and noted.get("sha256") else None


def _from_folders(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Search the folders of `PYRAMIDZOO_ORIGINS` for the content, under any name."""
    folders = [user_path(p) for p in os.environ.get("PYRAMIDZOO_ORIGINS", "").split(os.pathsep) if p]
    if not folders:
        return None
    if not _recognisable(entry):
        raise UnavailableError(_UNRECOGNISABLE)
    names = _names(entry)
    altered: list[Path] = []
    for candidate in (path for folder in folders for path in _files_below(folder)):
        try:
            is_hub_file = entry.hub is not None and _is_hub_file(candidate, entry, entry.hub)
            is_origin = entry.origin is not None and _is_origin(candidate, entry, entry.origin)
        except (IntegrityError, UnavailableError):
            if candidate.name in names:
                raise
            continue  # a file that cannot be read and has another name is none of ours
        if entry.hub and is_hub_file:
            return _use_hub_file(entry, entry.hub, candidate, "origins")
        if entry.origin and is_origin:
            return _convert(entry, entry.origin.layout, candidate, "origins", entry.origin.url)
        if candidate.name in names:
            altered.append(candidate)
    if altered:
        raise IntegrityError(
            f"{', '.join(map(str, altered))}: the name but not the content of {entry.id} (expected {_wanted(entry)})"
        )
    for folder in folders:
        if not folder.is_dir():
            raise UnavailableError(f"PYRAMIDZOO_ORIGINS names {folder}, which is not a folder")
    raise UnavailableError(f"not in PYRAMIDZOO_ORIGINS ({os.pathsep.join(map(str, folders))})")


def _files_below(folder: Path) -> Iterator[Path]:
    """All files, linked folders included, each folder once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(place, name)) not in seen)  # noqa: PTH118
        seen.add(os.path.realpath(place))
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file())


def _from_hub(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Ask the Hub; a file that differs from its pin is asked for twice, because the client compares sizes alone."""
    hub = entry.hub
    if hub is None:
        return None
    revision = hub.revision or sidecar_for(entry, hub.url).get("commit") or "main"
    for again in (False, True):
        path = remote.from_hub(hub, revision, force=force or again)
        sha256 = cached_file_hash(path)
        if hub.sha256 in (None, sha256):
            break
        _remove_from_hub_cache(path)
        problem = f"Hub {hub.repo_id}: {hub.filename} at {revision} came with sha256 {sha256}, expected {hub.sha256}"
        if again:
            moved = "" if hub.revision else " (no revision is pinned, main may have moved on)"
            raise IntegrityError(f"{problem}{moved}; it was removed. A proxy's work, or the manifest is wrong")
        print(f"pyramidzoo: {problem}; it was removed, trying once more", file=sys.stderr)
    try:
        return _use_hub_file(entry, hub, path, "hub")
    except IntegrityError:
        _remove_from_hub_cache(path)
        raise


def _use_hub_file(entry: WeightsEntry, hub: Hub, path: Path, place: str) -> WeightsFile:
    """A verified file of the Hub as it is, or converted; what is not pinned is noted."""
    if hub.layout is not None:
        return _convert(entry, hub.layout, path, place, hub.url)
    sha256, tensors = cached_file_hash(path), read_weights(path).tensors
    if entry.tensors_sha256 and (content := tensors_sha256(tensors)) != entry.tensors_sha256:
        raise IntegrityError(f"{hub.url}: its tensors have sha256 {content}, the manifest says {entry.tensors_sha256}")
    if hub.sha256 is None:
        check_sidecar(entry, hub.url, sha256)
    if hub.sha256 is None or hub.revision is None:
        commit = _commit(path) or sidecar_for(entry, hub.url).get("commit")
        write_sidecar(
            entry,
            {"url": hub.url, "source_sha256": sha256, "commit": commit},
            published=hub.sha256 is not None,
        )
    if place == "hub":  # what was converted before is not the file of this entry any more
        with contextlib.suppress(OSError):
            cache_paths(entry)[0].unlink(missing_ok=True)
    return WeightsFile(path, sha256, place)


def _commit(path: Path) -> str | None:
    """The commit under which the Hub's cache keeps a file."""
    found = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return found and found[1]


def _remove_from_hub_cache(path: Path) -> None:
    # a revision is immutable, so a file that differs from its pin is damaged; the snapshot is a link to the blob
    try:
        for part in {path.resolve(), path}:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(
            f"{path} is not what was published, and cannot be removed: {error.strerror or error}; name another cache "
            "in HF_HOME"
        ) from error


def _from_url(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    origin = entry.origin
    if origin is None:
        return None
    if origin.manual is not None:
        put = "put the file in a folder of PYRAMIDZOO_ORIGINS" if _recognisable(entry) else _by_hand(entry)
        raise UnavailableError(
            f"no program can download from {origin.url}; open that page, look for {origin.manual}, and {put}"
        )
    with temporary_folder(entry) as folder:
        source = folder / origin.filename
        received = remote.from_url(origin, source)
        if origin.hash is not None and not matches_published_hash(source, origin.hash):
            actual = compute_published_hash(source, origin.hash)
            raise IntegrityError(
                f"{origin.url} sent {received} bytes with {origin.hash.algorithm} {actual}, "
                f"expected {origin.hash.value}; a proxy's page, or the file was changed upstream"
            )
        return _convert(entry, origin.layout, source, "origin", origin.url)


def _convert(entry: WeightsEntry, layout: str, source: Path, place: str, url: str) -> WeightsFile:
    """Convert what was verified, as far as it can be; the cache's sidecar notes what it was."""
    path, _ = cache_paths(entry)
    source_sha256 = cached_file_hash(source)
    published = entry.hub.sha256 if entry.hub and entry.hub.url == url else None
    if entry.origin and entry.origin.url == url and entry.origin.hash:
        published = entry.origin.hash.value
    if not _pinned(entry, url):
        check_sidecar(entry, url, source_sha256)
    with _converting:
        converted = convert_file(
            source,
            path,
            layout=layout,
            architecture=entry.architecture,
            dataset=entry.dataset,
            num_classes=entry.num_classes,
            arguments=entry.arguments,
            preprocessing=entry.preprocessing,
            origin_sha256=source_sha256,
            expected_tensors=entry.tensors_sha256,
            force=True,  # the entry itself says what its tensors were trained on
        )
    # noted last: a file whose sidecar is missing or old is made anew
    write_sidecar(
        entry,
        {
            "url": url,
            "layout": layout,
            "origin": published,
            "source_sha256": source_sha256,
            "commit": _commit(source),
            "sha256": converted.sha256,
            "tensors_sha256": converted.tensors_sha256,
        },
        published=published is not None,
    )
    return WeightsFile(path, converted.sha256, place)


def _pinned(entry: WeightsEntry, url: str) -> bool:
    """Whether a published hash decides alone what may come from this address."""
    if entry.hub and entry.hub.url == url:
        return entry.hub.sha256 is not None
    known = entry.origin.hash if entry.origin else None
    return known is not None and known.algorithm != "sha256_prefix"  # 32 bits are no proof against a forger


def _bytes(entry: WeightsEntry) -> int | None:
    """What there is to download, where it is known."""
    place = entry.hub or entry.origin
    return place.bytes if place else None


def _is_hub_file(path: Path, entry: WeightsEntry, hub: Hub) -> bool:
    sha256 = hub.sha256 or sidecar_for(entry, hub.url).get("source_sha256")
    right_size = hub.bytes is None or path.stat().st_size == hub.bytes
    return sha256 is not None and right_size and cached_file_hash(path) == sha256


def _is_origin(path: Path, entry: WeightsEntry, origin: Origin) -> bool:
    if origin.hash is None:
        return cached_file_hash(path) == sidecar_for(entry, origin.url).get("source_sha256")
    right_size = origin.bytes is None or origin.hash.of == "member" or path.stat().st_size == origin.bytes
    return right_size and matches_published_hash(path, origin.hash)


def _recognisable(entry: WeightsEntry) -> bool:
    """Whether a file can be told to be this entry's by its content."""
    if entry.hub and (entry.hub.sha256 or sidecar_for(entry, entry.hub.url).get("source_sha256")):
        return True
    origin = entry.origin
    return origin is not None and bool(origin.hash or sidecar_for(entry, origin.url).get("source_sha256"))


def _names(entry: WeightsEntry) -> set[str]:
    """What the file is called where it is published; a packed one may have been unpacked.

    Files of the Hub are all called model.safetensors, which says nothing.
    """
    if entry.origin is None or entry.origin.manual is not None:
        return set()
    return {entry.origin.filename, entry.origin.filename.removesuffix(".zip")}


def _wanted(entry: WeightsEntry) -> str:
    if entry.hub:
        return f"{entry.hub.filename}, sha256 {entry.hub.sha256 or 'unknown'}"
    if entry.origin:
        return f"{entry.origin.manual or entry.origin.filename}, {entry.origin.hash}"
    raise UsageError(f"{entry.id} is bundled")


def _advice(entry: WeightsEntry) -> str:
    if entry.origin and entry.origin.manual is not None:
        return "Only a person can get it"
    if not _recognisable(entry):
        return f"Fetch it where there is a network, or {_by_hand(entry)}"
    return f"Fetch it where there is a network, or name a folder that holds {_wanted(entry)} in PYRAMIDZOO_ORIGINS"


def _by_hand(entry: WeightsEntry) -> str:
    """What to do with a file that only its bearer can vouch for."""
    layout = entry.origin.layout if entry.origin else entry.hub.layout if entry.hub else None
    if layout is None:  # the names are the zoo's, but the file does not say of which network
        return f'load the file itself: `create_model("{entry.architecture}", weights="FILE.safetensors")`'
    constants = ""
    if entry.dataset not in get_layout(layout).preprocessing:
        mean, std = (" ".join(map(str, values)) for values in (entry.preprocessing.mean, entry.preprocessing.std))
        constants = f"--mean {mean} --std {std} "
    return (
        f"convert it by hand: `pyramidzoo convert FILE --layout {layout} --arch {entry.architecture} "
        f"--dataset {entry.dataset} {constants}--output OUT.safetensors`"
    )
