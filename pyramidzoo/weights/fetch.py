"""Fetch the file of an entry of the manifest from the first source that has it.

A file is accepted because of its hash. Its name and the folder or address that it comes from prove nothing.
"""

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

# A conversion needs several times as much memory as its file is large. So at most two threads convert at the same time.
_conversion_slots = threading.BoundedSemaphore(2)


@dataclass(frozen=True)
class WeightsFile:
    """A verified safetensors file with weights.

    Attributes:
        path: The path of the file.
        sha256: The hash of the file.
        source: Where the weights were found: "bundled" (in the package), "cache", "origins" (in a folder of
            `PYRAMIDZOO_ORIGINS`), "hub", "origin" (at the address where the authors published them), or "file" (the
            user named the file).
    """

    path: Path
    sha256: str
    source: str


def fetch(entry: WeightsEntry, *, force: bool = False) -> WeightsFile:
    """Fetch the file of an entry.

    The sources are tried in this order: the package, the cache, the folders of `PYRAMIDZOO_ORIGINS`, the Hub, the
    address where the authors published the file. If the file is a checkpoint of another project, it is converted, and
    the converted file is kept in the cache.

    If nobody has published a hash of the file, the first file that is fetched is trusted, and a message on stderr says
    so. All files that are fetched later must be equal to it.

    Args:
        entry: The entry.
        force: Whether to fetch and convert the file again even if it is in a cache.

    Returns:
        The verified file.

    Raises:
        IntegrityError: If a file has a wrong hash, or its tensors do not fit the entry.
        UnavailableError: If no source has the file. The message lists all sources that were tried.
    """
    if entry.bundled is not None:
        path = package_path(entry.bundled.path)
        return WeightsFile(path, require_hash(path, entry.bundled.sha256, "reinstall pyramidzoo"), "bundled")
    if not force and (cached := _find_cached(entry)):
        return cached
    with entry_lock(entry):
        # Another process may have fetched the file while this process waited for the lock.
        if not force and (cached := _find_cached(entry)):
            return cached
        return _fetch_from_first_source(entry, force=force)


def locate_file(path: Path) -> WeightsFile:
    """Read a weights file that a user names by its path, and return it with its hash.

    The file may belong to no entry of the manifest. So there is no hash to compare it with.

    Args:
        path: A safetensors file, or the folder that contains one.

    Raises:
        UsageError: If it is not clear which file of a folder is meant; see `find_weights_file`.
        IntegrityError: If the file is damaged.
        UnavailableError: If there is no such file.
    """
    path = find_weights_file(path)
    read_weights(path)
    return WeightsFile(path, cached_file_hash(path), "file")


def _find_cached(entry: WeightsEntry) -> WeightsFile | None:
    """Find an entry's file in a cache and verify it. Return None if it must be fetched.

    Raises IntegrityError if the file was changed since it was stored.
    """
    local_file = find_local_file(entry)
    if local_file is None or local_file.expected_sha256 is None:
        return None
    path, expected_sha256 = local_file.path, local_file.expected_sha256
    hub = entry.hub
    # The cache of the Hub's client may contain any commit of the main branch, because another program may have
    # downloaded it. If neither the manifest nor a sidecar says which commit is wanted, another hash is no damage.
    may_be_another_commit = hub and hub.layout is None and hub.revision is None and not read_sidecar_for(entry, hub.url)
    if may_be_another_commit and cached_file_hash(path) != expected_sha256:
        return None
    next_step = f"`pyramidzoo fetch --force {entry.id}` fetches it again"
    return WeightsFile(path, require_hash(path, expected_sha256, next_step), "cache")


def _fetch_from_first_source(entry: WeightsEntry, *, force: bool) -> WeightsFile:
    """Fetch an entry's file. Try the folders of `PYRAMIDZOO_ORIGINS`, then the Hub, then the authors' address."""
    failures: list[PyramidzooError] = []
    for fetch_from_source in (_fetch_from_folders, _fetch_from_hub, _fetch_from_origin):
        try:
            weights_file = fetch_from_source(entry, force)
            if weights_file:
                return weights_file
        except NotWritableError as error:
            # If the cache of the Hub's client cannot be written to, the authors' address can still be tried. It needs
            # only the cache of pyramidzoo. If that cannot be written to, no source can be used.
            if fetch_from_source is not _fetch_from_hub or entry.origin is None:
                raise
            failures.append(error)
        except (IntegrityError, UnavailableError) as error:
            failures.append(error)
    has_integrity_error = any(isinstance(error, IntegrityError) for error in failures)
    error_class = IntegrityError if has_integrity_error else UnavailableError
    reasons = "".join(f"\n  - {error}" for error in failures)
    raise error_class(f"cannot get {entry.id}:{reasons}\n  {advice.advise_after_failed_fetch(entry)}") from failures[-1]


def _fetch_from_folders(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Take an entry's file from a folder of `PYRAMIDZOO_ORIGINS`. Return None if the variable names no folder.

    `force` has no effect. All sources have the same parameters.
    """
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
            f"{', '.join(map(str, result.altered_files))}: the name is that of the file of {entry.id}, but the content "
            f"is not (expected {advice.describe_published_file(entry)})"
        )
    for folder in folders:
        if not folder.is_dir():
            raise UnavailableError(f"PYRAMIDZOO_ORIGINS names {folder}, which is not a folder")
    raise UnavailableError(
        f"the file is not in the folders of PYRAMIDZOO_ORIGINS ({os.pathsep.join(map(str, folders))})"
    )


def _fetch_from_hub(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Download an entry's file from the Hub, and accept or convert it. Return None if it is not published there."""
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
    """Download a file from the Hub and compare its hash with the manifest's. Return its path in the client's cache.

    The Hub's client compares only the size of a file in its cache. So a file with a wrong hash may be one that was
    damaged in the cache. It is deleted and downloaded a second time.
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
            print(f"pyramidzoo: {problem}; the file was deleted and is downloaded once more", file=sys.stderr)
    possible_cause = (
        "" if hub.revision else " (the manifest does not name a commit, and the main branch may have changed)"
    )
    raise IntegrityError(
        f"{problem}{possible_cause}; the file was deleted. A proxy has changed it, or the manifest is wrong"
    )


def _fetch_from_origin(entry: WeightsEntry, force: bool) -> WeightsFile | None:
    """Download an entry's file from the authors' address, and convert it. Return None if there is no such address.

    `force` has no effect, because a download from an address always gets the whole file again.
    """
    origin = entry.origin
    if origin is None:
        return None
    if origin.manual is not None:
        raise UnavailableError(
            f"no program can download from {origin.url}; open that page, look for {origin.manual}, and "
            f"{advice.advise_after_manual_download(entry)}"
        )
    with temporary_folder(entry) as folder:
        downloaded_path = folder / origin.filename
        received_bytes = download.from_url(origin, downloaded_path)
        if origin.hash is not None and not matches_published_hash(downloaded_path, origin.hash):
            actual_hash = compute_published_hash(downloaded_path, origin.hash)
            raise IntegrityError(
                f"{origin.url} sent {received_bytes} bytes with {origin.hash.algorithm} {actual_hash}, "
                f"expected {origin.hash.value}; a proxy may have sent a page of its own, or the authors may have "
                "changed the file"
            )
        return _convert(entry, origin.layout, downloaded_path, "origin", origin.url)


def _accept_hub_file(entry: WeightsEntry, hub: HubFile, path: Path, source: str) -> WeightsFile:
    """Verify a file that was published on the Hub, and convert it if it is a checkpoint of another project.

    If the manifest does not name the hash or the commit of the file, they are written to the sidecar, so that later
    downloads can be compared.

    Args:
        entry: The entry whose file it is.
        hub: Where the file is published.
        path: The file.
        source: Where the file was found, as in `WeightsFile.source`.
    """
    if hub.layout is not None:
        return _convert(entry, hub.layout, path, source, hub.url)
    sha256, tensors = cached_file_hash(path), read_weights(path).tensors
    if entry.tensors_sha256 and (actual_sha256 := tensors_sha256(tensors)) != entry.tensors_sha256:
        raise IntegrityError(
            f"{hub.url}: its tensors have sha256 {actual_sha256}, the manifest says {entry.tensors_sha256}"
        )
    if hub.sha256 is None:
        check_sidecar(entry, hub.url, sha256)
    if hub.sha256 is None or hub.revision is None:
        commit = _find_commit(path) or read_sidecar_for(entry, hub.url).get("commit")
        write_sidecar(
            entry,
            {"url": hub.url, "source_sha256": sha256, "commit": commit},
            has_published_hash=hub.sha256 is not None,
        )
    if source == "hub":
        # An older converted file of this entry would be found before the file in the cache of the Hub's client.
        with contextlib.suppress(OSError):
            cache_paths(entry)[0].unlink(missing_ok=True)
    return WeightsFile(path, sha256, source)


def _convert(entry: WeightsEntry, layout: str, source_path: Path, source: str, url: str) -> WeightsFile:
    """Convert a checkpoint whose hash is right into a safetensors file in the cache, and write its sidecar.

    Args:
        entry: The entry whose checkpoint it is.
        layout: The name of the checkpoint's layout.
        source_path: The checkpoint.
        source: Where the checkpoint was found, as in `WeightsFile.source`.
        url: The address where the checkpoint is published.
    """
    converted_path, _ = cache_paths(entry)
    source_sha256 = cached_file_hash(source_path)
    if not _is_identified_by_published_hash(entry, url):
        check_sidecar(entry, url, source_sha256)
    with _conversion_slots:
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
            # `convert_file` would refuse a dataset that differs from that of an entry with the same tensors. Here the
            # dataset comes from the entry itself.
            force=True,
        )
    published_hash = _get_published_hash(entry, url)
    # The sidecar is written last. If this process is killed before, no sidecar fits the converted file, and so the next
    # process converts the checkpoint again.
    write_sidecar(
        entry,
        {
            "url": url,
            "layout": layout,
            "origin": published_hash,
            "source_sha256": source_sha256,
            "commit": _find_commit(source_path),
            "sha256": converted.sha256,
            "tensors_sha256": converted.tensors_sha256,
        },
        has_published_hash=published_hash is not None,
    )
    return WeightsFile(converted_path, converted.sha256, source)


def _get_published_hash(entry: WeightsEntry, url: str) -> str | None:
    """Return the hash that was published for the entry's file at an address. Return None if none was published."""
    if entry.origin and entry.origin.url == url and entry.origin.hash:
        return entry.origin.hash.value
    return entry.hub.sha256 if entry.hub and entry.hub.url == url else None


def _is_identified_by_published_hash(entry: WeightsEntry, url: str) -> bool:
    """Decide whether a complete hash was published for the entry's file at an address.

    If not, the file must also be compared with the first file that came from this address.
    """
    if entry.hub and entry.hub.url == url:
        return entry.hub.sha256 is not None
    origin_hash = entry.origin.hash if entry.origin else None
    # A "sha256_prefix" may have only 32 bits. An attacker can make another file whose hash begins with the same bits.
    return origin_hash is not None and origin_hash.algorithm != "sha256_prefix"


def _find_commit(path: Path) -> str | None:
    """Find the commit of a file in the cache of the Hub's client by its path. Return None for any other file."""
    match = re.search(r"/snapshots/([0-9a-f]{40})/", path.as_posix())
    return match and match[1]


def _remove_from_hub_cache(path: Path) -> None:
    """Delete a damaged file from the cache of the Hub's client.

    `path` is a link in the folder of a commit. The link and the file that it leads to are deleted.
    """
    try:
        for link_or_file in {path.resolve(), path}:
            link_or_file.unlink(missing_ok=True)
    except OSError as error:
        raise NotWritableError(
            f"{path} does not have the published content, and cannot be deleted: {error.strerror or error}; name "
            "another cache in HF_HOME"
        ) from error
