"""Rows and facts as text: all formats, and lines that fit a terminal."""

from __future__ import annotations

import json

from pyramidzoo.text_output import render, render_facts


def test_render() -> None:
    rows = [{"name": "a|b", "n": 12345, "list": [1, "x"], "none": None, "flag": True}]
    assert render(rows, "csv") == "name,n,list,none,flag\na|b,12345,1; x,,yes"
    assert render(rows, "markdown").splitlines()[2] == "| a\\|b | 12,345 | 1; x |  | yes |"
    assert render(rows, "human").splitlines() == ["name       n  list  none  flag", "a|b   12,345  1; x        yes"]
    assert json.loads(render(rows, "json")) == rows
    assert render([], "human") == ""


def test_render_cuts_the_widest_columns() -> None:
    rows = [{"name": "n" * 30, "number": 12345, "text": "one, two " * 9, "more": "m" * 40}]
    lines = render(rows, "human", width=90).splitlines()
    assert [len(line) <= 90 for line in lines] == [True, True]
    assert lines[1].startswith(f"{'n' * 30}  12,345  one, two")
    assert lines[1].count("...") == 2
    assert render(rows, "human", width=200) == render(rows, "human")
    assert render(rows, "csv", width=20) == render(rows, "csv")
    assert len(render(rows, "human", width=20).splitlines()[1]) > 20  # names and numbers are never cut


def test_facts() -> None:
    shown = render_facts([("a", "one two three"), ("long", ["x" * 30, "y"]), ("none", None), ("n", 12345)], width=14)
    assert shown.splitlines() == ["a     one two", "      three", f"long  {'x' * 30}", "      y", "n     12,345"]
    assert render_facts([]) == ""
