"""Explain errors of the Hub's client and of its HTTP library: what has failed, and what the user can do."""

from __future__ import annotations

from pyramidzoo.catalog.weights_entry import HubFile
from pyramidzoo.errors import NotWritableError, UnavailableError

OFFLINE_REASON = "the variable HF_HUB_OFFLINE forbids downloads (offline mode)"

# What the user can do after an HTTP status. 401 and 403: no permission. 404 and 410: there is no such file.
_NEXT_STEPS = {
    401: "only users with permission can read it",
    403: "only users with permission can read it",
    404: "check whether the file has moved to another address",
    410: "check whether the file has moved to another address",
}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def http_status(error: BaseException) -> int:
    """Return the HTTP status of the response that caused an error of the client. Return 0 if no response caused it."""
    return getattr(getattr(error, "response", None), "status_code", None) or 0


def find_original_error(error: Exception) -> Exception:
    """Return the error that says what went wrong in the Hub's client: `error` itself or its cause.

    With `force_download`, the client raises a `ValueError` with a general message. Only the cause of this error tells
    what went wrong.
    """
    return error.__cause__ if isinstance(error, ValueError) and isinstance(error.__cause__, Exception) else error


def suggest_next_step(error: Exception) -> str:
    """Return the part of a message that says what the user can do after a failed request to a server."""
    return _NEXT_STEPS.get(http_status(error), "try again later")


def explain_hub_error(error: Exception, requested_file: HubFile, revision: str) -> UnavailableError:
    """Turn an error of the Hub's client into an error whose message says what has failed and what the user can do.

    Args:
        error: The error that `hf_hub_download` raised.
        requested_file: The repository and the name of the file that `hf_hub_download` was asked for.
        revision: The commit, the branch or the tag that it was asked for.

    Returns:
        The error for the caller to raise. If the client's cache cannot be written to, it is a `NotWritableError`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository_page = requested_file.url.partition("/blob/")[0]
    # The order of the checks matters, because some of these classes are subclasses of others that are checked later.
    if isinstance(error, LocalEntryNotFoundError):
        # The client could not reach the Hub, or was not allowed to, and its cache does not have the file.
        if constants.HF_HUB_OFFLINE:
            reason = OFFLINE_REASON
        else:
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {first_line(cause)}; try again later"
    elif isinstance(error, GatedRepoError):
        reason = f"the owner must grant access; ask for it on {repository_page}, then set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        reason = "there is no such repository, or it is private; if it is private, set HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"the repository does not have the revision {revision}, or no longer has it; see {repository_page}"
    elif isinstance(error, EntryNotFoundError):
        reason = f"the revision {revision} has no file {requested_file.filename}; see {repository_page}"
    elif http_status(error) == 401:
        reason = f"{first_line(error)}; HF_TOKEN may have expired: renew it, or unset it"
    elif isinstance(error, OSError) and error.errno is not None and not http_status(error):
        # The operating system refused something. Connection errors have other classes.
        return NotWritableError(
            f"Hub {requested_file.repo_id}: cannot write to the cache of the Hub's client, {constants.HF_HUB_CACHE}: "
            f"{error.strerror or error}; name another folder in HF_HOME"
        )
    else:
        reason = f"{type(error).__name__}: {first_line(error)}; {suggest_next_step(error)}"
    return UnavailableError(f"Hub {requested_file.repo_id}: {reason}")
