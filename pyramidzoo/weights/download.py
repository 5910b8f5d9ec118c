"""Download files: from the Hub through its own client, and from other addresses.

Nothing that arrives is trusted here. The caller compares hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from pyramidzoo.catalog.weights_entry import HubFile, Origin
from pyramidzoo.checkpoints.archives import MAX_BYTES
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.weights._session import http_library, watched_session
from pyramidzoo.weights.cache import cannot_write
from pyramidzoo.weights.context import CancelledError, get_context, sleep_unless_cancelled
from pyramidzoo.weights.hub_errors import (
    OFFLINE,
    explain_hub_error,
    first_line,
    http_status,
    next_step,
    original_error,
)

_ATTEMPTS = 5  # of a download that breaks off; from an origin, each goes on where the last one stopped
_ATTEMPTS_WITHOUT_DATA = 3  # of a download from which not a byte has come
_FIRST_WAIT_SECONDS = 1.0  # before the second attempt; it is doubled each time


def from_hub(hub: HubFile, revision: str, *, force: bool) -> Path:
    """Have the Hub's client download a file into its cache.

    Args:
        hub: The file.
        revision: A commit, a branch or a tag.
        force: Download the file even if it is in the client's cache.

    Returns:
        The path of the file in the client's cache.

    Raises:
        UnavailableError: If the file cannot be downloaded.
        NotWritableError: If the client's cache cannot be written to.
    """
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE and force:
        raise UnavailableError(f"Hub {hub.repo_id}: {OFFLINE}")
    progress = get_context().progress
    for attempt in range(_ATTEMPTS):
        try:
            with watched_session():
                path = hf_hub_download(
                    hub.repo_id,
                    hub.filename,
                    revision=revision,
                    force_download=force,
                    tqdm_class=progress.bar_class() if progress else None,
                )
            return Path(path)
        except (UnavailableError, CancelledError):
            raise
        except Exception as raised:  # the client has many error classes of its own, and those of its HTTP library
            error = original_error(raised)
            if attempt == _ATTEMPTS - 1 or not _is_worth_another_attempt(error, attempt):
                raise explain_hub_error(error, hub, revision) from raised
        sleep_unless_cancelled(_FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError


def _is_worth_another_attempt(error: Exception, attempt: int) -> bool:
    """Say whether the client should be asked for the file again.

    The client itself tries again where it asks about the file, and after some of the ways in which a download breaks
    off. These are the others.
    """
    http = http_library()
    has_broken_off = isinstance(error, (http.ReadError, http.RemoteProtocolError))
    return (has_broken_off and attempt < _ATTEMPTS_WITHOUT_DATA - 1) or http_status(error) >= 500


def from_url(origin: Origin, destination: Path) -> int:
    """Download the file of an origin.

    Args:
        origin: The address of the file, and its size if that is known.
        destination: The file to write. Its folder must exist.

    Returns:
        The size of the file in bytes.

    Raises:
        UnavailableError: If the file cannot be downloaded.
        NotWritableError: If the destination cannot be written to.
        IntegrityError: If the server sends more bytes than the file may have.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{origin.url}: {OFFLINE}")
    progress = get_context().progress
    bar_class = progress.bar_class() if progress else tqdm
    try:
        with (
            destination.open("wb") as stream,
            bar_class(total=origin.bytes, desc=origin.filename, unit="B", unit_scale=True, disable=None) as bar,
        ):
            return _UrlDownload(origin, stream, bar).run()
    except OSError as error:
        raise cannot_write(destination.parent, error) from error


class _UrlDownload:
    """One download from an origin. An attempt that breaks off is followed by one for the rest of the file."""

    def __init__(self, origin: Origin, stream: BinaryIO, bar: tqdm[Any]) -> None:
        self._origin = origin
        self._stream = stream
        self._bar = bar
        # "If-Range" with the version of the file that the last response named, if it named one
        self._version_header: dict[str, str] = {}

    def run(self) -> int:
        """Download the file, and return its size in bytes."""
        http = http_library()
        for attempt in range(_ATTEMPTS):
            try:
                self._append_rest()
                return self._stream.tell()
            except (http.HTTPError, http.InvalidURL) as error:
                received = self._stream.tell()
                # the client has already tried again after an HTTP status, and a wrong address stays wrong
                is_final = http_status(error) or isinstance(error, (http.InvalidURL, http.UnsupportedProtocol))
                if is_final or attempt == (_ATTEMPTS if received else _ATTEMPTS_WITHOUT_DATA) - 1:
                    after = f" (after {received} bytes)" if received else ""
                    raise UnavailableError(
                        f"{self._origin.url}: {first_line(error)}{after}; {next_step(error)}"
                    ) from error
            sleep_unless_cancelled(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError

    def _append_rest(self) -> None:
        """Ask for what is missing of the file, and append it. Raises the errors of the HTTP library."""
        from huggingface_hub import constants
        from huggingface_hub.utils import http_stream_backoff

        if not self._version_header and not self._origin.hash:
            self._start_again()  # nothing would show if the rest came from another version of the file
        start = self._stream.tell()
        range_headers = {"Range": f"bytes={start}-", **self._version_header} if start else {}
        with (
            watched_session(),
            http_stream_backoff(
                "GET",
                self._origin.url,
                headers={"Accept-Encoding": "identity", **range_headers},
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                # otherwise it would also catch the errors that are raised while we read the body
                retry_on_exceptions=(),
            ) as response,
        ):
            response.raise_for_status()
            self._move_to_start_of(response, start)
            self._remember_version(response)
            self._write_body(response)

    def _move_to_start_of(self, response: Any, start: int) -> None:
        """Prepare for the part of the file that a server sends: the whole file, or the part from byte `start` on."""
        part = response.headers.get("Content-Range", "") if response.status_code == 206 else "bytes 0-"
        if part.startswith("bytes 0-"):
            self._start_again()
        elif not part.startswith(f"bytes {start}-"):
            raise UnavailableError(f"{self._origin.url} sends {part or 'a part'}, not what is missing; try again later")

    def _remember_version(self, response: Any) -> None:
        """Remember the version of the file that a response is about, for the next attempt."""
        etag = response.headers.get("ETag", "")
        # a weak tag (W/"...") does not promise equal bytes
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        self._version_header = {"If-Range": version} if version else {}

    def _write_body(self, response: Any) -> None:
        limit = MAX_BYTES if self._origin.bytes is None else self._origin.bytes
        for chunk in response.iter_bytes():
            self._bar.update(self._stream.write(chunk))
            if self._stream.tell() > limit:
                raise IntegrityError(f"{self._origin.url} sends more than the {limit} bytes it may have")
        self._stream.flush()  # here an error of the disk can still be reported

    def _start_again(self) -> None:
        """Delete what has been written, and move the progress bar back."""
        self._bar.update(-self._stream.tell())
        self._stream.seek(0)
        self._stream.truncate()
