"""Bytes from the network: the Hub through its own client, other addresses through the client's connection.

So proxies, certificates, time-outs (`HF_HUB_DOWNLOAD_TIMEOUT`), retries with back-off, `Retry-After` and being offline
are one thing for both. What arrives is not trusted here; whoever asked for it compares hashes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from tqdm import tqdm

from pyramidzoo.catalog.weights_entry import Hub, Origin
from pyramidzoo.checkpoints.archives import MAX_BYTES
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError
from pyramidzoo.weights.cache import Cancelled, cancel_on, raise_if_cancelled

_ATTEMPTS = 5  # at a body that breaks off; each goes on where the last one stopped
_UNREACHED = 3  # attempts, where not a byte came
_BACK_OFF_SECONDS = 1.0  # doubled each time
_SLOWEST = 1024  # bytes in a second over a whole window: less is a line that somebody holds, not a download
_WINDOW_SECONDS = 60.0
_OFFLINE = "offline, as HF_HUB_OFFLINE says"


class DownloadGroup:
    """One progress bar for several downloads at once, and one way to stop them all."""

    def __init__(self, number: int, total: int | None) -> None:
        self.stop = threading.Event()
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=f"fetching {number} sets of weights", unit="B", unit_scale=True, disable=None
        )

    def bar(self) -> type[tqdm[Any]]:
        """A class of bars that show nothing and move the shared one, in whose place the Hub's client takes it."""
        shared = self._bar

        class Share(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)  # the client's own bars have one
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                return shared.update(n)

        return Share

    def close(self) -> None:
        self._bar.close()


_together: ContextVar[DownloadGroup | None] = ContextVar("_together", default=None)


@contextlib.contextmanager
def in_group(together: DownloadGroup) -> Iterator[None]:
    """What this thread downloads moves the shared bar, and stops with the others."""
    token = _together.set(together)
    try:
        with cancel_on(together.stop):
            yield
    finally:
        _together.reset(token)


def from_hub(hub: Hub, revision: str, *, force: bool) -> Path:
    """The file of a Hub repository in the cache of the Hub's client; `force` downloads it even where it is there.

    Raises UnavailableError, NotWritableError.
    """
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE and force:
        raise UnavailableError(f"Hub {hub.repo_id}: {_OFFLINE}")
    http, together = _http_library(), _together.get()
    for attempt in range(_ATTEMPTS):
        try:
            with _watched():
                path = hf_hub_download(
                    hub.repo_id,
                    hub.filename,
                    revision=revision,
                    force_download=force,
                    tqdm_class=together.bar() if together else None,
                )
            return Path(path)
        except (UnavailableError, Cancelled):
            raise
        except Exception as raised:  # the client has many error classes of its own, and those of its HTTP library
            error = _cause(raised)
            # the client itself tries again where it asks about the file, and after some of the ways to break off
            broken_off = isinstance(error, (http.ReadError, http.RemoteProtocolError)) and attempt < _UNREACHED - 1
            if not (broken_off or _status(error) >= 500) or attempt == _ATTEMPTS - 1:
                raise _explained(error, hub, revision) from raised
        _back_off(attempt)
    raise AssertionError


def from_url(origin: Origin, destination: Path) -> int:
    """Stream an origin's file to disk, and return its size in bytes.

    Raises UnavailableError, NotWritableError, and IntegrityError where it is longer than it may be.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(f"{origin.url}: {_OFFLINE}")
    http, together = _http_library(), _together.get()
    bar_class = together.bar() if together else tqdm
    validator: dict[str, str] = {}
    try:
        with (
            destination.open("wb") as stream,
            bar_class(total=origin.bytes, desc=origin.filename, unit="B", unit_scale=True, disable=None) as bar,
        ):
            for attempt in range(_ATTEMPTS):
                try:
                    _stream(origin, stream, bar, validator)
                    return stream.tell()
                except (http.HTTPError, http.InvalidURL) as error:
                    # an answer has been asked for often enough; a server that nobody reaches is given less time
                    hopeless = _status(error) or isinstance(error, (http.InvalidURL, http.UnsupportedProtocol))
                    if hopeless or attempt == (_ATTEMPTS if stream.tell() else _UNREACHED) - 1:
                        after = f" (after {stream.tell()} bytes)" if stream.tell() else ""
                        step = _next_step(error)
                        raise UnavailableError(f"{origin.url}: {first_line(error)}{after}; {step}") from error
                _back_off(attempt)
    except OSError as error:
        raise NotWritableError(
            f"cannot write to {destination.parent}: {error.strerror or error}; name another in PYRAMIDZOO_CACHE"
        ) from error
    raise AssertionError


def _stream(origin: Origin, stream: BinaryIO, bar: tqdm[Any], validator: dict[str, str]) -> None:
    """Append what is missing of the file, from where the stream stands. Raises the errors of the HTTP library.

    `validator` is what the last answer said to tell its file from a later one, for the next attempt.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import http_stream_backoff

    limit = MAX_BYTES if origin.bytes is None else origin.bytes
    if not (validator or origin.hash):
        _rewind(stream, bar)  # nobody could tell that the second half is another file's
    start = stream.tell()
    wanted = {"Range": f"bytes={start}-", **validator} if start else {}
    with (
        _watched(),
        http_stream_backoff(
            "GET",
            origin.url,
            headers={"Accept-Encoding": "identity", **wanted},
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            retry_on_exceptions=(),  # it would take the body's for its own
        ) as answer,
    ):
        answer.raise_for_status()
        part = answer.headers.get("Content-Range", "") if answer.status_code == 206 else "bytes 0-"
        if part.startswith("bytes 0-"):
            _rewind(stream, bar)
        elif not part.startswith(f"bytes {start}-"):
            raise UnavailableError(f"{origin.url} sends {part or 'a part'}, not what is missing; try again later")
        validator.clear()
        etag = answer.headers.get("ETag", "")
        if known := etag if etag.startswith('"') else answer.headers.get("Last-Modified"):  # W/"..." is of no use here
            validator["If-Range"] = known
        for chunk in answer.iter_bytes():
            bar.update(stream.write(chunk))
            if stream.tell() > limit:
                raise IntegrityError(f"{origin.url} sends more than the {limit} bytes it may have")
        stream.flush()  # while somebody listens to what the disk says


def _rewind(stream: BinaryIO, bar: tqdm[Any]) -> None:
    """Start a file anew."""
    bar.update(-stream.tell())
    stream.seek(0)
    stream.truncate()


def _back_off(attempt: int) -> None:
    """Wait before the next attempt. Raises Interrupted."""
    seconds = _BACK_OFF_SECONDS * 2**attempt
    together = _together.get()
    if together is None:
        time.sleep(seconds)
    elif together.stop.wait(seconds):
        raise Cancelled


def first_line(error: BaseException) -> str:
    """An error in one line, as other libraries word it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _status(error: BaseException) -> int:
    """The HTTP status that an error of the Hub's client is about, 0 where it is about something else."""
    return getattr(getattr(error, "response", None), "status_code", None) or 0


def _cause(error: Exception) -> Exception:
    """What went wrong; where a download is forced, the client says of it no more than that it is the cause."""
    return error.__cause__ if isinstance(error, ValueError) and isinstance(error.__cause__, Exception) else error


def _next_step(error: Exception) -> str:
    """What to do where a server gave that answer, or none."""
    return {
        401: "it is for others only",
        403: "it is for others only",
        404: "look whether it has moved",
        410: "look whether it has moved",
    }.get(_status(error), "try again later")


def _explained(error: Exception, hub: Hub, revision: str) -> UnavailableError:
    """What the Hub's client met, and what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"Hub {hub.repo_id}"
    page = hub.url.partition("/blob/")[0]
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__ or error
        if constants.HF_HUB_OFFLINE:
            return UnavailableError(f"{where}: {_OFFLINE}")
        return UnavailableError(f"{where}: {type(cause).__name__}: {first_line(cause)}; try again later")
    if isinstance(error, GatedRepoError):
        return UnavailableError(f"{where}: access is granted on {page} only; ask there, then set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return UnavailableError(f"{where}: there is no such repository, or it is private: set HF_TOKEN to see it")
    if isinstance(error, RevisionNotFoundError):
        return UnavailableError(f"{where}: it has no revision {revision} (any more); look at {page}")
    if isinstance(error, EntryNotFoundError):
        return UnavailableError(f"{where}: there is no {hub.filename} at {revision}; look at {page}")
    if _status(error) == 401:
        return UnavailableError(f"{where}: {first_line(error)}; is HF_TOKEN still valid? Renew it, or unset it")
    if isinstance(error, OSError) and error.errno is not None and not _status(error):
        return NotWritableError(
            f"{where}: cannot write to the cache of the Hub's client, {constants.HF_HUB_CACHE}: "
            f"{error.strerror or error}; name another in HF_HOME"
        )
    return UnavailableError(f"{where}: {type(error).__name__}: {first_line(error)}; {_next_step(error)}")


def _http_library() -> ModuleType:
    """The one that the Hub's client uses: httpx, or in later versions httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


_watching: ContextVar[bool] = ContextVar("_watching", default=False)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Hold the answers that this thread reads to a least speed: a server can drip for days without a time-out.

    The client is one for the whole process; its other users are left alone.
    """
    raise_if_cancelled()
    token = _watching.set(True)
    try:
        with _Session.current():
            yield
    finally:
        _watching.reset(token)


class _Session:
    """The client's session while somebody here reads from it.

    The client closes it, and with it the connections of all threads, whenever one of them cannot connect. Here that has
    to wait for the last reader, so that a server that is away does not end the downloads from others.
    """

    _making = threading.Lock()

    def __init__(self, session: Any) -> None:
        self._session, self._close = session, session.close
        self._readers, self._to_be_closed, self._lock, self._process = 0, False, threading.Lock(), os.getpid()
        session.close = self.close
        session.event_hooks = {**session.event_hooks, "response": [*session.event_hooks["response"], _watch]}

    @classmethod
    def current(cls) -> _Session:
        from huggingface_hub.utils import get_session

        with cls._making:  # without it, the client before 2.0 makes as many as there are threads
            try:
                session = get_session()
            except (ImportError, ValueError, OSError) as error:
                raise UnavailableError(
                    f"no connection can be set up: {first_line(error)}; look at the proxies (HTTPS_PROXY, "
                    "ALL_PROXY) and certificates (SSL_CERT_FILE)"
                ) from error
            known = getattr(session.close, "__self__", None)
            return known if isinstance(known, cls) else cls(session)

    def close(self) -> None:
        if os.getpid() == self._process:  # a fork must not share its parent's connections
            with self._lock:
                self._to_be_closed = self._readers > 0
            if self._to_be_closed:
                from huggingface_hub.utils import _http

                _http._GLOBAL_CLIENT = self._session  # it stays the one
                return
        self._close()

    def __enter__(self) -> None:
        with self._lock:
            self._readers += 1

    def __exit__(self, *error: object) -> None:
        from huggingface_hub import close_session

        with self._lock:
            self._readers -= 1
            left = self._to_be_closed and not self._readers
        if left:
            close_session()


def _watch(answer: Any) -> None:
    if _watching.get():
        raise_if_cancelled()
        kind = type("_Watched", (_WatchedStream, _http_library().SyncByteStream), {})
        answer.stream = kind(answer.stream)


class _WatchedStream:
    """The chunks of a body, as long as they come fast enough. Raises UnavailableError, Interrupted."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        start, received = time.monotonic(), 0
        for chunk in self._stream:
            raise_if_cancelled()
            received += len(chunk)
            seconds = time.monotonic() - start
            if seconds > _WINDOW_SECONDS:
                if received < _SLOWEST * seconds:
                    raise UnavailableError(
                        f"the server sent {received} bytes in {seconds:.0f} s, too few for a download; try again later"
                    )
                start, received = time.monotonic(), 0
            yield chunk

    def close(self) -> None:
        self._stream.close()
