"""One progress bar for several downloads at once."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class SharedProgressBar:
    """A progress bar that several downloads move.

    Args:
        number: How many sets of weights are fetched.
        total: The number of bytes of all downloads together, or None if it is unknown.
    """

    def __init__(self, number: int, total: int | None) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=total, desc=f"fetching {number} sets of weights", unit="B", unit_scale=True, disable=None
        )

    def bar_class(self) -> type[tqdm[Any]]:
        """Return a class for the bars of single downloads.

        Such a bar shows nothing itself. It moves the shared bar. The Hub's client takes the class in place of its own.
        """
        shared_bar = self._bar

        class HiddenBar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)  # the Hub's client gives its bars a name, which tqdm does not know
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                return shared_bar.update(n)

        return HiddenBar

    def close(self) -> None:
        """Take the bar off the screen."""
        self._bar.close()
