"""What `_sandbox` starts: SCRIPT SOURCE OUTPUT PARENT and the limits. Only the standard library is needed here.

SCRIPT, which has `read(source, allowed)` and `save(tensors, output)`, is imported first, then the limits are set, then
SOURCE is read. What there is to say are lines of JSON: {"lacking": [what this system does not let us do]}, and on
failure {"kind": "file", "memory", "size", "read", "write" or "start", "error": reason}.
"""

import contextlib
import ctypes
import errno
import functools
import importlib.util
import json
import os
import platform
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform != "win32":
    import resource

_NETWORK, _MEMORY = "without network", "limited in memory"


class Limits(NamedTuple):
    """The fields of `_sandbox.Limits`."""

    memory: int
    tensors: int
    output: int
    work: int
    clock: int


def main(script: str, source: str, output: str, parent: int, limits: Limits) -> int:
    lacking = list(_confine(parent, limits.output))
    failed = functools.partial(_failed, own_size=limits.output)
    try:
        spec = importlib.util.spec_from_file_location("script", script)
        module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:  # noqa: BLE001 (an installation that is broken in any way)
        return failed("start", error)
    lacking += _bound(limits)
    _say(lacking=lacking)
    try:
        tensors = module.read(Path(source), limits.tensors)
    except Exception as error:  # noqa: BLE001 (whatever a damaged file provokes becomes one line for the parent)
        return failed("read", error)
    try:
        module.save(tensors, output)
    except Exception as error:  # noqa: BLE001 (safetensors has its own, and the names of the file provoke others)
        return failed("write", error)
    return 0


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def _failed(kind: str, error: BaseException, *, own_size: int) -> int:
    """Say whose fault it is: the system's where it was reading or writing, a limit's, else the file's."""
    causes: list[BaseException] = [error]
    while following := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(following)
    texts = [str(cause) for cause in causes]
    codes = {getattr(cause, "errno", None) for cause in causes}
    memory = any(isinstance(cause, MemoryError) for cause in causes) or errno.ENOMEM in codes
    wrapped = any(re.search(r"os error|\bOs \{|I/O error|IoError", text) for text in texts)  # in safetensors' own
    system = any(isinstance(c, OSError) and c.errno not in (None, errno.EINVAL, errno.EOVERFLOW) for c in causes)
    if memory or any(re.search(r"(can't|[Cc]annot) allocate memory|bad_alloc", text) for text in texts):
        kind = "memory"
    elif kind == "write" and any("too large" in text for text in texts) and _size_limit() == own_size:
        kind = "size"
    elif kind != "start" and not system and not (kind == "write" and wrapped):
        kind = "file"
    reason = (texts[0].strip().splitlines() or [""])[0]
    plain = type(error).__name__ == "NotACheckpoint"  # the reason in the script's own words
    _say(kind=kind, error=reason if plain else f"{type(error).__name__}: {reason}")
    return 1


def _confine(parent: int, output: int) -> Iterator[str]:
    """What can be done before the imports start threads; yields what this system does not let us do."""
    if sys.platform == "win32":
        yield from (_NETWORK, _MEMORY)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit(resource.RLIMIT_FSIZE, output)
    if sys.platform != "linux":
        yield _NETWORK
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, ctypes.c_ulong(signal.SIGKILL), *map(ctypes.c_ulong, (0, 0, 0)))  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before that
        os._exit(1)
    if not any([_without_interfaces(libc), _without_sockets(libc)]):
        yield _NETWORK


def _without_interfaces(libc: Any) -> bool:
    """Into a network namespace of our own, as root or in a user namespace of our own."""
    network, user = 0x40000000, 0x10000000
    if libc.unshare(network) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(user | network) != 0:
        return False
    with contextlib.suppress(OSError):  # who we are, for what asks for the user's name or home
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    return True


def _without_sockets(libc: Any) -> bool:
    """No socket of any kind, by a seccomp filter: what containers still allow, where they forbid namespaces."""
    machines = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # AUDIT_ARCH, number of socket()
    if platform.machine() not in machines:
        return False
    arch, number = machines[platform.machine()]
    load, equal, at_least, answer, io_uring_setup = 0x20, 0x15, 0x35, 0x06, 425
    program = [
        (load, 0, 0, 4),  # the architecture of the call
        (equal, 0, 4, arch),  # nobody here makes calls of another one
        (load, 0, 0, 0),  # its number
        (at_least, 2, 0, 0x40000000),  # of another kind of call on x86_64 (x32)
        (equal, 1, 0, number),
        (equal, 0, 1, io_uring_setup),  # which makes sockets too
        (answer, 0, 0, 0x00050000 | errno.EACCES),  # SECCOMP_RET_ERRNO
        (answer, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]

    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))

    code = (Instruction * len(program))(*(Instruction(*line) for line in program))
    zeros = tuple(map(ctypes.c_ulong, (0, 0, 0)))
    libc.prctl(38, ctypes.c_ulong(1), *zeros)  # PR_SET_NO_NEW_PRIVS
    libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(Program(len(program), code)), *zeros[1:])  # PR_SET_SECCOMP
    try:  # an emulator may take the filter and not obey
        socket.socket().close()
    except OSError:
        return True
    return False


def _bound(limits: Limits) -> Iterator[str]:
    """What the imports would have used up; yields what this system does not let us do."""
    if sys.platform == "win32":
        return
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)  # whoever started us may have ignored them
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + limits.work, beyond=1)
    signal.alarm(limits.clock)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory)
    except (OSError, ValueError):
        yield _MEMORY


def _limit(which: int, value: int, *, beyond: int = 0) -> None:
    """Lower a limit, and what it may be raised to; one that is lower already stays."""
    given = [limit for limit in resource.getrlimit(which) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min([value, *given]), min([value + beyond, *given])))


def _size_limit() -> int | None:
    return None if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_FSIZE)[0]


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules must not pass for others
    given = sys.argv[1:]
    sys.exit(main(given[0], given[1], given[2], int(given[3]), Limits(*map(int, given[4:]))))
