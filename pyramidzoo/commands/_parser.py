"""The parser of the command line: argparse, with errors that name what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from pyramidzoo import __version__
from pyramidzoo.commands import COMMANDS
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import FORMATS

_PROGRAM = "pyramidzoo"
_DESCRIPTION = "Residual networks with pinned weights, and the evaluation that reproduces their published errors."
_EPILOG = """\
exit codes: 0 ok, 1 internal error, 2 usage, 3 not reproduced (a verdict "changed" or "different"), 4 integrity
(hash, keys, shapes, NaN, a damaged file), 5 unavailable (offline, data missing, disk), 130 interrupted

environment: PYRAMIDZOO_DATA (datasets), PYRAMIDZOO_CACHE (converted weights), PYRAMIDZOO_ORIGINS (folders searched
for weights by content, before any network), PYRAMIDZOO_MANIFEST (another manifest than the zoo's own), HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HUB_DOWNLOAD_TIMEOUT (the Hub)
"""


def parse_command_line(arguments: Sequence[str]) -> Callable[[], int]:
    """Find out which command is asked for, and parse its arguments.

    Only the module of that command is imported.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The command, ready to be called. It returns the exit code.

    Raises:
        SystemExit: `--help` or `--version` was printed (code 0), or the command line is wrong (code 2).
    """
    if not arguments or arguments[0] not in COMMANDS:
        _exit_without_a_command(arguments)
    module = importlib.import_module(f"pyramidzoo.commands.{arguments[0]}")
    parser = CommandParser(
        prog=f"{_PROGRAM} {arguments[0]}", description=_sentence(COMMANDS[arguments[0]]), allow_abbrev=False
    )
    parser.add_argument("--format", choices=FORMATS, default="human", help="how to print data (default: %(default)s)")
    module.add_arguments(parser)
    parsed = parser.parse(arguments[1:])
    return functools.partial(module.run, parsed)


class CommandParser(argparse.ArgumentParser):
    """An argument parser that answers a mistyped option or choice with the one that is most like it."""

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments. Print the usage and an error, and exit with code 2, where they are wrong."""
        # Before argparse parses: an option that it does not know may be the one that it says is missing.
        for option in _long_options(arguments):
            if option not in self._option_string_actions:
                self.error(self._unknown_option(option))
        parsed, unknown = self.parse_known_args(arguments)
        if unknown and unknown[0].startswith("-"):
            self.error(self._unknown_option(unknown[0]))
        if unknown:
            self.error(f"{self._command} has no place for {unknown[0]!r}; `{self.prog} --help` shows what it takes")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the usage of this command and a message, and exit with code 2."""
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{_PROGRAM}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # argparse calls it for each value
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, _unknown_choice(str(value), choices))

    def _unknown_option(self, option: str) -> str:
        hint = did_you_mean(option, self._option_string_actions) or f"`{self.prog} --help` shows all options"
        return f"{self._command} has no option {option}; {hint}"

    @property
    def _command(self) -> str:
        return self.prog.rpartition(" ")[2]


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """Return the question "did you mean NAME?" for the name that is most like a text, or an empty string."""
    nearest = difflib.get_close_matches(text, list(names), n=1)
    return f"did you mean {nearest[0]}?" if nearest else ""


def _exit_without_a_command(arguments: Sequence[str]) -> NoReturn:
    """Print the program's help or its version, or say that no such command is known, and exit."""
    parser = CommandParser(
        prog=_PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    if arguments and not arguments[0].startswith("-"):
        hint = did_you_mean(arguments[0], COMMANDS) or f"`{_PROGRAM} --help` shows all commands"
        parser.error(f"no command is called {arguments[0]!r}; {hint}")
    parser.parse(arguments[:1])  # It exits after --help, --version and an unknown option.
    parser.error(f"name a command; `{_PROGRAM} --help` shows all commands")


def _long_options(arguments: Sequence[str]) -> Iterator[str]:
    """Yield what argparse takes for the names of long options: a text with a space is a value."""
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if name.startswith("--") and " " not in argument:
            yield name


def _unknown_choice(value: str, choices: Sequence[str]) -> str:
    question = did_you_mean(value, choices)
    return f"{value!r} is not a choice; {question + ' ' if question else ''}The choices are {', '.join(choices)}"


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
