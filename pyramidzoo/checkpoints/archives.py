"""Zip archives that hold one checkpoint file, as the project pytorchcv publishes them.

Only this one file of the archive is read. No file is written under a name that the archive gives,
because such a name could lead to any folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import replacing

MAX_BYTES = 4 << 30  # twice the size of the largest checkpoint of these families
_CHUNK = 1 << 20  # bytes that are read at once

# The largest size of an archive's directory (its list of files) in bytes. It has room for thousands
# of files. zipfile needs 16 times as much memory for its objects that describe these files.
_LARGEST_DIRECTORY_BYTES = 1 << 20

# A file in an archive is refused if its unpacked size is more than this many times the archive's
# size. Weights can hardly be compressed. A file that was made to harm can hold zeros alone, which
# unpack to a thousand times their size.
_LARGEST_UNPACKING_RATIO = 20
_ALWAYS_ALLOWED_BYTES = 64 << 20  # A file up to this unpacked size is accepted with any ratio.

# In a zip archive each file stands behind a header of its own, the local header. The two values are
# the first bytes of a local header, and the first bytes of an archive without files.
_LOCAL_HEADER_START = b"PK\x03\x04"
_EMPTY_ARCHIVE_START = b"PK\x05\x06"
_LOCAL_HEADER_BYTES = 30  # The name of the file stands behind them.
_NAME_LENGTH_POSITION = slice(26, 28)  # the bytes of the local header that hold the length of the name

_ENCRYPTION_FLAGS = 0x1 | 0x40  # the flags of ordinary and of strong encryption
# Other compression methods can ask for gigabytes of memory.
_READABLE_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# The exceptions that zipfile raises for a damaged archive. It raises the last three for sizes and
# names that are impossible.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
    AttributeError,
)


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive that holds a checkpoint file.

    A checkpoint that `torch.save` wrote is itself a zip archive, which has a file `data.pkl`. The
    answer for such a checkpoint is False.

    Raises:
        UnavailableError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            header = stream.read(_LOCAL_HEADER_BYTES)
            if not header.startswith((_LOCAL_HEADER_START, _EMPTY_ARCHIVE_START)):
                return False
            first_name = stream.read(int.from_bytes(header[_NAME_LENGTH_POSITION], "little"))
    except OSError as error:
        raise _make_read_error(path, error) from error
    try:
        with _open_archive(path) as archive:
            names = archive.namelist()
    except IntegrityError:
        # The archive's directory is damaged. The name of the first file, in its local header, decides.
        names = [first_name.decode("utf-8", "replace")]
    return not any(name.endswith("/data.pkl") for name in names)


def hash_member(path: Path, algorithm: str) -> str:
    """Hash the one file that an archive holds, as it is when it is unpacked.

    Args:
        path: The archive.
        algorithm: A name that `hashlib.new` knows.

    Returns:
        The hash in lower-case hex digits.

    Raises:
        IntegrityError: The archive is damaged, or does not hold exactly one checkpoint file.
        UnavailableError: The archive cannot be read.
    """
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in _read_member(path):
        hasher.update(chunk)
    return hasher.hexdigest()


def extract_member(archive: Path, destination: Path) -> None:
    """Unpack the one file that an archive holds, and write it to `destination`.

    On an error nothing is written.

    Args:
        archive: The archive.
        destination: The file to write.

    Raises:
        IntegrityError: The archive is damaged, or does not hold exactly one file. The error is also
            raised if the file is a link or a device, is encrypted, is larger than `MAX_BYTES`, has
            another size than the archive says, or has a name that leads out of the folder to which
            the archive is unpacked.
        UnavailableError: The archive cannot be read.
        NotWritableError: The destination cannot be written.
    """
    with replacing(destination) as temporary_file, temporary_file.open("wb") as stream:
        for chunk in _read_member(archive):
            stream.write(chunk)


def _read_member(path: Path) -> Iterator[bytes]:
    """Yield the unpacked bytes of the one file in an archive, in chunks.

    zipfile never returns more bytes than the size that the archive declares, and it compares the
    file's checksum after the last byte. It accepts a file that is too short, so the number of bytes
    is compared here.
    """
    with _open_archive(path) as archive:
        member = _find_only_member(archive, path)
        unpacked_bytes = 0
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(_CHUNK):
                    unpacked_bytes += len(chunk)
                    yield chunk
        except (OSError, *_DAMAGE_ERRORS) as error:
            raise _make_read_error(path, error) from error
        if unpacked_bytes != member.file_size:
            raise _make_damage_error(path, f"{_describe_name(member)} has {unpacked_bytes} of {member.file_size} bytes")


class _BoundedReader(io.BufferedReader):
    """A reader that refuses to read more than `_LARGEST_DIRECTORY_BYTES` at once.

    zipfile reads an archive's directory at once, with the size that the archive itself states. A
    damaged archive could state gigabytes, for which zipfile would allocate memory.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LARGEST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory would have {size} bytes, more than {_LARGEST_DIRECTORY_BYTES}")
        return super().read(size)


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive with zipfile, whose exceptions become the errors of this package."""
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(_BoundedReader(io.FileIO(path)))
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except (OSError, *_DAMAGE_ERRORS) as error:
            raise _make_read_error(path, error) from error
        yield archive  # Outside of `try`, so that errors of the caller's code are not changed.


def _find_only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """Return the entry of the one file in an archive; raise IntegrityError if it must not be unpacked."""
    members = archive.infolist()
    files = [member for member in members if not member.is_dir()]
    if len(files) != 1:
        names = ", ".join([_describe_name(member) for member in files[:3]] + ["..."] * (len(files) > 3))
        raise _make_damage_error(
            path, f"it holds {len(files)} files{f' ({names})' if names else ''}, not one checkpoint"
        )
    for member in members:  # The names of folders are checked too.
        if _leads_out_of_folder(member.orig_filename):
            raise _make_damage_error(path, f"the name {_describe_name(member)} leads out of the folder")
    (member,) = files
    name = _describe_name(member)
    # Unix keeps the type and mode of a file in the upper 16 bits. They are 0 if the archive was
    # made on another system.
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _make_damage_error(path, f"{name} is a link or a device, not a file")
    if member.flag_bits & _ENCRYPTION_FLAGS:
        raise _make_damage_error(path, f"{name} is encrypted")
    if member.compress_type not in _READABLE_METHODS:
        raise _make_damage_error(path, f"{name} is compressed by a method that is not supported")
    if member.file_size > MAX_BYTES:
        raise _make_damage_error(path, f"{name} declares {member.file_size} bytes, more than any checkpoint here has")
    archive_bytes = path.stat().st_size
    if member.file_size > max(_ALWAYS_ALLOWED_BYTES, _LARGEST_UNPACKING_RATIO * archive_bytes):
        raise _make_damage_error(
            path,
            f"{name} would be {member.file_size} bytes, unpacked from {archive_bytes}; weights cannot shrink so much",
        )
    return member


def _leads_out_of_folder(name: str) -> bool:
    """Return whether a name in an archive, used as a path, would lead out of the folder of the unpacked files.

    An archive may have been made on Windows or on Unix, so the rules of both for paths are applied.
    """
    is_absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    return is_absolute or ".." in PurePosixPath(name.replace("\\", "/")).parts


def _describe_name(member: zipfile.ZipInfo) -> str:
    """Return the name of a file in an archive for an error message.

    A long name is cut off. Characters that could control a terminal are escaped.
    """
    name = member.orig_filename
    return name if len(name) <= 100 and name.isprintable() else f"{name[:100]!a}"


def _make_read_error(path: Path, error: Exception) -> IntegrityError | UnavailableError:
    """Make the error of this package for an exception that was raised while an archive was read.

    An OSError means that the system cannot read the file. Only its number EINVAL means that the
    archive is damaged: the archive states a position in the file that cannot exist.
    """
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return UnavailableError(f"cannot read {path}: {error.strerror or error}")
    return _make_damage_error(path, str(error)[:300] or type(error).__name__)


def _make_damage_error(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable archive of one checkpoint: {reason}; download it again")
