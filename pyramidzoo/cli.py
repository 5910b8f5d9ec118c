"""The command line: run one of `pyramidzoo.commands`, and end with an exit code for every outcome."""

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
    """Run one command. Data go to stdout, everything else goes to stderr.

    Args:
        argv: The arguments of the command line, without the program's name. By default, those of this process.

    Returns:
        The exit code, which says how the command ended.

    Raises:
        SystemExit: The help or the version was printed (code 0), or the command line is wrong (code 2).
    """
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
        print(end="", flush=True)
        return code
    except PyramidzooError as error:
        print(f"pyramidzoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pyramidzoo: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # The reader of the output (head, less) has read enough and has left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # The system refused something: a name is too long, a folder may not be entered.
        print(f"pyramidzoo: {UnavailableError.from_os_error(error)}", file=sys.stderr)
        return UnavailableError.exit_code
    except Exception as error:  # noqa: BLE001 (any other error is a bug, and the message asks for a report)
        return _report_bug(error)


def _interrupt_on_signals() -> None:
    """End the command as Ctrl-C does, and so clean up, when a scheduler stops it or the terminal closes."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets only the main thread set handlers.
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # Windows has no SIGHUP.
        signal.signal(number, _raise_interrupt)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _report_bug(error: Exception) -> int:
    if os.environ.get("PYRAMIDZOO_DEBUG"):
        import traceback

        traceback.print_exc()
    print(
        f"pyramidzoo: internal error, {type(error).__name__}: {error}; please report it, together with what the same "
        "command prints under PYRAMIDZOO_DEBUG=1",
        file=sys.stderr,
    )
    return PyramidzooError.exit_code
