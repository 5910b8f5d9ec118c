"""The order of classes that are folders.

Names with numbers sort in two ways: "10" comes before "2" as text, and after it as a number. The
network was trained with one of the two orders, so a wrong choice gives wrong errors.
"""

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


def sort_folders(folders: Sequence[str], class_order: str | Path | None, *, where: Path) -> list[str]:
    """Put the folders of a tree into the order of their classes.

    Args:
        folders: The names of the folders.
        class_order: "text" sorts them as text, "number" by the numbers in them. Anything else is a file
            that has the name of each folder in a line of its own, in the order of the classes. None is
            enough for names that both ways sort equally.
        where: The tree, for messages.

    Returns:
        The names in the order of the classes.

    Raises:
        UsageError: No order is given and both ways give different ones. Or the names in the file are not
            those of the folders.
        UnavailableError: The file cannot be read.
    """
    as_text, as_numbers = sorted(folders), _sort_by_numbers(folders)
    if class_order is None:
        if as_text != as_numbers:
            raise UsageError(_ambiguity_message(as_text, as_numbers, where))
        return as_text
    if class_order in KEYWORDS:
        return as_text if class_order == TEXT else as_numbers
    return _read_order(Path(class_order), folders, where)


def describe_order(order: Sequence[str], class_order: str | Path) -> str:
    """Describe a chosen order for records. For a file, the hash of its names stands in place of its path."""
    if class_order in KEYWORDS:
        return str(class_order)
    sha256 = hashlib.sha256("\n".join(order).encode(errors="surrogateescape")).hexdigest()
    return f"file, sha256 {sha256} of its names"


def _sort_by_numbers(folders: Sequence[str]) -> list[str]:
    """Sort names as text after padding all numbers in them with zeros to the same length."""
    longest = max((len(digits) for folder in folders for digits in _DIGITS.findall(folder)), default=0)

    def key(folder: str) -> tuple[str, str]:
        return _DIGITS.sub(lambda digits: digits[0].zfill(longest), folder), folder

    return sorted(folders, key=key)


def _ambiguity_message(as_text: Sequence[str], as_numbers: Sequence[str], where: Path) -> str:
    first = next(k for k, names in enumerate(zip(as_text, as_numbers, strict=True)) if names[0] != names[1])
    shown = slice(first, first + _SHOWN)
    return (
        f"the folders of {where} have numbers in their names, so their order as text is not their order as numbers: "
        f"from class {first} on, text gives {', '.join(as_text[shown])} and numbers give "
        f"{', '.join(as_numbers[shown])}. "
        "Say which order the network was trained with: --class-order text, --class-order number, or --class-order FILE "
        "with one folder name a line in the order of the classes (in Python class_order=)"
    )


def _read_order(path: Path, folders: Sequence[str], where: Path) -> list[str]:
    """Read names from a file and check that they are those of the folders, each once."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UnavailableError(
            f"cannot read the class order {path}: {error.strerror or error}; give text, number or a file that names "
            "the folders, one a line"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the class order {path} is not UTF-8 text ({error}); save it as UTF-8") from error
    names = [name for line in lines if (name := line.strip())]
    wrong_names = {
        "names more than once": [name for name, times in Counter(names).items() if times > 1],
        "does not name the folders": sorted(set(folders) - set(names)),
        "names what is not a folder there:": sorted(set(names) - set(folders)),
    }
    problems = [f"it {problem} {_list_some(wrong)}" for problem, wrong in wrong_names.items() if wrong]
    if problems:
        raise UsageError(
            f"the class order {path} does not fit the folders of {where}: {'; '.join(problems)}. It must have the name "
            "of each folder once, one a line, in the order of the classes"
        )
    return names


def _list_some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
