"""The program itself: help, mistakes in the command line, exit codes, and streams that are closed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import RunCommand
from huggingface_hub import try_to_load_from_cache

from pyramidzoo import __version__, commands
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import HubFile
from pyramidzoo.commands import COMMANDS, tables
from pyramidzoo.weights.cache import write_sidecar
from pyramidzoo.weights.local import find_local_sources


def test_version_and_help(run_command: RunCommand) -> None:
    assert run_command("--version").out == f"pyramidzoo {__version__}\n"
    result = run_command("--help")
    assert result.code == 0
    for command, summary in COMMANDS.items():
        assert re.search(rf"^    {command} +{summary[:30]}", result.out, re.MULTILINE)
    assert "exit codes: 0 ok" in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run_command: RunCommand, command: str) -> None:
    result = run_command(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: pyramidzoo {command} [-h] [--format")
    summary = COMMANDS[command]
    assert f"\n{summary[0].upper()}{summary[1:]}.\n" in result.out


def test_every_module_is_a_command() -> None:
    """Modules whose names begin with an underscore are shared by commands, and all others are commands."""
    folder = Path(commands.__file__).parent
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == sorted(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        ((), "", "name a command"),
        (("evalute",), "", "no command is called 'evalute'; did you mean evaluate?"),
        (("frobnicate",), "", "no command is called 'frobnicate'; `pyramidzoo --help`"),
        (("--hlep",), "", "no option --hlep; did you mean --help?"),
        (
            ("evaluate", "--bacth-size", "3"),
            "evaluate",
            "no option --bacth-size; did you mean --batch-size?",
        ),
        (("evaluate", "--bacth-size=3"), "evaluate", "did you mean --batch-size?"),
        (("evaluate", "--batch", "3"), "evaluate", "did you mean --batch-size?"),  # no abbreviations
        (("list", "--qqq"), "list", "list has no option --qqq; `pyramidzoo list --help`"),
        (("list", "-x"), "list", "list has no option -x"),
        (("info", "resnet20", "resnet32"), "info", "info accepts no argument 'resnet32' here"),
        (("evaluate", "--precision", "fp23"), "evaluate", "'fp23' is not a choice; did you mean fp32?"),
        (("list", "--format", "jsn"), "list", "did you mean json? The choices are human, json, csv, markdown"),
        (("list", "--format", "qqq"), "list", "'qqq' is not a choice; The choices are human"),
        # what is mistyped matters more than what is then missing
        (("convert", "in.pth", "--datset", "svhn", "--output", "x.safetensors"), "convert", "did you mean --dataset?"),
        (("convert", "in.pth", "--output", "x.safetensors"), "convert", "required: --dataset"),
        (("fetch",), "fetch", "required: WEIGHTS"),
        (("evaluate", "--batch-size", "many"), "evaluate", "argument -b/--batch-size: invalid int value: 'many'"),
    ],
)
def test_mistakes_in_the_command_line(
    run_command: RunCommand, arguments: tuple[str, ...], usage: str, message: str
) -> None:
    """The usage is that of the command, and the message names what was probably meant."""
    result = run_command(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"usage: pyramidzoo {usage}".rstrip() + " [-h]")
    assert message in result.err.splitlines()[-1]


def test_values_that_look_like_options(run_command: RunCommand) -> None:
    assert run_command("list", "--", "--weights").err.startswith("pyramidzoo: nothing matches '--weights'")
    assert run_command("list", "--family", "no option").err.startswith("pyramidzoo: no family is called 'no option'")
    mean = run_command("convert", "in.pth", "--dataset", "cifar10", "--output", "x.safetensors", "--mean", "-0.5")
    assert "--mean and --std belong together" in mean.err


HEAVY_LIBRARIES = {"torch", "torchvision", "timm", "numpy", "huggingface_hub", "safetensors"}
LIST_BY_FILTERS = "list --weights --format json --local --dataset digits --origin *"


def test_help_and_names_need_no_heavy_libraries() -> None:
    """One process runs all of these commands, and then looks at what was imported."""
    lines = ["--help", *(f"{command} --help" for command in COMMANDS), "list", LIST_BY_FILTERS, "info wrn_16_1.digits"]
    program = f"""
import sys
from pyramidzoo.cli import main
for line in {lines!r}:
    try:
        code = main(line.split())
    except SystemExit as exit:
        code = exit.code
    assert code == 0, line
sys.exit(", ".join({HEAVY_LIBRARIES!r} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", ["--help", "evaluate --help", "list --weights"])
def test_answers_come_at_once(line: str) -> None:
    """They take less than a person notices, beyond the start of Python itself."""

    def measure_seconds(*arguments: str) -> float:
        """Return the least processor time of several runs."""
        runs = []
        for _ in range(5):
            before = os.times()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            user, system = after.children_user - before.children_user, after.children_system - before.children_system
            runs.append(user + system)
        return min(runs)

    # It takes 0.08 s where the bytecode is compiled.
    assert measure_seconds("-m", "pyramidzoo", *line.split()) - measure_seconds("-c", "pass") < 0.3


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, pyramidzoo; assert 'torch' not in sys.modules;"
        "pyramidzoo.create_model('resnet20'); loaded = set(sys.modules);"
        "assert not {'timm', 'torchvision', 'pyramidzoo.models.pyramidnet', 'pyramidzoo.models.wide_resnet'} & loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize(
    "variables",
    [{"HF_HUB_CACHE": "{}/x"}, {"HF_HOME": "{}/x"}, {"XDG_CACHE_HOME": "{}/x"}, {"HOME": "{}"}, {"HF_HOME": "~/y"}],
)
def test_the_hubs_cache_is_where_its_client_says(variables: dict[str, str], tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_", "PYRAMIDZOO"))}
    environment |= {name: value.format(tmp_path) for name, value in variables.items()}
    program = (
        "from pyramidzoo.weights.local import hub_cache_dir; found = hub_cache_dir();"
        "from huggingface_hub.constants import HF_HUB_CACHE;"
        "assert str(found) == str(hub_cache_dir()) == HF_HUB_CACHE, (found, HF_HUB_CACHE)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_files_of_the_hub_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = HubFile("a/b", "0" * 40, "model.safetensors", "0" * 64, None)
    entry = dataclasses.replace(load_manifest().find("wrn_16_1.digits"), bundled=None, hub=hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_local_sources([entry]) == {}
    folder = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert find_local_sources([entry]) == {entry.id: "hub"}
    assert try_to_load_from_cache(
        "a/b", "model.safetensors", revision="0" * 40, cache_dir=tmp_path
    )  # its client agrees
    for other in (dataclasses.replace(hub, revision="1" * 40), dataclasses.replace(hub, revision=None)):
        assert find_local_sources([dataclasses.replace(entry, hub=other)]) == {}
    # what is not pinned is what was noted, and what nobody noted nothing vouches for
    noted = dataclasses.replace(entry, hub=dataclasses.replace(hub, revision=None, sha256=None))
    assert noted.hub
    assert find_local_sources([dataclasses.replace(entry, hub=dataclasses.replace(hub, sha256=None))]) == {}
    write_sidecar(noted, {"url": noted.hub.url, "source_sha256": "0" * 64, "commit": "0" * 40}, has_published_hash=True)
    assert find_local_sources([noted]) == {entry.id: "hub"}


def test_interrupts_and_bugs_have_their_codes(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_interrupt(args: object) -> int:
        raise KeyboardInterrupt

    def terminate_process(args: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does
        return 0

    def raise_bug(args: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tables, "run", raise_interrupt)
    assert run_command("tables").code == 130
    monkeypatch.setattr(tables, "run", terminate_process)
    assert run_command("tables").code == 130
    monkeypatch.setattr(tables, "run", raise_bug)
    result = run_command("tables")
    assert (result.code, "internal error, RuntimeError: a bug" in result.err) == (1, True)
    assert "Traceback" not in result.err


def test_verdicts_survive_a_reader_that_leaves_early(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "pyramidzoo", "evaluate", "--output", str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.communicate()
    assert process.returncode == 0
    assert len(list(tmp_path.rglob("record.json"))) == 2


@pytest.mark.parametrize(("closing", "code"), [("2>&-", 0), (">&-", 5)])
def test_closed_streams(closing: str, code: int) -> None:
    command = f"{sys.executable} -m pyramidzoo evaluate wrn_16_1.digits --format json {closing}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode == code
    if code == 0:
        assert json.loads(result.stdout)["failures"] == []
    else:
        assert "no standard output" in result.stderr


def test_characters_that_the_terminal_cannot_show_are_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-m", "pyramidzoo", "tables", "H1"]
    result = subprocess.run(program, capture_output=True, text=True, env=environment, check=True)
    assert "\\xb1" in result.stdout  # the sign ±


def test_paths_as_people_write_them(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_command("evaluate", "wrn_16_1.digits", "--output=~/r").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    empty = run_command("evaluate", "wrn_16_1.digits", "--output", "")
    assert (empty.code, "the path is empty" in empty.err) == (2, True)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = [sys.executable, "-m", "pyramidzoo", "list", "--format", "json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)
