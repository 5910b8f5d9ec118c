"""The context of a download: what cancels it, which progress bar it moves, and whether its speed is watched."""

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
        cancel_event: Once it is set, the downloads stop. None if nothing cancels them.
        progress: The progress bar of several downloads. None if each download shows its own bar.
        is_watched: Whether a response that arrives too slowly is given up.
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
    """Change fields of this thread's download context until the block ends.

    Args:
        **changes: Fields of `DownloadContext` and their new values.
    """
    token = _context.set(dataclasses.replace(get_context(), **changes))
    try:
        yield
    finally:
        _context.reset(token)


def cancel_on(event: threading.Event) -> contextlib.AbstractContextManager[None]:
    """Cancel this thread's downloads once the event is set, until the block ends."""
    return change_context(cancel_event=event)


def raise_if_cancelled() -> None:
    """Stop if the downloads of this thread were cancelled.

    Raises:
        Cancelled: If they were.
    """
    event = get_context().cancel_event
    if event and event.is_set():
        raise CancelledError


def sleep_unless_cancelled(seconds: float) -> None:
    """Wait for a number of seconds.

    Raises:
        Cancelled: As soon as the downloads of this thread are cancelled.
    """
    event = get_context().cancel_event
    if event is None:
        time.sleep(seconds)
    elif event.wait(seconds):
        raise CancelledError
