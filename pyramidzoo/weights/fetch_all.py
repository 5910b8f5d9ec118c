"""Fetch several entries at once, under one progress bar."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.weights.context import change_context
from pyramidzoo.weights.fetch import WeightsFile, fetch
from pyramidzoo.weights.local import find_local_file
from pyramidzoo.weights.progress import SharedProgressBar


def fetch_all(
    entries: Iterable[WeightsEntry], *, force: bool = False, jobs: int = 8
) -> Iterator[tuple[WeightsEntry, WeightsFile | PyramidzooError]]:
    """Fetch the files of several entries in several threads.

    If the caller stops iterating, or is interrupted, the running downloads are cancelled.

    Args:
        entries: The entries.
        force: Whether to fetch and convert files again even if they are in a cache.
        jobs: How many files are fetched at the same time.

    Yields:
        Each entry as soon as its file was fetched or could not be fetched, with the file or with the error.
    """
    entries = list(entries)
    cancel_event = threading.Event()
    progress = SharedProgressBar(len(entries), _sum_download_sizes(entries, force))

    def fetch_one(entry: WeightsEntry) -> WeightsFile | PyramidzooError:
        with change_context(cancel_event=cancel_event, progress=progress):
            try:
                return fetch(entry, force=force)
            except PyramidzooError as error:
                return error
            except OSError as error:
                return UnavailableError.from_os_error(error)

    pool = ThreadPoolExecutor(max(1, min(jobs, len(entries))), thread_name_prefix="fetch")
    try:
        futures = {pool.submit(fetch_one, entry): entry for entry in entries}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        cancel_event.set()
        pool.shutdown(cancel_futures=True)
        progress.close()


def _sum_download_sizes(entries: list[WeightsEntry], force: bool) -> int:
    """Return how many bytes must be downloaded. A file whose size is not in the manifest counts as empty."""
    total_bytes = 0
    for entry in entries:
        published_file = entry.hub or entry.origin
        if entry.bundled is None and published_file and (force or find_local_file(entry) is None):
            total_bytes += published_file.bytes or 0
    return total_bytes
