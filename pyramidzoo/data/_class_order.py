"""Find out which class each folder of a dataset means, if the position of a folder among the sorted names says it.

Names that contain numbers can be sorted in two ways: "10" comes before "2" as text, and after "2" as a number. A
network was trained with one of the two orders. With the other order, its labels would be wrong.
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
_NAMES_IN_MESSAGE = 3  # how many names of folders a message shows at most


def sort_folders(folders: Sequence[str], class_order: str | Path | None, *, tree: Path) -> list[str]:
    """Sort the folders of a dataset in the order of their classes.

    Args:
        folders: The names of the folders, one for each class.
        class_order: How the user wants the folders to be sorted. "text" sorts the names as text. "number" sorts them by
            the numbers in the names. Anything else is the path of a text file with the name of one folder on each line,
            in the order of the classes. None is allowed only if "text" and "number" give the same order.
        tree: The folder that contains the folders, for messages.

    Returns:
        The names of the folders. The first name is that of class 0.

    Raises:
        UsageError: `class_order` is None although "text" and "number" give different orders. Or the names in the file
            are not the names of the folders.
        UnavailableError: The file cannot be read.
    """
    sorted_as_text, sorted_by_number = sorted(folders), _sort_by_number(folders)
    if class_order is None:
        if sorted_as_text != sorted_by_number:
            raise UsageError(_explain_ambiguous_order(sorted_as_text, sorted_by_number, tree))
        return sorted_as_text
    if class_order in KEYWORDS:
        return sorted_as_text if class_order == TEXT else sorted_by_number
    return _read_order(Path(class_order), folders, tree)


def describe_order(sorted_folders: Sequence[str], class_order: str | Path) -> str:
    """Describe for records how the folders were sorted.

    Args:
        sorted_folders: The names of the folders in the order of their classes.
        class_order: What the user chose; see `sort_folders`.

    Returns:
        "text" or "number". If the user chose a file, the hash of the names, because the path means nothing on another
        machine.
    """
    if class_order in KEYWORDS:
        return str(class_order)
    sha256 = hashlib.sha256("\n".join(sorted_folders).encode(errors="surrogateescape")).hexdigest()
    return f"file, sha256 {sha256} of its names"


def _sort_by_number(folders: Sequence[str]) -> list[str]:
    """Sort names by the numbers in them.

    All numbers are padded with zeros to the same length ("a2" becomes "a02" if there is an "a10"). Then the order as
    text is the order of the numbers.
    """
    longest = max((len(digits) for folder in folders for digits in _DIGITS.findall(folder)), default=0)

    def get_sort_key(folder: str) -> tuple[str, str]:
        # The name itself decides between names such as "a1" and "a01", which are equal after padding.
        return _DIGITS.sub(lambda match: match[0].zfill(longest), folder), folder

    return sorted(folders, key=get_sort_key)


def _explain_ambiguous_order(sorted_as_text: Sequence[str], sorted_by_number: Sequence[str], tree: Path) -> str:
    """Return the message for folders whose order is not clear. It shows the first classes that differ."""
    pairs = zip(sorted_as_text, sorted_by_number, strict=True)
    first_difference = next(label for label, names in enumerate(pairs) if names[0] != names[1])
    shown = slice(first_difference, first_difference + _NAMES_IN_MESSAGE)
    return (
        f"the folders of {tree} have numbers in their names, so their order as text is not their order as numbers: "
        f"from class {first_difference} on, text gives {', '.join(sorted_as_text[shown])} and numbers give "
        f"{', '.join(sorted_by_number[shown])}. "
        "Say which order the network was trained with: --class-order text, --class-order number, or --class-order FILE "
        "with one folder name a line in the order of the classes (in Python class_order=)"
    )


def _read_order(path: Path, folders: Sequence[str], tree: Path) -> list[str]:
    """Read the order of folders from a text file. Require that it contains the name of each folder exactly once."""
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
        "contains more than once": [name for name, times in Counter(names).items() if times > 1],
        "does not contain the folders": sorted(set(folders) - set(names)),
        "contains names of folders that do not exist:": sorted(set(names) - set(folders)),
    }
    problems = [f"it {problem} {_join_first_names(names)}" for problem, names in wrong_names.items() if names]
    if problems:
        raise UsageError(
            f"the class order {path} does not fit the folders of {tree}: {'; '.join(problems)}. It must contain the "
            "name of each folder once, one a line, in the order of the classes"
        )
    return names


def _join_first_names(names: Sequence[str]) -> str:
    """Join names with commas. After a few names, only say how many follow."""
    omitted = len(names) - _NAMES_IN_MESSAGE
    return ", ".join(names[:_NAMES_IN_MESSAGE]) + (f" and {omitted:,} more" if omitted > 0 else "")
