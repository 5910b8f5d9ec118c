"""`pyramidzoo tables`: the published tables in all formats."""

from __future__ import annotations

from pathlib import Path

from command_line import RunCommand


def test_tables(run_command: RunCommand) -> None:
    text = run_command("tables", "F1", "--format", "markdown").out
    assert text.startswith("## F1. CIFAR-10 ResNets")
    assert "| 304,378 | resnet20_fattorib.cifar10 | 8.53 | 8.00 to 9.09 |" in text
    rows = run_command("tables", "P1", "P3", "--format", "json").json()
    assert {row["table"] for row in rows} == {"P1", "P3"}


def test_tables_refuses(run_command: RunCommand, tmp_path: Path) -> None:
    for arguments, message in (
        (("Z1",), "no table is called 'Z1'"),
        (("--records", "nowhere"), "--records nowhere is not a folder"),
        (("--records", tmp_path), "there are no records in"),
    ):
        result = run_command("tables", *arguments)
        assert (result.code, result.out) == (2, "")
        assert message in result.err


def test_tables_judge_no_claim_of_a_run_that_is_not_strict(run_command: RunCommand, tmp_path: Path) -> None:
    for options, claim in (([], "none"), (["--channels-last"], "not judged")):
        output = tmp_path / claim
        assert run_command("evaluate", "wrn_16_1.digits", *options, "--output", output).code == 0
        (row,) = run_command("tables", "Z", "--records", output, "--format", "json").json()
        assert row["claim"] == claim
