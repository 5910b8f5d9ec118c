"""The exceptions that users may see, and the exit code of each.

A measurement that differs from a recorded or published number is a result, not an error. Its exit code is 3.
"""

from __future__ import annotations


class PyramidzooError(Exception):
    """Base class of all errors that are raised on purpose.

    The message names what failed, the reason, and what to do next.

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
    """Something that is needed is missing: the network, a dataset, space on a disk, the right to write."""

    exit_code = 5

    @classmethod
    def from_os_error(cls, error: OSError) -> UnavailableError:
        """Make the error from one of the operating system, with the system's own words."""
        return cls(f"{error.filename or 'the system'}: {error.strerror or error}")


class NotWritableError(UnavailableError):
    """A file or folder cannot be written, because of permissions or a full disk."""


def worst_exit_code(codes: list[int]) -> int:
    """Choose the exit code of a run that had several outcomes.

    Args:
        codes: The exit codes of the outcomes.

    Returns:
        The worst of them, in the order 1 (internal), 2 (usage), 4 (integrity), 5 (unavailable), 3 (not reproduced),
        0; and 0 if there are none.
    """
    worst_first = (1, 2, 4, 5, 3, 0)
    return min(codes, key=worst_first.index, default=0)
