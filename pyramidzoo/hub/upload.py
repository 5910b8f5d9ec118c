"""Upload a prepared folder to the Hub in one commit, then download it again and compare every byte."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo import __version__
from pyramidzoo.catalog.weights_entry import FileHash, HubFile
from pyramidzoo.checkpoints.hashes import compute_published_hash
from pyramidzoo.errors import IntegrityError, PyramidzooError, UnavailableError, UsageError
from pyramidzoo.files import file_hash
from pyramidzoo.hub.prepare import FILE_NAMES, WEIGHTS_NAME, PreparedFolder
from pyramidzoo.weights.hub_errors import first_line

# Tells `compute_published_hash` which hash to compute: the one by which git names a file. The zeros are not used.
_GIT_BLOB_HASH = FileHash("git_blob_sha1", "file", "0" * 40)
_LOGIN_ADVICE = "set HF_TOKEN to a token that may write to this repository, or run `hf auth login`"


@dataclass(frozen=True)
class Publication:
    """A commit in a repository on the Hub that contains the files of a prepared folder.

    Attributes:
        prepared: The prepared folder.
        revision: The hash of the commit.
        is_new: Whether this upload made the commit. If not, the repository contained these files already.
    """

    prepared: PreparedFolder
    revision: str
    is_new: bool

    @property
    def url(self) -> str:
        """The address of the web page of the commit."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{self.prepared.repo_id}/tree/{self.revision}"

    @property
    def hub_file(self) -> HubFile:
        """The published file of weights, as the manifest's entry names it."""
        prepared = self.prepared
        return HubFile(prepared.repo_id, self.revision, WEIGHTS_NAME, prepared.sha256, prepared.bytes)


def upload_folder(prepared: PreparedFolder, *, private: bool = False) -> Publication:
    """Upload the files of a prepared folder in one commit, then download them again and compare every byte.

    A file that the repository contains already is not uploaded again. If the repository contains all files, no commit
    is made.

    Args:
        prepared: The prepared folder.
        private: Whether a new repository is private. An existing repository is not changed in this respect.

    Returns:
        The commit that contains the files.

    Raises:
        UnavailableError: If there is no token, no permission or no network, or somebody else committed meanwhile.
        UsageError: If the Hub refuses the content.
        IntegrityError: If a downloaded file differs from the uploaded one.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.hf_api import RepoFile

    repo_id = prepared.repo_id
    if constants.HF_HUB_OFFLINE:
        raise UnavailableError(
            f"cannot publish {repo_id}: HF_HUB_OFFLINE is set, so nothing may use the network; unset it, or try "
            "--dry-run"
        )
    api = HfApi()
    with _translate_errors(repo_id):
        if get_token() is None:
            raise UnavailableError(f"cannot publish {repo_id} without a token; {_LOGIN_ADVICE}")
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        revision = api.model_info(repo_id).sha
        tree = api.list_repo_tree(repo_id, revision=revision)
        remote_files = {file.path: file for file in tree if isinstance(file, RepoFile)}
        names_to_upload = [
            name for name in FILE_NAMES if not _is_same_file(prepared.folder / name, remote_files.get(name))
        ]
        if names_to_upload:
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, prepared.folder / name) for name in names_to_upload],
                commit_message=f"{prepared.entry.id}, published by pyramidzoo {__version__}",
                # The Hub refuses the commit if somebody else has committed after this revision.
                parent_commit=revision,
            )
            revision = commit.oid
    _read_back(api, prepared, str(revision))
    return Publication(prepared, str(revision), is_new=bool(names_to_upload))


@contextlib.contextmanager
def _translate_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub's client into errors of pyramidzoo that say what the user can do.

    The status codes are those of HTTP: 401 and 403 mean that the token has no permission, 412 that the parent of the
    commit is no longer the newest commit, and 400 that the Hub does not accept the content.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        yield
    except PyramidzooError:
        raise
    except Exception as error:  # the client raises many classes of errors: its own and those of its HTTP library
        status = getattr(getattr(error, "response", None), "status_code", None)
        failure = f"cannot publish {repo_id}: {type(error).__name__}: {first_line(error)}"
        if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            raise UnavailableError(f"{failure}; the token has no permission: {_LOGIN_ADVICE}") from error
        if status == 412:
            raise UnavailableError(
                f"{failure}; somebody else committed at the same time: look at the repository, then run the command "
                "again"
            ) from error
        if status == 400:
            raise UsageError(f"{failure}; look at the folder that --dry-run writes") from error
        raise UnavailableError(
            f"{failure}; run the command again: what was uploaded is not uploaded a second time"
        ) from error


def _is_same_file(path: Path, remote_file: Any) -> bool:
    """Compare a local file with a file of the repository, by the size and the hash that the Hub lists for it.

    The Hub lists the sha256 of large files, which it stores in LFS. For other files it lists the hash of git.
    """
    if remote_file is None or remote_file.size != path.stat().st_size:
        return False
    if remote_file.lfs is not None:
        return bool(remote_file.lfs.sha256 == file_hash(path))
    return bool(remote_file.blob_id == compute_published_hash(path, _GIT_BLOB_HASH))


def _read_back(api: Any, prepared: PreparedFolder, revision: str) -> None:
    """Download every file of the commit, and raise IntegrityError if one differs from the prepared file."""
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as cache:
        for name in FILE_NAMES:
            with _translate_errors(prepared.repo_id):
                path = api.hf_hub_download(
                    prepared.repo_id, name, revision=revision, cache_dir=cache, force_download=True
                )
            received, expected = file_hash(Path(path)), file_hash(prepared.folder / name)
            if received != expected:
                raise IntegrityError(
                    f"{prepared.repo_id} returns other bytes than were uploaded: {name} at {revision} has sha256 "
                    f"{received}, expected {expected}; delete the file there and publish again"
                )
