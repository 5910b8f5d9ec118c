"""The manifest is what its tool makes from the collected facts, and every fact is used or has a reason."""

from __future__ import annotations

import collections
import copy
import csv
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import pytorchcv
import timm
import torch
import torchvision

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import get_manifest_path
from pyramidzoo.models import build, skip_initialisation
from tools import make_manifest as tool

FACTS: list[tool.Fact] = json.loads(tool.FACTS.read_text(encoding="utf-8"))
COMMITTED: dict[str, Any] = json.loads(get_manifest_path().read_text(encoding="utf-8"))


def test_the_tool_makes_the_manifest_that_is_committed() -> None:
    made = json.dumps(tool.make_manifest(FACTS, COMMITTED), indent=1, ensure_ascii=False) + "\n"
    assert made == get_manifest_path().read_text(encoding="utf-8")


def test_measured_results_are_kept_and_nothing_else_is() -> None:
    committed = copy.deepcopy(COMMITTED)
    entry = committed["weights"]["wrn_28_10.cifar10_pytorchcv"]
    entry.update(tensors_sha256="1" * 64, results=["measured"], num_classes=11)
    committed["weights"]["wrn_28_10.cifar10_nobody"] = entry
    made = tool.make_manifest(FACTS, committed)["weights"]
    assert "wrn_28_10.cifar10_nobody" not in made
    same = made["wrn_28_10.cifar10_pytorchcv"]
    assert (same["tensors_sha256"], same["results"], same["num_classes"]) == ("1" * 64, ["measured"], 10)


def test_what_was_published_stays_and_makes_no_other_default() -> None:
    committed = copy.deepcopy(COMMITTED)
    place = {"repo_id": "org/net", "revision": "1" * 40, "filename": "model.safetensors", "sha256": "1" * 64}
    for name in ("preresnet20_rawid.cifar10_pytorchcv", "resnet20.cifar10_akamaster", "resnet20_b.cifar10_chenyaofo"):
        entry = committed["weights"][name]
        entry["hub"] = {**place, "bytes": 1, "layout": None}
    assert not committed["weights"]["resnet20_b.cifar10_chenyaofo"]["default"]
    assert tool.make_manifest(FACTS, committed) == committed


def test_new_defaults_are_those_that_are_pinned_best() -> None:
    committed = copy.deepcopy(COMMITTED)
    for name, entry in committed["weights"].items():
        entry["default"] = entry["default"] and name in tool.ENTRIES_BY_HAND
    assert tool.make_manifest(FACTS, committed) == COMMITTED


def test_every_record_makes_an_entry_or_says_why_not() -> None:
    outcomes = list(tool.make_entries(FACTS))
    assert len(outcomes) == len({fact["id"] for fact in FACTS}) == 581
    assert all((outcome.weights_id is None) != (outcome.reason is None) for outcome in outcomes)
    ids = [outcome.weights_id for outcome in outcomes if outcome.weights_id]
    assert len(ids) == len(set(ids))
    assert {*ids, *tool.ENTRIES_BY_HAND, *tool.ENTRIES_WITHOUT_RECORD} == set(COMMITTED["weights"])


def test_every_pattern_and_rule_is_used() -> None:
    """A reason, a name or a note on training that fits no record would be a mistake in the JSON."""
    ids = [fact["id"] for fact in FACTS]
    reasons = {tool.find_reason_for_no_entry(record_id) for record_id in ids}
    assert reasons - {None} == {item["reason"] for item in tool.RECORDS_WITHOUT_ENTRY}
    with_entry = [record_id for record_id in ids if tool.find_reason_for_no_entry(record_id) is None]
    for publisher in tool.PUBLISHERS:
        own = [record_id for record_id in with_entry if tool.find_publisher(record_id) is publisher]
        used = {next(rule for rule in publisher.names if re.fullmatch(rule.record, record_id)) for record_id in own}
        assert used == set(publisher.names)
        for item in publisher.training:
            assert any(fnmatchcase(record_id, item["records"]) for record_id in own), item


def test_a_record_that_nothing_is_known_about_is_an_error() -> None:
    with pytest.raises(ValueError, match="somebody/net has no publisher"):
        list(tool.make_entries([{"id": "somebody/net", "dataset": "cifar10"}]))
    with pytest.raises(ValueError, match=r"pytorchcv/a-b: no rule of pytorchcv in publishers\.json"):
        list(tool.make_entries([{"id": "pytorchcv/a-b", "dataset": "cifar10"}]))


@pytest.mark.parametrize(
    ("record", "weights_id"),
    [
        ("pytorchcv/resnet20_cifar10", "resnet20_b.cifar10_pytorchcv"),
        ("pytorchcv/resnet164bn_svhn", "resnet164.svhn_pytorchcv"),
        ("pytorchcv/preresnet1202_cifar10", "preresnet1202_rawid.cifar10_pytorchcv"),
        ("pytorchcv/preresnet1001_cifar100", "preresnet1001_s3.cifar100_pytorchcv"),
        ("pytorchcv/sepreresnet542bn_cifar10", "sepreresnet542.cifar10_pytorchcv"),
        ("pytorchcv/densenet100_k12_cifar10", "densenet_c_100_k12.cifar10_pytorchcv"),
        ("pytorchcv/densenet40_k36_bc_svhn", "densenet_bc_40_k36.svhn_pytorchcv"),
        ("pytorchcv/wrn16_10_svhn", "wrn_16_10.svhn_pytorchcv"),
        ("pytorchcv/pyramidnet272_a200_bn_cifar100", "pyramidnet272_a200.cifar100_pytorchcv"),
        ("pytorchcv/shakeshakeresnet26_2x32d_cifar10", "shakeshake26_2x32d_pytorchcv.cifar10"),
        ("pytorchcv/resnet50", "resnet50_s1.imagenet1k_pytorchcv"),
        ("pytorchcv/resnet50b", "resnet50.imagenet1k_pytorchcv"),
        ("pytorchcv/resnet18_w3d4", "resnet18_w3d4.imagenet1k_pytorchcv"),
        ("pytorchcv/resnetbc14b", "resnet14_bottleneck.imagenet1k_pytorchcv"),
        ("pytorchcv/preresnet18_wd2", "preresnet18_wd2_pytorchcv.imagenet1k"),
        ("pytorchcv/preresnetbc38b", "preresnet38_bottleneck_pytorchcv.imagenet1k"),
        ("pytorchcv/preresnet50", "preresnet50_imagenet_s1_pytorchcv.imagenet1k"),
        ("pytorchcv/preresnet50b", "preresnet50_imagenet_pytorchcv.imagenet1k"),
        ("pytorchcv/preresnet269b", "preresnet269_pytorchcv.imagenet1k"),
        ("pytorchcv/seresnet101", "seresnet101_s1.imagenet1k_pytorchcv"),
        ("pytorchcv/seresnetbc38b", "seresnet38_bottleneck.imagenet1k_pytorchcv"),
        ("pytorchcv/sepreresnetbc26b", "sepreresnet26_bottleneck.imagenet1k_pytorchcv"),
        ("pytorchcv/sepreresnet50b", "sepreresnet50.imagenet1k_pytorchcv"),
        ("pytorchcv/bn_vgg16", "vgg16_bn_nobias.imagenet1k_pytorchcv"),
        ("pytorchcv/bn_vgg16b", "vgg16_bn.imagenet1k_pytorchcv"),
        ("pytorchcv-old/pyramidnet101_a360-0620", "pyramidnet101_a360.imagenet1k_dyhan"),
        ("chenyaofo/cifar100_vgg16_bn", "vgg16_bn_chenyaofo.cifar100"),
        ("bearpaw/resnet110_cifar10", "resnet164.cifar10_bearpaw"),
        ("bearpaw/vgg19_bn_cifar100", "vgg19_bn_bearpaw.cifar100"),
        ("hub/timm/resnet50.d_in1k", "resnet50.imagenet1k_timm_d"),
        ("hub/timm/resnet18.fb_ssl_yfcc100m_ft_in1k", "resnet18.imagenet1k_timm_fb_ssl_yfcc100m_ft"),
        ("torchvision/resnet50/IMAGENET1K_V2", "resnet50.imagenet1k_tv_v2"),
        ("jhkim89/pyramidnet200_a450_dropout-torch7", "pyramidnet200_a450.imagenet1k_jhkim89"),
        ("fb.resnet.torch/preresnet200", "preresnet200.imagenet1k_fb"),
        ("akamaster/resnet1202", "resnet1202.cifar10_akamaster"),
    ],
)
def test_names(record: str, weights_id: str) -> None:
    ids = {outcome.fact["id"]: outcome.weights_id for outcome in tool.make_entries(FACTS)}
    assert ids[record] == weights_id


def test_the_strongest_hash_that_was_seen_is_the_one() -> None:
    weights = COMMITTED["weights"]
    hashes = {name: entry["origin"]["hash"] for name, entry in weights.items() if entry["origin"]}
    value = "45daff3ec1b813c24feb5e17d2208a79066e42d2"
    assert hashes["resnet110.cifar10_akamaster"] == {"algorithm": "git_blob_sha1", "of": "file", "value": value}
    kinds = collections.Counter((h["algorithm"], h["of"]) if h else None for h in hashes.values())
    assert kinds[("sha1", "member")] == 243
    assert kinds[("sha256_prefix", "file")] == 35
    assert kinds[None] == 36
    hubs = [entry["hub"] for entry in weights.values() if entry["hub"]]
    assert {hub["layout"] for hub in hubs if "vgg" in hub["repo_id"]} == {"timm"}
    assert {hub["layout"] for hub in hubs if "vgg" not in hub["repo_id"]} == {None}


def test_a_protocol_that_nobody_states_is_not_guessed() -> None:
    weights = COMMITTED["weights"]
    unstated = [i for i in weights if any(claim["protocol"] == "not stated" for claim in weights[i]["claims"])]
    assert unstated == ["wide_resnet50_2.imagenet1k_szagoruyko", "wide_resnet50_2.imagenet1k_functional_zoo"]
    first, second = (weights[weights_id]["preprocessing"] for weights_id in unstated)
    assert first == second


def test_of_equally_known_weights_the_default_may_be_published_again() -> None:
    entry = COMMITTED["weights"]["senet154.imagenet1k_pytorchcv"]
    assert entry["default"]
    closed = {**entry, "license": {"code": "MIT", "weights": None}}
    closed["claims"] = [{**entry["claims"][0], "top1_error": "1.00"}]
    assert tool.rank_entry(entry) < tool.rank_entry(closed)
    assert tool.rank_entry(closed) < tool.rank_entry({**entry, "origin": {**entry["origin"], "hash": None}})


def test_training_is_what_is_known_of_each_record() -> None:
    training = {weights_id: entry["training"] or "" for weights_id, entry in COMMITTED["weights"].items()}
    svhn = {weights_id for weights_id in training if ".svhn" in weights_id}
    assert {weights_id for weights_id in training if "73,257 images" in training[weights_id]} == svhn
    for weights_id, part in (
        ("wrn_28_10.cifar10_bearpaw", "dropout 0.3"),
        ("pyramidnet200_a450.imagenet1k_jhkim89", "dropout 0.5"),
        ("resnet20_b.cifar10_chenyaofo", "best on the test set"),
        ("senet154.imagenet1k_cadene", "pooling of other windows"),
        ("pyramidnet200_a240.cifar100_clovaai_cutout_ls", "label smoothing"),
    ):
        assert part in training[weights_id]
    assert not any(training[i] for i in ("pyramidnet200_a300.imagenet1k_jhkim89", "resnet164.cifar10_bearpaw"))


def test_timm_weights_are_prepared_as_they_were_measured() -> None:
    def sizes(weights_id: str) -> tuple[object, ...]:
        given = COMMITTED["weights"][weights_id]["preprocessing"]
        return given["input_size"][1], given["resize"], given["crop"], given["interpolation"]

    assert sizes("resnet50.imagenet1k_timm_a1") == (288, 288, 288, "bicubic")
    assert sizes("wide_resnet50_2.imagenet1k_timm_racm") == (288, 303, 288, "bicubic")
    assert sizes("resnet50.imagenet1k_timm_tv2") == (224, 232, 224, "bilinear")
    assert sizes("resnet50.imagenet1k_timm_tv") == (224, 256, 224, "bilinear")


def test_reducing_keeps_printed_digits_and_full_commits_only() -> None:
    record = dict.fromkeys(("repo_id", "filename", "sha256", "sha_value", "size_bytes", "num_params", "preprocessing"))
    record |= {"id": "chenyaofo/cifar10_resnet20", "dataset": "cifar10", "license": "MIT", "notes": [], "sha_is": ""}
    record |= {"url": "https://x/y", "revision": "abc1234", "revision_kind": "short", "sha_algo": "sha256"}
    record |= {"metrics": [{"top1": 92.6, "top5": 99.81, "top1_err": 7.4}, {"top1": 1.0}]}
    reduced = tool.reduce_record(record)
    assert reduced == {
        "id": "chenyaofo/cifar10_resnet20",
        "dataset": "cifar10",
        "url": "https://x/y",
        "sha_algo": "sha256",
        "licence": "MIT",
        "metric": {"top1": "92.60", "top5": "99.81"},
    }
    assert tool.reduce_record({**record, "id": "none/anything"}) == {"id": "none/anything"}


def test_pytorchcvs_own_table_says_the_same() -> None:
    path = Path(pytorchcv.__file__).parent / "models/common/model_metainfos.csv"
    with path.open(encoding="utf-8") as stream:
        rows = {row["model_name"]: row for row in csv.DictReader(stream)}
    facts = [fact for fact in FACTS if fact["id"].startswith("pytorchcv/")]
    assert len(facts) == 239
    for fact in facts:
        row = rows[fact["id"].removeprefix("pytorchcv/")]
        assert fact["sha_value"] == row["checksum"]
        assert f"/{row['repo_release_tag']}/{row['model_name']}-{row['error_value']}-" in fact["url"]
        printed = fact["metric"]["top5_err" if fact["dataset"] == "imagenet1k" else "top1_err"]
        assert printed.replace(".", "").zfill(4) == row["error_value"]


def test_torchvisions_own_weights_say_the_same() -> None:
    facts = [fact for fact in FACTS if fact["id"].startswith("torchvision/")]
    assert len(facts) == 25
    for fact in facts:
        _, name, version = fact["id"].split("/")
        weights = torchvision.models.get_model_weights(name)[version]
        measured = weights.meta["_metrics"]["ImageNet-1K"]
        assert weights.url == fact["url"]
        assert [f"{measured[f'acc@{k}']:.3f}" for k in (1, 5)] == [fact["metric"][f"top{k}"] for k in (1, 5)]
        prepare = weights.transforms()
        assert (prepare.resize_size, prepare.crop_size) == ([fact["resize"]], [fact["crop"]])


def test_timms_own_configurations_say_the_same() -> None:
    hubs = {name: entry for name, entry in COMMITTED["weights"].items() if entry["hub"]}
    assert len(hubs) == 91
    for weights_id, entry in hubs.items():
        _, _, name = entry["hub"]["repo_id"].partition("/")
        known = timm.get_pretrained_cfg(name)
        assert known is not None, weights_id
        assert known.hf_hub_id == entry["hub"]["repo_id"]
        given = entry["preprocessing"]
        assert (list(known.mean), list(known.std)) == (given["mean"], given["std"])
        size = (known.test_input_size or known.input_size)[1]
        assert given["input_size"][1] == size
        assert given["resize"] == int(size / (known.test_crop_pct or known.crop_pct))
        assert given["interpolation"] == known.interpolation


def test_published_parameter_counts_are_those_of_the_graphs() -> None:
    """The surest sign of a wrong name: two graphs of one name rarely have the same number of parameters."""
    counted: dict[str, dict[int, int]] = collections.defaultdict(dict)
    compared = 0
    for outcome in tool.make_entries(FACTS):
        fact, weights_id = outcome.fact, outcome.weights_id
        if "num_params" not in fact or weights_id is None or weights_id == FOLDED:
            continue
        architecture, classes = weights_id.partition(".")[0], tool.NUM_CLASSES[fact["dataset"]]
        if classes not in counted[architecture]:
            counted[architecture].update(count(architecture))
        assert agrees(fact["num_params"], counted[architecture][classes]), (weights_id, fact["num_params"])
        compared += 1
    assert compared > 370


FOLDED = "wide_resnet50_2.imagenet1k_pytorchcv"  # its file has biases where the network has BN


def count(architecture: str) -> dict[int, int]:
    """Parameters by number of classes."""
    counts = {}
    with skip_initialisation(), torch.device("meta"):
        model = build(get_architecture(architecture))
        for classes in (10, 100, 1000):
            model.reset_classifier(classes)
            counts[classes] = sum(parameter.numel() for parameter in model.parameters())
    return counts


def agrees(published: int | str, counted: int) -> bool:
    """Whether a count is the published one, or rounds to one that is given in millions, such as 11.69M."""
    if isinstance(published, int):
        return published == counted
    digits = len(published.partition(".")[2]) - 1
    return abs(counted / 1e6 - float(published[:-1])) <= 0.5 * 10**-digits + 1e-9
