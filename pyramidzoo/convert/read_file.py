"""Reading the tensors of another project's file.

The first bytes of a file decide of which kind it is; its name does not matter. A safetensors file
can hold only tensors and strings, so it is read in this process. Pickles and Torch7 files could do
harm, so they are opened in a process of their own (`sandbox/`).
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import tarfile
import tempfile
from pathlib import Path

from torch import Tensor

from pyramidzoo.checkpoints.archives import extract_member, is_archive
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.convert.sandbox import parent as sandbox
from pyramidzoo.errors import IntegrityError, NotWritableError, PyramidzooError, UnavailableError

# The first bytes of each kind of file.
_PICKLE_START, _ZIP_START, _GZIP_START = b"\x80", b"PK\x03\x04", b"\x1f\x8b"
# A Torch7 file starts with two integers: the type of its first object (3 is a table, 4 a torch
# object), and the object's number 1.
_TORCH7_STARTS = (b"\x03\0\0\0\x01\0\0\0", b"\x04\0\0\0\x01\0\0\0")
_FILE_START_BYTES = 24  # They are enough to decide the kind, and are shown in the error about an unknown file.
# The sandbox's error message may quote the file, which could put a text of any length into it.
_MAX_REASON_CHARACTERS = 500

# The scripts in `sandbox/` that read files.
_PICKLE_READER = "pickle_reader.py"
_TORCH7_READER = "torch7_reader.py"


def read_checkpoint(source: Path) -> dict[str, Tensor]:
    """Read all tensors of another project's file.

    Args:
        source: A torch checkpoint, a safetensors file, a Torch7 file, or a zip archive that holds
            one of them.

    Returns:
        The tensors by their path in the file, as "state_dict.conv1.weight".

    Raises:
        IntegrityError: The file is damaged, or is not a checkpoint.
        UnavailableError: The file cannot be read, or the disk has no room for its unpacked tensors.
    """
    return _read_archive(source) if is_archive(source) else _read_unpacked(source)


def unpickle(source: Path) -> dict[str, Tensor]:
    """Read all tensors of a torch checkpoint, which is a pickle.

    A pickle can run code when it is opened. Therefore a process of its own opens it, with limits
    and with torch's `weights_only=True`. This process gets the tensors only.

    Returns:
        The tensors by their path in the file, as "state_dict.conv1.weight".

    Raises:
        IntegrityError: The file is damaged, or holds more than tensors, numbers, lists and
            dictionaries.
        UnavailableError: The system cannot read the file, or cannot start a process.
    """
    if reason := _explain_why_no_torch_file(source):
        raise IntegrityError(f"{source} is not a readable torch checkpoint: {reason}")
    return _read_in_sandbox(_PICKLE_READER, source, "torch checkpoint")


def read_torch7(source: Path) -> dict[str, Tensor]:
    """Read the parameters of all layers of a Torch7 file, in a process of its own with limits.

    Returns:
        The tensors. A tensor is named after the place of its layer in the file's tree of modules,
        as "block3.branch1.2.bn.weight": the BN is the second layer in the first branch of the third
        residual block.

    Raises:
        IntegrityError: The file is damaged, or its network has layers that no network here has.
        UnavailableError: `torchfile` is not installed, the file cannot be read, or no process can
            be started.
    """
    if importlib.util.find_spec("torchfile") is None:
        raise UnavailableError(f"{source} is a Torch7 file; torchfile reads those: `pip install 'pyramidzoo[torch7]'`")
    return _read_in_sandbox(_TORCH7_READER, source, "Torch7 file of a network")


def is_torch7(source: Path) -> bool:
    """Return whether a file starts as a file that the function `torch.save` of Lua's Torch7 wrote.

    Raises:
        UnavailableError: The file cannot be read.
    """
    return _read_file_start(source).startswith(_TORCH7_STARTS)


def is_safetensors(source: Path) -> bool:
    """Return whether a file starts as a safetensors file: with the length of its header and a JSON object.

    Raises:
        UnavailableError: The file cannot be read.
    """
    file_start = _read_file_start(source)
    header_bytes = int.from_bytes(file_start[:8], "little")
    # Another file could have "{" as its ninth byte. Its first bytes would hardly be a sensible length.
    return file_start[8:9] == b"{" and header_bytes < 1 << 32


def _read_unpacked(source: Path) -> dict[str, Tensor]:
    """Read the tensors of a file that is not a zip archive around a checkpoint."""
    if is_safetensors(source):
        return read_tensors(source)
    return read_torch7(source) if is_torch7(source) else unpickle(source)


def _read_archive(source: Path) -> dict[str, Tensor]:
    """Unpack the one file of a zip archive to a temporary folder, and read its tensors."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="pyramidzoo-")
    except OSError as error:
        raise NotWritableError(f"cannot unpack {source}: {error.strerror or error}; name a folder in TMPDIR") from error
    with folder as folder_name:
        unpacked_file = Path(folder_name) / source.with_suffix("").name
        extract_member(source, unpacked_file)
        try:
            return _read_unpacked(unpacked_file)
        except IntegrityError as error:  # The user does not know the temporary file that the message names.
            raise IntegrityError(str(error).replace(str(unpacked_file), f"{source}: its one file")) from error


def _explain_why_no_torch_file(source: Path) -> str | None:
    """Say what a file is instead of a torch checkpoint, and what the user should do.

    Returns:
        None if the file starts as a torch checkpoint: as a zip archive, or, before torch 1.6, as a
        pickle.
    """
    file_start = _read_file_start(source)
    if file_start.startswith((_PICKLE_START, _ZIP_START)):
        return None
    if not file_start:
        return "it is empty; download it again"
    if file_start.startswith(_GZIP_START):
        return "it is compressed with gzip; unpack it"
    if _is_tar(source):
        return (
            "it is a tar archive; unpack it and name the checkpoint in it (torch's own archives of before 2017 cannot "
            "be opened safely: look for a newer file)"
        )
    return (
        f"it is not a torch file, because it starts with {file_start!r}; download it again, and look whether the "
        "download is an error page"
    )


def _is_tar(source: Path) -> bool:
    """Return whether a file starts with the header of a tar archive. Only the header is read."""
    with source.open("rb") as stream:
        header = stream.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _read_file_start(source: Path) -> bytes:
    try:
        with source.open("rb") as stream:
            return stream.read(_FILE_START_BYTES)
    except OSError as error:
        raise UnavailableError(f"cannot read {source}: {error.strerror or error}") from error


def _read_in_sandbox(script: str, source: Path, kind: str) -> dict[str, Tensor]:
    """Read the tensors of a file in the sandbox: a process without network, and with limits.

    The process writes the tensors to a temporary safetensors file. That file is then read here with
    all checks, because the process may be under the control of a harmful file.

    Args:
        script: The name of the reader's script in `sandbox/`.
        source: The file.
        kind: The kind of the file, for error messages, as "torch checkpoint".
    """
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as folder:
        output = Path(folder) / "tensors.safetensors"
        try:
            limits = sandbox.Limits.for_size(source.stat().st_size)
            outcome = sandbox.run_in_sandbox(Path(sandbox.__file__).with_name(script), source, output, limits)
        except OSError as error:
            raise UnavailableError(f"cannot start a process to open {source}: {error.strerror or error}") from error
        if outcome.missing_protections:
            _warn_once(outcome.missing_protections)
        if outcome.kind != "done":
            raise _make_sandbox_error(outcome, source, kind, limits)
        try:
            return read_tensors(output)
        except IntegrityError as error:  # The user does not know the temporary file that the message names.
            raise IntegrityError(str(error).replace(str(output), str(source))) from error


@functools.cache  # so that a second call with the same argument does nothing
def _warn_once(missing_protections: tuple[str, ...]) -> None:
    """Log a warning that the sandbox lacks protections, as "without network", on this system."""
    logging.getLogger("pyramidzoo").warning(
        "the process that opens foreign files should be %s, which this system does not allow; "
        "convert only files that you trust",
        " and ".join(missing_protections),
    )


def _make_sandbox_error(outcome: sandbox.Outcome, source: Path, kind: str, limits: sandbox.Limits) -> PyramidzooError:
    """Make the error that says why the sandbox could not read a file.

    Args:
        outcome: How the sandbox's process ended. Its `kind` is not "done".
        source: The file.
        kind: The kind of the file, as "torch checkpoint".
        limits: The limits of the process.
    """
    # Characters that could control a terminal are replaced.
    reason = "".join(
        character if character.isprintable() else "?" for character in outcome.error[:_MAX_REASON_CHARACTERS]
    )
    if outcome.kind == "write":
        return NotWritableError(
            f"cannot write the tensors of {source} to a temporary file ({reason}); name a folder with room in TMPDIR"
        )
    if outcome.kind == "read":
        return UnavailableError(f"cannot read {source}: {reason}")
    if outcome.kind == "start":
        return UnavailableError(
            f"cannot start the process that opens {source}: {reason}; is torch installed completely?"
        )
    exceeded_limit = {
        "memory": f"more than {limits.memory >> 20} MiB of memory",
        "size": f"more than {limits.output >> 20} MiB for its tensors",
        "work": f"more than {limits.work} s of work",
        "clock": f"more than {limits.clock} s",
    }.get(outcome.kind)
    if exceeded_limit:
        reason = f"it takes {exceeded_limit}, which no checkpoint of its size does; it is damaged, or made to harm"
    elif outcome.kind == "died":
        reason = f"it ended the process that read it ({reason}); it is damaged, or made to harm"
    return IntegrityError(f"{source} is not a readable {kind}: {reason}")
