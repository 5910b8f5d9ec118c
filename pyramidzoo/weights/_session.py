"""The HTTP connection of downloads: the session of the Hub's client, which all its users in this process share.

So proxies, certificates and time-outs (`HF_HUB_DOWNLOAD_TIMEOUT`) are the same for the Hub and for other addresses.
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

_LOWEST_SPEED = 1024  # bytes in a second, over a whole window
_WINDOW_SECONDS = 60.0


def http_library() -> ModuleType:
    """Import the HTTP library that the Hub's client uses: httpx, or in later versions httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


@contextlib.contextmanager
def watched_session() -> Iterator[None]:
    """Keep the session open until the block ends, and give up responses in this thread that arrive too slowly.

    A time-out alone is not enough: a server that sends a byte now and then could keep a download alive for days. Other
    users of the session in this process are not watched.

    Raises:
        Cancelled: If the downloads of this thread were cancelled.
        UnavailableError: If there is no session, because the settings of proxies or certificates are wrong.
    """
    raise_if_cancelled()
    with change_context(is_watched=True), _SharedSession.current():
        yield


class _SharedSession:
    """The session of the Hub's client, which stays open as long as a download of ours uses it.

    The client closes its session whenever one thread cannot connect to a server. That would end the downloads of all
    other threads. Here closing waits for the last download.

    This changes `close` of the session, and writes the client's private `_GLOBAL_CLIENT`. Two other ways were looked
    at. `huggingface_hub.set_client_factory` replaces a factory that the user may have set, which cannot be read, and it
    closes the session itself. A session of our own for other addresses could not be used with `http_stream_backoff`,
    which knows the rules for rate limits, and it would not protect downloads from the Hub.
    """

    _creation_lock = threading.Lock()

    def __init__(self, session: Any) -> None:
        self._session = session
        self._close_session = session.close
        self._users = 0
        self._is_close_pending = False
        self._lock = threading.Lock()
        self._process = os.getpid()
        session.close = self.close
        response_hooks = [*session.event_hooks["response"], _watch_response]
        session.event_hooks = {**session.event_hooks, "response": response_hooks}

    @classmethod
    def current(cls) -> _SharedSession:
        """Return the client's current session. Raises UnavailableError if it cannot be made."""
        from huggingface_hub.utils import get_session

        with cls._creation_lock:  # without it, the client before 2.0 makes a session for each thread
            try:
                session = get_session()
            except (ImportError, ValueError, OSError) as error:
                raise UnavailableError(
                    f"no connection can be set up: {first_line(error)}; look at the proxies (HTTPS_PROXY, "
                    "ALL_PROXY) and certificates (SSL_CERT_FILE)"
                ) from error
            owner = getattr(session.close, "__self__", None)
            return owner if isinstance(owner, cls) else cls(session)

    def close(self) -> None:
        """Close the session now, or when its last user has left."""
        if os.getpid() == self._process:  # a forked child must not use the connections of its parent
            with self._lock:
                self._is_close_pending = self._users > 0
            if self._is_close_pending:
                from huggingface_hub.utils import _http

                # The client has forgotten the session before it closes it. A download that tries again must get the
                # same session, because only of this one do we know that it stays open.
                _http._GLOBAL_CLIENT = self._session
                return
        self._close_session()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1

    def __exit__(self, *error: object) -> None:
        from huggingface_hub import close_session

        with self._lock:
            self._users -= 1
            must_close = self._is_close_pending and not self._users
        if must_close:
            close_session()


def _watch_response(response: Any) -> None:
    """Replace the body of a response by a watched one. The session calls this for every response, in any thread."""
    if get_context().is_watched:
        raise_if_cancelled()
        # the library requires a stream to be of its own class, which is known only here
        stream_class = type("_WatchedStream", (_WatchedChunks, http_library().SyncByteStream), {})
        response.stream = stream_class(response.stream)


class _WatchedChunks:
    """The chunks of a response's body, as long as they arrive fast enough and the download is not cancelled."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        start, received = time.monotonic(), 0
        for chunk in self._stream:
            raise_if_cancelled()
            received += len(chunk)
            seconds = time.monotonic() - start
            if seconds > _WINDOW_SECONDS:
                if received < _LOWEST_SPEED * seconds:
                    raise UnavailableError(
                        f"the server sent {received} bytes in {seconds:.0f} s, which is too slow; try again later"
                    )
                start, received = time.monotonic(), 0
            yield chunk

    def close(self) -> None:
        self._stream.close()
