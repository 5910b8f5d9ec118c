"""Foreign files that are made to harm: no code of theirs runs, and their memory, time and disk space are limited."""

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
from messages import raises_with_words, require_words
from safetensors.torch import save_file

from pyramidzoo.checkpoints.safetensors_file import check_header, read_content, read_tensors
from pyramidzoo.convert import read_file
from pyramidzoo.convert.read_file import read_checkpoint, unpickle
from pyramidzoo.convert.sandbox import child, parent, pickle_reader, torch7_reader
from pyramidzoo.convert.sandbox.parent import Limits, Outcome, run_in_sandbox
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError

pytestmark = pytest.mark.sandbox

MIB = 1 << 20
SMALL_LIMITS = Limits(memory=256 * MIB, tensors=MIB, output=MIB, work=0, clock=30)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a folder of the test for temporary files, and require that it is empty at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


# ---- the sandbox process ----


def run_code_in_sandbox(folder: Path, code: str, save_code: str = "", **limits: int) -> tuple[Outcome, Any]:
    """Run Python code in the sandbox. The code may put values into the dictionary `found`.

    Args:
        folder: Where the script and its output are written.
        code: What `read` does before it returns `found`.
        save_code: What `save` does after it has written `found`.
        **limits: Limits that differ from `SMALL_LIMITS`.

    Returns:
        How the process ended, and `found`, or None if the process did not end well.
    """
    script, output = folder / "script.py", folder / "found.json"
    script.write_text(
        "import json, os, resource, signal, socket, sys, time\n"
        "found = {}\n"
        f"def read(source, allowed):\n{textwrap.indent(code, '    ')}\n    return found\n"
        "def save(found, output):\n    open(output, 'w').write(json.dumps(found))\n"
        f"{textwrap.indent(save_code, '    ')}\n"
    )
    outcome = run_in_sandbox(script, folder / "source", output, dataclasses.replace(SMALL_LIMITS, **limits))
    return outcome, json.loads(output.read_text()) if output.exists() and outcome.kind == "done" else None


# Code that connects to a port of this machine, and puts into `found` whether that worked.
CONNECT = """
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
    found["connected"] = True
except OSError:
    found["connected"] = False
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine at which a server listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_sandbox_has_no_network_or_says_so(port: int, tmp_path: Path) -> None:
    """Some kernels do not let a process give up the network. Then the outcome must say so."""
    outcome, found = run_code_in_sandbox(tmp_path, CONNECT.format(port=port))
    assert outcome.kind == "done"
    assert found["connected"] == ("without network" in outcome.missing_protections)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces and seccomp")
@pytest.mark.parametrize("function", ["", "_remove_interfaces", "_forbid_sockets"])
def test_each_way_to_give_up_the_network_says_whether_it_worked(function: str, port: int) -> None:
    code = (
        "import ctypes, importlib.util, socket\n"
        f"spec = importlib.util.spec_from_file_location('child', {child.__file__!r})\n"
        "child = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(child)\n"
        f"has_worked = {f'child.{function}(ctypes.CDLL(None))' if function else False}\n"
        f"found = {{}}\n{CONNECT.format(port=port)}\nprint(has_worked, found['connected'])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    without_network, with_network = ["True", "False"], ["False", "True"]
    assert out.split() in (without_network, with_network)
    if not function:  # Nothing was given up, so the server must be reached.
        assert out.split() == with_network
    has_seccomp = platform.machine() in ("x86_64", "aarch64") and "Seccomp:" in Path("/proc/self/status").read_text()
    if function == "_forbid_sockets" and has_seccomp:
        assert out.split() == without_network


@pytest.mark.parametrize(
    ("code", "save_code", "limits", "kind", "reason"),
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
def test_the_outcome_says_why_a_process_ended(
    code: str, save_code: str, limits: dict[str, int], kind: str, reason: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    outcome, _ = run_code_in_sandbox(tmp_path, code, save_code, **limits)
    assert outcome.kind == kind, outcome
    assert reason in outcome.error
    assert time.monotonic() - start < 20


def test_no_core_is_dumped(tmp_path: Path) -> None:
    _, found = run_code_in_sandbox(tmp_path, "found['core'] = resource.getrlimit(resource.RLIMIT_CORE)")
    assert found["core"] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGXCPU])
def test_a_signal_that_the_parent_ignores_still_ends_the_sandbox(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        if number == signal.SIGALRM:
            outcome, _ = run_code_in_sandbox(tmp_path, "time.sleep(50)", clock=1)
        else:
            outcome, _ = run_code_in_sandbox(tmp_path, "while True: pass")
    finally:
        signal.signal(number, before)
    assert outcome.kind == {signal.SIGALRM: "clock", signal.SIGXCPU: "work"}[number]


def test_a_lower_limit_of_the_parent_stays_and_the_file_is_not_blamed(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, before[1]))
    try:
        too_large, _ = run_code_in_sandbox(tmp_path, "found['x'] = 'x' * 600_000")
        read_limit = "found['limit'] = resource.getrlimit(resource.RLIMIT_FSIZE)"
        outcome, found = run_code_in_sandbox(tmp_path, read_limit, output=MIB // 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert too_large.kind == "write"
    assert "File too large" in too_large.error
    assert outcome.kind == "done"
    assert found["limit"] == [MIB // 4, MIB // 4]


def test_a_missing_module_is_reported_as_a_failed_start(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import torch_that_is_not_there")
    outcome = run_in_sandbox(script, tmp_path / "source", tmp_path / "output", SMALL_LIMITS)
    assert outcome.kind == "start"
    assert outcome.error == "ModuleNotFoundError: No module named 'torch_that_is_not_there'"


def test_the_sandbox_imports_no_modules_from_the_folder_of_the_script(tmp_path: Path) -> None:
    outcome, found = run_code_in_sandbox(tmp_path, "found['path'] = sys.path")
    assert outcome.kind == "done"
    assert not {str(tmp_path), str(Path(parent.__file__).parent)} & set(found["path"])


def test_the_environment_of_the_sandbox_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PATHS"):
        monkeypatch.setenv(name, "a secret")
    _, found = run_code_in_sandbox(tmp_path, "found.update(os.environ)")
    assert "a secret" not in found.values()
    assert found["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells a process that its parent ended")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_sandbox_ends_when_its_parent_is_killed_or_interrupted(
    number: signal.Signals, tmp_path: Path, temporary_folder: Path
) -> None:
    """The script keeps a pipe open as long as its process lives, so the end of the pipe is the end of the process."""
    os.mkfifo(tmp_path / "source")
    (tmp_path / "script.py").write_text(
        "import time\ndef read(source, allowed):\n"
        "    stream = open(source, 'w')\n    print('started', file=stream, flush=True)\n    time.sleep(600)"
    )
    code = (
        "import signal, sys\nfrom pathlib import Path\nfrom pyramidzoo.convert.sandbox import parent\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "script, source = map(Path, sys.argv[1:])\n"
        "parent.run_in_sandbox(script, source, source.with_name('output'), parent.Limits.for_size(0))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "script.py"), str(tmp_path / "source")]
    environment = {**os.environ, "TMPDIR": str(temporary_folder)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as parent_process:
        descriptor = os.open(tmp_path / "source", os.O_RDONLY | os.O_NONBLOCK)
        try:
            wait_until(lambda: read_pipe(descriptor) == b"started\n")
            assert read_pipe(descriptor) is None  # The pipe is open, and there is nothing more to read.
            parent_process.send_signal(number)
            wait_until(lambda: read_pipe(descriptor) == b"")
        finally:
            os.close(descriptor)
            parent_process.kill()


def read_pipe(descriptor: int) -> bytes | None:
    """Read from a pipe: empty bytes at its end, None if it is empty and another process has it open for writing."""
    try:
        return os.read(descriptor, 100)
    except BlockingIOError:
        return None


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20  # The sandbox's own time limit would end the process after 60 seconds.
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


# ---- the errors for the ways a sandbox process can end ----


@pytest.fixture
def pickle_file(tmp_path: Path) -> Path:
    """A file that starts as a pickle, so that it is given to the sandbox."""
    path = tmp_path / "in.pth"
    path.write_bytes(b"\x80\x02.")
    return path


def replace_sandbox(monkeypatch: pytest.MonkeyPatch, outcome: Outcome, output_content: bytes | None = None) -> None:
    """Instead of a process, use a function that writes the output and returns the outcome."""

    def run_in_sandbox(script: Path, source: Path, output: Path, limits: Limits) -> Outcome:
        if output_content is not None:
            output.write_bytes(output_content)
        return outcome

    monkeypatch.setattr(parent, "run_in_sandbox", run_in_sandbox)


@pytest.mark.parametrize(
    ("outcome", "error", "words"),
    [
        (Outcome("memory"), IntegrityError, ["1024 MiB", "memory"]),
        (Outcome("size"), IntegrityError, ["64 MiB", "tensors"]),
        (Outcome("work"), IntegrityError, ["3 s", "work"]),
        (Outcome("clock"), IntegrityError, ["60 s"]),
        (Outcome("died", "signal SIGSEGV"), IntegrityError, ["process", "signal SIGSEGV"]),
        (Outcome("file", "it is\x1b[2J cut off"), IntegrityError, ["it is?[2J cut off"]),
        (Outcome("file", "long" * 1000), IntegrityError, ["long" * 125]),
        (Outcome("made up"), IntegrityError, ["torch checkpoint"]),
        (Outcome("read", "OSError: gone"), UnavailableError, ["read", "OSError: gone"]),
        (Outcome("start", "no torch"), UnavailableError, ["start", "process", "no torch", "installed"]),
        (Outcome("write", "No space"), NotWritableError, ["temporary file", "No space", "TMPDIR"]),
    ],
)
def test_the_error_says_why_the_sandbox_ended(
    outcome: Outcome, error: type[Exception], words: list[str], pickle_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_sandbox(monkeypatch, outcome)
    with raises_with_words(error, "in.pth", *words) as caught:
        unpickle(pickle_file)
    assert type(caught.value) is error
    assert str(caught.value).isprintable()
    assert "long" * 126 not in str(caught.value)


def test_missing_protections_are_reported_once(
    pickle_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace_sandbox(monkeypatch, Outcome("file", "x", ("without network", "limited in memory")))
    read_file._warn_once.cache_clear()
    for _ in range(2):
        with caplog.at_level(logging.WARNING), pytest.raises(IntegrityError):
            unpickle(pickle_file)
    read_file._warn_once.cache_clear()
    (record,) = caplog.records
    assert record.name == "pyramidzoo"
    require_words(record.getMessage(), "without network", "limited in memory", "trust")


def test_the_output_of_the_sandbox_is_checked(pickle_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (b"", b"PK\x03\x04", make_safetensors({"a": ENTRY}, repeated_key="a")):
        replace_sandbox(monkeypatch, Outcome("done"), content)
        with raises_with_words(IntegrityError, "in.pth", "safetensors file") as caught:
            unpickle(pickle_file)
        assert "temporary" not in str(caught.value)


# ---- pickles ----


class PickledCall:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def write_torch_zip(path: Path, pickled: bytes) -> Path:
    """Write a torch checkpoint that consists of this pickle and no tensors."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["system", "eval", "exec", "socket", "import", "open", "getattr"])
def test_no_function_of_a_pickle_is_called(kind: str, zipped: bool, protocol: int, tmp_path: Path, port: int) -> None:
    marker = tmp_path / "marker"
    touch = f"open({str(marker)!r}, 'w').close()"
    call = {
        "system": PickledCall(os.system, f"touch {marker}"),
        "eval": PickledCall(eval, touch),
        "exec": PickledCall(exec, touch),
        "socket": PickledCall(socket.create_connection, ("127.0.0.1", port), 1),
        "import": PickledCall(__import__, "antigravity"),
        "open": PickledCall(open, str(marker), "w"),
        "getattr": PickledCall(getattr, "text", "join"),
    }[kind]
    pickled = pickle.dumps({"a": call}, protocol=protocol)
    path = tmp_path / "in.pth"
    if zipped:
        write_torch_zip(path, pickled)
    else:
        path.write_bytes(pickled)
    with raises_with_words(pickle_reader.NotACheckpointError, "state_dict()"):
        pickle_reader.read(path, MIB)
    assert not marker.exists()
    assert "antigravity" not in sys.modules
    if protocol == 2 and kind == "system" and zipped:  # One case is enough, because a process takes seconds to start.
        with raises_with_words(IntegrityError, ".system", "objects"):
            unpickle(path)
        assert not marker.exists()


def write_zip_bomb(path: Path, size: int) -> Path:
    """Write a torch checkpoint whose one storage is `size` zeros, which compression makes a thousand times smaller."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(MIB, dtype=torch.uint8)}, stream)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)  # It may be repeated any number of times.
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


def test_a_zip_bomb_is_stopped_by_the_memory_limit(tmp_path: Path) -> None:
    path = write_zip_bomb(tmp_path / "in.pth", 3 << 30)
    assert path.stat().st_size < 4 * MIB
    limit = Limits.for_size(path.stat().st_size).memory >> 20
    assert 1024 <= limit < 1100
    with raises_with_words(IntegrityError, "in.pth", f"{limit} MiB", "memory"):
        unpickle(path)


def make_nested_dictionaries(depth: int, content: object) -> dict[str, object]:
    """Make dictionaries in dictionaries. Two keys lead to each level, so 2**depth paths lead to the content."""
    inner = content
    for _ in range(depth):
        inner = {"x": inner, "y": inner}
    return {"z": inner}


def test_dictionaries_with_too_many_paths_are_stopped_by_the_work_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(make_nested_dictionaries(45, {}), tmp_path / "in.pth")
    limits = dataclasses.replace(Limits.for_size(2000), work=0)
    monkeypatch.setattr(Limits, "for_size", lambda size: limits)
    with raises_with_words(IntegrityError, "in.pth", "0 s", "work"):
        unpickle(tmp_path / "in.pth")


def make_dictionary_that_contains_itself() -> dict[str, object]:
    content: dict[str, object] = {"a": torch.zeros(1)}
    content["content"] = content
    return content


def make_deep_pickle(open_level: bytes, close_level: bytes, inner: bytes = b"N", depth: int = 100_000) -> bytes:
    """Make a pickle in which each level lies in the one before. The levels are given as operations of pickle."""
    return b"\x80\x02" + open_level * depth + inner + close_level * depth + b"."


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    ("make_content", "words"),
    [
        (lambda: {"a": torch.zeros(1).expand(10**12)}, ["tensors", "larger than the file"]),
        (lambda: make_nested_dictionaries(20, torch.zeros(9)), ["tensors", "larger than the file"]),
        (make_dictionary_that_contains_itself, ["dictionaries", "50"]),
        (lambda: make_deep_pickle(b"}X\x01\0\0\0a", b"s", inner=b"}"), ["dictionaries", "50"]),
        (lambda: make_deep_pickle(b"]", b"a"), ["no tensors"]),
        (lambda: make_deep_pickle(b")", b"\x85"), []),  # Versions of torch fail in different ways.
        (lambda: {"a\x1b[2J": torch.zeros(1)}, [r"'a\x1b[2J'"]),
        (lambda: {"a" * 501: torch.zeros(1)}, [f"'{'a' * 60}'"]),
        (lambda: {"__metadata__": torch.zeros(1)}, ["'__metadata__'"]),
        (lambda: {"a": torch.zeros(3).to_sparse()}, ["a is", "sparse"]),
        (lambda: {"a": torch.zeros(3, device="meta")}, ["a is", "without values"]),
    ],
)
def test_pickles_that_are_made_to_harm_are_refused(
    make_content: Callable[[], object], words: list[str], tmp_path: Path
) -> None:
    content = make_content()
    if isinstance(content, bytes):
        write_torch_zip(tmp_path / "in.pth", content)
    else:
        torch.save(content, tmp_path / "in.pth")
    with raises_with_words(pickle_reader.NotACheckpointError, *words) as caught:
        pickle_reader.read(tmp_path / "in.pth", MIB)
    assert str(caught.value).isprintable()


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    """torch itself does not compare checksums: it accepts any bits as values."""
    path = tmp_path / "in.pth"
    torch.save({"a": torch.full((1000,), 1.5)}, path)
    good = path.read_bytes()
    place = good.index(torch.full((9,), 1.5).numpy().tobytes()) + 5
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert torch.load(path)["a"][1] != 1.5
    with raises_with_words(pickle_reader.NotACheckpointError, "checksums", "Bad CRC-32", "download"):
        pickle_reader.read(path, MIB)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.full((1000,), 1.5)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with raises_with_words(pickle_reader.NotACheckpointError, "checksums", "set_crc32_options", "save"):
        pickle_reader.read(path, MIB)
    path.write_bytes(good)
    assert pickle_reader.read(path, MIB)["a"][1] == 1.5


def test_parameters_of_torch7_may_not_exceed_the_allowed_bytes() -> None:
    collector = torch7_reader.ParameterCollector(1000)
    collector.add("a", weight=np.zeros(250, np.float32))
    with raises_with_words(ValueError, "tensors", "larger than the file"):
        collector.add("b", weight=np.broadcast_to(np.float32(0), (1,)))


def test_a_storage_of_torch7_may_not_exceed_the_file(tmp_path: Path) -> None:
    """The file has room for ten numbers of four bytes."""
    (tmp_path / "in.t7").write_bytes(bytes(40))

    def read_storage(size: int) -> Any:
        with (tmp_path / "in.t7").open("rb") as stream:
            return torch7_reader.make_storage_reader("f4")(types.SimpleNamespace(f=stream, read_long=lambda: size), b"")

    assert len(read_storage(10)) == 10
    for size in (11, 1 << 60, -1):
        with raises_with_words(ValueError, "file ends", "tensor"):
            read_storage(size)


# ---- archives ----


def write_tar_with_members_outside(path: Path) -> Path:
    """Write a tar archive of a file outside of the folder and of a link to a file of the system."""
    with tarfile.open(path, "w") as archive:
        for name, kind in (("../../marker", tarfile.REGTYPE), ("/marker", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0
            archive.addfile(member)
    return path


def write_zip_of_link(path: Path) -> Path:
    """Write a zip archive of one link to a file of the system."""
    member = zipfile.ZipInfo("net.pth")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    return path


def write_zip_of_file(path: Path, inner: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "net.pth")
    return path


@pytest.mark.parametrize(
    ("make_archive", "words"),
    [
        (lambda folder: write_tar_with_members_outside(folder / "in.tar"), ["in.tar", "tar archive", "unpack"]),
        (
            lambda folder: write_zip_of_file(folder / "in.zip", write_tar_with_members_outside(folder / "inner")),
            ["in.zip", "tar archive"],
        ),
        (lambda folder: write_zip_of_link(folder / "in.zip"), ["in.zip", "net.pth", "link"]),
        (
            lambda folder: write_zip_of_file(folder / "in.zip", write_zip_of_link(folder / "inner")),
            ["in.zip", "torch checkpoint"],
        ),
    ],
)
def test_no_file_is_written_for_a_hostile_archive(
    make_archive: Callable[[Path], Path], words: list[str], tmp_path: Path
) -> None:
    path = make_archive(tmp_path)
    before = sorted(tmp_path.parent.rglob("*"))
    with raises_with_words(IntegrityError, *words):
        read_checkpoint(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


# ---- safetensors ----

ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def make_safetensors(header: Any, *, repeated_key: str | None = None, length: int | None = None) -> bytes:
    """Make a safetensors file of one float.

    Args:
        header: The header, as JSON text or as what JSON is made of.
        repeated_key: A key of the header that is written a second time.
        length: The length of the header as the file gives it. The default is the right length.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if repeated_key is not None:
        entry = json.dumps(header[repeated_key]).encode()
        text = b"{%b: %b, %b" % (json.dumps(repeated_key).encode(), entry, text[1:])
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(4)


REPEATED_METADATA = b'{"__metadata__": {"b": "1", "b": "2"}, "a": %b}' % json.dumps(ENTRY).encode()
REPEATED_ESCAPED = b'{"a": %b, "\\u0061": %b}' % ((json.dumps(ENTRY).encode(),) * 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (make_safetensors({"a": ENTRY}, repeated_key="a"), ["header", "'a'"]),
        (make_safetensors(REPEATED_ESCAPED), ["header", "'a'"]),
        (make_safetensors(REPEATED_METADATA), ["header", "'b'"]),
        (make_safetensors({"a": ENTRY}, length=(16 << 20) + 1), ["header", "16777217 bytes", "16777216"]),
        (make_safetensors({"a": ENTRY}, length=(1 << 32) - 1), ["header", "4294967295 bytes"]),
        (make_safetensors(b'{"a":' * 100_000 + b"0" + b"}" * 100_000), ["recursion limit"]),
        (make_safetensors({"a\x1b[2J": ENTRY}), [r"'a\x1b[2J'"]),
        (make_safetensors({"a" * 501: ENTRY}), [f"'{'a' * 60}'"]),
        (make_safetensors({"a": {**ENTRY, "shape": [1 << 63, 2]}}), []),
        (make_safetensors({"a": {**ENTRY, "shape": [0]}}), []),
        (make_safetensors({"a": {**ENTRY, "dtype": "F33"}}), []),
        (make_safetensors({"a": {**ENTRY, "data_offsets": [4, 0]}}), []),
        (make_safetensors(b"{}"), []),
    ],
)
def test_safetensors_files_that_are_made_to_harm_are_refused(content: bytes, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    path.write_bytes(content)
    for read in (read_content, read_checkpoint):
        with raises_with_words(IntegrityError, "in.safetensors", "safetensors file", *words) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        make_safetensors({"a": ENTRY}, repeated_key="a"),
        make_safetensors(REPEATED_METADATA),
        make_safetensors({"a\x1b[2J": ENTRY}),
    ],
)
def test_the_check_of_the_header_refuses_what_the_library_accepts(content: bytes, tmp_path: Path) -> None:
    """The library takes the last of two entries with one name."""
    path = tmp_path / "in.safetensors"
    path.write_bytes(content)
    assert len(read_content(path, header_checked=True).tensors) == 1
    with raises_with_words(IntegrityError, "in.safetensors"):
        check_header(path)


def test_the_check_of_the_header_accepts_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "in.safetensors"
    path.write_bytes(make_safetensors({"a": ENTRY}))
    check_header(path)


def test_a_header_of_a_large_network_is_accepted(tmp_path: Path) -> None:
    names = [f"layer{k}.conv.weight" for k in range(10_000)]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "in.safetensors")
    assert read_tensors(tmp_path / "in.safetensors").keys() == set(names)
