"""The queue of training runs: which runs are trained side by side now, and which wait until another one ends."""

from __future__ import annotations

import collections
import gc
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

import torch

from pyramidzoo.errors import IntegrityError
from pyramidzoo.training.logged_run import LoggedRun
from pyramidzoo.training.progress import print_line

P = ParamSpec("P")


class RunQueue:
    """The runs of a command that have not ended.

    Args:
        runs: All runs, in the order in which they start.
        together: The largest number of runs side by side. None means: as many as the device has memory for. A run for
            which there is no memory then waits until another run has ended.

    Attributes:
        active: The runs that are trained side by side now.
        waiting: The runs that start later.
        failures: The errors of the runs that have failed.
    """

    def __init__(self, runs: Sequence[LoggedRun], together: int | None) -> None:
        self.active: list[LoggedRun] = []
        self.waiting = collections.deque(run for run in runs if run.result is None)
        self.failures: list[IntegrityError] = []
        self._largest_number = len(self.waiting) if together is None else together
        self._can_wait_for_memory = together is None

    @property
    def steps_left(self) -> int:
        """Number of steps until the end of all runs."""
        return sum(run.steps_left for run in (*self.active, *self.waiting))

    def start_waiting_runs(self) -> None:
        """Open the runs that wait, in order, until the largest number of runs is active.

        Raises:
            IntegrityError: The checkpoint of a run is damaged.
            UsageError: The checkpoint of a run belongs to another run.
        """
        while self.waiting and len(self.active) < self._largest_number:
            run = self.waiting.popleft()
            self.active.append(run)
            if self.run_or_postpone(run, LoggedRun.open):
                # The run may have been interrupted after its last step, before its weights were written.
                self.finish(run, LoggedRun.write_weights_if_done)

    def run_or_postpone(
        self, run: LoggedRun, action: Callable[Concatenate[LoggedRun, P], object], *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Apply an action to an active run. If there is no memory for it, the run waits until another run has ended.

        It later continues from its last checkpoint, so its result stays the same.

        Args:
            run: An active run.
            action: What is called with the run.
            *args: Further arguments of `action`.
            **kwargs: Further keyword arguments of `action`.

        Returns:
            Whether the action was completed.

        Raises:
            torch.OutOfMemoryError: There is no memory even for this run alone, or the number of runs is fixed.
        """
        try:
            action(run, *args, **kwargs)
            return True
        except torch.OutOfMemoryError:
            if not self._can_wait_for_memory or len(self.active) == 1:
                raise
        # Here the error is gone. As long as it exists, it keeps the tensors of the functions that it came through.
        self._remove(run)
        self.waiting.appendleft(run)
        self._largest_number = len(self.active)
        print_line(f"{run.task.stem}: there is no memory for it now; it waits until another training has ended")
        return False

    def finish(self, run: LoggedRun, action: Callable[[LoggedRun], object]) -> None:
        """Apply an action to an active run, and remove the run if it then has ended or failed."""
        try:
            self.run_or_postpone(run, action)
        except IntegrityError as error:
            self.failures.append(error)
            self._remove(run)
        else:
            if run.result is not None:
                self._remove(run)

    def _remove(self, run: LoggedRun) -> None:
        """End that a run is active, and free its memory."""
        self.active.remove(run)
        run.close()
        gc.collect()  # A run and its captured step refer to each other. Such objects are not freed at once.
