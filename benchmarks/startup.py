"""Time how long Python processes take from start to exit that only import a package, or run a short command.

python benchmarks/startup.py [--rounds 11]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from timing import compare_runs, time_in_turns, write_results

SLOW_PACKAGES = "timm torchvision PIL pandas matplotlib"  # Their imports take long.

IMPORTS = {
    "import torch": "import torch",
    "import pyramidzoo": "import pyramidzoo",
    "import torch, pyramidzoo": "import torch, pyramidzoo",
    "pyramidzoo.create_model": "import pyramidzoo; pyramidzoo.create_model",
    "import torchvision": "import torchvision",
    "import timm": "import timm",
}
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "pyramidzoo --help": ["-m", "pyramidzoo", "--help"],
    "pyramidzoo --version": ["-m", "pyramidzoo", "--version"],
    "pyramidzoo list": ["-m", "pyramidzoo", "list"],
    "pyramidzoo evaluate --help": ["-m", "pyramidzoo", "evaluate", "--help"],
}


def make_process(arguments: list[str]) -> Callable[[], object]:
    """Make a function that runs Python with these arguments, and raises an error if Python does."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def check_imported_packages() -> None:
    """Raise an error if one of our statements imports a package that it does not need."""
    for statement, forbidden in (
        (IMPORTS["import pyramidzoo"], f"{SLOW_PACKAGES} torch numpy"),
        (IMPORTS["pyramidzoo.create_model"], SLOW_PACKAGES),
    ):
        # The program exits with the names of the imported packages that are forbidden, or with 0 if there are none.
        program = f"import sys; {statement}; sys.exit(', '.join(set('{forbidden}'.split()) & set(sys.modules)) or 0)"
        make_process(["-c", program])()


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    check_imported_packages()
    imports = time_in_turns({name: make_process(["-c", code]) for name, code in IMPORTS.items()}, rounds=rounds)
    commands = time_in_turns({name: make_process(arguments) for name, arguments in COMMANDS.items()}, rounds=rounds)
    rows = [{"subject": "import", **row} for row in compare_runs(imports, "import torch")]
    rows += [{"subject": "command", **row} for row in compare_runs(commands, "python -c pass")]
    write_results("startup", rows)


if __name__ == "__main__":
    main()
