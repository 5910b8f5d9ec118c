"""Time the README's first commands as a newcomer runs them: each in a fresh clone, with a fresh environment.

    python benchmarks/first_commands.py [--rounds 1] [--tests]

The commands are read from the README. `--tests` also takes the second one, the test suite. The script needs the package
index, and the connection to it is a large part of the time.
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
    """Read the README's lines that make an environment, in order."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("python3 -m venv")]


def time_command(command: str) -> float:
    """Run a command in a fresh clone, without the variables of this project, and return its seconds."""
    left_out = ("PYRAMIDZOO_", "VIRTUAL_ENV")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "-q", str(ROOT), folder], check=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        began = time.perf_counter()
        subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=True)
        return round(time.perf_counter() - began, 1)


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
