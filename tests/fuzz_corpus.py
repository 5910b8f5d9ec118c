"""Damaged files of four kinds, made from good files. The same kind, seed and number always give the same damage.

Nobody could notice other values of the right kind in a file without a hash or a checksum. No such file is made:
`Original.values` says where these values are. Each file must be refused, or be read as its original.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from conftest import foreign_checkpoint, random_state
from safetensors.torch import save

from pyramidzoo.catalog.manifest import get_package_manifest_path
from pyramidzoo.files import package_path

KINDS = ("safetensors", "pickles", "zips", "manifests")
ENTRIES = (  # entries for each way to get a file, with and without claims and results
    "wrn_16_1.digits_zoo",
    "resnet20.cifar10_akamaster",
    "resnet20_fattorib.cifar10",
    "resnet20_b.cifar10_pytorchcv",
    "resnet18.imagenet1k_timm_a1",
    "pyramidnet200_a300.imagenet1k_jhkim89",
)


@dataclasses.dataclass(frozen=True)
class Original:
    """A good file.

    Attributes:
        name: The name of the file.
        content: Its bytes.
        layout: The layout to convert it with, or None if it is no foreign checkpoint.
        architecture: The architecture to convert it with.
        values: Spans (start, end) of bytes that may have any value: nobody could notice a change there.
    """

    name: str
    content: bytes
    layout: str | None = None
    architecture: str | None = None
    values: tuple[tuple[int, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        kind: One of `KINDS`.
        number: Its place among the files of this kind and seed.
        operator: The name of the function that made it.
        original: The good file that it was made from.
        content: Its bytes.
    """

    kind: str
    number: int
    operator: str
    original: Original
    content: bytes

    def __str__(self) -> str:
        return f"mutant {self.number} of {self.kind}: {self.operator} of {self.original.name}"


# A function that damages an original, and returns the bytes of the damaged file.
Operator = Callable[[random.Random, Original], bytes]


def make_mutants(kind: str, count: int, seed: int) -> Iterator[Mutant]:
    """Make `count` damaged files. Each differs from its original."""
    choices, operators = make_originals(kind), [*_OPERATORS[kind], *_ANYWHERE]
    rng = random.Random(f"{kind} {seed}")
    number = 0
    while number < count:
        operator = operators[number % len(operators)]
        original = rng.choice(choices)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # zipfile warns of repeated names
            content = operator(rng, original)
        if content != original.content:
            yield Mutant(kind, number, operator.__name__, original, content)
            number += 1


@cache
def make_originals(kind: str) -> tuple[Original, ...]:
    return _MAKERS[kind]()


# ---- files of any kind ----


def _choose_place(rng: random.Random, original: Original) -> int:
    """Choose a byte whose change can be noticed. Small parts between values are chosen as often as large parts."""
    edges = [0, *(edge for span in original.values for edge in span), len(original.content)]
    gaps = [gap for gap in zip(edges[::2], edges[1::2], strict=True) if gap[0] < gap[1]]
    return rng.randrange(*rng.choice(gaps))


def _choose_block(rng: random.Random, original: Original, lengths: tuple[int, ...]) -> tuple[int, int]:
    """Choose a place and a length. The block does not reach into the values."""
    place = _choose_place(rng, original)
    end = min([start for start, _ in original.values if start > place], default=len(original.content))
    return place, min(end - place, rng.choice(lengths))


def flip_bits(rng: random.Random, original: Original) -> bytes:
    content = bytearray(original.content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        content[_choose_place(rng, original)] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite_run(rng: random.Random, original: Original) -> bytes:
    content = bytearray(original.content)
    place, length = _choose_block(rng, original, (2, 8, 64))
    content[place : place + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return bytes(content)


def truncate(rng: random.Random, original: Original) -> bytes:
    size = len(original.content)
    end = rng.choice((rng.randrange(size), rng.randrange(min(size, 300)), size - rng.randint(1, 9)))
    return original.content[:end]


def prepend(rng: random.Random, original: Original) -> bytes:
    return rng.choice((b"\0", b"\xef\xbb\xbf", b"<html>", rng.randbytes(8))) + original.content


def replace_file(rng: random.Random, original: Original) -> bytes:
    page = b"<!DOCTYPE html><title>Quota exceeded</title>" + bytes(rng.randrange(1000))
    packed = gzip.compress(original.content[:1000], mtime=0)
    return rng.choice((b"", page, packed, bytes(rng.randrange(2000)), b"{}", b"[]"))


def delete_block(rng: random.Random, original: Original) -> bytes:
    place, length = _choose_block(rng, original, (1, 4, 300))
    return original.content[:place] + original.content[place + length :]


def duplicate_block(rng: random.Random, original: Original) -> bytes:
    place, length = _choose_block(rng, original, (1, 4, 300))
    return original.content[: place + length] + original.content[place:]


def set_high_bit(rng: random.Random, original: Original) -> bytes:
    """Set the high bit of a character, also in values. The text is no longer UTF-8."""
    content = bytearray(original.content)
    text = range(len(content)) if original.name.endswith(".json") else range(8, _find_data(original.content))
    content[rng.choice(text)] |= 0x80
    return bytes(content)


def remove_from_data(rng: random.Random, original: Original) -> bytes:
    start, end = original.values[-1] if original.values else (0, len(original.content))
    place = rng.randrange(start, end)
    return original.content[:place] + original.content[place + 4 * rng.randint(1, 50) :]


_ANYWHERE: tuple[Operator, ...] = (
    flip_bits,
    overwrite_run,
    truncate,
    prepend,
    replace_file,
    delete_block,
    duplicate_block,
)


# ---- safetensors ----


def _make_safetensors_files() -> tuple[Original, ...]:
    state = random_state("resnet20_b")
    foreign = save(foreign_checkpoint("resnet20_b", "chenyaofo", state))
    own = package_path("bundled/wrn_16_1.digits_zoo.safetensors").read_bytes()
    return (
        Original("foreign.safetensors", foreign, "chenyaofo", "resnet20_b", ((_find_data(foreign), len(foreign)),)),
        Original("own.safetensors", own, values=(_find_metadata(own), (_find_data(own), len(own)))),
    )


def _find_data(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _find_metadata(content: bytes) -> tuple[int, int]:
    """Return the span of the metadata. Only a hash of the whole file could notice a change there."""
    text = content[8 : _find_data(content)]
    start = text.index(b'"__metadata__"')
    return 8 + start, 8 + start + text[start:].index(b"},") + 1


def _split_header(original: Original) -> tuple[dict[str, Any], bytes]:
    end = _find_data(original.content)
    return json.loads(original.content[8:end]), original.content[end:]


def _join_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def _choose_tensor(rng: random.Random, header: dict[str, Any]) -> str:
    return rng.choice([name for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"])


def append(rng: random.Random, original: Original) -> bytes:
    return original.content + rng.randbytes(rng.choice((1, 8, 4096)))


def change_header_length(rng: random.Random, original: Original) -> bytes:
    length = int.from_bytes(original.content[:8], "little")
    other = rng.choice((0, 1, 2, length - 1, length + 1, length + 8, length * 2, 1 << 24, 100_000_001, (1 << 63) + 5))
    return struct.pack("<Q", other) + original.content[8:]


def change_white_space(rng: random.Random, original: Original) -> bytes:
    header, data = _split_header(original)
    text = json.dumps(header, indent=rng.choice((None, 1)))
    return _join_header((text + " " * rng.randrange(40)).encode(), data)


def swap_offsets(rng: random.Random, original: Original) -> bytes:
    header, data = _split_header(original)
    first, second = _choose_tensor(rng, header), _choose_tensor(rng, header)
    if header[first]["shape"] == header[second]["shape"]:
        return original.content  # This would give other values of the right kind.
    offsets = header[first]["data_offsets"], header[second]["data_offsets"]
    header[second]["data_offsets"], header[first]["data_offsets"] = offsets
    return _join_header(header, data)


def change_field(rng: random.Random, original: Original) -> bytes:
    """Give one field of one tensor a value that is not possible."""
    header, data = _split_header(original)
    name = _choose_tensor(rng, header)
    entry = header[name]
    start, end = entry["data_offsets"]
    shape = entry["shape"]
    huge = 1 << 62
    wrong: list[Any] = [None, "x", 1.5, -1, {}, [[1]], True, float("nan")]
    dtypes = ["F16", "F64", "I32", "U32", "BF16", "F8_E4M3", "BOOL", "C64", "F33", "f32", "", None, 7]
    shapes: list[Any] = [[*shape, 1], [1, *shape], shape[:-1], [], [0], [*shape, 0], [huge, huge], [-n for n in shape]]
    shapes += [*wrong, [float(n) for n in shape], [str(n) for n in shape], [huge], shape * 100]
    offsets: list[Any] = [[end, start], [start, end + 4], [start + 4, end], [0, 0], [start, huge], [huge, huge]]
    offsets += [*wrong, [start], [start, end, end], [-4, end], [start + 0.5, end], [None, end]]
    field, values = rng.choice([("dtype", dtypes), ("shape", shapes), ("data_offsets", offsets)])
    entry[field] = rng.choice(values)
    return _join_header(header, data)


def change_entry(rng: random.Random, original: Original) -> bytes:
    header, data = _split_header(original)
    name = _choose_tensor(rng, header)
    entry = header.pop(name)
    header |= rng.choice(
        [
            {},
            {name + "x": entry},
            {name + "\x1b[2J": entry},
            {name * 1000: entry},
            {name: {**entry, "extra": 1}},
            {name: {k: v for k, v in entry.items() if k != rng.choice(sorted(entry))}},
            {name: entry, "more": {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}},
            {name: entry, "more": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
            {name: rng.choice([None, [], "x", 1, {"x": entry}])},
        ]
    )
    return _join_header(header, data)


def change_metadata(rng: random.Random, original: Original) -> bytes:
    header, data = _split_header(original)
    description = header.pop("__metadata__", {}).get("pyramidzoo", "{}")
    header["__metadata__"] = rng.choice(
        [
            None,
            [],
            "x",
            {"pyramidzoo": 1},
            {"pyramidzoo": {"architecture": "x"}},
            {"pyramidzoo": None},
            {"a": ["b"]},
            *({"pyramidzoo": text} for text in _damage_description(rng, description) if original.layout is None),
        ]
    )
    return _join_header(header, data)


def _damage_description(rng: random.Random, description: str) -> list[str]:
    """Return several versions of a file's description of itself, each damaged in one place."""
    content = json.loads(description)
    damaged = ["", "x", "null", "[]", description[:-1], "[" * 100_000, "1e400", '{"architecture": 1}']
    damaged += [description.replace(":", "=", 1)]
    if content:
        name = rng.choice(sorted(content))
        values: list[Any] = [None, 1, -1, 1 << 70, "x", "", [], {}, {"x": 1}, True, float("nan"), ["x"] * 3]
        same_type = (isinstance(content[name], dict) and not content[name]) or content[name] is None
        others = [value for value in values if value != content[name] and not same_type]
        damaged += [json.dumps({**content, name: value}) for value in others]
        damaged += [json.dumps({key: value for key, value in content.items() if key != name})]
        changes: list[dict[str, Any]] = [
            {"arguments": {"depth": 1 << 40}},
            {"arguments": {"x": 1}},
            {"num_classes": 10**9},
        ]
        damaged += [json.dumps({**content, **change}) for change in [*changes, {"architecture": "resnet20"}]]
    return damaged


def repeat_key(rng: random.Random, original: Original) -> bytes:
    """Repeat a key of the header, of a tensor, or of the metadata."""
    header, data = _split_header(original)
    name = _choose_tensor(rng, header)
    entry, text = json.dumps(header[name]), json.dumps(header)
    other = json.dumps({**header[name], "dtype": rng.choice(("F32", "I32"))})
    escaped = json.dumps(name).replace(name[0], f"\\u{ord(name[0]):04x}", 1)
    text = rng.choice(
        [
            f"{{{json.dumps(name)}: {other}, {text[1:]}",
            f"{text[:-1]}, {escaped}: {entry}}}",
            text.replace(entry, f'{entry[:-1]}, "dtype": "F32"}}', 1),
            f'{{"__metadata__": {{"a": "1", "a": "1"}}, {text[1:]}',
        ]
    )
    return _join_header(text.encode(), data)


def damage_json(rng: random.Random, original: Original) -> bytes:
    header, data = _split_header(original)
    text = json.dumps(header)
    depth = rng.choice((100, 200, 100_000))
    return _join_header(
        rng.choice(
            [
                text[:-1].encode(),
                text.encode() + b"}",
                text.replace(":", "", 1).encode(),
                text.encode("utf-16"),
                b"\xef\xbb\xbf" + text.encode(),
                text.replace('"', "'").encode(),
                f'{{"x": {"[" * depth}{"]" * depth}, {text[1:]}'.encode(),
                f'{{"x": {"{" * depth}'.encode(),
                text.replace(",", ", // x\n", 1).encode(),
                b"[" + text.encode() + b"]",
                re.sub(r"\[(\d+)", r"[\1.0", text, count=1).encode(),
                re.sub(r"\[(\d+)", r"[1e999", text, count=1).encode(),
                re.sub(r"\[(\d+)", "[" + "9" * 5000, text, count=1).encode(),
                text.encode()[:-20] + rng.randbytes(20),
            ]
        ),
        data,
    )


def insert_not_finite(rng: random.Random, original: Original) -> bytes:
    content, (start, _) = bytearray(original.content), original.values[-1]
    header, _ = _split_header(original)
    place = start + header[_choose_tensor(rng, header)]["data_offsets"][0]
    content[place : place + 4] = struct.pack("<f", rng.choice((float("nan"), float("inf"), float("-inf"))))
    return bytes(content)


_SAFETENSORS = (
    append,
    set_high_bit,
    remove_from_data,
    change_header_length,
    change_white_space,
    swap_offsets,
    change_field,
    change_entry,
    change_metadata,
    repeat_key,
    damage_json,
    insert_not_finite,
)


# ---- torch pickles ----


def _make_pickles() -> tuple[Original, ...]:
    made = []
    for layout, architecture in (("chenyaofo", "resnet20_b"), ("ferles", "wrn_16_1")):
        state = foreign_checkpoint(architecture, layout, random_state(architecture))
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(state, stream, _use_new_zipfile_serialization=zipped)
            content = stream.getvalue()
            # Only the newer format has checksums. In the older one, even the place of a tensor in a storage is free.
            values = () if zipped else _merge_spans(_find_numbers(content))
            name = f"{architecture}-{'new' if zipped else 'old'}.pth"
            made.append(Original(name, content, layout, architecture, values))
    return tuple(made)


# Operations of pickle whose arguments nobody could check: numbers, names, references, and whether a tensor is learned.
_FREE = ("BININT", "LONG", "BINUNICODE", "BINGET", "BINPUT", "NEW", "GLOBAL")


def _find_numbers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the spans of numbers, names and references to them in the older format, which has several pickles."""
    stream, end = io.BytesIO(content), 0
    for _ in range(5):  # the pickles: magic number, version, system, tensors, keys of the storages
        operations: list[tuple[Any, Any, Any]] = list(pickletools.genops(stream))
        places = [place for _, _, place in operations] + [end := stream.tell()]
        for (operation, _, place), following in zip(operations, places[1:], strict=True):
            if operation.name.startswith(_FREE):
                yield place, following
    yield end, len(content)  # the storages and their lengths


def _merge_spans(spans: Iterator[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def write_zip_anew(rng: random.Random, original: Original) -> bytes:
    """Change one part of the newer format, and write the zip anew with right checksums."""
    if original.values:
        return truncate(rng, original)
    source = zipfile.ZipFile(io.BytesIO(original.content))
    parts = {member.filename: source.read(member) for member in source.infolist()}
    kept = [name for name in parts if "/data/" in name or name.endswith("data.pkl")]
    large = max(len(content) for content in parts.values())
    storage = rng.choice([name for name in parts if "/data/" in name and len(parts[name]) in (large, 64)])
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    method, repeated_name = zipfile.ZIP_STORED, ""
    choice = rng.randrange(8)
    if choice == 0:
        del parts[rng.choice(kept)]
    elif choice == 1:
        parts[storage] = parts[storage][: rng.randrange(len(parts[storage]))]
    elif choice == 2:
        method = zipfile.ZIP_DEFLATED
    elif choice == 3:
        repeated_name = storage
    elif choice == 4:
        parts = {name.partition("/")[2]: content for name, content in parts.items()}
    elif choice == 5:
        parts[storage] = struct.pack("<f", float("nan")) + parts[storage][4:]
    else:
        parts[pickled] = change_pickle(rng, parts[pickled])
    return _write_zip([*parts.items(), *([(repeated_name, b"x")] if repeated_name else [])], method)


def _write_zip(parts: list[tuple[str | zipfile.ZipInfo, bytes]], method: int) -> bytes:
    """Write a zip whose bytes do not depend on the time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in parts:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            archive.writestr(info, content, method, compresslevel=1)
    return stream.getvalue()


def change_pickle(rng: random.Random, content: bytes) -> bytes:
    """Return another pickle: with another type, with a call of a function, with a huge length, or cut off."""
    calls = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nload\n", b"cpyramidzoo.cli\nmain\n", b"c\xff\n\n")
    storages = (b"DoubleStorage", b"HalfStorage", b"IntStorage", b"NoStorage")
    builders = (b"_rebuild_sparse_tensor", b"_rebuild_qtensor", b"system")
    call = rng.choice(calls)
    return rng.choice(
        [
            content.replace(b"FloatStorage", rng.choice(storages)),
            content.replace(b"_rebuild_tensor_v2", rng.choice(builders)),
            content.replace(b"ctorch._utils\n_rebuild_tensor_v2\n", call, 1),
            content.replace(b"X\x03\0\0\0cpu", b"X\x04\0\0\0cuda"),
            content.replace(b"\x80\x02", rng.choice((b"\x80\x05", b"\x80\x63", b"")), 1),
            content[: rng.randrange(len(content))],
            content[:-1] + b"0" * 10 + b".",
            b"\x80\x02" + b"}" * 50_000 + b".",
            b"\x80\x02(" + b"K\x01" * 50_000 + b"l.",
            b"\x80\x02X\xff\xff\xff\x7fx.",
            b"\x80\x02\x8b\xff\xff\xff\x7f.",
            b"\x80\x02}q\0h\0h\0s.",
            b"\x80\x02}q\0X\x01\0\0\0ah\0s.",
            b"\x80\x02" + call + b"X\x01\0\0\0a\x85R.",
            b"\x80\x02r\xff\xff\xff\x7f.",
            b"\x80\x02N.",
        ]
    )


def change_older_pickle(rng: random.Random, original: Original) -> bytes:
    """Change one of the pickles that the older format begins with."""
    if not original.values:
        return flip_bits(rng, original)
    start = original.content.index(b"ctorch._utils")
    return (
        original.content[:2] + change_pickle(rng, original.content[2 : start + 500]) + original.content[start + 500 :]
    )


_PICKLES = (write_zip_anew, change_older_pickle, remove_from_data)


# ---- zip archives of a checkpoint ----


def _make_zips() -> tuple[Original, ...]:
    state = foreign_checkpoint("resnet20_b", "pytorchcv", random_state("resnet20_b"))
    inner = io.BytesIO()
    torch.save(state, inner, _use_new_zipfile_serialization=False)
    content = _write_zip([("resnet20_cifar10.pth", inner.getvalue())], zipfile.ZIP_DEFLATED)
    return (Original("resnet20_cifar10.pth.zip", content, "pytorchcv", "resnet20_b"),)


def change_zip_field(rng: random.Random, original: Original) -> bytes:
    """Change one field in one of the two headers of the member, or in the end record."""
    content = bytearray(original.content)
    central, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    fields = [  # place and length
        *((place, 2) for place in (4, 6, 8, 10, 12, 26, 28)),
        *((place, 4) for place in (14, 18, 22)),
        *((central + place, 2) for place in (4, 6, 8, 10, 12, 14, 28, 30, 32, 34, 36)),
        *((central + place, 4) for place in (16, 20, 24, 38, 42)),
        *((end + place, 2) for place in (4, 6, 8, 10, 20)),
        *((end + place, 4) for place in (12, 16)),
    ]
    place, length = rng.choice(fields)
    value = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length), b"\x01" + bytes(length - 1)))
    content[place : place + length] = value
    return bytes(content)


def change_zip_members(rng: random.Random, original: Original) -> bytes:
    name = "resnet20_cifar10.pth"
    member = zipfile.ZipFile(io.BytesIO(original.content)).read(name)
    odd = rng.choice(("../x", "/x", "a\x1b[2J", "x" * 9000, "C:\\x", "a/data.pkl"))
    link = zipfile.ZipInfo(name)
    link.external_attr = 0o120777 << 16
    written: list[tuple[str | zipfile.ZipInfo, bytes]] = rng.choice(
        [
            [],
            [(name, member), ("README", b"x")],
            [(name, member), (name, b"x")],
            [(link, b"/etc/passwd")],
            [(name, b"")],
            [(name, bytes(100 << 20))],
            [(name, original.content)],
            [(name, member[: rng.randrange(4000)])],
            [(odd, b"x"), (name, member)],
            [(odd, member)],
            [*((f"{k}/", b"") for k in range(30_000)), (name, b"x")],
        ]
    )
    return _write_zip(written, zipfile.ZIP_DEFLATED)


def add_zip64_record(rng: random.Random, original: Original) -> bytes:
    """Add a zip64 record, which describes the directory with larger numbers than the usual record."""
    start = original.content.index(b"PK\x05\x06")
    sizes = [rng.choice((0, 1, 1 << 20, 1 << 40, (1 << 64) - 1)) for _ in range(4)]
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start, rng.choice((0, 1, 9)))
    return original.content[:start] + record + locator + original.content[start:]


def add_zip_comment(rng: random.Random, original: Original) -> bytes:
    """Add a comment after the end. It is harmless if its length is right."""
    comment = rng.choice((b"x" * 100, b"PK\x05\x06" * 30, b"PK\x05\x06" + bytes(18)))
    length = rng.choice((len(comment), len(comment) + 1, 0))
    return original.content[:-2] + struct.pack("<H", length) + comment


_ZIPS = (change_zip_field, change_zip_field, change_zip_members, add_zip64_record, add_zip_comment)


# ---- manifests ----


def _make_manifests() -> tuple[Original, ...]:
    known = json.loads(get_package_manifest_path().read_text(encoding="utf-8"))
    document = {"format": known["format"], "weights": {name: known["weights"][name] for name in ENTRIES}}
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    return (Original("weights.json", content, values=tuple(_find_values(content.decode()))),)


def _find_values(text: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each string and number: nobody could notice another name, hash or count there."""
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', text):
        yield match.span()


def _list_objects(document: Any) -> list[dict[str, Any]]:
    """Return all objects whose fields have fixed names and types."""
    objects, free_names = [], ("arguments", "statistics", "versions")
    pending = list(document["weights"].values())
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            objects.append(value)
            pending += [item for name, item in value.items() if name not in free_names]
        elif isinstance(value, list):
            pending += value
    return objects


def change_manifest_field(rng: random.Random, original: Original) -> bytes:
    """Remove or rename a field of an object, or give it a value of a type that it may not have."""
    document = json.loads(original.content)
    record = rng.choice(_list_objects(document))
    name = rng.choice(sorted(record))
    value = record.pop(name)
    if rng.random() < 0.4:
        record |= rng.choice([{}, {name + "x": value}, {name: value, "extra": 1}, {name.upper(): value}])
    else:
        wrong: list[Any] = [{"x": {}}, [[1]], float("nan"), float("-inf"), [None], "\ud800", 1e400]
        wrong += [] if isinstance(value, str) or value is None else ["x", "", "1"]
        wrong += [] if isinstance(value, bool) or value is None else [True]
        wrong += [] if isinstance(value, (int, float)) or value is None else [1, -1, 1 << 80]
        free = ("mean", "std", "arguments", "statistics", "versions")
        wrong = [w for w in wrong if type(w) is not type(value) or name not in free]
        record[name] = rng.choice(wrong)
    return json.dumps(document).encode()


def change_manifest_value(rng: random.Random, original: Original) -> bytes:
    """Give a field a value that has the right type but is not possible."""
    document = json.loads(original.content)
    damage: dict[str, Any] = {
        "sha256": rng.choice(["", "x" * 64, "A" * 64, "0" * 63, "0" * 65]),
        "tensors_sha256": "g" * 64,
        "prediction_sha256": "0" * 63,
        "revision": "main",
        "algorithm": rng.choice(["crc32", "", "SHA256"]),
        "of": "zip",
        "value": rng.choice(["", "xyz", "0" * 7]),
        "url": rng.choice(["file:///etc/passwd", "ftp://x", "", "javascript:x"]),
        "architecture": rng.choice(["resnet21", "", "../x", "x" * 10_000]),
        "input_size": rng.choice([[3, 32], [0, 32, 32], [3, -1, 32], [3, 32, 1.5], [3, 32, "32"]]),
        "mean": rng.choice([[], [0.5] * 4, [float("nan")] * 3, [True] * 3]),
        "std": rng.choice([[0.0] * 3, [-1.0] * 3, [float("inf")] * 3, [1.0] * 2]),
        "images": rng.choice([0, -1, True, 1.5]),
        "top1_correct": rng.choice([-1, 10**9]),
        "top5_correct": -5,
        "top1_error": rng.choice(["101", "-1", "NaN", "x", "1e400", "", 8.27]),
        "num_classes": rng.choice([True, 1.5, "10"]),
    }
    candidates = [(record, name) for record in _list_objects(document) for name in sorted(record.keys() & damage)]
    record, name = rng.choice([(r, n) for r, n in candidates if r[n] is not None])
    record[name] = damage[name]
    return json.dumps(document).encode()


def change_manifest_document(rng: random.Random, original: Original) -> bytes:
    document = json.loads(original.content)
    weights = document["weights"]
    one = rng.choice(ENTRIES)
    ids = ("", "x", f"{one}/../x", one.upper(), "a.b")
    again = {**weights, f"{one}_x": {**weights[one], "default": True}, f"{one}_y": {**weights[one], "default": True}}
    records: list[Any] = [None, [], "x", 1, {}, {one: weights[one]}]
    changes: list[Any] = [
        [],
        {},
        None,
        {"format": 2, "weights": weights},
        {"format": None, "weights": weights},
        {"format": "1", "weights": weights},
        {"format": 1, "weights": list(weights.values())},
        {"format": 1, "weights": None},
        {"format": 1},
        {"weights": weights},
        {"format": 1, "extends": "yes", "weights": weights},
        *({"format": 1, "weights": {**weights, one: odd}} for odd in records),
        *({"format": 1, "weights": {**weights, odd: weights[one]}} for odd in ids),
        {"format": 1, "weights": {**weights, one: {**weights[one], "id": "resnet20.cifar10_x", "x": 1}}},
        {"format": 1, "weights": again},
    ]
    return json.dumps(rng.choice(changes)).encode()


def change_manifest_text(rng: random.Random, original: Original) -> bytes:
    """Write the same content in another way: harmless, not JSON, with too many levels, or with a repeated key."""
    text = original.content.decode()
    document = json.loads(text)
    depth = rng.choice((1000, 100_000))
    name = rng.choice(["format", "weights", *ENTRIES, "architecture", "sha256", "default"])
    key_match = rng.choice(list(re.finditer(rf'"{re.escape(name)}": ', text)))
    place, key = key_match.start(), key_match.group()
    value, _ = json.JSONDecoder().raw_decode(text, key_match.end())
    return rng.choice(
        [
            json.dumps(document).encode(),
            json.dumps(document, indent=7, sort_keys=True).encode(),
            text.replace("\n", "\r\n\t").encode(),
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + text.encode(),
            text.replace('"', "'").encode(),
            text.replace("null", "None").encode(),
            f"{text} x".encode(),
            f"{text[:-1]},}}".encode(),
            (text[:-1] + f', "x": {"[" * depth}{"]" * depth}}}').encode(),
            text.encode()[:place] + b"\xff" + text.encode()[place:],
            f"{text[:place]}{key}{json.dumps(value)}, {text[place:]}".encode(),
            f"{text[:place]}{key}{json.dumps(rng.choice([None, 1, {}, 'x']))}, {text[place:]}".encode(),
        ]
    )


_MANIFESTS = (
    set_high_bit,
    change_manifest_field,
    change_manifest_field,
    change_manifest_value,
    change_manifest_value,
    change_manifest_document,
    change_manifest_text,
)

_MAKERS: dict[str, Callable[[], tuple[Original, ...]]] = {
    "safetensors": _make_safetensors_files,
    "pickles": _make_pickles,
    "zips": _make_zips,
    "manifests": _make_manifests,
}
_OPERATORS: dict[str, tuple[Operator, ...]] = {
    "safetensors": _SAFETENSORS,
    "pickles": _PICKLES,
    "zips": _ZIPS,
    "manifests": _MANIFESTS,
}


def change_values(original: Original, count: int, seed: int) -> Iterator[bytes]:
    """Make `count` files with one changed bit in the values, which only a hash of the file can notice."""
    rng = random.Random(f"{original.name} {seed}")
    for _ in range(count):
        start, end = rng.choice(original.values)
        content = bytearray(original.content)
        content[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        yield bytes(content)
