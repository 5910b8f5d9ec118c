"""The HTTP session of downloads. It is the session of the Hub's client, which the whole process shares.

Downloads from other addresses than the Hub use it too. So proxies, certificates and time-outs
(`HF_HUB_DOWNLOAD_TIMEOUT`) are the same for all downloads.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pyramidzoo.errors import UnavailableError
from pyramidzoo.weights.context import change_context, get_context, raise_if_cancelled
from pyramidzoo.weights.hub_errors import first_line

_LOWEST_SPEED = 1024  # in bytes per second; a response is given up if its average speed is lower
_MEASURED_SECONDS = 60.0  # the average speed is computed over periods of this length


def http_library() -> ModuleType:
    """Import the HTTP library that the Hub's client uses: httpx, or httpx2 in later versions of the client."""
    from huggingface_hub.errors import HfHubHTTPError

    # The base class of the client's error is an error of that library.
    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


@contextlib.contextmanager
def watched_session() -> Iterator[None]:
    """Keep the HTTP session open until the `with` block ends, and watch the responses that this thread receives.

    A response that arrives too slowly raises an UnavailableError. A time-out alone is not enough: a server that sends
    one byte from time to time could keep a download alive for days. Responses to other threads are not watched.

    Raises:
        CancelledError: If the downloads of this thread were cancelled.
        UnavailableError: If no session can be made, because the settings of proxies or certificates are wrong.
    """
    raise_if_cancelled()
    with change_context(is_watched=True), _SharedSession.get_current():
        yield


class _SharedSession:
    """The HTTP session of the Hub's client. It stays open as long as a `with` block of this class uses it.

    The client closes its session whenever one thread cannot connect to a server. That would end the downloads of all
    other threads. This class delays the closing until the last of its `with` blocks has ended.

    To do so, this class replaces the method `close` of the session, and writes the client's private variable
    `_GLOBAL_CLIENT`. Two ways without private names were examined:

    * `huggingface_hub.set_client_factory` would replace a factory that the user may have set. The user's factory cannot
      be read and so cannot be restored. This function also closes the session.
    * A second session for other addresses than the Hub would not protect downloads from the Hub. It also could not be
      used with the client's `http_stream_backoff`, which obeys the rate limits of servers.
    """

    _creation_lock = threading.Lock()

    def __init__(self, session: Any) -> None:
        """Replace the method `close` of a session, and let the session pass all responses to `_watch_response`."""
        self._session = session
        self._original_close = session.close
        self._user_count = 0  # how many `with` blocks use the session at the moment
        self._is_close_pending = False
        self._lock = threading.Lock()  # guards the two attributes above
        self._process = os.getpid()
        session.close = self.close
        response_hooks = [*session.event_hooks["response"], _watch_response]
        session.event_hooks = {**session.event_hooks, "response": response_hooks}

    @classmethod
    def get_current(cls) -> _SharedSession:
        """Return the `_SharedSession` of the client's current session. Raises UnavailableError if there is none."""
        from huggingface_hub.utils import get_session

        # Without this lock, threads that start at the same time get different sessions from a client before 2.0.
        with cls._creation_lock:
            try:
                session = get_session()
            except (ImportError, ValueError, OSError) as error:
                raise UnavailableError(
                    f"no HTTP session can be made: {first_line(error)}; check the settings of proxies (HTTPS_PROXY, "
                    "ALL_PROXY) and certificates (SSL_CERT_FILE)"
                ) from error
            # If the session has been wrapped before, its `close` is a method of its `_SharedSession`.
            owner = getattr(session.close, "__self__", None)
            return owner if isinstance(owner, cls) else cls(session)

    def close(self) -> None:
        """Close the session now if no `with` block uses it. Otherwise the last `with` block closes it at its end."""
        if os.getpid() == self._process:  # a forked child does not wait: it must not use its parent's connections
            with self._lock:
                self._is_close_pending = self._user_count > 0
            if self._is_close_pending:
                from huggingface_hub.utils import _http

                # The client has set this variable to None before it closes the session. Without the next line, a
                # download that tries again would get a new session, and no `with` block would keep that one open.
                _http._GLOBAL_CLIENT = self._session
                return
        self._original_close()

    def __enter__(self) -> None:
        with self._lock:
            self._user_count += 1

    def __exit__(self, *error: object) -> None:
        from huggingface_hub import close_session

        with self._lock:
            self._user_count -= 1
            must_close = self._is_close_pending and not self._user_count
        if must_close:
            close_session()


def _watch_response(response: Any) -> None:
    """Let a response raise an error if its body arrives too slowly or if the download is cancelled.

    The HTTP session calls this function for every response in any thread. Threads that do not download weights are not
    affected.
    """
    if get_context().is_watched:
        raise_if_cancelled()
        # The HTTP library requires that a body is of its class `SyncByteStream`. This class is derived from that one
        # only now, because the library is imported only for downloads.
        stream_class = type("_WatchedStream", (_WatchedChunks, http_library().SyncByteStream), {})
        response.stream = stream_class(response.stream)


class _WatchedChunks:
    """Yields the chunks of a response's body. Raises an error if they come too slowly or the download is cancelled.

    Args:
        stream: The body of the response.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        period_start, received_bytes = time.monotonic(), 0
        for chunk in self._stream:
            raise_if_cancelled()
            received_bytes += len(chunk)
            seconds = time.monotonic() - period_start
            if seconds > _MEASURED_SECONDS:
                if received_bytes < _LOWEST_SPEED * seconds:
                    raise UnavailableError(
                        f"the server sent {received_bytes} bytes in {seconds:.0f} s, which is too slow; try again later"
                    )
                period_start, received_bytes = time.monotonic(), 0
            yield chunk

    def close(self) -> None:
        self._stream.close()
