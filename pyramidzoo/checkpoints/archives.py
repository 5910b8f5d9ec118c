"""Zip files around one checkpoint, as pytorchcv publishes them: one member is read, no name in it is ever a path."""

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

MAX_BYTES = 4 << 30  # twice the largest checkpoint of these families
_CHUNK = 1 << 20
_DIRECTORY = 1 << 20  # bytes: thousands of entries, which take 16 times that in memory
_RATIO = 20  # weights hardly compress, zeros a thousandfold; below 64 MiB nothing is a bomb
_HARMLESS = 64 << 20
_LOCAL_HEADER = b"PK\x03\x04"
_EMPTY = b"PK\x05\x06"
_ENCRYPTED = 0x1 | 0x40
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others can ask for gigabytes of memory
# the last three are zipfile's own, about sizes and names that cannot be
_DAMAGE = (
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
    """Whether a file is a zip around a checkpoint. A torch checkpoint is a zip too, of tensors; that one is not.

    Raises UnavailableError where the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(30)
            if not head.startswith((_LOCAL_HEADER, _EMPTY)):
                return False
            first = stream.read(int.from_bytes(head[26:28], "little"))
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        with _opened(path) as archive:
            names = archive.namelist()
    except IntegrityError:
        names = [first.decode("utf-8", "replace")]  # no readable directory: judged by the first member
    return not any(name.endswith("/data.pkl") for name in names)


def member_hash(path: Path, algorithm: str) -> str:
    """Hex digest of the one file in an archive. Raises IntegrityError, UnavailableError."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in _content(path):
        digest.update(chunk)
    return digest.hexdigest()


def member_size(path: Path) -> int:
    """The size in bytes that an archive declares for its one file. Raises IntegrityError, UnavailableError."""
    with _opened(path) as archive:
        return _only_member(archive, path).file_size


def extract_member(archive: Path, destination: Path) -> None:
    """Write the one file in an archive to `destination`, as a whole or not at all.

    Raises IntegrityError unless there is exactly one regular file under a plain name, unencrypted,
    of at most `MAX_BYTES` and exactly as long as declared; UnavailableError, NotWritableError.
    """
    with replacing(destination) as part, part.open("wb") as stream:
        for chunk in _content(archive):
            stream.write(chunk)


def _content(path: Path) -> Iterator[bytes]:
    """The member's bytes; zipfile stops at the declared size, and compares the checksum."""
    with _opened(path) as archive:
        member = _only_member(archive, path)
        read = 0
        try:
            with archive.open(member) as stream:
                while chunk := stream.read(_CHUNK):
                    read += len(chunk)
                    yield chunk
        except (OSError, *_DAMAGE) as error:
            raise _unreadable(path, error) from error
        if read != member.file_size:
            raise _damaged(path, f"{_shown(member)} has {read} of {member.file_size} bytes")


class _Bounded(io.BufferedReader):
    """A file that is not read in larger pieces than its directory may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY:
            raise zipfile.BadZipFile(f"its directory would have {size} bytes, more than {_DIRECTORY}")
        return super().read(size)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(_Bounded(io.FileIO(path)))
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except (OSError, *_DAMAGE) as error:
            raise _unreadable(path, error) from error
        yield archive


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = archive.infolist()
    files = [member for member in members if not member.is_dir()]
    if len(files) != 1:
        some = ", ".join([_shown(member) for member in files[:3]] + ["..."] * (len(files) > 3))
        raise _damaged(path, f"it holds {len(files)} files{f' ({some})' if some else ''}, not one checkpoint")
    (member,) = files
    name, kind = _shown(member), stat.S_IFMT(member.external_attr >> 16)
    for m in members:
        parts = PurePosixPath(m.orig_filename.replace("\\", "/")).parts
        if ".." in parts or PurePosixPath(m.orig_filename).is_absolute() or PureWindowsPath(m.orig_filename).anchor:
            raise _damaged(path, f"{_shown(m)} leads out of the archive")
    if kind not in (0, stat.S_IFREG):
        raise _damaged(path, f"{name} is a link or a device, not a file")
    if member.flag_bits & _ENCRYPTED:
        raise _damaged(path, f"{name} is encrypted")
    if member.compress_type not in _METHODS:
        raise _damaged(path, f"{name} is compressed in a way that is not read here")
    if member.file_size > MAX_BYTES:
        raise _damaged(path, f"{name} declares {member.file_size} bytes, more than any checkpoint here has")
    packed = path.stat().st_size
    if member.file_size > max(_HARMLESS, _RATIO * packed):
        raise _damaged(
            path, f"{name} would be {member.file_size} bytes, unpacked from {packed}; no weights are so regular"
        )
    return member


def _shown(member: zipfile.ZipInfo) -> str:
    """A name for a message: what a terminal would obey is escaped."""
    name = member.orig_filename
    return name if len(name) <= 100 and name.isprintable() else f"{name[:100]!a}"


def _unreadable(path: Path, error: Exception) -> IntegrityError | UnavailableError:
    """Whether the system or the archive is to blame; EINVAL is a place that cannot be."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return UnavailableError(f"cannot read {path}: {error.strerror or error}")
    return _damaged(path, str(error)[:300] or type(error).__name__)


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable archive of one checkpoint: {reason}; download it again")
