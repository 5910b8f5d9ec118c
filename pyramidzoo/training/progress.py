"""A progress bar for a training, with the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm


class TrainingProgress:
    """A bar over the steps of all trainings of a command. It is shown on a terminal only.

    Args:
        steps: Number of steps that all trainings together still need.
    """

    def __init__(self, steps: int) -> None:
        # smoothing: the time left follows the mean speed of the last few hundred steps
        self._bar = tqdm(total=steps, unit="step", disable=None, smoothing=0.01, dynamic_ncols=True)

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def set_steps_left(self, steps: int) -> None:
        """Change the number of steps that all trainings together still need."""
        self._bar.total = self._bar.n + steps

    def advance(self, steps: int) -> None:
        """Add steps that were done."""
        self._bar.update(steps)


def print_line(text: str) -> None:
    """Print a line on stderr, above the bar if there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def describe_time_left(seconds: float) -> str:
    """Describe the time that a training still needs, such as "1:05 h left", "12 min left" or "40 s left"."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02} h left"
    return f"{minutes} min left" if minutes >= 2 else f"{seconds:.0f} s left"
