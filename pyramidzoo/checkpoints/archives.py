"""Zip archives of one checkpoint, as pytorchcv publishes them.

Only the one file in the archive is read. A name in an archive is never used as a path.
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

# The longest directory of an archive, in bytes. It has room for thousands of entries. zipfile needs
# 16 times as much memory for them.
_LONGEST_DIRECTORY = 1 << 20

# A file that unpacks to more than this many times its size is refused, unless it is small. Weights
# are hardly compressible; zeros, as in a file that is made to harm, compress a thousandfold.
_LARGEST_RATIO = 20
_SMALL = 64 << 20  # bytes

# The first bytes of a file header, and of an archive without files.
_LOCAL_HEADER = b"PK\x03\x04"
_EMPTY = b"PK\x05\x06"
_LOCAL_HEADER_BYTES = 30  # the name of the file comes after them
_NAME_LENGTH = slice(26, 28)  # where the header holds the length of the name

_ENCRYPTED = 0x1 | 0x40  # the flags of ordinary and of strong encryption
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Other methods can ask for gigabytes of memory.

# What zipfile raises for a damaged archive. The last three come from sizes and names that cannot be
# right.
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
    """Return whether a file is a zip archive around a checkpoint.

    A torch checkpoint is itself a zip archive, of tensors; it is not meant here.

    Raises:
        UnavailableError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_LOCAL_HEADER_BYTES)
            if not head.startswith((_LOCAL_HEADER, _EMPTY)):
                return False
            first = stream.read(int.from_bytes(head[_NAME_LENGTH], "little"))
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with _open_archive(path) as archive:
            names = archive.namelist()
    except IntegrityError:
        names = [first.decode("utf-8", "replace")]  # Without a readable directory the first name decides.
    return not any(name.endswith("/data.pkl") for name in names)


def member_hash(path: Path, algorithm: str) -> str:
    """Hash the one file in an archive.

    Args:
        path: The archive.
        algorithm: A name that `hashlib.new` knows.

    Returns:
        The hash in lower-case hex digits.

    Raises:
        IntegrityError: The archive is damaged, or is not one of a single checkpoint.
        UnavailableError: The archive cannot be read.
    """
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in _read_member(path):
        hasher.update(chunk)
    return hasher.hexdigest()


def extract_member(archive: Path, destination: Path) -> None:
    """Write the one file in an archive to `destination`, as a whole or not at all.

    Args:
        archive: The archive.
        destination: The file to write.

    Raises:
        IntegrityError: The archive is damaged; or it does not hold exactly one regular file, not
            encrypted, under a plain name, of at most `MAX_BYTES`, and exactly as long as the
            archive says.
        UnavailableError: The archive cannot be read.
        NotWritableError: The destination cannot be written.
    """
    with replacing(destination) as part, part.open("wb") as stream:
        for chunk in _read_member(archive):
            stream.write(chunk)


def _read_member(path: Path) -> Iterator[bytes]:
    """The bytes of the one file, in chunks. zipfile stops at the declared size and compares the checksum."""
    with _open_archive(path) as archive:
        member = _only_member(archive, path)
        read = 0
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(_CHUNK):
                    read += len(chunk)
                    yield chunk
        except (OSError, *_DAMAGE_ERRORS) as error:
            raise _unreadable(path, error) from error
        if read != member.file_size:
            raise _damaged(path, f"{_describe_name(member)} has {read} of {member.file_size} bytes")


class _BoundedReader(io.BufferedReader):
    """A file of which no more is read at once than a directory may have.

    zipfile reads the whole directory at once, as long as the file says it is.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory would have {size} bytes, more than {_LONGEST_DIRECTORY}")
        return super().read(size)


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(_BoundedReader(io.FileIO(path)))
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except (OSError, *_DAMAGE_ERRORS) as error:
            raise _unreadable(path, error) from error
        yield archive


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """The one file in an archive, if it is one that may be unpacked."""
    members = archive.infolist()
    files = [member for member in members if not member.is_dir()]
    if len(files) != 1:
        names = ", ".join([_describe_name(member) for member in files[:3]] + ["..."] * (len(files) > 3))
        raise _damaged(path, f"it holds {len(files)} files{f' ({names})' if names else ''}, not one checkpoint")
    for member in members:
        if _leads_out(member.orig_filename):
            raise _damaged(path, f"{_describe_name(member)} leads out of the archive")
    (member,) = files
    name = _describe_name(member)
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _damaged(path, f"{name} is a link or a device, not a file")
    if member.flag_bits & _ENCRYPTED:
        raise _damaged(path, f"{name} is encrypted")
    if member.compress_type not in _METHODS:
        raise _damaged(path, f"{name} is compressed in a way that is not read here")
    if member.file_size > MAX_BYTES:
        raise _damaged(path, f"{name} declares {member.file_size} bytes, more than any checkpoint here has")
    packed = path.stat().st_size
    if member.file_size > max(_SMALL, _LARGEST_RATIO * packed):
        raise _damaged(
            path, f"{name} would be {member.file_size} bytes, unpacked from {packed}; no weights are so regular"
        )
    return member


def _leads_out(name: str) -> bool:
    """Whether a name, taken as a path, would be outside of the folder that an archive is unpacked to."""
    is_absolute = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    return is_absolute or ".." in PurePosixPath(name.replace("\\", "/")).parts


def _describe_name(member: zipfile.ZipInfo) -> str:
    """A name for a message. Characters that could control a terminal are escaped."""
    name = member.orig_filename
    return name if len(name) <= 100 and name.isprintable() else f"{name[:100]!a}"


def _unreadable(path: Path, error: Exception) -> IntegrityError | UnavailableError:
    """The error that says whether the system or the archive is to blame; EINVAL comes from an impossible offset."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return UnavailableError(f"cannot read {path}: {error.strerror or error}")
    return _damaged(path, str(error)[:300] or type(error).__name__)


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable archive of one checkpoint: {reason}; download it again")
