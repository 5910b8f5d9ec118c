"""The table of names against the graphs, and both against exact counts taken from the original implementations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

import pyramidzoo
from pyramidzoo.catalog.architectures import architectures, get_architecture, list_models
from pyramidzoo.errors import UsageError
from pyramidzoo.files import package_path
from pyramidzoo.models import build
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.models.pyramidnet import compute_block_widths

TARGETS: dict[str, Any] = json.loads(package_path("catalog/targets.json").read_text(encoding="utf-8"))
EXPECTED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data/expected_graphs.json").read_text())


def on_meta(name: str, **arguments: Any) -> ImageClassifier:
    with torch.device("meta"):
        return build(get_architecture(name), **arguments)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.every_network
@pytest.mark.parametrize("key", EXPECTED)
def test_counts_are_exact(key: str) -> None:
    expected = EXPECTED[key]
    model = on_meta(expected["constructor"], **expected["arguments"]).eval()
    assert parameters(model) == expected["params"]
    if "macs" not in expected:
        return  # a peer's own class was counted, nothing more
    assert model.num_features == expected["feature_dim"]
    if expected["unit_widths"]:
        widths: Any = model.block_widths
        assert list(widths) == expected["unit_widths"]
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


def conv3x3(in_channels: int, out_channels: int, *, bias: int = 0) -> int:
    """With its BN."""
    return 9 * in_channels * out_channels + (2 + bias) * out_channels


def resnet_a(n: int) -> int:
    units = sum(2 * n * conv3x3(w, w) for w in (16, 32, 64)) - 9 * (32 * 16 + 64 * 32)  # two of them enter narrower
    return conv3x3(3, 16) + units + 650


def densenet(layers: int, k: int) -> int:
    """Plain: 16 stem channels, no compression, no bottlenecks."""
    total, channels = 9 * 3 * 16, 16
    for block in range(3):
        for _ in range(layers):
            total, channels = total + 2 * channels + 9 * channels * k, channels + k
        total += 2 * channels + (channels * channels if block < 2 else 11 * channels - channels + 10)
    return total


def vgg(stages: tuple[int, ...], *hidden: int) -> int:
    total, channels = 0, 3
    for count, width in zip(stages, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            total, channels = total + conv3x3(channels, width, bias=1), width
    return total + sum((a + 1) * b for a, b in itertools.pairwise((512, *hidden, 10)))


FORMULAS = {
    "resnet110": resnet_a(18),  # to check the formula
    "resnet1202": resnet_a(200),
    "preresnet164_bearpaw": 1_703_258,  # the shortcuts of preresnet164, from another place
    "densenet_100_k12": densenet(32, 12),  # likewise
    "densenet_40_k12": densenet(12, 12),
    "vgg15_bn": vgg((2, 2, 3, 3, 3)),  # likewise
    "vgg19_bn_bearpaw": vgg((2, 2, 4, 4, 4)),
    "vgg11_bn_chenyaofo": vgg((1, 1, 2, 2, 2), 512, 512),
    "vgg13_bn_chenyaofo": vgg((2, 2, 2, 2, 2), 512, 512),
    "vgg16_bn_chenyaofo": vgg((2, 2, 3, 3, 3), 512, 512),
    "vgg19_bn_chenyaofo": vgg((2, 2, 4, 4, 4), 512, 512),
}
TWINS: dict[str, Callable[[], torch.nn.Module]] = {
    **{
        name: getattr(torchvision.models, name)
        for name in ("resnet18", "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext101_32x8d", "densenet161")
    },
    **{name: partial(timm.create_model, name) for name in ("seresnet152", "seresnext101_32x8d", "senet154")},
}


@pytest.mark.parametrize("name", FORMULAS)
def test_counts_by_formula(name: str) -> None:
    assert parameters(on_meta(name)) == FORMULAS[name]


@pytest.mark.parametrize("name", TWINS)
def test_counts_and_names_of_twins(name: str) -> None:
    with torch.device("meta"):
        theirs = TWINS[name]().state_dict()
    ours = on_meta(name).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


def test_every_row_is_counted() -> None:
    wide = {"wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"}
    counted = {row["constructor"] for row in EXPECTED.values()} | set(FORMULAS) | set(TWINS) | wide
    assert set(architectures()) == counted


@pytest.mark.parametrize("table", [table["id"] for table in TARGETS["tables"]])
def test_every_published_row_has_its_network(table: str) -> None:
    """Or a written reason: WRN-34-2 is the backbone of a detector, of which only the backbone was published."""
    rows = [row for row in TARGETS["targets"] if row["table"] == table]
    assert rows
    for row in rows:
        if row["architecture"] is None:
            assert (row["network"], row["dataset"]) == ("wrn_34_2_imagenet", "coco_val5k")
            assert "detector is not in the repository" in row["variant"]
            continue
        expected = [e for e in EXPECTED.values() if (e["constructor"], e["arguments"]) == fixed(row)]
        assert expected, f"{row['label']}: {row['architecture']} has no exact count"
        model = on_meta(row["architecture"], **row["arguments"])
        assert parameters(model) in {e["params"] for e in expected}, row["label"]


def fixed(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return row["architecture"], row["arguments"]


def test_no_two_names_are_one_graph() -> None:
    seen: dict[tuple[str, str], str] = {}
    for row in architectures().values():
        key = (row.class_name, repr(sorted(row.arguments.items())))
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
    with pytest.raises(UsageError, match=r"'resnet_20'; did you mean resnet20, "):
        get_architecture("resnet_20")
    with pytest.raises(UsageError, match="did you mean pyramidnet"):
        pyramidzoo.create_model("pyramidnet_164_a270")
    with pytest.raises(UsageError, match="`pyramidzoo list` shows all names"):
        get_architecture("zzz")


def test_list_models_takes_patterns() -> None:
    assert list_models("wrn_16_*") == ["wrn_16_1", "wrn_16_2", "wrn_16_8", "wrn_16_10"]
    assert list_models() == list(architectures())


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("wrn_16_1", {"depth": 22}, TypeError, "fixes depth"),
        ("wrn_16_1", {"dropout": 0.3}, TypeError, "dropout"),
        ("wrn_16_1", {"drop_rate": 1.0}, ValueError, "drop_rate is 1.0"),
        ("resnet20", {"shortcut": "B"}, TypeError, "resnet20 fixes shortcut: another value is another architecture"),
        ("shakeshake26_2x32d", {"variant": "hysts"}, TypeError, "fixes variant"),
        ("shakeshake26_2x32d", {"level": "pixel"}, ValueError, "level is 'pixel'; it must be one of image, batch"),
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
    ("family", "class_name", "depth", "more"),
    [
        ("resnet", "CifarResNet", 21, {}),
        ("preresnet", "CifarPreResNet", 111, {}),
        ("preresnet", "CifarBottleneckPreResNet", 110 + 1, {}),
        ("preresnet", "ImagePreResNet", 51, {}),
        ("resnet", "ImageResNet", 34, {"bottleneck": True}),
        ("densenet", "CifarDenseNet", 42, {"growth_rate": 12}),
        ("densenet", "ImageDenseNet", 100, {"growth_rate": 12}),
        ("resnext", "CifarResNeXt", 30, {"cardinality": 1, "base_width": 1}),
        ("shake_shake", "CifarShakeShake", 27, {"width": 32}),
        ("senet", "CifarSEResNet", 21, {}),
        ("vgg", "ImageVgg", 15, {}),
        ("wide_resnet", "WideResNet", 29, {"width": 1}),
        ("pyramidnet", "CifarPyramidNet", 112, {"alpha": 48}),
        ("pyramidnet", "ImagePyramidNet", 110, {"alpha": 48}),
    ],
)
def test_depths_that_do_not_exist(family: str, class_name: str, depth: int, more: dict[str, Any]) -> None:
    module = __import__(f"pyramidzoo.models.{family}", fromlist=[class_name])
    with pytest.raises(ValueError, match=f"has no depth {depth}"):
        getattr(module, class_name)(depth=depth, **more)


@pytest.mark.parametrize(
    ("family", "class_name", "arguments"),
    [
        ("resnet", "CifarResNet", {"depth": 20, "shortcut": "Z"}),
        ("resnet", "CifarResNet", {"depth": 20, "transition": "middle"}),
        ("resnet", "ImageResNet", {"depth": 50, "bottleneck": True, "stride_in": "5x5"}),
        ("preresnet", "CifarPreResNet", {"depth": 20, "shortcut": "Z"}),
        ("preresnet", "CifarBottleneckPreResNet", {"depth": 20, "stride_in": "5x5"}),
        ("shake_shake", "CifarShakeShake", {"depth": 26, "width": 32, "variant": "mine"}),
    ],
)
def test_choices_that_nobody_described(family: str, class_name: str, arguments: dict[str, Any]) -> None:
    module = __import__(f"pyramidzoo.models.{family}", fromlist=[class_name])
    with pytest.raises(ValueError, match="it must be one of"):
        getattr(module, class_name)(**arguments)


def test_widths_accumulate_before_they_are_rounded() -> None:
    # a tie: k * alpha / units would give 32 at unit 9
    assert compute_block_widths(16, 31, 18)[8] == 31
    assert compute_block_widths(16, 48, 54)[-1] == 64
    assert compute_block_widths(16, 27, 54, multiplicative=True)[-1] == 432
