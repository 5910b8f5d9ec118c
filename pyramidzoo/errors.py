"""The exceptions that users may see, and the exit code of each.

A measurement may differ from a recorded or published number. Such a difference is a result, and no exception is raised.
The command then ends with exit code 3.
"""

from __future__ import annotations


class PyramidzooError(Exception):
    """Base class of all errors that this package raises on purpose.

    The message of each error says what failed, why it failed, and what the user can do.

    Attributes:
        exit_code: The exit code of a command that ends with this error.
    """

    exit_code = 1


class UsageError(PyramidzooError, ValueError):
    """The request is wrong, such as an unknown name or options that exclude each other."""

    exit_code = 2


class IntegrityError(PyramidzooError):
    """The content of a file is wrong: its hash, keys, shapes, dtypes or values, or it is damaged."""

    exit_code = 4


class UnavailableError(PyramidzooError):
    """Something that is needed is not available: the network, a dataset, space on a disk, the right to write."""

    exit_code = 5

    @classmethod
    def from_os_error(cls, error: OSError) -> UnavailableError:
        """Make an UnavailableError from an OSError. Its message is the file name and the system's message."""
        return cls(f"{error.filename or 'the system'}: {error.strerror or error}")


class NotWritableError(UnavailableError):
    """A file or folder cannot be written, because of permissions or a full disk."""


def worst_exit_code(codes: list[int]) -> int:
    """Choose the exit code of a command that did several things, such as fetching several sets of weights.

    Args:
        codes: The exit code of each thing that the command did.

    Returns:
        The worst of these codes. From the worst to the best they are 1 (internal error), 2 (usage), 4 (integrity), 5
        (unavailable), 3 (not reproduced) and 0 (success). If `codes` is empty, the result is 0.
    """
    worst_first = (1, 2, 4, 5, 3, 0)
    return min(codes, key=worst_first.index, default=0)
