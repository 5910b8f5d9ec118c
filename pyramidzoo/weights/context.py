"""Settings of a thread's downloads: an event that cancels them, their progress bar, and whether slow ones end.

They are in a context variable, because the Hub's client calls our code and cannot pass them on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramidzoo.weights.progress import SharedProgressBar


class CancelledError(Exception):
    """The download of this thread was cancelled."""


@dataclasses.dataclass(frozen=True)
class DownloadContext:
    """Settings of the downloads of one thread.

    Attributes:
        cancel_event: When another thread sets this event, the downloads stop. None if they cannot be cancelled.
        progress: The progress bar that all running downloads share. None if each download shows a bar of its own.
        is_watched: Whether a response raises an error if it arrives too slowly.
    """

    cancel_event: threading.Event | None = None
    progress: SharedProgressBar | None = None
    is_watched: bool = False


_context: ContextVar[DownloadContext] = ContextVar("_context", default=DownloadContext())  # noqa: B039 (it is frozen)


def get_context() -> DownloadContext:
    """Return the download context of this thread."""
    return _context.get()


@contextlib.contextmanager
def change_context(**changes: Any) -> Iterator[None]:
    """Change fields of this thread's download context until the `with` block ends.

    Args:
        **changes: Fields of `DownloadContext` and their new values.
    """
    token = _context.set(dataclasses.replace(get_context(), **changes))
    try:
        yield
    finally:
        _context.reset(token)


def cancel_on(event: threading.Event) -> contextlib.AbstractContextManager[None]:
    """Let an event cancel the downloads of this thread that run in the `with` block."""
    return change_context(cancel_event=event)


def raise_if_cancelled() -> None:
    """Raise an error if the downloads of this thread were cancelled.

    Raises:
        CancelledError: If they were cancelled.
    """
    event = get_context().cancel_event
    if event and event.is_set():
        raise CancelledError


def sleep_unless_cancelled(seconds: float) -> None:
    """Wait for a number of seconds, or until the downloads of this thread are cancelled.

    Raises:
        CancelledError: As soon as the downloads of this thread are cancelled.
    """
    event = get_context().cancel_event
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise CancelledError
