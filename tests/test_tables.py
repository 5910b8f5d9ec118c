"""The published tables: every row is there, with a number that was measured or a reason why not."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.published_tables import UNPUBLISHED_TABLE, list_table_ids, load_published_tables
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.tables import count_parameters, make_table_rows, measurements_from_manifest


@pytest.fixture(scope="module")
def tables() -> dict[str, list[dict[str, Any]]]:
    manifest = load_manifest()
    measurements = measurements_from_manifest(manifest)
    return {table: make_table_rows(table, manifest, measurements) for table in list_table_ids()}


def test_every_published_row_and_number_is_shown(tables: dict[str, list[dict[str, Any]]]) -> None:
    assert len(load_published_tables()["targets"]) == 142
    for table in load_published_tables()["tables"]:
        targets = [target for target in load_published_tables()["targets"] if target["table"] == table["id"]]
        assert len({target["row"] for target in targets}) == table["rows"]
        for target in targets:
            lines = [
                line
                for line in tables[table["id"]]
                if (line["row"], line["data set"]) == (target["label"], target["dataset"])
            ]
            assert lines
            assert any(target["value"] in line[target["by"]] for line in lines)
            assert any(line["network"] == (target["architecture"] or target["network"]) for line in lines)


def test_a_line_has_a_number_or_a_reason(tables: dict[str, list[dict[str, Any]]]) -> None:
    for lines in tables.values():
        for line in lines:
            if line["ours"] is None:
                assert line["weights"].startswith(("no weights", "not measured"))
                weights = load_manifest().list_entries(line["network"])
                has_weights = any(entry.dataset == line["data set"] for entry in weights)
                assert line["weights"].startswith("not measured") == has_weights
                assert has_weights or line["elsewhere"] or line["network"] == "wrn_34_2_imagenet"
            else:
                assert line["weights"] in load_manifest().entries
                assert line["recorded"] == "as recorded"


def test_the_cifar_resnets(tables: dict[str, list[dict[str, Any]]]) -> None:
    lines = {line["network"]: line for line in tables["F1"]}
    assert {name: line["parameters"] for name, line in lines.items() if "fattorib" in name} == {
        "resnet20_fattorib": 304_378,
        "resnet32_fattorib": 498_810,
        "resnet44_fattorib": 693_242,
        "resnet56_fattorib": 887_674,
    }
    line = lines["resnet20_fattorib"]
    assert (line["He et al. 2015"], line["fattorib"]) == ("8.75", "8.57")
    published_error = {"resnet44": "6.90", "resnet56": "6.61"}
    for line in lines.values():
        if line["ours"]:
            (result,) = load_manifest().entries[line["weights"]].results
            assert line["ours"] == f"{100 * (1 - result.top1_correct / result.images):.2f}"
        else:
            assert (
                line["weights"]
                == f"not measured: {line['network']}.cifar10_akamaster ({published_error[line['network']]})"
            )


def test_what_no_published_row_asks_for_is_shown_too(tables: dict[str, list[dict[str, Any]]]) -> None:
    shown = {line["weights"] for lines in tables.values() for line in lines if line["ours"]}
    measured = {entry.id for entry in load_manifest().entries.values() if entry.results}
    assert shown == measured
    others = {line["weights"] for line in tables[UNPUBLISHED_TABLE]}
    assert others == {weights for weights in measured if "digits" in weights or "ferles" in weights}


def test_what_is_not_strict_is_not_judged() -> None:
    """A measurement that is not strict is not compared with other weights of its network, either."""
    (strict,) = [m for m in measurements_from_manifest(load_manifest()) if m.weights == "resnet56_fattorib.cifar10"]
    faster = dataclasses.replace(strict, strict=False, claims=())
    for measured, shown in ((strict, "different"), (faster, "not judged")):
        (line,) = [
            row for row in make_table_rows("F1", load_manifest(), [measured]) if row["weights"] == measured.weights
        ]
        assert shown in str(line["claim"])


def test_several_numbers_of_one_row_are_told_apart(tables: dict[str, list[dict[str, Any]]]) -> None:
    line = next(line for line in tables["H1"] if line["row"] == "ResNet-110")
    assert line["paper"] == "6.43 (best), 6.61 (± 0.16)"
    assert any(line["WRN authors"] == "36 mAP" for line in tables["W2"])
    assert tables["P3"][0]["PyramidNet authors"] == "21.66 / 5.79"
    for table in load_published_tables()["tables"]:
        labels = {(t["row"], t["label"]) for t in load_published_tables()["targets"] if t["table"] == table["id"]}
        assert len({label for _, label in labels}) == table["rows"]


def test_every_row_has_its_network(tables: dict[str, list[dict[str, Any]]]) -> None:
    for lines in tables.values():
        for line in lines:
            is_in_zoo = line["network"] in architectures()
            assert is_in_zoo == (line["parameters"] is not None) == (line["network"] != "wrn_34_2_imagenet")


def test_parameters_follow_the_classes_of_the_dataset() -> None:
    assert count_parameters("pyramidnet110_a48", "cifar10", {}) == 1_772_706
    assert count_parameters("pyramidnet110_a48", "cifar100", {}) == 1_778_556
    assert count_parameters("preresnet20", "mnist", {"in_chans": 1}) == 271_994
    assert (
        count_parameters("vgg16_bn", "imagenet1k", {}) == 138_365_992
    )  # Its classifier reads 4,096 features, not 512.
    assert count_parameters(None, "coco_val5k", {}) is None


def test_published_values_keep_their_digits() -> None:
    values = {(t["table"], t["row"], t["dataset"], t["by"]): t["value"] for t in load_published_tables()["targets"]}
    assert values["F1", 3, "cifar10", "fattorib"] == "7.20"
    assert values["W1", 3, "cifar10", "WRN authors"] == "4.00"
    assert values["W2", 1, "cifar10", "WRN authors"] == "3.8"
    assert all(Decimal(value) > 0 for value in values.values())


def test_tables_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"'Z1'.*P1, P2"):
        make_table_rows("Z1", load_manifest(), [])
