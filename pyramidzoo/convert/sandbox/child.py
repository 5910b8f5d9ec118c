"""The side of the sandbox that runs in the child process; `parent.py` starts it as a script.

Its arguments are SCRIPT SOURCE OUTPUT PARENT and the limits. It confines itself, imports SCRIPT
(which has `read(source, allowed)` and `save(tensors, output)`), sets the limits, and only then
reads SOURCE.

It prints lines of JSON for the parent: {"missing_protections": [...]}, what this system does not
let it do; and on failure {"kind": KIND, "error": REASON}, where KIND is "file", "memory", "size",
"read", "write" or "start".

Only the standard library is needed here, and nothing of pyramidzoo is imported.
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

# The protections, as the parent prints them.
_NO_NETWORK, _MEMORY_LIMIT = "without network", "limited in memory"

# Options of prctl(2), from linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2  # linux/seccomp.h

# Flags of unshare(2), from linux/sched.h.
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

# Instructions of the filter language of seccomp, from linux/bpf_common.h.
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS: load four bytes of `seccomp_data`
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in `struct seccomp_data` and answers of a filter, from linux/seccomp.h.
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_SECCOMP_RET_ERRNO = 0x00050000  # the call fails with the error number in the lower bits
_SECCOMP_RET_ALLOW = 0x7FFF0000

# AUDIT_ARCH_X86_64 and AUDIT_ARCH_AARCH64 (linux/audit.h), and the number of the system call
# socket() there.
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_X32_BIT = 0x40000000  # the numbers of x32's system calls on x86_64 begin here; on aarch64 no call has such a number
_IO_URING_SETUP = 425  # on all machines


class Limits(NamedTuple):
    """The fields of `parent.Limits`, in the same order."""

    memory: int
    tensors: int
    output: int
    work: int
    clock: int


def main(script: str, source: str, output: str, parent: int, limits: Limits) -> int:
    """Read `source` with `script`, and save its tensors as `output`; return the exit status."""
    missing = list(_confine(parent, limits.output))
    fail = functools.partial(_report_failure, own_size_limit=limits.output)
    try:
        spec = importlib.util.spec_from_file_location("script", script)
        module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:  # noqa: BLE001 (an installation that is broken in any way)
        return fail("start", error)
    missing += _set_limits(limits)
    _print_json(missing_protections=missing)
    try:
        tensors = module.read(Path(source), limits.tensors)
    except Exception as error:  # noqa: BLE001 (a damaged file provokes any error, which becomes one line)
        return fail("read", error)
    try:
        module.save(tensors, output)
    except Exception as error:  # noqa: BLE001 (safetensors has its own, and names in the file provoke others)
        return fail("write", error)
    return 0


def _print_json(**content: Any) -> None:
    print(json.dumps(content), flush=True)


def _report_failure(kind: str, error: BaseException, *, own_size_limit: int) -> int:
    """Print what failed: a limit, the system while it read or wrote, or else the file. Return the exit status."""
    causes: list[BaseException] = [error]
    while following := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(following)
    texts = [str(cause) for cause in causes]
    codes = {getattr(cause, "errno", None) for cause in causes}
    is_memory = any(isinstance(cause, MemoryError) for cause in causes) or errno.ENOMEM in codes
    # safetensors puts errors of the system into errors of its own.
    is_wrapped = any(re.search(r"os error|\bOs \{|I/O error|IoError", text) for text in texts)
    is_system = any(isinstance(c, OSError) and c.errno not in (None, errno.EINVAL, errno.EOVERFLOW) for c in causes)
    if is_memory or any(re.search(r"(can't|[Cc]annot) allocate memory|bad_alloc", text) for text in texts):
        kind = "memory"
    elif kind == "write" and any("too large" in text for text in texts) and _size_limit() == own_size_limit:
        kind = "size"
    elif kind != "start" and not is_system and not (kind == "write" and is_wrapped):
        kind = "file"
    first_line = (texts[0].strip().splitlines() or [""])[0]
    # The reader raises NotACheckpointError with a reason that users understand without the error's name.
    is_plain = type(error).__name__ == "NotACheckpointError"
    _print_json(kind=kind, error=first_line if is_plain else f"{type(error).__name__}: {first_line}")
    return 1


def _confine(parent: int, output: int) -> Iterator[str]:
    """Give up the network and limit the output, before the imports start threads; yield what is not possible here."""
    if sys.platform == "win32":
        yield from (_NO_NETWORK, _MEMORY_LIMIT)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_FSIZE, output)
    if sys.platform != "linux":
        yield _NO_NETWORK
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # The parent has ended before the signal was asked for.
        os._exit(1)
    # Both ways are tried, because each one fails on some systems.
    if not any([_remove_interfaces(libc), _forbid_sockets(libc)]):
        yield _NO_NETWORK


def _prctl(libc: Any, option: int, value: int, pointer: Any = 0) -> None:
    third = pointer or ctypes.c_ulong(0)
    libc.prctl(option, ctypes.c_ulong(value), third, ctypes.c_ulong(0), ctypes.c_ulong(0))


def _remove_interfaces(libc: Any) -> bool:
    """Enter a network namespace that has no interface. Without root this needs a user namespace too."""
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    with contextlib.suppress(OSError):  # Keep our user and group, for code that asks for the user's name or home.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    return True


def _forbid_sockets(libc: Any) -> bool:
    """Forbid sockets of any kind with a seccomp filter. Containers that forbid namespaces still allow this."""
    if platform.machine() not in _MACHINES:
        return False
    architecture, socket_number = _MACHINES[platform.machine()]
    # Each line: instruction, lines to skip if true, lines to skip if false, operand.
    program = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 0, 4, architecture),  # Calls of another architecture are refused: nobody here makes them.
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 2, 0, _X32_BIT),  # So are calls of x32, which have other numbers.
        (_JUMP_IF_EQUAL, 1, 0, socket_number),
        (_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),  # io_uring can make sockets without the call socket().
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EACCES),
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    ]

    class Instruction(ctypes.Structure):
        """`struct sock_filter` of linux/filter.h."""

        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        """`struct sock_fprog` of linux/filter.h."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))

    code = (Instruction * len(program))(*(Instruction(*line) for line in program))
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)  # Without root the kernel takes a filter only after this.
    _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(Program(len(program), code)))
    try:  # An emulator may accept the filter and not obey it.
        socket.socket().close()
    except OSError:
        return True
    return False


def _set_limits(limits: Limits) -> Iterator[str]:
    """Set the limits that the imports would have used up; yield what is not possible here."""
    if sys.platform == "win32":
        return
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)  # The process that started us may have ignored them.
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + limits.work, hard_extra=1)
    signal.alarm(limits.clock)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + limits.memory)
    except (OSError, ValueError):
        yield _MEMORY_LIMIT


def _lower_limit(which: int, value: int, *, hard_extra: int = 0) -> None:
    """Lower a soft limit to `value` and its hard limit to `value + hard_extra`; a limit that is lower already stays."""
    present = [limit for limit in resource.getrlimit(which) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min([value, *present]), min([value + hard_extra, *present])))


def _size_limit() -> int | None:
    return None if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_FSIZE)[0]


if __name__ == "__main__":
    sys.path.pop(0)  # This is the folder of this file. Its modules must not be imported in place of others.
    arguments = sys.argv[1:]
    sys.exit(main(arguments[0], arguments[1], arguments[2], int(arguments[3]), Limits(*map(int, arguments[4:]))))
