"""Zip files around one checkpoint, as pytorchcv publishes them: one member is read, no name in it is ever a path."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import replacing

MAX_BYTES = 4 << 30  # twice the largest checkpoint of these families
_CHUNK = 1 << 20
_LOCAL_HEADER = b"PK\x03\x04"
_EMPTY = b"PK\x05\x06"
_ENCRYPTED = 0x1 | 0x40
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others can ask for gigabytes of memory
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


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
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _DAMAGE:
        names = [first.decode("utf-8", "replace")]  # no readable directory: judged by the first member
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
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

    Raises IntegrityError unless there is exactly one regular file under a plain name, unencrypted, of at most
    `MAX_BYTES` and exactly as long as declared; UnavailableError, NotWritableError.
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
        except OSError as error:
            raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
        except _DAMAGE as error:
            raise _damaged(path, str(error)) from error
        if read != member.file_size:
            raise _damaged(path, f"{member.filename} has {read} of {member.file_size} bytes")


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise _damaged(path, str(error)) from error


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = archive.infolist()
    files = [member for member in members if not member.is_dir()]
    if len(files) != 1:
        some = ", ".join([member.filename for member in files[:3]] + ["..."] * (len(files) > 3))
        raise _damaged(path, f"it holds {len(files)} files{f' ({some})' if some else ''}, not one checkpoint")
    (member,) = files
    kind = stat.S_IFMT(member.external_attr >> 16)
    for name in (m.orig_filename for m in members):
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
            raise _damaged(path, f"{name!r} leads out of the archive")
    if kind not in (0, stat.S_IFREG):
        raise _damaged(path, f"{member.filename} is a link or a device, not a file")
    if member.flag_bits & _ENCRYPTED:
        raise _damaged(path, f"{member.filename} is encrypted")
    if member.compress_type not in _METHODS:
        raise _damaged(path, f"{member.filename} is compressed in a way that is not read here")
    if member.file_size > MAX_BYTES:
        raise _damaged(path, f"{member.filename} declares {member.file_size} bytes, more than any checkpoint here has")
    return member


def _damaged(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable archive of one checkpoint: {reason}; download it again")
