"""The table of names against the graphs, and both against exact counts taken from the original implementations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import pyramidzoo
from pyramidzoo.architectures import architectures, get_architecture, list_models
from pyramidzoo.errors import UsageError
from pyramidzoo.models import build
from pyramidzoo.models._contract import ImageClassifier
from pyramidzoo.models.pyramidnet import unit_widths

EXPECTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data/expected_graphs.json").read_text())


def on_meta(name: str, **arguments: Any) -> ImageClassifier:
    with torch.device("meta"):
        return build(get_architecture(name), **arguments)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("key", EXPECTED)
def test_counts_are_exact(key: str) -> None:
    expected = EXPECTED[key]
    model = on_meta(expected["constructor"], **expected["arguments"]).eval()
    assert parameters(model) == expected["params"]
    assert model.num_features == expected["feature_dim"]
    if expected["unit_widths"]:
        assert list(model.unit_widths) == expected["unit_widths"]
    size = expected["input_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, expected["arguments"].get("in_chans", 3), size, size, device="meta"))
    assert counter.get_total_flops() == 2 * expected["macs"]  # a multiply and an add each
    if expected["params_100_classes"]:
        assert parameters(on_meta(expected["constructor"], num_classes=100)) == expected["params_100_classes"]


@pytest.mark.parametrize(("depth", "width"), [(16, 1), (16, 2), (40, 1), (40, 2)])
def test_small_wide_resnets_by_formula(depth: int, width: int) -> None:
    total, channels = 3 * 16 * 9, 16
    for stage in range(3):
        out = 16 * width * 2**stage
        for _ in range((depth - 4) // 6):
            total += 2 * channels + channels * out * 9 + 2 * out + out * out * 9
            total += channels * out if channels != out else 0
            channels = out
    total += 2 * channels + 10 * channels + 10
    model = on_meta(f"wrn_{depth}_{width}")
    assert (parameters(model), model.num_features) == (total, 64 * width)


def test_every_row_is_expected_or_has_its_formula() -> None:
    formulas = {"wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"}
    assert set(architectures()) == {row["constructor"] for row in EXPECTED.values()} | formulas


def test_no_two_names_are_one_graph() -> None:
    seen: dict[tuple[str, str], str] = {}
    for row in architectures().values():
        key = (row.builder, repr(sorted(row.arguments.items())))
        assert key not in seen, f"{row.name} is {seen[key]}"
        seen[key] = row.name


@pytest.mark.parametrize("name", list(architectures()))
def test_constructors_say_what_they_are(name: str) -> None:
    constructor = getattr(pyramidzoo, name)
    row = get_architecture(name)
    assert constructor.__name__ == name
    assert row.description in constructor.__doc__
    assert row.source in constructor.__doc__
    assert name in dir(pyramidzoo)


def test_unknown_names_get_near_matches() -> None:
    with pytest.raises(UsageError, match=r"'resnet21'; did you mean resnet20, "):
        get_architecture("resnet21")
    with pytest.raises(UsageError, match="did you mean pyramidnet"):
        pyramidzoo.create_model("pyramidnet_164_a270")
    with pytest.raises(UsageError, match="`pyramidzoo list` shows all names"):
        get_architecture("zzz")


def test_list_models_takes_patterns() -> None:
    assert list_models("wrn_16_*") == ["wrn_16_1", "wrn_16_2", "wrn_16_8"]
    assert list_models() == list(architectures())


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("wrn_16_1", {"depth": 22}, TypeError, "fixes depth"),
        ("wrn_16_1", {"dropout": 0.3}, TypeError, "dropout"),
        ("wrn_16_1", {"drop_rate": 1.0}, ValueError, "drop_rate is 1.0"),
        ("resnet20", {"num_classes": -1}, ValueError, "num_classes is -1"),
        ("resnet20", {"in_chans": 0}, ValueError, "in_chans is 0"),
        ("resnet20", {"weights": True}, TypeError, "not bool"),
    ],
)
def test_arguments_that_do_not_exist_or_fit(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pyramidzoo.create_model(name, **arguments)


@pytest.mark.parametrize(
    ("family", "builder", "depth", "more"),
    [
        ("resnet", "CifarResNet", 21, {}),
        ("preresnet", "CifarPreResNet", 111, {}),
        ("preresnet", "CifarPreResNet", 110 + 1, {"bottleneck": True}),
        ("wide_resnet", "WideResNet", 29, {"width": 1}),
        ("pyramidnet", "CifarPyramidNet", 112, {"alpha": 48}),
        ("pyramidnet", "ImagePyramidNet", 110, {"alpha": 48}),
    ],
)
def test_depths_that_do_not_exist(family: str, builder: str, depth: int, more: dict[str, Any]) -> None:
    module = __import__(f"pyramidzoo.models.{family}", fromlist=[builder])
    with pytest.raises(ValueError, match=f"has no depth {depth}"):
        getattr(module, builder)(depth=depth, **more)


def test_widths_accumulate_before_they_are_rounded() -> None:
    # a tie: k * alpha / units would give 32 at unit 9
    assert unit_widths(16, 31, 18)[8] == 31
    assert unit_widths(16, 48, 54)[-1] == 64
    assert unit_widths(16, 27, 54, multiplicative=True)[-1] == 432
