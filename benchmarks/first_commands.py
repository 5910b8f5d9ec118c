"""Time the first commands of the README as a new user runs them: each in a new clone, with a new environment.

    python benchmarks/first_commands.py [--rounds 1] [--tests]

The commands are read from the README. With `--tests` the second command is timed too, which runs the tests. The script
installs packages from the package index, and the connection to it takes a large part of the time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import compare_runs, write_results

ROOT = Path(__file__).resolve().parents[1]


def read_commands() -> list[str]:
    """Read the lines of the README that make a virtual environment, in order."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("python3 -m venv")]


def time_command(command: str) -> float:
    """Run a command in a new clone, without environment variables of this project, and return its seconds."""
    removed_prefixes = ("PYRAMIDZOO_", "VIRTUAL_ENV")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(removed_prefixes)}
        start_time = time.perf_counter()
        subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
        return round(time.perf_counter() - start_time, 1)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tests", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for command in read_commands()[: 2 if args.tests else 1]:
        name = command.split("&&")[-1].strip().removeprefix(".venv/bin/")
        runs = {name: [time_command(command) for _ in range(args.rounds)]}
        rows += [{"subject": "installed and run", **row} for row in compare_runs(runs, name)]
    write_results("first_commands", rows)


if __name__ == "__main__":
    main()
