"""The model card: its metadata, its text, and the examples in it."""

from __future__ import annotations

import ast
import dataclasses
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from publishing import IGNORE_CLIENT_WARNING

import pyramidzoo
from pyramidzoo.catalog import weights_entry
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.data.transforms import eval_transform
from pyramidzoo.evaluation.metrics import wilson_interval
from pyramidzoo.hub.model_card import PublishedFile, describe_preprocessing, make_license_fields, render_card
from pyramidzoo.hub.prepare import CARD_NAME, prepare_folder
from pyramidzoo.hub.upload import upload_folder
from pyramidzoo.models import build

PUBLISHED_FILE = PublishedFile("lab/net", 1, None, "a" * 64, 1, "b" * 64, None)


@pytest.fixture
def card(lab_entry: WeightsEntry, tmp_path: Path) -> ModelCard:
    return ModelCard.load(prepare_folder(lab_entry, tmp_path / "made", "lab/net").folder / CARD_NAME)


def test_the_metadata(card: ModelCard) -> None:
    data = card.data
    assert isinstance(data, ModelCardData)
    assert data.eval_results is not None
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "pyramidzoo", "image-classification")
    assert data.datasets == ["uoft-cs/cifar10"]
    top1, top5 = data.eval_results
    assert (top1.metric_value, top1.metric_args["correct"], top1.metric_args["images"]) == (0.9173, 9173, 10_000)
    assert (top5.metric_value, top5.metric_args["correct"]) == (0.9966, 9966)
    place = (top1.dataset_type, top1.dataset_split, top1.task_type)
    assert place == ("uoft-cs/cifar10", "test", "image-classification")


def test_the_measured_errors(card: ModelCard) -> None:
    low, high = wilson_interval(827, 10_000)
    assert f"|   827 |      8.27 % | {low:.2f} to {high:.2f} % |" in card.text
    assert "8.248 % (mean of batch errors, batch size 128)" in card.text
    assert re.search(r"\| somebody +\| +8\.27 % \| error +\| +8\.270 % \| matched \|", card.text)
    assert "Published in their README" in card.text


def test_the_network_and_its_images(card: ModelCard) -> None:
    parameters = sum(parameter.numel() for parameter in build(get_architecture("wrn_16_1")).parameters())
    assert f"{parameters:,} parameters" in card.text
    assert "174,778" not in card.text  # the parameters of the network with one input channel
    for part in ("RGB images of 32 x 32 pixels", "for 3 epochs", "0.4"):
        assert part in card.text


def test_the_origin_and_the_licenses(card: ModelCard, lab_entry: WeightsEntry) -> None:
    assert lab_entry.origin is not None
    assert lab_entry.origin.hash is not None
    for part in (lab_entry.origin.url, lab_entry.origin.hash.value, "License:** MIT; ", "Apache-2.0"):
        assert part in card.text


def test_no_section_is_empty_and_tables_are_aligned(card: ModelCard) -> None:
    assert not re.search(r"^#.*\n+(#|\Z)", card.text, re.MULTILINE)
    assert "None" not in card.text
    lengths_by_columns: dict[int, set[int]] = {}
    for line in card.text.splitlines():
        if line.startswith("|"):
            lengths_by_columns.setdefault(line.count("|"), set()).add(len(line))
    assert len(lengths_by_columns) == 3
    assert all(len(lengths) == 1 for lengths in lengths_by_columns.values())


@pytest.mark.server
@IGNORE_CLIENT_WARNING
@pytest.mark.usefixtures("hub", "owner")
def test_the_examples_run(lab_entry: WeightsEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare_folder(lab_entry, tmp_path / "made", "lab/net")
    upload_folder(prepared)
    examples = re.findall(r"```python\n(.*?)```", (prepared.folder / CARD_NAME).read_text("utf-8"), re.DOTALL)
    assert len(examples) == 3
    # torch.hub takes this checkout instead of the repository on GitHub.
    load = torch.hub.load
    checkout = Path(pyramidzoo.__file__).parents[1]
    monkeypatch.setattr(torch.hub, "load", lambda repo, name, **kw: load(checkout, name, source="local", **kw))
    expected = pyramidzoo.create_model("wrn_16_1", weights="cifar10_lab").eval()
    images = torch.randn(2, 3, 32, 32)
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    for example in examples:
        ast.parse(example)
        names: dict[str, Any] = {}
        exec(example, names)
        assert torch.equal(names["model"](images), expected(images))
        if "transform" in names:
            assert torch.equal(names["transform"](image), eval_transform(lab_entry.preprocessing)(image))


def test_claims_of_another_protocol_and_claims_that_differ(lab_entry: WeightsEntry) -> None:
    other_protocol = dataclasses.replace(lab_entry.claims[0], protocol="five crops")
    better = dataclasses.replace(lab_entry.claims[0], top1_error=Decimal("8.10"))
    entry = dataclasses.replace(lab_entry, claims=(other_protocol, better), training=None)
    text = render_card(entry, PUBLISHED_FILE)
    assert re.search(r"not measured .*\(test, five crops\)", text)
    assert re.search(r"8\.270 % \| different", text)
    assert "different: these weights have another error" in text
    assert "matched" not in text
    assert "Training" not in text


def test_without_claims_nothing_is_compared(lab_entry: WeightsEntry) -> None:
    assert "Comparison" in render_card(lab_entry, PUBLISHED_FILE)
    assert "Comparison" not in render_card(dataclasses.replace(lab_entry, claims=()), PUBLISHED_FILE)


def test_licenses_have_the_hubs_names() -> None:
    assert make_license_fields("BSD-3-Clause") == {"license": "bsd-3-clause"}
    assert make_license_fields("Our-Own-1.0") == {"license": "other", "license_name": "Our-Own-1.0"}
    for spdx in weights_entry._PERMISSIVE_LICENSES:
        assert make_license_fields(spdx) == {"license": spdx.lower()}


@pytest.mark.parametrize(
    ("preprocessing", "description"),
    [
        (Preprocessing((1, 8, 8), (0.3,), (0.4,)), "Gray images of 8 x 8 pixels, neither resized nor cropped. Divide"),
        (
            Preprocessing((3, 224, 224), (0.1,) * 3, (0.2,) * 3, 232, 224, "bicubic"),
            "RGB images, the shorter side resized to 232 pixels (bicubic), the central 224 x 224 pixels cropped. ",
        ),
        (Preprocessing((2, 8, 8), (0.1,) * 2, (0.2,) * 2, 8), "2-channel images, the shorter side resized to 8 pixels"),
    ],
)
def test_preprocessing_is_described(preprocessing: Preprocessing, description: str) -> None:
    assert describe_preprocessing(preprocessing).startswith(description)
