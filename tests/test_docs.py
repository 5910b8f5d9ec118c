"""What the documents show is what the program prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyramidzoo import cli
from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest

ROOT = Path(__file__).resolve().parents[1]


def test_results_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["tables", "--format", "markdown"])
    shown = capsys.readouterr().out
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text.endswith(shown), "run `pyramidzoo tables --format markdown` and put its output into docs/results.md"


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("list", "info", "fetch", "verify", "convert", "evaluate", "bench", "train", "tables", "publish"):
        assert f"`pyramidzoo {command}" in text


def test_the_readme_counts_right() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{len(architectures())} names" in text
    assert f"{len(load_manifest().entries)} sets of weights" in text


def test_relative_links_lead_somewhere() -> None:
    import re

    for document in [
        path for folder in (".", "docs", "benchmarks", "pyramidzoo/bundled") for path in (ROOT / folder).glob("*.md")
    ]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
