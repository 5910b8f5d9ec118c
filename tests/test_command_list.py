"""`pyramidzoo list`: what it lists, its filters, and why a list is empty."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import RunCommand

from pyramidzoo.catalog.architectures import architectures, get_architecture, list_models
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.weights.cache import cache_paths


def list_names(run_command: RunCommand, *arguments: str) -> list[str]:
    """Return the first column of a list."""
    rows = run_command("list", *arguments, "--format", "json").json()
    return [next(iter(row.values())) for row in rows]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_list_in_formats_for_programs(run_command: RunCommand, format: str) -> None:
    text = run_command("list", "--format", format).out
    rows = json.loads(text) if format == "json" else list(csv.DictReader(io.StringIO(text)))
    assert [row["architecture"] for row in rows] == list(architectures())


def test_list_takes_patterns(run_command: RunCommand) -> None:
    assert list_names(run_command, "wrn_16_*") == list_models("wrn_16_*")
    assert sorted(list_names(run_command, "--weights")) == sorted(load_manifest().entries)
    ids = list_names(run_command, "--weights", "wrn_16*")
    assert {name.partition(".")[0] for name in ids} <= set(list_models("wrn_16*"))
    assert list_names(run_command, "wrn_16_1.cifar10_ferles") == ["wrn_16_1.cifar10_ferles"]
    result = run_command("list", "resnet21")
    assert (result.code, result.out) == (2, "")
    assert "did you mean resnet2" in result.err


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (("--family", "wide_resnet"), lambda e: get_architecture(e.architecture).family == "wide_resnet"),
        (("--dataset", "cifar100"), lambda e: e.dataset == "cifar100"),
        (("--license", "MIT"), lambda e: e.license.weights == "MIT"),
        (("--license", "bsd*"), lambda e: (e.license.weights or "").startswith("BSD")),
        (("--license", "unknown"), lambda e: e.license.weights is None),
        (("--license", "redistributable"), lambda e: e.license.redistributable),
        (("--origin", "akamaster"), lambda e: e.id.endswith("_akamaster")),
        (("--origin", "fattorib"), lambda e: "_fattorib." in e.id),  # held by the architecture's name
        (("--origin", "osmr/imgclsmob"), lambda e: e.origin and "/osmr/imgclsmob/" in e.origin.url),
        (("--origin", "timm/*"), lambda e: e.hub and e.hub.repo_id.startswith("timm/")),
        (("--local",), lambda e: e.bundled),
        (
            ("--dataset", "cifar10", "--license", "MIT", "--origin", "pytorchcv", "--family", "pyramidnet"),
            lambda e: e.id.startswith("pyramidnet") and e.id.endswith(".cifar10_pytorchcv"),
        ),
    ],
)
def test_list_filters(run_command: RunCommand, filters: tuple[str, ...], fits: Callable[[WeightsEntry], Any]) -> None:
    """`--weights` lists the weights that fit. Without it, the architectures that have such weights are listed."""
    expected = {entry.id for entry in load_manifest().entries.values() if fits(entry)}
    assert expected
    assert set(list_names(run_command, "--weights", *filters)) == expected
    rows = run_command("list", *filters, "--format", "json").json()
    if filters == ("--family", "wide_resnet"):  # The only filter that does not depend on weights.
        names = [name for name, row in architectures().items() if row.family == "wide_resnet"]
        assert [row["architecture"] for row in rows] == names
    else:
        assert {f"{row['architecture']}.{tag}" for row in rows for tag in row["weights"]} == expected
    narrowed = {weights_id for weights_id in expected if weights_id.startswith("resnet")}
    if narrowed:
        assert set(list_names(run_command, "resnet*", "--weights", *filters)) == narrowed


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (("--family", "resnets"), "no family is called 'resnets'; did you mean resnet"),
        (("--family", "xxxx"), "the families are densenet, preresnet, "),
        (("--dataset", "cifar11"), "no dataset is called 'cifar11'; did you mean cifar10"),
        (("--license", "GPL-3.0"), "no license is called 'GPL-3.0'"),
        (("--license", "GPL-3.0"), "(or redistributable)"),
        (("--origin", "akamastr"), "no origin is called 'akamastr'; did you mean akamaster?"),
        (("vgg*", "--family", "pyramidnet"), "nothing matches 'vgg*' and --family pyramidnet at the same time"),
        (("--family", "vgg", "--dataset", "digits"), "--family vgg and --dataset digits at the same time"),
        (("pyramidnet*", "--local"), "nothing matches 'pyramidnet*' and --local at the same time"),
        (("--weights", "preresnet110_a"), "preresnet110_a has no weights in the manifest"),
    ],
)
def test_list_explains_an_empty_list(run_command: RunCommand, filters: tuple[str, ...], message: str) -> None:
    result = run_command("list", *filters)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize("arguments", [(), ("--weights",), ("--local",), ("--weights", "resnet*")])
def test_lists_fit_a_terminal(
    run_command: RunCommand, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = run_command("list", *arguments).out.splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1:]] == list_names(run_command, *arguments)  # Names are never cut.
    monkeypatch.setenv("COLUMNS", "300")
    assert "..." not in run_command("list", *arguments).out


def test_list_counts_the_weights_of_each_dataset(run_command: RunCommand) -> None:
    tags = load_manifest().list_tags("resnet50")
    number = sum(tag.partition("_")[0] == "imagenet1k" for tag in tags)
    assert number > 1
    assert re.search(rf"^resnet50 +.*imagenet1k \({number}\)", run_command("list", "resnet50").out, re.MULTILINE)


def test_list_shows_which_weights_are_here(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of files are enough: nothing is hashed, so empty files count too."""

    def places_by_id() -> dict[str, str]:
        rows = run_command("list", "--weights", "--format", "json").json()
        return {row["weights"]: row["here"] for row in rows if row["here"]}

    bundled = {entry.id: "bundled" for entry in load_manifest().entries.values() if entry.bundled}
    assert places_by_id() == bundled
    for entry in (load_manifest().find("wrn_16_1.cifar10_ferles"), load_manifest().find("wrn_28_10.cifar10")):
        path = cache_paths(entry)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert places_by_id() == bundled | {"wrn_16_1.cifar10_ferles": "cache", "wrn_28_10.cifar10_pytorchcv": "cache"}
    assert set(list_names(run_command, "--local", "wrn_*")) == {"wrn_16_1", "wrn_28_10"}
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "nowhere"))
    assert places_by_id() == bundled
