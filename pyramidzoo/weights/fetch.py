"""Fetch the file of an entry, from the first source that has it. Only hashes are trusted, not names or places."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from pyramidzoo.catalog.weights_entry import HubFile, WeightsEntry
from pyramidzoo.checkpoints.hashes import cached_file_hash, compute_published_hash, matches_published_hash, require_hash
from pyramidzoo.checkpoints.loading import read_weights
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert.conversion import convert_file
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError
from pyramidzoo.files import find_weights_file, package_path
from pyramidzoo.weights import advice, download
from pyramidzoo.weights.cache import (
    cache_paths,
    check_sidecar,
    entry_lock,
    read_sidecar_for,
    temporary_folder,
    write_sidecar,
)
from pyramidzoo.weights.folders import is_recognisable, list_folders, search_folders
from pyramidzoo.weights.local import find_local_file

# A conversion takes several times the memory of its file, so only two run at once.
_conversions = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class WeightsFile:
    """A verified safetensors file.

    Attributes:
        path: Where the file is.
        sha256: Its hash.
        source: Where it was found: "bundled", "cache", "origins" (a folder of `PYRAMIDZOO_ORIGINS`), "hub", "origin"
            (the address where its authors published it), or "file" (the user named it).
    """

    path: Path
    sha256: str
    source: str


def fetch(entry: WeightsEntry, *, force: bool = False) -> WeightsFile:
    """Fetch the file of an entry.

    The sources are tried in this order: the package, the cache, the folders of `PYRAMIDZOO_ORIGINS`, the Hub, the
    address where the authors published the file. A checkpoint of another project is converted when it arrives, and the
    converted file is kept in the cache.

    If nobody has published a hash of a file, the first one that comes is trusted, which a message on stderr says. All
    later ones must be equal to it.

    Args:
        entry: The entry.
        force: Fetch and convert the file again even if it is in a cache.

    Returns:
        The verified file.

    Raises:
        IntegrityError: If a file is not what it must be.
        UnavailableError: If no source has the file. The message lists all sources that were tried.
    """
    if entry.bundled is not None:
        path = package_path(entry.bundled.path)
        return WeightsFile(path, require_hash(path, entry.bundled.sha256, "reinstall pyramidzoo"), "bundled")
    if not force and (cached := _find_cached(entry)):
        return cached
    with entry_lock(entry):
        # while we waited for the lock, another process may have fetched it
        if not force and (cached := _find_cached(entry)):
            return cached
        return _fetch_from_first_source(entry, force=force)


def locate_file(path: Path) -> WeightsFile:
    """Return a file that the user names, or the one in a folder. No entry says what it must be.

    Args:
        path: A safetensors file, or a folder that has one.

    Raises:
        UsageError: If a folder does not have exactly one file.
        IntegrityError: If the file is damaged.
        UnavailableError: If there is no such file.
    """
    path = find_weights_file(path)
    read_weights(path)
    return WeightsFile(path, cached_file_hash(path), "file")


def _find_cached(entry: WeightsEntry) -> WeightsFile | None:
    """Return the entry's verified file if it is in a cache. Raises IntegrityError if it is altered."""
    local_file = find_local_file(entry)
    if local_file is None or local_file.expected_sha256 is None:
        return None
    path, expected = local_file.path, local_file.expected_sha256
    hub = entry.hub
    is_of_any_commit = hub and hub.layout is None and hub.revision is None and not read_sidecar_for(entry, hub.url)
    if is_of_any_commit and cached_file_hash(path) != expected:
        return None  # another program has downloaded another commit of the main branch, which is no damage
    return WeightsFile(
        path, require_hash(path, expected, f"`pyramidzoo fetch --force {entry.id}` makes it anew"), "cache"
    )


def _fetch_from_first_source(entry: WeightsEntry, *, force: bool) -> WeightsFile:
    """Fetch an entry's file: try the local folders, then the Hub, then the origin URL."""
    failures: list[PyramidzooError] = []
    for fetch_from_source in (_fetch_from_folders, _fetch_from_hub, _fetch_from_origin):
        try:
            fetched = fetch_from_source(entry, force)
            if fetched:
                return fetched
        except NotWritableError as error:
            # The Hub's client has a cache of its own, so the origin may still work. Otherwise it is our cache that
            # cannot be written to, and no other source helps.
            if fetch_from_source is not _fetch_from_hub or entry.origin is None:
                raise
            failures.append(error)
        except (IntegrityError, UnavailableError) as error:
            failures.append(error)
    has_integrity_error = any(isinstance(error, IntegrityError) for error in failures)
    error_class = IntegrityError if has_integrity_error else UnavailableError
    reasons = "".join(f"\n  - {error}" for error in failures)
    raise error_class(f"cannot get {entry.id}:{reasons}\n  {advice.advise(entry)}") from failures[-1]


def _fetch_from_folders(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Take the file from a folder of `PYRAMIDZOO_ORIGINS`; None if the variable names no folder."""
    folders = list_folders()
    if not folders:
        return None
    if not is_recognisable(entry):
        raise UnavailableError(
            "nobody has published a hash of this file, so it cannot be recognised in PYRAMIDZOO_ORIGINS"
        )
    result = search_folders(entry, folders)
    if result.path and result.is_hub_file and entry.hub:
        return _accept_hub_file(entry, entry.hub, result.path, "origins")
    if result.path and entry.origin:
        return _convert(entry, entry.origin.layout, result.path, "origins", entry.origin.url)
    if result.altered_files:
        raise IntegrityError(
            f"{', '.join(map(str, result.altered_files))}: the name but not the content of {entry.id} "
            f"(expected {advice.describe_file(entry)})"
        )
    for folder in folders:
        if not folder.is_dir():
            raise UnavailableError(f"PYRAMIDZOO_ORIGINS names {folder}, which is not a folder")
    raise UnavailableError(f"not in PYRAMIDZOO_ORIGINS ({os.pathsep.join(map(str, folders))})")


def _fetch_from_hub(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Download the file from the Hub; None if it is not there."""
    hub = entry.hub
    if hub is None:
        return None
    path = _download_from_hub(entry, hub, force)
    try:
        return _accept_hub_file(entry, hub, path, "hub")
    except IntegrityError:
        _remove_from_hub_cache(path)
        raise


def _download_from_hub(entry: WeightsEntry, hub: HubFile, force: bool) -> Path:
    """Download a file from the Hub and compare its hash.

    The Hub's client compares only sizes. So a file with a wrong hash may be a damaged one that was in its cache, and is
    downloaded a second time.
    """
    revision = hub.revision or read_sidecar_for(entry, hub.url).get("commit") or "main"
    for is_second_attempt in (False, True):
        path = download.from_hub(hub, revision, force=force or is_second_attempt)
        sha256 = cached_file_hash(path)
        if hub.sha256 in (None, sha256):
            return path
        _remove_from_hub_cache(path)
        problem = f"Hub {hub.repo_id}: {hub.filename} at {revision} came with sha256 {sha256}, expected {hub.sha256}"
        if not is_second_attempt:
            print(f"pyramidzoo: {problem}; it was removed, trying once more", file=sys.stderr)
    moved = "" if hub.revision else " (the manifest pins no revision, and the main branch may have changed)"
    raise IntegrityError(f"{problem}{moved}; it was removed. A proxy has changed it, or the manifest is wrong")


def _fetch_from_origin(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Download the file from where its authors published it, and convert it; None if there is no such address."""
    origin = entry.origin
    if origin is None:
        return None
    if origin.manual is not None:
        raise UnavailableError(
            f"no program can download from {origin.url}; open that page, look for {origin.manual}, and "
            f"{advice.advise_manual_download(entry)}"
        )
    with temporary_folder(entry) as folder:
        source = folder / origin.filename
        received = download.from_url(origin, source)
        if origin.hash is not None and not matches_published_hash(source, origin.hash):
            actual = compute_published_hash(source, origin.hash)
            raise IntegrityError(
                f"{origin.url} sent {received} bytes with {origin.hash.algorithm} {actual}, "
                f"expected {origin.hash.value}; it may be the page of a proxy, or the file was changed upstream"
            )
        return _convert(entry, origin.layout, source, "origin", origin.url)


def _accept_hub_file(entry: WeightsEntry, hub: HubFile, path: Path, source: str) -> WeightsFile:
    """Use a file of the Hub as it is, or convert it. What the manifest does not pin is written to the sidecar."""
    if hub.layout is not None:
        return _convert(entry, hub.layout, path, source, hub.url)
    sha256, tensors = cached_file_hash(path), read_weights(path).tensors
    if entry.tensors_sha256 and (found_sha256 := tensors_sha256(tensors)) != entry.tensors_sha256:
        raise IntegrityError(
            f"{hub.url}: its tensors have sha256 {found_sha256}, the manifest says {entry.tensors_sha256}"
        )
    if hub.sha256 is None:
        check_sidecar(entry, hub.url, sha256)
    if hub.sha256 is None or hub.revision is None:
        commit = _commit_of(path) or read_sidecar_for(entry, hub.url).get("commit")
        write_sidecar(
            entry,
            {"url": hub.url, "source_sha256": sha256, "commit": commit},
            published=hub.sha256 is not None,
        )
    if source == "hub":  # a converted file would be found before this one
        with contextlib.suppress(OSError):
            cache_paths(entry)[0].unlink(missing_ok=True)
    return WeightsFile(path, sha256, source)


def _convert(entry: WeightsEntry, layout: str, source_path: Path, source: str, url: str) -> WeightsFile:
    """Convert a verified checkpoint into the cache, and write its sidecar.

    Args:
        entry: The entry that the checkpoint is of.
        layout: The name of the checkpoint's layout.
        source_path: The checkpoint.
        source: Where it was found, as `WeightsFile` says it.
        url: The address where it is published.
    """
    converted_path, _ = cache_paths(entry)
    source_sha256 = cached_file_hash(source_path)
    if not _has_full_hash(entry, url):
        check_sidecar(entry, url, source_sha256)
    with _conversions:
        converted = convert_file(
            source_path,
            converted_path,
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
    published_hash = _published_hash(entry, url)
    # The sidecar is written last: without a fitting one, the next process makes the file again.
    write_sidecar(
        entry,
        {
            "url": url,
            "layout": layout,
            "origin": published_hash,
            "source_sha256": source_sha256,
            "commit": _commit_of(source_path),
            "sha256": converted.sha256,
            "tensors_sha256": converted.tensors_sha256,
        },
        published=published_hash is not None,
    )
    return WeightsFile(converted_path, converted.sha256, source)


def _published_hash(entry: WeightsEntry, url: str) -> str | None:
    """Return the hash that was published for the file at this address."""
    if entry.origin and entry.origin.url == url and entry.origin.hash:
        return entry.origin.hash.value
    return entry.hub.sha256 if entry.hub and entry.hub.url == url else None


def _has_full_hash(entry: WeightsEntry, url: str) -> bool:
    """Say whether a published hash alone decides which file may come from this address."""
    if entry.hub and entry.hub.url == url:
        return entry.hub.sha256 is not None
    origin_hash = entry.origin.hash if entry.origin else None
    # a prefix of 32 bits is no proof: somebody can make another file that has it
    return origin_hash is not None and origin_hash.algorithm != "sha256_prefix"


def _commit_of(path: Path) -> str | None:
    """Return the commit under which the cache of the Hub's client keeps a file; None if the file is elsewhere."""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return match and match[1]


def _remove_from_hub_cache(path: Path) -> None:
    """Delete a damaged file from the cache of the Hub's client: the link in the snapshot, and the file behind it."""
    try:
        for part in {path.resolve(), path}:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(
            f"{path} is not what was published, and cannot be removed: {error.strerror or error}; name another cache "
            "in HF_HOME"
        ) from error
