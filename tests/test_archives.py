"""Archives of one checkpoint, and the hostile ones."""

from __future__ import annotations

import hashlib
import stat
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pyramidzoo.checkpoints import archives
from pyramidzoo.checkpoints.archives import extract_member, hash_member, is_archive
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError

CONTENT = bytes(range(256)) * 9000  # more than two chunks


def packed(path: Path, *members: str | zipfile.ZipInfo, content: bytes = CONTENT) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(member, content)
    return path


def patched(path: Path, *, central: int, local: int, value: bytes) -> Path:
    """Overwrite a field of the only member's two headers, at its offset in each."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + central : start + central + len(value)] = value
    data[local : local + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("folder", ["", "folder/"])
def test_one_member_is_hashed_and_extracted(folder: str, tmp_path: Path) -> None:
    members = [folder, f"{folder}net.pth"] if folder else ["net.pth"]
    with zipfile.ZipFile(tmp_path / "net.pth.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            archive.writestr(name, b"" if name.endswith("/") else CONTENT)
    path = tmp_path / "net.pth.zip"
    assert is_archive(path)
    for algorithm in ("sha1", "sha256", "md5"):
        assert hash_member(path, algorithm) == hashlib.new(algorithm, CONTENT).hexdigest()
    extract_member(path, tmp_path / "out" / "any name")
    assert (tmp_path / "out" / "any name").read_bytes() == CONTENT


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_checkpoints_are_no_archives(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    assert not is_archive(path)
    path.write_bytes(path.read_bytes()[:-40])  # truncated: still what it was
    assert not is_archive(path)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "page.zip"
    for content in (b"", b"PK", b"<html>"):
        path.write_bytes(content)
        assert not is_archive(path)
    with pytest.raises(UnavailableError, match="cannot read"):
        is_archive(tmp_path / "nothing.zip")
    with pytest.raises(UnavailableError, match="cannot read"):
        hash_member(tmp_path / "nothing.zip", "sha1")


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def bomb(path: Path) -> Path:
    """Declares ten bytes and holds megabytes."""
    return patched(packed(path, "net.pth"), central=24, local=22, value=struct.pack("<I", 10))


def short(path: Path) -> Path:
    """Declares more than it holds."""
    return patched(packed(path, "net.pth"), central=24, local=22, value=struct.pack("<I", len(CONTENT) + 10))


def truncated(path: Path) -> Path:
    path.write_bytes(packed(path, "net.pth").read_bytes()[:-100])
    return path


def flipped(path: Path) -> Path:
    data = bytearray(packed(path, "net.pth").read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)
    return path


def cut_inside(path: Path) -> Path:
    """The directory is whole, the compressed stream before it is not."""
    data = packed(path, "net.pth").read_bytes()
    start = data.index(b"PK\x01\x02")
    end = bytearray(data[start:])
    offset = end.index(b"PK\x05\x06") + 16
    end[offset : offset + 4] = struct.pack("<I", start - 200)
    path.write_bytes(data[: start - 200] + end)
    return path


def regular(path: Path) -> Path:
    """Declares what it holds: many times the bytes of a file of that size."""
    return packed(path, "net.pth", content=bytes(80 << 20))


def out_of_the_file(path: Path) -> Path:
    """The directory says that the member begins before the file."""
    data = bytearray(packed(path, "net.pth").read_bytes())
    start = data.index(b"PK\x05\x06")
    offset = int.from_bytes(data[start + 16 : start + 20], "little")
    data[start + 16 : start + 20] = struct.pack("<I", offset + 5)  # so zipfile takes 5 off each offset
    path.write_bytes(data)
    return path


def many_entries(path: Path) -> Path:
    """A directory of a million names, which zipfile would hold all at once."""
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), 30, 0)
    path.write_bytes(b"PK\x03\x04" + bytes(26) + directory + end)
    return path


def long_directory(path: Path) -> Path:
    """The zip64 record says that the directory has 2**60 bytes."""
    data = packed(path, "net.pth").read_bytes()
    start = data.index(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 1 << 60, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start, 1)
    path.write_bytes(data[:start] + record + locator + data[start:])
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: packed(p), "it holds 0 files, not one"),
        (lambda p: packed(p, "a.pth", "b.pth"), r"it holds 2 files \(a.pth, b.pth\), not one"),
        (lambda p: packed(p, "a", "b", "c", "d"), r"it holds 4 files \(a, b, c, \.\.\.\)"),
        (lambda p: packed(p, "a.pth", "a.pth"), "it holds 2 files"),
        (lambda p: packed(p, "../net.pth"), "leads out of the folder"),
        (lambda p: packed(p, "a/../../net.pth"), "leads out of the folder"),
        (lambda p: packed(p, "/etc/net.pth"), "leads out of the folder"),
        (lambda p: packed(p, "..\\net.pth"), "leads out of the folder"),
        (lambda p: packed(p, "C:\\net.pth"), "leads out of the folder"),
        (lambda p: packed(p, "../", "net.pth"), "leads out of the folder"),
        (lambda p: packed(p, link("net.pth"), content=b"/etc/passwd"), "is a link"),
        (lambda p: patched(packed(p, "net.pth"), central=8, local=6, value=b"\x01"), "is encrypted"),
        (lambda p: patched(packed(p, "net.pth"), central=10, local=8, value=b"\x0e"), "compressed by a method"),
        (lambda p: patched(packed(p, "net.pth"), central=24, local=22, value=b"\xfe\xff\xff\xff"), "bytes"),
        (bomb, "Bad CRC-32"),
        (short, "bytes"),
        (truncated, "not a zip file"),
        (flipped, "is not a readable archive"),
        (cut_inside, "is not a readable archive"),
        (regular, "would be 83886080 bytes, unpacked from .*; weights cannot shrink so much"),
        (out_of_the_file, "is not a readable archive"),
        (many_entries, "its directory would have 46000000 bytes, more than 1048576"),
        (long_directory, "its directory would have|Bad offset for central directory"),
        (lambda p: packed(p, "a\x1b[2Jb", "c"), r"it holds 2 files \('a\\x1b\[2Jb', c\)"),
        (lambda p: packed(p, "a" * 5000, "c"), r"it holds 2 files \('a{100}', c\)"),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(
    make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "net.pth.zip")
    assert is_archive(path)
    with pytest.raises(IntegrityError, match=reason):
        extract_member(path, tmp_path / "out" / "net.pth")
    with pytest.raises(IntegrityError, match=reason):
        hash_member(path, "sha1")
    assert not [found for found in (tmp_path / "out").rglob("*") if found.is_file()]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["net.pth.zip", "out"]


def test_a_directory_takes_bounded_memory(tmp_path: Path) -> None:
    for make in (many_entries, long_directory):
        path = make(tmp_path / "net.pth.zip")
        tracemalloc.start()
        try:
            assert is_archive(path)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def test_more_than_any_checkpoint_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", len(CONTENT) - 1)
    path = packed(tmp_path / "net.pth.zip", "net.pth")
    with pytest.raises(IntegrityError, match=f"declares {len(CONTENT)} bytes, more than any"):
        hash_member(path, "sha1")


def test_a_destination_that_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(IntegrityError):
        extract_member(flipped(tmp_path / "net.pth.zip"), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"before"


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    path = packed(tmp_path / "net.pth.zip", "net.pth")
    with pytest.raises(NotWritableError, match="a file has the same path"):
        extract_member(path, path / "out")
