"""Checks of error messages by the words that matter, so that a change of wording does not break a test."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TypeVar

import pytest

E = TypeVar("E", bound=Exception)

# pytest names the folder of `tmp_path` after the test, so the folder could contain any of the words.
_FOLDER_OF_A_TEST = re.compile(r"\S*/test_\w*/?")


def require_words(message: str, *words: str) -> None:
    """Require that a message contains each of the words. Upper and lower case count as equal.

    The folder of the test (`tmp_path`) is not searched, only what stands below it.
    """
    searched = _FOLDER_OF_A_TEST.sub("", message).casefold()
    missing = [word for word in words if word.casefold() not in searched]
    assert not missing, f"{missing} not in {message!r}"


@contextlib.contextmanager
def raises_with_words(error: type[E], *words: str) -> Iterator[pytest.ExceptionInfo[E]]:
    """Require that the block raises an error of this type, with a message that contains each of the words."""
    with pytest.raises(error) as caught:
        yield caught
    require_words(str(caught.value), *words)
