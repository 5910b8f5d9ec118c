"""The documents show what the program prints, name every command, and have no dead links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import RunCommand

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def test_results_are_up_to_date(run_command: RunCommand) -> None:
    tables = run_command("tables", "--format", "markdown").out
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text.endswith(tables), "run `pyramidzoo tables --format markdown` and put its output into docs/results.md"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"`pyramidzoo {command}" in text


def test_the_readme_counts_right() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(architectures())} names" in text
    assert f"{len(load_manifest().entries)} sets of weights" in text


@pytest.mark.parametrize("folder", [".", "docs", "benchmarks", "pyramidzoo/bundled"])
def test_relative_links_lead_somewhere(folder: str) -> None:
    documents = list((ROOT / folder).glob("*.md"))
    assert documents
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
