"""Download files: from the Hub with its own client, and from the addresses where authors published them ("origins").

This module does not check the content of files. The caller compares the hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from pyramidzoo.catalog.weights_entry import HubFile, Origin
from pyramidzoo.checkpoints.archives import MAX_BYTES
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.weights._session import http_library, watched_session
from pyramidzoo.weights.cache import make_cache_error
from pyramidzoo.weights.context import CancelledError, get_context, sleep_unless_cancelled
from pyramidzoo.weights.hub_errors import (
    OFFLINE_REASON,
    explain_hub_error,
    find_original_error,
    first_line,
    http_status,
    suggest_next_step,
)

_ATTEMPTS = 5  # how often a download is tried if the connection breaks
_ATTEMPTS_WITHOUT_DATA = 3  # how often it is tried if not a single byte has arrived
_FIRST_WAIT_SECONDS = 1.0  # the pause before the second attempt; each later pause is twice as long


def from_hub(hub: HubFile, revision: str, *, force: bool) -> Path:
    """Let the Hub's client download a file into its own cache.

    Args:
        hub: The repository and the name of the file.
        revision: The commit, the branch or the tag of the file.
        force: Whether the file is downloaded even if the client's cache has it.

    Returns:
        The path of the file in the client's cache.

    Raises:
        UnavailableError: If the file cannot be downloaded.
        NotWritableError: If the client's cache cannot be written to.
    """
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE and force:
        raise UnavailableError(f"Hub {hub.repo_id}: {OFFLINE_REASON}")
    progress = get_context().progress
    for attempt in range(_ATTEMPTS):
        try:
            with watched_session():
                path = hf_hub_download(
                    hub.repo_id,
                    hub.filename,
                    revision=revision,
                    force_download=force,
                    tqdm_class=progress.make_bar_class() if progress else None,
                )
            return Path(path)
        except (UnavailableError, CancelledError):
            raise
        except Exception as raised:  # The client raises many classes of its own, and those of its HTTP library.
            error = find_original_error(raised)
            if attempt == _ATTEMPTS - 1 or not _should_try_again(error, attempt):
                raise explain_hub_error(error, hub, revision) from raised
        sleep_unless_cancelled(_FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns a path or raises an error")


def _should_try_again(error: Exception, attempt: int) -> bool:
    """Decide whether the Hub's client is asked once more for a file, after this error in this attempt (from 0).

    The client itself tries again after many errors. It does not do so after a broken connection that these two classes
    describe, and after some answers of a server that has a problem of its own (HTTP status 500 or higher).
    """
    http = http_library()
    is_connection_broken = isinstance(error, (http.ReadError, http.RemoteProtocolError))
    return (is_connection_broken and attempt < _ATTEMPTS_WITHOUT_DATA - 1) or http_status(error) >= 500


def from_url(origin: Origin, destination: Path) -> int:
    """Download a file from the address where its authors published it.

    Args:
        origin: The address of the file, and its size if that is known.
        destination: The path to write the file to. Its folder must exist.

    Returns:
        The size of the file in bytes.

    Raises:
        UnavailableError: If the file cannot be downloaded.
        NotWritableError: If the destination cannot be written to.
        IntegrityError: If the server sends more bytes than the file may have.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{origin.url}: {OFFLINE_REASON}")
    progress = get_context().progress
    bar_class = progress.make_bar_class() if progress else tqdm
    try:
        with (
            destination.open("wb") as stream,
            bar_class(total=origin.bytes, desc=origin.filename, unit="B", unit_scale=True, disable=None) as bar,
        ):
            return _UrlDownload(origin, stream, bar).run()
    except OSError as error:
        raise make_cache_error(destination.parent, error) from error


class _UrlDownload:
    """A download from the address where authors published a file. After a broken connection it asks for the rest.

    Args:
        origin: The address of the file, and its size and hash if they are known.
        stream: The open file that the download is written to.
        bar: The progress bar, which counts bytes.
    """

    def __init__(self, origin: Origin, stream: BinaryIO, bar: tqdm[Any]) -> None:
        self._origin = origin
        self._stream = stream
        self._bar = bar
        # The header "If-Range" with the version of the file that the last response named. A server sends the rest of
        # the file only if it still has this version; otherwise it sends the whole file. Empty if no version is known.
        self._version_header: dict[str, str] = {}

    def run(self) -> int:
        """Download the file, and return its size in bytes."""
        http = http_library()
        for attempt in range(_ATTEMPTS):
            try:
                self._append_missing_part()
                return self._stream.tell()
            except (http.HTTPError, http.InvalidURL) as error:
                received_bytes = self._stream.tell()
                # After an HTTP status for which another attempt can help, `http_stream_backoff` has already tried
                # again. With a wrong address, no attempt can succeed.
                is_final = http_status(error) or isinstance(error, (http.InvalidURL, http.UnsupportedProtocol))
                if is_final or attempt == (_ATTEMPTS if received_bytes else _ATTEMPTS_WITHOUT_DATA) - 1:
                    received_note = f" (after {received_bytes} bytes)" if received_bytes else ""
                    raise UnavailableError(
                        f"{self._origin.url}: {first_line(error)}{received_note}; {suggest_next_step(error)}"
                    ) from error
            sleep_unless_cancelled(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returns or raises an error")

    def _append_missing_part(self) -> None:
        """Ask the server for the bytes that are not yet in the file, and append them.

        Raises the errors of the HTTP library if the connection breaks.
        """
        from huggingface_hub import constants
        from huggingface_hub.utils import http_stream_backoff

        if not self._version_header and not self._origin.hash:
            # The server could send the rest of another version of the file. Neither the version nor a hash would show
            # that the two parts do not belong together. So the whole file is downloaded again.
            self._start_again()
        start = self._stream.tell()
        range_headers = {"Range": f"bytes={start}-", **self._version_header} if start else {}
        with (
            watched_session(),
            http_stream_backoff(
                "GET",
                self._origin.url,
                headers={"Accept-Encoding": "identity", **range_headers},
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                # By default it would also catch errors that this `with` block raises while it reads the body.
                retry_on_exceptions=(),
            ) as response,
        ):
            response.raise_for_status()
            self._seek_to_start_of_body(response, start)
            self._remember_version(response)
            self._write_body(response)

    def _seek_to_start_of_body(self, response: Any, requested_start: int) -> None:
        """Move to the position in the file at which a response's body must be written.

        A server may send only the part that was asked for, which begins at byte `requested_start`. It may also send the
        whole file. The written bytes are deleted in this case. Any other part raises an UnavailableError.
        """
        is_partial = response.status_code == 206
        content_range = response.headers.get("Content-Range", "") if is_partial else "bytes 0-"
        if content_range.startswith("bytes 0-"):
            self._start_again()
        elif not content_range.startswith(f"bytes {requested_start}-"):
            raise UnavailableError(
                f"{self._origin.url}: the server was asked for the bytes from {requested_start} on, and sends "
                f"{content_range or 'a part of the file without saying which'}; try again later"
            )

    def _remember_version(self, response: Any) -> None:
        """Store the version of the file that a response names. The next attempt asks for the rest of this version."""
        etag = response.headers.get("ETag", "")
        # A weak ETag begins with W/. Two files with the same weak ETag may have different bytes.
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        self._version_header = {"If-Range": version} if version else {}

    def _write_body(self, response: Any) -> None:
        """Write the body of a response to the file. Raises IntegrityError if the file becomes too large."""
        limit = MAX_BYTES if self._origin.bytes is None else self._origin.bytes
        for chunk in response.iter_bytes():
            self._bar.update(self._stream.write(chunk))
            if self._stream.tell() > limit:
                raise IntegrityError(
                    f"{self._origin.url}: the server sends more than {limit} bytes, which is the most that the file "
                    "may have"
                )
        # A full disk may show only when buffered bytes are written. `from_url` reports this error.
        self._stream.flush()

    def _start_again(self) -> None:
        """Delete all bytes that have been written, and set the progress bar back."""
        self._bar.update(-self._stream.tell())
        self._stream.seek(0)
        self._stream.truncate()
