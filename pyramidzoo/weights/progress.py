"""One progress bar for several downloads at once."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class SharedProgressBar:
    """A progress bar that shows how many bytes several downloads have received together.

    Args:
        weights_count: How many sets of weights are fetched.
        total_bytes: The size of all downloads together, or None if it is unknown.
    """

    def __init__(self, weights_count: int, total_bytes: int | None) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=total_bytes,
            desc=f"fetching {weights_count} sets of weights",
            unit="B",
            unit_scale=True,
            disable=None,  # tqdm then shows the bar only in a terminal
        )

    def make_bar_class(self) -> type[tqdm[Any]]:
        """Make a class of bars for single downloads. Such a bar is not shown. Its updates move the shared bar.

        The Hub's client accepts a class of bars and makes the bars itself. So a class is needed, not a bar.
        """
        shared_bar = self._bar

        class HiddenBar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)  # The Hub's client passes this argument, which tqdm does not accept.
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> bool | None:
                return shared_bar.update(n)

        return HiddenBar

    def close(self) -> None:
        """Finish the bar. Later updates are not shown."""
        self._bar.close()
