"""One exception tree. Every failure that a user can meet has a class, and every class one exit code.

A measurement that contradicts a recorded or published number is a result, not a failure; its exit code is 3.
"""

from __future__ import annotations


class PyramidzooError(Exception):
    """Base of all errors raised on purpose; its message names what failed, why, and what to do next."""

    exit_code = 1


class UsageError(PyramidzooError, ValueError):
    """The request itself is wrong: an unknown name, options that exclude each other."""

    exit_code = 2


class IntegrityError(PyramidzooError):
    """Bytes are not what they must be: wrong hash, keys, shapes, dtypes, NaN, a damaged file."""

    exit_code = 4


class UnavailableError(PyramidzooError):
    """Something needed is not there: no network, no data, a disk that is full or not writable."""

    exit_code = 5

    @classmethod
    def of(cls, error: OSError) -> UnavailableError:
        """What the system refused, in its own words."""
        return cls(f"{error.filename or 'the system'}: {error.strerror or error}")


class NotWritableError(UnavailableError):
    """A file cannot be written where it belongs: permissions, a full disk."""


def worst_exit_code(codes: list[int]) -> int:
    """The one exit code of a run with several outcomes: integrity before unavailable before not reproduced."""
    order = (1, 2, 4, 5, 3, 0)
    return min(codes, key=order.index, default=0)
