"""The command line: one parser, the commands of `pyramidzoo.commands`, and an exit code for every outcome."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
import threading

from pyramidzoo import __version__
from pyramidzoo.catalog.manifest import announce_manifest
from pyramidzoo.commands import COMMANDS
from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.text_output import FORMATS

_EPILOG = """\
exit codes: 0 ok, 1 internal error, 2 usage, 3 not reproduced (a verdict "changed" or "different"), 4 integrity
(hash, keys, shapes, NaN, a damaged file), 5 unavailable (offline, data missing, disk), 130 interrupted

environment: PYRAMIDZOO_DATA (data sets), PYRAMIDZOO_CACHE (converted weights), PYRAMIDZOO_ORIGINS (folders searched
for weights by content, before any network), PYRAMIDZOO_MANIFEST (another manifest than the zoo's own), HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HUB_DOWNLOAD_TIMEOUT (the Hub)
"""


def build_parser(wanted: str | None) -> argparse.ArgumentParser:
    """Build the parser of the main command, with the options of the one command that is wanted."""
    parser = argparse.ArgumentParser(
        prog="pyramidzoo",
        description="Residual networks with pinned weights, and the evaluation that reproduces their published errors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyramidzoo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False)
        if name != wanted:
            continue
        module = importlib.import_module(f"pyramidzoo.commands.{name}")
        command.set_defaults(run=module.run)
        command.add_argument(
            "--format", choices=FORMATS, default="human", help="how to print data (default: %(default)s)"
        )
        module.add_arguments(command)
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code says how it ended. Data go to stdout, everything else to stderr."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 (closed by whoever started us)
    if sys.stdout is None:
        print("pyramidzoo: there is no standard output to print to", file=sys.stderr)
        return 5
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without "±" is no reason to lose a result
    arguments = sys.argv[1:] if argv is None else argv
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    args = build_parser(wanted).parse_args(arguments)
    try:
        announce_manifest()
        if threading.current_thread() is threading.main_thread():
            # a scheduler's ways to stop a job, and a terminal's: clean up as for Ctrl-C
            for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                signal.signal(number, _interrupt)
        code: int = args.run(args)
        print(end="", flush=True)
        return code
    except PyramidzooError as error:
        print(f"pyramidzoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pyramidzoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # whatever the system refuses, a name too long or a folder that may not be entered
        print(f"pyramidzoo: {UnavailableError.of(error)}", file=sys.stderr)
        return UnavailableError.exit_code
    except Exception as error:  # noqa: BLE001 (a traceback is a bug; its text is kept for the report)
        if os.environ.get("PYRAMIDZOO_DEBUG"):
            import traceback

            traceback.print_exc()
        print(
            f"pyramidzoo: internal error, {type(error).__name__}: {error}; please report it with what the same command "
            "prints under PYRAMIDZOO_DEBUG=1",
            file=sys.stderr,
        )
        return 1
