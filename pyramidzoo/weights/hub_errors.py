"""What the errors of the Hub's client and of its HTTP library mean, and what a user can do about them."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import HubFile
from pyramidzoo.errors import NotWritableError, UnavailableError

OFFLINE = "offline, as HF_HUB_OFFLINE says"

_NEXT_STEPS = {
    401: "it is for others only",
    403: "it is for others only",
    404: "look whether it has moved",
    410: "look whether it has moved",
}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def http_status(error: BaseException) -> int:
    """Return the HTTP status that an error of the client is about, or 0 if it is not about a response."""
    return getattr(getattr(error, "response", None), "status_code", None) or 0


def original_error(error: Exception) -> Exception:
    """Return the error that is the reason for this one.

    Where a download is forced, the client raises a `ValueError` that says nothing; its cause says what went wrong.
    """
    return error.__cause__ if isinstance(error, ValueError) and isinstance(error.__cause__, Exception) else error


def next_step(error: Exception) -> str:
    """Say what to do after an error of a server."""
    return _NEXT_STEPS.get(http_status(error), "try again later")


def explain_hub_error(error: Exception, hub: HubFile, revision: str) -> UnavailableError:
    """Turn an error of the Hub's client into one that says what failed and what to do.

    Args:
        error: The error that `hf_hub_download` raised.
        hub: The file that was asked for.
        revision: The revision that was asked for.

    Returns:
        The error to raise. It is a `NotWritableError` if the client's cache cannot be written to.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = hub.url.partition("/blob/")[0]
    # the order matters: some of these classes are subclasses of later ones
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            reason = OFFLINE
        else:
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {first_line(cause)}; try again later"
    elif isinstance(error, GatedRepoError):
        reason = f"access is granted on {page} only; ask there, then set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "there is no such repository, or it is private: set HF_TOKEN to see it"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"it has no revision {revision} (any more); look at {page}"
    elif isinstance(error, EntryNotFoundError):
        reason = f"there is no {hub.filename} at {revision}; look at {page}"
    elif http_status(error) == 401:
        reason = f"{first_line(error)}; is HF_TOKEN still valid? Renew it, or unset it"
    elif isinstance(error, OSError) and error.errno is not None and not http_status(error):
        return NotWritableError(
            f"Hub {hub.repo_id}: cannot write to the cache of the Hub's client, {constants.HF_HUB_CACHE}: "
            f"{error.strerror or error}; name another folder in HF_HOME"
        )
    else:
        reason = f"{type(error).__name__}: {first_line(error)}; {next_step(error)}"
    return UnavailableError(f"Hub {hub.repo_id}: {reason}")
