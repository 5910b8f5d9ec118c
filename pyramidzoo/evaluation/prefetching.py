"""Load the next model in a thread while the current one is evaluated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from pyramidzoo.errors import PyramidzooError
from pyramidzoo.evaluation.evaluation_target import LoadedModel
from pyramidzoo.weights.context import cancel_on


class ModelPrefetcher:
    """Loads models in their order. While the caller uses one model, the next one is loaded in a thread.

    Use it in a `with` block. At the end of the block, a download that is still running is cancelled.
    """

    def __init__(self, load: Callable[[int], LoadedModel], count: int) -> None:
        """Prepare to load models. The first one is loaded by the first call of `load_next`.

        Args:
            load: Function that loads the model at a position, 0 to `count` - 1.
            count: Number of models.
        """
        self._load = load
        self._positions = iter(range(count))
        self._next: Future[LoadedModel] | None = None
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load")

    def __enter__(self) -> ModelPrefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def load_next(self) -> LoadedModel:
        """Return the next model, and start to load the one after it.

        Returns:
            The model.

        Raises:
            PyramidzooError: `load` failed for this model. The next call returns the model after it.
            OSError: `load` failed for this model. The next call returns the model after it.
        """
        try:
            model = self._load_first() if self._next is None else self._next.result()
        except (PyramidzooError, OSError):
            self._start_next()
            raise
        self._start_next()
        return model

    def _load_first(self) -> LoadedModel:
        """Load the first model in the thread of the caller, so that Ctrl-C interrupts it at once."""
        return self._load(next(self._positions))

    def _start_next(self) -> None:
        """Start to load the next model in the thread, if there is one."""
        position = next(self._positions, None)
        self._next = None if position is None else self._pool.submit(self._load_in_background, position)

    def _load_in_background(self, position: int) -> LoadedModel:
        """Load a model. Its download stops as soon as the `with` block of the prefetcher ends."""
        with cancel_on(self._stop):
            return self._load(position)
