"""The part of the sandbox that runs in the child process; `parent.py` starts it as a script.

Its arguments are SCRIPT, SOURCE, OUTPUT, the process id of the parent, and the limits. It does
these steps:

1. It gives up the network and limits the size of its output file.
2. It imports SCRIPT, which has the functions `read(source, allowed)` and `save(tensors, output)`.
3. It sets the other limits.
4. It reads SOURCE and saves the tensors as OUTPUT.

It prints lines of JSON for the parent. The line {"missing_protections": [...]} says which
protections this system does not allow. On failure follows the line {"kind": KIND, "error": REASON},
where KIND is "file", "memory", "size", "read", "write" or "start".

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

# The protections that this system may not allow, in the words of the parent's warning.
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

# Offsets of fields in `struct seccomp_data`, and the values that a filter can return, from
# linux/seccomp.h.
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_SECCOMP_RET_ERRNO = 0x00050000  # the call fails with the error number in the lower bits
_SECCOMP_RET_ALLOW = 0x7FFF0000

# For each machine: the kernel's number of its architecture (AUDIT_ARCH_X86_64 and
# AUDIT_ARCH_AARCH64 in linux/audit.h), and the number of the system call socket().
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# On x86_64 the system calls of x32 (programs with 32-bit pointers) have the numbers from here on.
# On aarch64 no system call has such a number.
_X32_FIRST_NUMBER = 0x40000000
_IO_URING_SETUP = 425  # the number of this system call on all machines


class Limits(NamedTuple):
    """The fields of `parent.Limits`, in the same order; `parent.py` says what they mean."""

    memory: int
    tensors: int
    output: int
    work: int
    clock: int


def main(script: str, source: str, output: str, parent: int, limits: Limits) -> int:
    """Read a file with a reader, and save its tensors.

    Args:
        script: The path of the reader, a Python file.
        source: The file to read.
        output: The file to which the tensors are saved.
        parent: The process id of the parent.
        limits: The limits of this process.

    Returns:
        The exit status: 0, or 1 if an error was printed.
    """
    missing_protections = list(_confine_process(parent, limits.output))
    report_failure = functools.partial(_report_failure, output_limit=limits.output)
    try:
        spec = importlib.util.spec_from_file_location("script", script)
        module: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except Exception as error:  # noqa: BLE001 (an installation that is broken in any way)
        return report_failure("start", error)
    missing_protections += _set_limits(limits)
    _print_json(missing_protections=missing_protections)
    try:
        tensors = module.read(Path(source), limits.tensors)
    except Exception as error:  # noqa: BLE001 (a damaged file provokes any error, which becomes one line)
        return report_failure("read", error)
    try:
        module.save(tensors, output)
    except Exception as error:  # noqa: BLE001 (safetensors has its own, and names in the file provoke others)
        return report_failure("write", error)
    return 0


def _print_json(**content: Any) -> None:
    print(json.dumps(content), flush=True)


def _report_failure(step: str, error: BaseException, *, output_limit: int) -> int:
    """Print why a step failed: a limit was reached, the system failed, or the file cannot be accepted.

    Args:
        step: "start", "read" or "write".
        error: The exception that the step raised.
        output_limit: The largest size of the output file that `Limits` allows.

    Returns:
        The exit status.
    """
    # Libraries raise errors of their own for errors of the system. Therefore all exceptions that
    # led to this one are looked at.
    causes: list[BaseException] = [error]
    while following := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(following)
    texts = [str(cause) for cause in causes]
    codes = {getattr(cause, "errno", None) for cause in causes}
    is_memory_error = any(isinstance(cause, MemoryError) for cause in causes) or errno.ENOMEM in codes
    is_memory_error |= any(re.search(r"(can't|[Cc]annot) allocate memory|bad_alloc", text) for text in texts)
    # safetensors raises no OSError for an error of the system, but has its text in an error of its own.
    is_quoted_system_error = any(re.search(r"os error|\bOs \{|I/O error|IoError", text) for text in texts)
    # Damaged files lead to EINVAL and EOVERFLOW, when they state impossible positions and sizes.
    is_system_error = any(
        isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL, errno.EOVERFLOW) for cause in causes
    )
    kind = step
    if is_memory_error:
        kind = "memory"
    # If the present limit is lower than ours, the user's system has set it, and the file is not to blame.
    elif step == "write" and any("too large" in text for text in texts) and _get_file_size_limit() == output_limit:
        kind = "size"
    elif step != "start" and not is_system_error and not (step == "write" and is_quoted_system_error):
        kind = "file"
    first_line = (texts[0].strip().splitlines() or [""])[0]
    # The text of a NotACheckpointError is written for users, who do not need the name of the class.
    is_text_for_users = type(error).__name__ == "NotACheckpointError"
    _print_json(kind=kind, error=first_line if is_text_for_users else f"{type(error).__name__}: {first_line}")
    return 1


def _confine_process(parent: int, output_limit: int) -> Iterator[str]:
    """Give up the network, and limit the size of the output file; yield each protection that is not possible here.

    This is done before the imports, because they start threads. A thread that already runs would
    keep the network.

    Args:
        parent: The process id of the parent.
        output_limit: The largest size of the output file in bytes.
    """
    if sys.platform == "win32":
        yield from (_NO_NETWORK, _MEMORY_LIMIT)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # A crash writes no core dump, which could fill the disk.
    _lower_limit(resource.RLIMIT_FSIZE, output_limit)
    if sys.platform != "linux":
        yield _NO_NETWORK
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)  # The kernel kills this process when its parent ends.
    if os.getppid() != parent:  # The parent ended before that setting was made.
        os._exit(1)
    # Both ways are tried, because each fails on some systems. `any` gets a list, so that both calls are made.
    if not any([_remove_interfaces(libc), _forbid_sockets(libc)]):
        yield _NO_NETWORK


def _prctl(libc: Any, option: int, value: int, pointer: Any = 0) -> None:
    """Call prctl(2), which changes a setting of this process. Its unused arguments must be 0."""
    third_argument = pointer or ctypes.c_ulong(0)
    libc.prctl(option, ctypes.c_ulong(value), third_argument, ctypes.c_ulong(0), ctypes.c_ulong(0))


def _remove_interfaces(libc: Any) -> bool:
    """Enter a new network namespace, which has no network interfaces; return whether that was possible.

    Without root's rights this needs a new user namespace too.
    """
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # In the new namespace the process keeps its user and group, because libraries ask for the user's
    # name or home folder. The kernel accepts a line in gid_map only after "deny" was written to setgroups.
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    return True


def _forbid_sockets(libc: Any) -> bool:
    """Forbid sockets of any kind with a seccomp filter; return whether that was possible.

    seccomp is the part of the Linux kernel that lets a small program (the filter) decide about each
    system call of a process. Containers that forbid namespaces still allow it.
    """
    if platform.machine() not in _MACHINES:
        return False
    architecture, socket_number = _MACHINES[platform.machine()]
    # Each line: instruction, number of lines to skip if it is true, number if it is false, operand.
    filter_lines = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        # System calls of another architecture are refused, because socket() has another number there.
        (_JUMP_IF_EQUAL, 0, 4, architecture),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 2, 0, _X32_FIRST_NUMBER),  # The system calls of x32 are refused for the same reason.
        (_JUMP_IF_EQUAL, 1, 0, socket_number),
        (_JUMP_IF_EQUAL, 0, 1, _IO_URING_SETUP),  # io_uring can make sockets without socket().
        (_RETURN, 0, 0, _SECCOMP_RET_ERRNO | errno.EACCES),
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
    ]

    class Instruction(ctypes.Structure):
        """`struct sock_filter` of linux/filter.h: one line of the filter. `k` is its operand.

        `jt` and `jf` are the numbers of lines to skip if it is true and false.
        """

        _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))

    class Program(ctypes.Structure):
        """`struct sock_fprog` of linux/filter.h: all lines of the filter."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))

    instructions = (Instruction * len(filter_lines))(*(Instruction(*line) for line in filter_lines))
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)  # Without root the kernel takes a filter only after this.
    program = Program(len(filter_lines), instructions)
    _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))
    try:  # An emulator may accept the filter and not obey it, so the filter is tested.
        socket.socket().close()
    except OSError:
        return True
    return False


def _set_limits(limits: Limits) -> Iterator[str]:
    """Set the limits of time and memory; yield each protection that is not possible here.

    This is done after the imports, so that the time and memory that they take do not count.
    """
    if sys.platform == "win32":
        return
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)  # A process inherits ignored signals from its parent.
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The soft limit sends SIGXCPU, by which the parent knows the reason. If a file's code ignores
    # that signal, the hard limit kills the process one second later.
    used_seconds = int(used.ru_utime + used.ru_stime) + 1  # rounded up
    _lower_limit(resource.RLIMIT_CPU, used_seconds + limits.work, hard_extra=1)
    signal.alarm(limits.clock)  # After this real time the kernel sends SIGALRM, which ends the process.
    try:
        used_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])  # of virtual memory
        _lower_limit(resource.RLIMIT_AS, used_pages * resource.getpagesize() + limits.memory)
    except (OSError, ValueError):
        yield _MEMORY_LIMIT


def _lower_limit(limit_number: int, value: int, *, hard_extra: int = 0) -> None:
    """Lower a limit of the system for this process. A limit that is already lower stays.

    Args:
        limit_number: The number of the limit, as `resource.RLIMIT_CPU`.
        value: The new soft limit.
        hard_extra: How much higher than the soft limit the new hard limit is.
    """
    present_limits = [limit for limit in resource.getrlimit(limit_number) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(limit_number, (min([value, *present_limits]), min([value + hard_extra, *present_limits])))


def _get_file_size_limit() -> int | None:
    """Return the largest size of a file that this process may write; None on Windows, which has no such limit."""
    return None if sys.platform == "win32" else resource.getrlimit(resource.RLIMIT_FSIZE)[0]


if __name__ == "__main__":
    # The first folder of the import path is the folder of this file. Its modules must not be
    # imported in place of other modules of the same name.
    sys.path.pop(0)
    arguments = sys.argv[1:]
    sys.exit(main(arguments[0], arguments[1], arguments[2], int(arguments[3]), Limits(*map(int, arguments[4:]))))
