"""The order of classes that are folders: names with numbers in them sort in two ways, and only one can be right."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pyramidzoo.errors import UnavailableError, UsageError

TEXT, NUMBER = KEYWORDS = ("text", "number")
_DIGITS = re.compile("[0-9]+")
_SHOWN = 3


def ordered(folders: Sequence[str], class_order: str | Path | None, *, where: Path) -> list[str]:
    """The folders of a tree in the order of their classes.

    Args:
        folders: The names of the folders.
        class_order: "text" sorts them as text, "number" by the numbers in them. Anything else is a file that names
            each folder once, one a line, in the order of the classes. None is for names that sort equally both ways.
        where: The tree, for messages.

    Raises:
        UsageError: The order is not given and the names do not tell it, or the file does not name exactly the folders.
        UnavailableError: The file cannot be read.
    """
    as_text, as_numbers = sorted(folders), _sorted_by_number(folders)
    if class_order is None:
        if as_text != as_numbers:
            raise UsageError(_two_orders(as_text, as_numbers, where))
        return as_text
    if class_order in KEYWORDS:
        return as_text if class_order == TEXT else as_numbers
    return _from_file(Path(class_order), folders, where)


def recorded_order(order: Sequence[str], class_order: str | Path) -> str:
    """What records keep of a chosen order: how it was chosen, and of a file the names instead of its path."""
    if class_order in KEYWORDS:
        return str(class_order)
    digest = hashlib.sha256("\n".join(order).encode(errors="surrogateescape")).hexdigest()
    return f"file, sha256 {digest} of its names"


def _sorted_by_number(folders: Sequence[str]) -> list[str]:
    """Sorted as text in which all numbers have leading zeros up to the same length."""
    longest = max((len(digits) for folder in folders for digits in _DIGITS.findall(folder)), default=0)

    def key(folder: str) -> tuple[str, str]:
        return _DIGITS.sub(lambda digits: digits[0].zfill(longest), folder), folder

    return sorted(folders, key=key)


def _two_orders(as_text: Sequence[str], as_numbers: Sequence[str], where: Path) -> str:
    first = next(k for k, names in enumerate(zip(as_text, as_numbers, strict=True)) if names[0] != names[1])
    here = slice(first, first + _SHOWN)
    return (
        f"the folders of {where} have numbers in their names, so their order as text is not their order as numbers: "
        f"from class {first} on, text gives {', '.join(as_text[here])} and numbers give {', '.join(as_numbers[here])}. "
        "Say which order the network was trained with: --class-order text, --class-order number, or --class-order FILE "
        "with one folder name a line in the order of the classes (in Python class_order=)"
    )


def _from_file(path: Path, folders: Sequence[str], where: Path) -> list[str]:
    """The names in a file, which must be those of the folders, each once."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UnavailableError(
            f"cannot read the class order {path}: {error.strerror or error}; give text, number or a file that names "
            "the folders, one a line"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the class order {path} is no UTF-8 text ({error}); save it as UTF-8") from error
    names = [name for line in lines if (name := line.strip())]
    wrong = {
        "names more than once": [name for name, times in Counter(names).items() if times > 1],
        "does not name the folders": sorted(set(folders) - set(names)),
        "names what is no folder there:": sorted(set(names) - set(folders)),
    }
    problems = [f"it {what} {_some(which)}" for what, which in wrong.items() if which]
    if problems:
        raise UsageError(
            f"the class order {path} does not fit the folders of {where}: {'; '.join(problems)}. It must have the name "
            "of each folder once, one a line, in the order of the classes"
        )
    return names


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
