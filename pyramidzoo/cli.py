"""The command line: run one of the commands in `pyramidzoo.commands`, and turn its outcome into an exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

from pyramidzoo.catalog.manifest import announce_manifest
from pyramidzoo.commands._parser import parse_command_line
from pyramidzoo.errors import PyramidzooError, UnavailableError

_INTERRUPTED = 130  # the exit code that shells give to a program that Ctrl-C stopped


def main(argv: list[str] | None = None) -> int:
    """Run one command. Its data go to standard output. Messages go to standard error.

    Args:
        argv: The arguments of the command line, without the program's name. None takes those of this process.

    Returns:
        The exit code of the command.

    Raises:
        SystemExit: The help or the version was printed (code 0), or the command line is wrong (code 2).
    """
    # Python sets these streams to None if the process was started with the streams closed.
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 (it stays open as long as the process runs)
    if sys.stdout is None:
        print("pyramidzoo: there is no standard output to print to", file=sys.stderr)
        return UnavailableError.exit_code
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A result must not be lost because the terminal cannot show a character such as "±".
        sys.stdout.reconfigure(errors="backslashreplace")
    command = parse_command_line(sys.argv[1:] if argv is None else argv)
    try:
        announce_manifest()
        _interrupt_on_signals()
        code = command()
        print(end="", flush=True)  # If a write fails, the failure must be noticed before the exit code is decided.
        return code
    except PyramidzooError as error:
        print(f"pyramidzoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pyramidzoo: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # The program that reads the output, such as head or less, has ended.
        # Python writes the rest of the output when it exits. The null device prevents a second error at that time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # The system refused something. For example, a file name is too long.
        print(f"pyramidzoo: {UnavailableError.from_os_error(error)}", file=sys.stderr)
        return UnavailableError.exit_code
    except Exception as error:  # noqa: BLE001 (any other error is a bug, and the message asks for a report)
        return _report_bug(error)


def _interrupt_on_signals() -> None:
    """Let the signals SIGTERM and SIGHUP interrupt the command in the same way as Ctrl-C.

    A scheduler that stops the command sends SIGTERM. A terminal that closes sends SIGHUP. By default both end the
    process at once. After an interrupt, the command still deletes its temporary files.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets only the main thread set handlers.
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP.
        signal.signal(number, _raise_keyboard_interrupt)


def _raise_keyboard_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _report_bug(error: Exception) -> int:
    """Print an error that only a bug can cause, with the traceback if PYRAMIDZOO_DEBUG is set. Return the exit code."""
    if os.environ.get("PYRAMIDZOO_DEBUG"):
        import traceback

        traceback.print_exc()
    print(
        f"pyramidzoo: internal error, {type(error).__name__}: {error}; please report it, together with what the same "
        "command prints under PYRAMIDZOO_DEBUG=1",
        file=sys.stderr,
    )
    return PyramidzooError.exit_code
