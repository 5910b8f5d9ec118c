"""Parse the command line with argparse. If the user mistyped a name, the error message suggests a similar one."""

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

environment: PYRAMIDZOO_DATA (the folder of the datasets), PYRAMIDZOO_CACHE (the folder of converted weights),
PYRAMIDZOO_ORIGINS (folders with published checkpoints, which are searched before anything is downloaded),
PYRAMIDZOO_MANIFEST (a manifest that is used instead of the package's), HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN,
HF_HUB_DOWNLOAD_TIMEOUT (settings of the Hub's client)
"""


def parse_command_line(arguments: Sequence[str]) -> Callable[[], int]:
    """Find the command that the user has requested, and parse its arguments.

    Only the module of this command is imported.

    Args:
        arguments: The command line without the program's name.

    Returns:
        A function without parameters that runs the command and returns the exit code.

    Raises:
        SystemExit: `--help` or `--version` was printed (code 0), or the command line is wrong (code 2).
    """
    if not arguments or arguments[0] not in COMMANDS:
        _exit_without_a_command(arguments)
    module = importlib.import_module(f"pyramidzoo.commands.{arguments[0]}")
    parser = CommandParser(
        prog=f"{_PROGRAM} {arguments[0]}", description=_make_sentence(COMMANDS[arguments[0]]), allow_abbrev=False
    )
    parser.add_argument("--format", choices=FORMATS, default="human", help="how to print data (default: %(default)s)")
    module.add_arguments(parser)
    parsed = parser.parse(arguments[1:])
    return functools.partial(module.run, parsed)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors suggest a similar option or value if the user has mistyped one."""

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments. If they are wrong, print the usage and a message, and exit with code 2."""
        # Unknown options are looked for before argparse parses. If the user mistyped a required option, argparse would
        # only say that the required option is missing.
        for option in _iterate_long_options(arguments):
            if option not in self._option_string_actions:
                self.error(self._explain_unknown_option(option))
        parsed, unknown_arguments = self.parse_known_args(arguments)
        if unknown_arguments and unknown_arguments[0].startswith("-"):
            self.error(self._explain_unknown_option(unknown_arguments[0]))
        if unknown_arguments:
            self.error(
                f"{self._command_name} accepts no argument {unknown_arguments[0]!r} here; `{self.prog} --help` shows "
                "all arguments"
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the usage of this command and a message, and exit with code 2."""
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{_PROGRAM}: {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise an error if an option has a value that is not one of its choices. argparse calls this for each value.

        It replaces argparse's method of this name, whose message does not suggest a similar choice.
        """
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, _explain_unknown_choice(str(value), choices))

    def _explain_unknown_option(self, option: str) -> str:
        """Return the message for an option that the command does not have."""
        hint = suggest_similar_name(option, self._option_string_actions) or f"`{self.prog} --help` shows all options"
        return f"{self._command_name} has no option {option}; {hint}"

    @property
    def _command_name(self) -> str:
        """The name of the command, without the name of the program."""
        return self.prog.rpartition(" ")[2]


def suggest_similar_name(text: str, names: Iterable[str]) -> str:
    """Return the question "did you mean NAME?" with the most similar name. Return "" if no name is similar."""
    similar_names = difflib.get_close_matches(text, list(names), n=1)
    return f"did you mean {similar_names[0]}?" if similar_names else ""


def _exit_without_a_command(arguments: Sequence[str]) -> NoReturn:
    """Handle a command line that does not begin with a command, and exit.

    `--help` and `--version` are printed. For everything else a message is printed.
    """
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
        hint = suggest_similar_name(arguments[0], COMMANDS) or f"`{_PROGRAM} --help` shows all commands"
        parser.error(f"no command is called {arguments[0]!r}; {hint}")
    parser.parse(arguments[:1])  # After --help, --version and an unknown option, this call exits.
    parser.error(f"name a command; `{_PROGRAM} --help` shows all commands")


def _iterate_long_options(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the names of the long options among arguments, such as "--format" for "--format=json".

    These are the arguments that argparse takes for options: argparse takes a text with a space for a value, and all
    texts after "--" too.
    """
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if name.startswith("--") and " " not in argument:
            yield name


def _explain_unknown_choice(value: str, choices: Sequence[str]) -> str:
    """Return the message for a value that is not one of an option's choices."""
    question = suggest_similar_name(value, choices)
    return f"{value!r} is not a choice; {question + ' ' if question else ''}The choices are {', '.join(choices)}"


def _make_sentence(summary: str) -> str:
    """Begin a text with a capital letter, and end it with a full stop."""
    return f"{summary[0].upper()}{summary[1:]}."
