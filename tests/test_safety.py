"""Foreign files that are made to harm: nothing of them is executed, and what they may take is bounded."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import pickle
import platform
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyramidzoo.checkpoints.safetensors_file import check_header, read_content, read_tensors
from pyramidzoo.convert import read_file
from pyramidzoo.convert.read_file import read_checkpoint, unpickle
from pyramidzoo.convert.sandbox import child, parent, pickle_reader, torch7_reader
from pyramidzoo.convert.sandbox.parent import Limits, Outcome, run_in_sandbox
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError

pytestmark = pytest.mark.sandbox

MIB = 1 << 20
SMALL = Limits(memory=256 * MIB, tensors=MIB, output=MIB, work=0, clock=30)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing may be left in the folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


# ---- the process ----


def probe(folder: Path, body: str, save: str = "", **limits: int) -> tuple[Outcome, Any]:
    """How a process ends that does `body` with a foreign file, and what `found` was then."""
    script, output = folder / "probe.py", folder / "found.json"
    script.write_text(
        "import json, os, resource, signal, socket, sys, time\n"
        "found = {}\n"
        f"def read(source, allowed):\n{textwrap.indent(body, '    ')}\n    return found\n"
        f"def save(found, output):\n    open(output, 'w').write(json.dumps(found))\n{textwrap.indent(save, '    ')}\n"
    )
    ended = run_in_sandbox(script, folder / "source", output, dataclasses.replace(SMALL, **limits))
    return ended, json.loads(output.read_text()) if output.exists() and ended.kind == "done" else None


CONNECT = """
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
    found["connected"] = True
except OSError:
    found["connected"] = False
"""


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_no_network(port: int, tmp_path: Path) -> None:
    """Where the kernel refuses to shut it, the process must say so."""
    ended, found = probe(tmp_path, CONNECT.format(port=port))
    assert ended.kind == "done"
    assert found["connected"] == ("without network" in ended.missing_protections)


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces and seccomp are Linux's")
@pytest.mark.parametrize("way", ["", "_without_interfaces", "_without_sockets"])
def test_each_way_to_shut_the_network_says_whether_it_did(way: str, port: int) -> None:
    code = (
        "import ctypes, importlib.util, socket\n"
        f"spec = importlib.util.spec_from_file_location('confined', {child.__file__!r})\n"
        "confined = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(confined)\n"
        f"shut = {f'confined.{way}(ctypes.CDLL(None))' if way else False}\n"
        f"found = {{}}\n{CONNECT.format(port=port)}\nprint(shut, found['connected'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.split() in (["True", "False"], ["False", "True"])
    assert way or out.split() == ["False", "True"]  # the listener can be reached at all
    known = platform.machine() in ("x86_64", "aarch64") and "Seccomp:" in Path("/proc/self/status").read_text()
    assert way != "_without_sockets" or not known or out.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("body", "save", "limits", "kind", "error"),
    [
        ("bytearray(1 << 30)", "", {}, "memory", "MemoryError"),
        ("found['x'] = 'x' * (2 << 20)", "", {}, "size", "File too large"),
        ("while True: pass", "", {}, "work", ""),
        ("signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "", {}, "died", "signal SIGKILL"),
        ("time.sleep(50)", "", {"clock": 1}, "clock", ""),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "", {}, "died", "signal SIGSEGV"),
        ("sys.exit(7)", "", {}, "died", "status 7"),
        ("def again(): again()\nagain()", "", {}, "file", "RecursionError: "),
        ("raise OSError(5, 'Input/output error')", "", {}, "read", "Input/output error"),
        ("raise OSError(22, 'Invalid argument')", "", {}, "file", "Invalid argument"),
        ("", "raise OSError(28, 'No space left on device')", {}, "write", "No space left"),
        ("", "raise ValueError('a tensor called \\ud800')", {}, "file", "ValueError: a tensor called"),
        ("print('[' * 10**5)\nraise ValueError('x')", "", {}, "file", "ValueError: x"),
    ],
)
def test_limits(body: str, save: str, limits: dict[str, int], kind: str, error: str, tmp_path: Path) -> None:
    began = time.monotonic()
    ended, _ = probe(tmp_path, body, save, **limits)
    assert (ended.kind, error in ended.error) == (kind, True), ended
    assert time.monotonic() - began < 20


def test_no_core_is_dumped(tmp_path: Path) -> None:
    _, found = probe(tmp_path, "found['core'] = resource.getrlimit(resource.RLIMIT_CORE)")
    assert found["core"] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGXCPU])
def test_signals_that_we_ignore_still_end_it(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        if number == signal.SIGALRM:
            ended, _ = probe(tmp_path, "time.sleep(50)", clock=1)
        else:
            ended, _ = probe(tmp_path, "while True: pass")
    finally:
        signal.signal(number, before)
    assert ended.kind == {signal.SIGALRM: "clock", signal.SIGXCPU: "work"}[number]


def test_a_limit_that_is_lower_already_stays_and_is_not_the_files_fault(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, before[1]))
    try:
        large, _ = probe(tmp_path, "found['x'] = 'x' * 600_000")
        lowered, found = probe(tmp_path, "found['limit'] = resource.getrlimit(resource.RLIMIT_FSIZE)", output=MIB // 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (large.kind, "File too large" in large.error) == ("write", True)
    assert (lowered.kind, found["limit"]) == ("done", [MIB // 4, MIB // 4])


def test_an_installation_that_is_broken(tmp_path: Path) -> None:
    script = tmp_path / "probe.py"
    script.write_text("import torch_that_is_not_there")
    ended = run_in_sandbox(script, tmp_path / "source", tmp_path / "output", SMALL)
    assert (ended.kind, ended.error) == ("start", "ModuleNotFoundError: No module named 'torch_that_is_not_there'")


def test_modules_beside_the_script_do_not_pass_for_others(tmp_path: Path) -> None:
    ended, found = probe(tmp_path, "found['path'] = sys.path")
    assert ended.kind == "done"
    assert not {str(tmp_path), str(Path(parent.__file__).parent)} & set(found["path"])


def test_the_environment_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PATHS"):
        monkeypatch.setenv(name, "a secret")
    _, found = probe(tmp_path, "found.update(os.environ)")
    assert "a secret" not in found.values()
    assert found["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process that its parent ended")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_us(number: signal.Signals, tmp_path: Path, temporary: Path) -> None:
    """Also when we are killed; it holds a pipe open as long as it lives."""
    os.mkfifo(tmp_path / "source")
    (tmp_path / "probe.py").write_text(
        "import time\ndef read(source, allowed):\n"
        "    stream = open(source, 'w')\n    print('here', file=stream, flush=True)\n    time.sleep(600)"
    )
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom pyramidzoo.convert.sandbox import parent\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "script, source = map(Path, sys.argv[1:])\n"
        "parent.run_in_sandbox(script, source, source.with_name('output'), parent.Limits.for_size(0))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "probe.py"), str(tmp_path / "source")]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as ours:
        descriptor = os.open(tmp_path / "source", os.O_RDONLY | os.O_NONBLOCK)
        try:
            require_soon(lambda: read_from(descriptor) == b"here\n")
            assert read_from(descriptor) is None  # open, and nothing more to read
            ours.send_signal(number)
            require_soon(lambda: read_from(descriptor) == b"")
        finally:
            os.close(descriptor)
            ours.kill()


def read_from(descriptor: int) -> bytes | None:
    """What is in a pipe: nothing at its end, None where somebody still has it open to write."""
    try:
        return os.read(descriptor, 100)
    except BlockingIOError:
        return None


def require_soon(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20  # a third of what would end it without us
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


# ---- what becomes of it ----


def ending(monkeypatch: pytest.MonkeyPatch, *ended: Any, writes: bytes | None = None) -> None:
    """Let the process end so, without a process."""

    def run(script: Path, source: Path, output: Path, limits: Limits) -> Outcome:
        if writes is not None:
            output.write_bytes(writes)
        return Outcome(*ended)

    monkeypatch.setattr(parent, "run_in_sandbox", run)


@pytest.mark.parametrize(
    ("ended", "error", "message"),
    [
        (("memory",), IntegrityError, r"it takes more than 1024 MiB of memory, which no checkpoint of its size does"),
        (("size",), IntegrityError, "more than 64 MiB for its tensors, which no"),
        (("work",), IntegrityError, "more than 3 s of work, which no"),
        (("clock",), IntegrityError, "more than 60 s, which no"),
        (("died", "signal SIGSEGV"), IntegrityError, r"ended the process that read it \(signal SIGSEGV\)"),
        (("file", "it is\x1b[2J cut off"), IntegrityError, r"torch checkpoint: it is\?\[2J cut off$"),
        (("file", "long" * 1000), IntegrityError, "checkpoint: (long){125}$"),
        (("made up",), IntegrityError, "is not a readable torch checkpoint"),
        (("read", "OSError: gone"), UnavailableError, "cannot read .*in.pth: OSError: gone"),
        (("start", "no torch"), UnavailableError, "cannot start the process that opens .*in.pth: no torch; is torch"),
        (("write", "No space"), NotWritableError, r"in.pth to a temporary file \(No space\); name a folder with room"),
    ],
)
def test_errors_say_what_struck(
    ended: tuple[str, ...], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.pth").write_bytes(b"\x80\x02.")
    ending(monkeypatch, *ended)
    with pytest.raises(error, match=message) as caught:
        unpickle(tmp_path / "in.pth")
    assert type(caught.value) is error
    assert str(caught.value).isprintable()


def test_what_the_system_does_not_allow_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in.pth").write_bytes(b"\x80\x02.")
    ending(monkeypatch, "file", "x", ("without network", "limited in memory"))
    read_file._warn_once.cache_clear()
    for _ in range(2):
        with caplog.at_level(logging.WARNING), pytest.raises(IntegrityError):
            unpickle(tmp_path / "in.pth")
    read_file._warn_once.cache_clear()
    (record,) = caplog.records
    assert record.name == "pyramidzoo"
    assert "should be without network and limited in memory, which this system does not allow" in record.getMessage()


def test_its_output_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.pth").write_bytes(b"\x80\x02.")
    for content in (b"", b"PK\x03\x04", container({"a": ENTRY}, twice="a")):
        ending(monkeypatch, "done", writes=content)
        with pytest.raises(IntegrityError, match=r"in\.pth is not a readable safetensors file") as caught:
            unpickle(tmp_path / "in.pth")
        assert "temporary" not in str(caught.value)


# ---- pickles ----


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def in_zip(path: Path, pickled: bytes) -> Path:
    """A torch checkpoint without tensors around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "socket", "import", "open", "getattr"])
def test_nothing_in_a_pickle_is_executed(kind: str, zipped: bool, protocol: int, tmp_path: Path, port: int) -> None:
    marker = tmp_path / "marker"
    touch = f"open({str(marker)!r}, 'w').close()"
    call = {
        "system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "socket": Call(socket.create_connection, ("127.0.0.1", port), 1),
        "import": Call(__import__, "antigravity"),
        "open": Call(open, str(marker), "w"),
        "getattr": Call(getattr, "text", "join"),
    }[kind]
    pickled = pickle.dumps({"a": call}, protocol=protocol)
    path = tmp_path / "in.pth"
    if zipped:
        in_zip(path, pickled)
    else:
        path.write_bytes(pickled)
    with pytest.raises(pickle_reader.NotACheckpointError, match=r"it holds objects|its pickle is damaged"):
        pickle_reader.read(path, MIB)
    assert not marker.exists()
    assert "antigravity" not in sys.modules
    if protocol == 2 and kind == "system" and zipped:  # the others only cost a process each
        with pytest.raises(IntegrityError, match=r"it holds objects \(\w+\.system\) beside tensors"):
            unpickle(path)
        assert not marker.exists()


def deflated_zeros(path: Path, size: int) -> Path:
    """A torch checkpoint whose one storage is `size` zeros, compressed a thousandfold."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(MIB, dtype=torch.uint8)}, stream)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)  # which may stand any number of times
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as archive:
        for member in source.infolist():
            content = source.read(member)
            if not member.filename.endswith("data/0"):
                count = b"\x8a\x08" + struct.pack("<q", size)
                archive.writestr(member.filename, content.replace(b"J" + struct.pack("<i", MIB), count))
                continue
            compressed = block * (size // MIB) + b"\x03\0"
            info = zipfile.ZipInfo(member.filename)
            info.compress_type, info.file_size, info.compress_size = zipfile.ZIP_DEFLATED, size, len(compressed)
            info.CRC, info.header_offset = 0, archive.fp.tell()
            archive.fp.write(info.FileHeader() + compressed)
            archive.start_dir = archive.fp.tell()
            archive.filelist.append(info)
    return path


def test_a_bomb_in_a_torch_zip(tmp_path: Path) -> None:
    path = deflated_zeros(tmp_path / "in.pth", 3 << 30)
    assert path.stat().st_size < 4 * MIB
    with pytest.raises(IntegrityError, match=r"in\.pth .*: it takes more than 10\d\d MiB of memory, which no"):
        unpickle(path)


def nested(depth: int, content: object) -> dict[str, object]:
    """Two paths to each level, 2**depth to the last."""
    inner = content
    for _ in range(depth):
        inner = {"x": inner, "y": inner}
    return {"z": inner}


def test_more_paths_than_can_be_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(nested(45, {}), tmp_path / "in.pth")
    limits = dataclasses.replace(Limits.for_size(2000), work=0)
    monkeypatch.setattr(Limits, "for_size", lambda size: limits)
    with pytest.raises(IntegrityError, match=r"in\.pth .*: it takes more than 0 s of work, which no checkpoint of"):
        unpickle(tmp_path / "in.pth")


def itself() -> dict[str, object]:
    content: dict[str, object] = {"a": torch.zeros(1)}
    content["content"] = content
    return content


def deep(kind: bytes, close: bytes, inner: bytes = b"N", depth: int = 100_000) -> bytes:
    return b"\x80\x02" + kind * depth + inner + close * depth + b"."


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: {"a": torch.zeros(1).expand(10**12)}, "its tensors are many times larger than the file"),
        (lambda: nested(20, torch.zeros(9)), "its tensors are many times larger than the file"),
        (itself, "dictionaries lie in each other more than 50 deep, or in themselves"),
        (lambda: deep(b"}X\x01\0\0\0a", b"s", inner=b"}"), "dictionaries lie in each other more than 50 deep"),
        (lambda: deep(b"]", b"a"), "it holds no tensors"),
        (lambda: deep(b")", b"\x85"), "its pickle is damaged|it holds no tensors|cut off or damaged"),
        (lambda: {"a\x1b[2J": torch.zeros(1)}, r"it holds a tensor called 'a\\x1b\[2J', as no network's is"),
        (lambda: {"a" * 501: torch.zeros(1)}, "it holds a tensor called 'a{60}', as"),
        (lambda: {"__metadata__": torch.zeros(1)}, "it holds a tensor called '__metadata__', as"),
        (lambda: {"a": torch.zeros(3).to_sparse()}, "a is sparse, quantized or without values"),
        (lambda: {"a": torch.zeros(3, device="meta")}, "a is sparse, quantized or without values"),
    ],
)
def test_contents_that_are_made_to_harm(content: Callable[[], object], message: str, tmp_path: Path) -> None:
    made = content()
    if isinstance(made, bytes):
        in_zip(tmp_path / "in.pth", made)
    else:
        torch.save(made, tmp_path / "in.pth")
    with pytest.raises(pickle_reader.NotACheckpointError, match=message) as caught:
        pickle_reader.read(tmp_path / "in.pth", MIB)
    assert str(caught.value).isprintable()


def test_checksums_are_looked_at(tmp_path: Path) -> None:
    """torch itself takes any bits for values."""
    path = tmp_path / "in.pth"
    torch.save({"a": torch.full((1000,), 1.5)}, path)
    good = path.read_bytes()
    place = good.index(torch.full((9,), 1.5).numpy().tobytes()) + 5
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert torch.load(path)["a"][1] != 1.5
    with pytest.raises(
        pickle_reader.NotACheckpointError, match=r"its checksums say that it is damaged \(Bad CRC-32 for file"
    ):
        pickle_reader.read(path, MIB)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.full((1000,), 1.5)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(
        pickle_reader.NotACheckpointError, match="where torch's set_crc32_options has turned them off, save it"
    ):
        pickle_reader.read(path, MIB)
    path.write_bytes(good)
    assert pickle_reader.read(path, MIB)["a"][1] == 1.5


def test_arrays_of_torch7_that_are_made_to_harm(tmp_path: Path) -> None:
    collector = torch7_reader.ParameterCollector(1000)
    collector.add("a", weight=np.zeros(250, np.float32))
    with pytest.raises(ValueError, match="its tensors are many times larger than the file"):
        collector.add("b", weight=np.broadcast_to(np.float32(0), (1,)))
    (tmp_path / "in.t7").write_bytes(bytes(40))
    for size, found in ((10, 10), (11, None), (1 << 60, None), (-1, None)):
        with (tmp_path / "in.t7").open("rb") as stream:
            reader = types.SimpleNamespace(f=stream, read_long=lambda size=size: size)
            if found is None:
                with pytest.raises(ValueError, match="the file ends in the middle of a tensor"):
                    torch7_reader.storage_reader("f4")(reader, b"")
            else:
                assert len(torch7_reader.storage_reader("f4")(reader, b"")) == found


# ---- archives ----


def tarred(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, kind in (("../../marker", tarfile.REGTYPE), ("/marker", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            archive.addfile(member)
    return path


def linked(path: Path) -> Path:
    member = zipfile.ZipInfo("net.pth")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    return path


def zipped(path: Path, inner: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "net.pth")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: tarred(folder / "in.tar"), "it is a tar archive; unpack it"),
        (lambda folder: zipped(folder / "in.zip", tarred(folder / "inner")), "its one file .* it is a tar archive"),
        (lambda folder: linked(folder / "in.zip"), "net.pth is a link or a device, not a file"),
        (lambda folder: zipped(folder / "in.zip", linked(folder / "inner")), "its one file is not a readable torch"),
    ],
)
def test_archives(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(IntegrityError, match=message):
        read_checkpoint(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


# ---- safetensors ----

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def container(header: Any, *, twice: str | None = None, length: int | None = None) -> bytes:
    """A safetensors file of one float; `twice` is a key of the header that stands once more."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if twice is not None:
        text = b"{%b: %b, %b" % (json.dumps(twice).encode(), json.dumps(header[twice]).encode(), text[1:])
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(4)


METADATA = b'{"__metadata__": {"b": "1", "b": "2"}, "a": %b}' % json.dumps(ENTRY).encode()
ESCAPED = b'{"a": %b, "\\u0061": %b}' % ((json.dumps(ENTRY).encode(),) * 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (container({"a": ENTRY}, twice="a"), "its header: 'a' occurs more than once"),
        (container(ESCAPED), "its header: 'a' occurs more than once"),
        (container(METADATA), "its header: 'b' occurs more than once"),
        (container({"a": ENTRY}, length=(16 << 20) + 1), "its header would have 16777217 bytes, more than 16777216"),
        (container({"a": ENTRY}, length=(1 << 32) - 1), "its header would have 4294967295 bytes"),
        (container(b'{"a":' * 100_000 + b"0" + b"}" * 100_000), "recursion limit"),
        (container({"a\x1b[2J": ENTRY}), r"it holds a tensor called 'a\\x1b\[2J', as no network's is"),
        (container({"a" * 501: ENTRY}), "it holds a tensor called 'a{60}', as no network's is"),
        (container({"a": {**ENTRY, "shape": [1 << 63, 2]}}), "is not a readable safetensors file"),
        (container({"a": {**ENTRY, "shape": [0]}}), "is not a readable safetensors file"),
        (container({"a": {**ENTRY, "dtype": "F33"}}), "is not a readable safetensors file"),
        (container({"a": {**ENTRY, "data_offsets": [4, 0]}}), "is not a readable safetensors file"),
        (container(b"{}"), "is not a readable safetensors file"),
    ],
)
def test_safetensors_files_that_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    path.write_bytes(content)
    for read in (read_content, read_checkpoint):
        with pytest.raises(IntegrityError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path} is not a readable safetensors file (")
        assert str(caught.value).isprintable()


def test_what_only_the_check_of_the_header_refuses(tmp_path: Path) -> None:
    """The library would take the last of two, so the check has to be made once for each state of a file."""
    path = tmp_path / "in.safetensors"
    for content in (container({"a": ENTRY}, twice="a"), container(METADATA), container({"a\x1b[2J": ENTRY})):
        path.write_bytes(content)
        assert len(read_content(path, header_checked=True).tensors) == 1
        with pytest.raises(IntegrityError):
            check_header(path)
    path.write_bytes(container({"a": ENTRY}))
    check_header(path)


def test_a_header_of_a_large_network_is_taken(tmp_path: Path) -> None:
    names = [f"layer{k}.conv.weight" for k in range(10_000)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "in.safetensors")
    assert read_tensors(tmp_path / "in.safetensors").keys() == set(names)
