"""`pyramidzoo info`: pages for people and facts for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import RunCommand

from pyramidzoo.catalog.architectures import architectures
from pyramidzoo.catalog.manifest import load_manifest


def test_info_of_an_architecture(run_command: RunCommand) -> None:
    facts = run_command("info", "wrn_16_1", "--format", "json").json()
    assert (facts["parameters"], facts["features"]) == (175_066, 64)
    ids = [f"wrn_16_1.{tag}" for tag in load_manifest().list_tags("wrn_16_1")]
    assert [weights["weights"] for weights in facts["weights"]] == ids
    assert facts["weights"][0]["results"][0]["top1_correct"] == 9097
    assert facts["stages"][2] == {"module": "layer3", "channels": 64, "reduction": 4}
    page = run_command("info", "wrn_16_1").out
    assert page.startswith("wrn_16_1: WRN-16-1: 16 layers")
    for line in (
        r"source +Zagoruyko & Komodakis 2016, .*arXiv:1605\.07146.*",
        r"built as +WideResNet\(depth=16, width=1\) in pyramidzoo\.models\.wide_resnet",
        r"parameters +175,066",
        rf"multiply-adds +{facts['multiply_adds']:,} for an image of 32 x 32",
        r" +layer3: 64 channels at 1/4",
        r'load +pyramidzoo\.create_model\("wrn_16_1", pretrained=True\)',
        r"cifar10_ferles +9\.03 +none stated +no +full 32x32",
        r"digits_zoo +1\.56 +Apache-2\.0 +yes +bundled +full 8x8",
        r"full 32x32 +full 32x32 image, one pass",
    ):
        assert re.search(f"^{line}$", page, re.MULTILINE), line


def test_info_of_an_architecture_without_weights(run_command: RunCommand) -> None:
    name = next(name for name in architectures() if not load_manifest().list_tags(name))
    page = run_command("info", name).out
    assert f'create_model("{name}")' in page
    assert "The manifest has no weights" in page


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("resnet21", "did you mean .*resnet20"), ("resnet20_fattorib.cifar11", "did you mean resnet20_fattorib.cifar10")],
)
def test_info_of_an_unknown_name(run_command: RunCommand, name: str, suggestion: str) -> None:
    result = run_command("info", name)
    assert (result.code, result.out) == (2, "")
    assert re.search(suggestion, result.err)


@pytest.mark.parametrize("name", ["resnet20", "pyramidnet110_a48", "resnext29_8x64d", "shakeshake26_2x32d"])
def test_multiply_adds_are_those_of_other_counters(run_command: RunCommand, name: str) -> None:
    graphs = json.loads((Path(__file__).parent / "data" / "expected_graphs.json").read_text(encoding="utf-8"))
    macs = [row["macs"] for row in graphs.values() if row["constructor"] == name and row.get("macs")]
    assert run_command("info", name, "--format", "json").json()["multiply_adds"] == macs[0]


def test_narrow_pages_have_every_protocol_in_full(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = run_command("info", "resnet50").out
    for line in (
        r"imagenet1k_timm_bt .* 288 of 303",
        r"288 of 303 +resize 303, center crop 288, one pass",
        r"224 of 256 +resize 256, center crop 224, one pass",
    ):
        assert re.search(f"^{line}$", page, re.MULTILINE), line
    assert "..." not in page
    page = run_command("info", "wide_resnet50_2").out
    assert re.search(r"^imagenet1k_functional_zoo .* not stated$", page, re.MULTILINE)


def test_names_of_fields_are_identifiers(run_command: RunCommand) -> None:
    facts = run_command("info", "wrn_16_1", "--format", "json").json()
    assert facts["dataset"] == "cifar10"
    assert [field for field in [*facts, *facts["weights"][0]] if not field.isidentifier()] == []


def test_info_of_weights(run_command: RunCommand) -> None:
    page = run_command("info", "resnet20_fattorib.cifar10").out
    assert page.startswith("resnet20_fattorib.cifar10: resnet20_fattorib trained on cifar10, the default for cifar10\n")
    for part in (
        "8.57 % top-1 error, by fattorib: test, full 32x32 image, one pass; mean of batch errors, batch size 128",
        "8.53 % top-1 error (853 of 10,000 wrong), 0.23 % top-5 (23): test",
        "less the mean 0.485 0.456 0.406, divided by the std 0.229 0.224 0.225",
        "none stated, must not be published again",
        "sha256 9e37644d4807172ab734625ddfe92adfd4f1fc27d131e33490f41eb7d900e9ab",
        "no; `pyramidzoo fetch resnet20_fattorib.cifar10` gets the file",
        'pyramidzoo.create_model("resnet20_fattorib", weights="cifar10")',
    ):
        assert part in page
    assert "mean of batch errors" in run_command("info", "resnet20_fattorib.cifar10", "--format", "markdown").out
    facts = run_command("info", "resnet20_fattorib.cifar10", "--format", "json").json()
    assert (facts["weights"], facts["redistributable"], facts["here"]) == ("resnet20_fattorib.cifar10", False, None)
    assert facts["claims"][0]["top1_error"] == "8.57"


def test_info_of_every_set_of_weights_has_all_that_is_known(run_command: RunCommand) -> None:
    for entry in load_manifest().entries.values():
        page = run_command("info", entry.id).out
        assert "None" not in page, entry.id
        for claim in entry.claims:
            assert f"{claim.top1_error} % top-1 error" in page
        for source in (entry.hub, entry.origin):
            assert source is None or source.url in page
        if entry.origin:
            assert (str(entry.origin.hash) if entry.origin.hash else "no hash is published") in page
            assert (entry.origin.manual or "").partition(" ")[0] in page


def test_a_page_is_no_wider_than_a_line(run_command: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("wrn_16_1.digits_zoo", "resnet20", "pyramidnet164_a270"):
        for line in run_command("info", name).out.splitlines():
            assert len(line) <= 100 or len(line.split()[-1]) > 60, line  # hashes and addresses are never cut
