"""The command line as people and scripts meet it: what is printed where, and the exit codes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import foreign_checkpoint, random_state
from huggingface_hub import try_to_load_from_cache

from pyramidzoo import __version__, cli
from pyramidzoo.catalog.architectures import architectures, get_architecture, list_models
from pyramidzoo.catalog.manifest import LAYOUTS, Hub, Preprocessing, WeightsEntry, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.commands import measure
from pyramidzoo.commands.here import places
from pyramidzoo.commands.local import select
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.data import datasets
from pyramidzoo.data.datasets import ImageSet
from pyramidzoo.errors import UsageError
from pyramidzoo.files import packaged
from pyramidzoo.text_output import facts, render
from pyramidzoo.weights.cache import cache_paths, write_sidecar

pytestmark = pytest.mark.usefixtures("quick_unpickle")


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and tables fit the terminal, whose width pytest-xdist sets."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> Ran:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:  # argparse's own way out
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "wrn.pth"
    torch.save(foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")), path)
    return path


@pytest.fixture
def converted(run: Any, checkpoint: Path, tmp_path: Path) -> Path:
    output = tmp_path / "mine.safetensors"
    done = run(*CONVERT, checkpoint, "--output", output)
    assert done.code == 0, done.err
    return output


CONVERT = ("convert", "--layout", "ferles", "--arch", "wrn_16_1", "--dataset", "cifar10")


def test_version_and_help(run: Any) -> None:
    assert run("--version").out == f"pyramidzoo {__version__}\n"
    shown = run("--help").out
    for command in ("list", "info", "fetch", "convert", "verify", "evaluate", "bench", "tables"):
        assert f"    {command} " in shown
        assert run(command, "--help").code == 0


def test_names_need_no_torch() -> None:
    program = (
        "import sys; from pyramidzoo.cli import main; main(['list']); main(['info', 'wrn_16_1.digits']);"
        "main(['list', '--weights', '--format', 'json', '--local', '--dataset', 'digits', '--origin', '*']);"
        "assert not {'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_importing_the_package_is_light() -> None:
    program = (
        "import sys, pyramidzoo; assert 'torch' not in sys.modules;"
        "pyramidzoo.create_model('resnet20'); loaded = set(sys.modules);"
        "assert not {'timm', 'torchvision', 'pyramidzoo.models.pyramidnet', 'pyramidzoo.models.wide_resnet'} & loaded"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.mark.parametrize("format", ["json", "csv"])
def test_list_in_formats_for_programs(run: Any, format: str) -> None:
    text = run("list", "--format", format).out
    rows = json.loads(text) if format == "json" else list(csv.DictReader(io.StringIO(text)))
    assert [row["architecture"] for row in rows] == list(architectures())


def listed(run: Any, *arguments: str) -> list[str]:
    """The first column of a list."""
    done = run("list", *arguments, "--format", "json")
    assert done.code == 0, done.err
    return [next(iter(row.values())) for row in json.loads(done.out)]


def test_list_takes_patterns(run: Any) -> None:
    assert listed(run, "wrn_16_*") == list_models("wrn_16_*")
    assert sorted(listed(run, "--weights")) == sorted(load_manifest().entries)
    assert {name.partition(".")[0] for name in listed(run, "--weights", "wrn_16*")} <= set(list_models("wrn_16*"))
    assert listed(run, "wrn_16_1.cifar10_ferles") == ["wrn_16_1.cifar10_ferles"]
    nothing = run("list", "resnet21")
    assert (nothing.code, nothing.out) == (2, "")
    assert "did you mean resnet2" in nothing.err


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
def test_list_filters(run: Any, filters: tuple[str, ...], fits: Callable[[WeightsEntry], Any]) -> None:
    """Weights that fit; and architectures that have such weights, with the tags of those alone."""
    expected = {entry.id for entry in load_manifest().entries.values() if fits(entry)}
    assert expected
    assert set(listed(run, "--weights", *filters)) == expected
    rows = json.loads(run("list", *filters, "--format", "json").out)
    if "--family" in filters and len(filters) == 2:  # says nothing about weights
        assert [row["architecture"] for row in rows] == [
            n for n, r in architectures().items() if r.family == filters[1]
        ]
    else:
        assert {f"{row['architecture']}.{tag}" for row in rows for tag in row["weights"]} == expected
    narrowed = {weights_id for weights_id in expected if weights_id.startswith("resnet")}
    if narrowed:
        assert set(listed(run, "resnet*", "--weights", *filters)) == narrowed


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (("--family", "resnets"), "no family is called 'resnets'; did you mean resnet"),
        (("--family", "xxxx"), "the families are densenet, preresnet, "),
        (("--dataset", "cifar11"), "no data set is called 'cifar11'; did you mean cifar10"),
        (("--license", "GPL-3.0"), "no licence is called 'GPL-3.0'"),
        (("--license", "GPL-3.0"), "(or redistributable)"),
        (("--origin", "akamastr"), "no origin is called 'akamastr'; did you mean akamaster?"),
        (("vgg*", "--family", "pyramidnet"), "nothing matches 'vgg*' and --family pyramidnet at once"),
        (("--family", "vgg", "--dataset", "digits"), "--family vgg and --dataset digits at once"),
        (("pyramidnet*", "--local"), "nothing matches 'pyramidnet*' and --local at once"),
        (("--weights", "preresnet110_a"), "preresnet110_a has no weights in the manifest"),
    ],
)
def test_list_explains_an_empty_list(run: Any, filters: tuple[str, ...], message: str) -> None:
    done = run("list", *filters)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize("arguments", [(), ("--weights",), ("--local",), ("--weights", "resnet*")])
def test_lists_fit_a_terminal(run: Any, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = run("list", *arguments).out.splitlines()
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1:]] == listed(run, *arguments)  # names are never cut
    monkeypatch.setenv("COLUMNS", "300")
    wide = run("list", *arguments).out
    assert "..." not in wide
    assert "cifar10 (" in wide or arguments  # data sets are counted, not listed


def test_what_is_here_is_told_by_names(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here() -> dict[str, str]:
        rows = json.loads(run("list", "--weights", "--format", "json").out)
        return {row["weights"]: row["here"] for row in rows if row["here"]}

    bundled = {entry.id: "bundled" for entry in load_manifest().entries.values() if entry.bundled}
    assert here() == bundled
    for entry in (load_manifest().find("wrn_16_1.cifar10_ferles"), load_manifest().find("wrn_28_10.cifar10")):
        path = cache_paths(entry)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert here() == bundled | {"wrn_16_1.cifar10_ferles": "cache", "wrn_28_10.cifar10_pytorchcv": "cache"}
    assert set(listed(run, "--local", "wrn_*")) == {"wrn_16_1", "wrn_28_10"}
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "nowhere"))
    assert here() == bundled


@pytest.mark.parametrize(
    "variables",
    [{"HF_HUB_CACHE": "{}/x"}, {"HF_HOME": "{}/x"}, {"XDG_CACHE_HOME": "{}/x"}, {"HOME": "{}"}, {"HF_HOME": "~/y"}],
)
def test_the_hubs_cache_is_where_its_client_says(variables: dict[str, str], tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "XDG_", "PYRAMIDZOO"))}
    environment |= {name: value.format(tmp_path) for name, value in variables.items()}
    program = (
        "from pyramidzoo.commands.here import hub_cache; from huggingface_hub.constants import HF_HUB_CACHE;"
        "assert str(hub_cache()) == HF_HUB_CACHE, (hub_cache(), HF_HUB_CACHE)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_files_of_the_hub_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub("a/b", "0" * 40, "model.safetensors", "0" * 64, None)
    entry = dataclasses.replace(load_manifest().find("wrn_16_1.digits"), bundled=None, hub=hub)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert places([entry]) == {}
    folder = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert places([entry]) == {entry.id: "hub"}
    assert try_to_load_from_cache(
        "a/b", "model.safetensors", revision="0" * 40, cache_dir=tmp_path
    )  # its client agrees
    for other in (dataclasses.replace(hub, revision="1" * 40), dataclasses.replace(hub, revision=None)):
        assert places([dataclasses.replace(entry, hub=other)]) == {}
    # what is not pinned is what was noted, and what nobody noted nothing vouches for
    noted = dataclasses.replace(entry, hub=dataclasses.replace(hub, revision=None, sha256=None))
    assert noted.hub
    assert places([dataclasses.replace(entry, hub=dataclasses.replace(hub, sha256=None))]) == {}
    write_sidecar(noted, {"url": noted.hub.url, "source_sha256": "0" * 64, "commit": "0" * 40}, published=True)
    assert places([noted]) == {entry.id: "hub"}


def test_listing_is_quick() -> None:
    """Well below what a person notices, beyond the interpreter's own start: least processor time of several runs."""

    def least(*arguments: str) -> float:
        def seconds() -> float:
            before = os.times()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            return after.children_user + after.children_system - before.children_user - before.children_system

        return min(seconds() for _ in range(5))

    assert least("-m", "pyramidzoo", "list", "--weights") - least("-c", "pass") < 0.3  # 0.08 with compiled bytecode


def test_info_of_an_architecture(run: Any) -> None:
    found = json.loads(run("info", "wrn_16_1", "--format", "json").out)
    assert (found["parameters"], found["features"]) == (175_066, 64)
    assert [weights["weights"] for weights in found["weights"]] == [
        f"wrn_16_1.{t}" for t in load_manifest().tags("wrn_16_1")
    ]
    assert found["weights"][0]["results"][0]["top1_correct"] == 9097
    assert found["stages"][2] == {"module": "layer3", "channels": 64, "reduction": 4}
    shown = run("info", "wrn_16_1").out
    assert shown.startswith("wrn_16_1: WRN-16-1: 16 layers")
    for line in (
        r"source +Zagoruyko & Komodakis 2016, .*arXiv:1605\.07146.*",
        r"built as +WideResNet\(depth=16, width=1\) in pyramidzoo\.models\.wide_resnet",
        r"parameters +175,066",
        rf"multiply-adds +{found['multiply_adds']:,} for an image of 32 x 32",
        r" +layer3: 64 channels at 1/4",
        r'load +pyramidzoo\.create_model\("wrn_16_1", pretrained=True\)',
        r"cifar10_ferles +9\.03 +none stated +no +full 32x32",
        r"digits_zoo +1\.56 +Apache-2\.0 +yes +bundled +full 8x8",
        r"full 32x32 +full 32x32 image, one pass",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), line
    without = next(name for name in architectures() if not load_manifest().tags(name))
    shown = run("info", without).out
    assert f'create_model("{without}")' in shown
    assert "No weights are known" in shown
    assert re.search("did you mean .*resnet20", run("info", "resnet21").err)


@pytest.mark.parametrize("name", ["resnet20", "pyramidnet110_a48", "resnext29_8x64d", "shakeshake26_2x32d"])
def test_multiply_adds_are_those_of_other_counters(run: Any, name: str) -> None:
    known = json.loads((Path(__file__).parent / "data" / "expected_graphs.json").read_text(encoding="utf-8"))
    macs = [row["macs"] for row in known.values() if row["constructor"] == name and row.get("macs")]
    assert json.loads(run("info", name, "--format", "json").out)["multiply_adds"] == macs[0]


def test_narrow_pages_have_every_protocol_in_full(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("info", "resnet50").out
    for line in (
        r"imagenet1k_timm_bt .* 288 of 303",
        r"288 of 303 +resize 303, center crop 288, one pass",
        r"224 of 256 +resize 256, center crop 224, one pass",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), line
    assert "..." not in shown
    assert re.search(r"^imagenet1k_functional_zoo .* not stated$", run("info", "wide_resnet50_2").out, re.MULTILINE)


def test_fields_are_names(run: Any) -> None:
    found = json.loads(run("info", "wrn_16_1", "--format", "json").out)
    assert found["dataset"] == "cifar10"
    assert [field for field in [*found, *found["weights"][0]] if not field.isidentifier()] == []


def test_info_of_weights(run: Any) -> None:
    shown = run("info", "resnet20_fattorib.cifar10").out
    assert shown.startswith(
        "resnet20_fattorib.cifar10: resnet20_fattorib trained on cifar10, the default for cifar10\n"
    )
    for part in (
        "8.57 % top-1 error, by fattorib: test, full 32x32 image, one pass; mean of batch errors, batch size 128",
        "8.53 % top-1 error (853 of 10,000 wrong), 0.23 % top-5 (23): test",
        "less the mean 0.485 0.456 0.406, divided by the std 0.229 0.224 0.225",
        "none stated, not to be published again",
        "sha256 9e37644d4807172ab734625ddfe92adfd4f1fc27d131e33490f41eb7d900e9ab",
        "no; `pyramidzoo fetch resnet20_fattorib.cifar10` gets it",
        'pyramidzoo.create_model("resnet20_fattorib", weights="cifar10")',
    ):
        assert part in shown
    assert "mean of batch errors" in run("info", "resnet20_fattorib.cifar10", "--format", "markdown").out
    found = json.loads(run("info", "resnet20_fattorib.cifar10", "--format", "json").out)
    assert (found["weights"], found["redistributable"], found["here"]) == ("resnet20_fattorib.cifar10", False, None)
    assert found["claims"][0]["top1_error"] == "8.57"
    unknown = run("info", "resnet20_fattorib.cifar11")
    assert (unknown.code, "did you mean resnet20_fattorib.cifar10" in unknown.err) == (2, True)


def test_info_of_every_set_of_weights_has_all_that_is_known(run: Any) -> None:
    for entry in load_manifest().entries.values():
        lines = run("info", entry.id).out
        assert "None" not in lines, entry.id
        for claim in entry.claims:
            assert f"{claim.top1_error} % top-1 error" in lines
        for source in (entry.hub, entry.origin):
            assert source is None or source.url in lines
        if entry.origin:
            assert (str(entry.origin.hash) if entry.origin.hash else "no hash is published") in lines
            assert (entry.origin.manual or "").partition(" ")[0] in lines


def test_a_page_is_no_wider_than_a_line(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("wrn_16_1.digits_zoo", "resnet20", "pyramidnet164_a270"):
        for line in run("info", name).out.splitlines():
            assert len(line) <= 100 or len(line.split()[-1]) > 60, line  # hashes and addresses are never cut


def test_convert_says_what_it_made(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    row = json.loads(run(*CONVERT, checkpoint, "--output", output, "--format", "json").out)[0]
    assert row["path"] == str(output)
    assert row["same tensors as"] is None
    assert "no weights of the manifest" in run(*CONVERT, checkpoint, "--output", output).out


def test_convert_recognises(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    for given in ((), ("--layout", "ferles"), ("--arch", "wrn_16_1")):
        done = run("convert", checkpoint, *given, "--dataset", "cifar10", "--output", output, "--format", "json")
        assert done.code == 0, done.err
        assert done.err == f"pyramidzoo: recognised {checkpoint} as wrn_16_1 in the layout ferles\n"
        (row,) = json.loads(done.out)
        assert (row["architecture"], row["layout"]) == ("wrn_16_1", "ferles")
    assert "recognised" not in run(*CONVERT, checkpoint, "--output", output).err
    assert run("evaluate", output, "--data-dir", tmp_path).code == 5  # it says what it is; only images are missing


def test_convert_does_not_guess(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    torch.save({"something.weight": torch.zeros(3)}, checkpoint)
    done = run("convert", checkpoint, "--dataset", "cifar10", "--output", output)
    assert (done.code, done.out, output.exists()) == (4, "", False)
    assert "fits no layout and architecture" in done.err
    torch.save(random_state("preresnet164"), checkpoint)  # preresnet164_s3 has other strides, which no tensor shows
    done = run("convert", checkpoint, "--dataset", "cifar10", "--output", output)
    assert (done.code, done.out, output.exists()) == (2, "", False)
    assert "say which with --layout and --arch" in done.err
    torch.save(random_state("resnet18", num_classes=1000), checkpoint)
    assert run("convert", checkpoint, "--layout", "torchvision", "--arch", "resnet18").code == 2  # and --dataset


def test_convert_refuses_tensors_that_are_known_from_another_data_set(run: Any, tmp_path: Path) -> None:
    """The manifest knows the bundled network of the digits; somebody calls a copy of it a network of MNIST."""
    bundled = load_manifest().find("wrn_16_1.digits_zoo")
    assert bundled.bundled is not None
    output = tmp_path / "out.safetensors"
    arguments = ("convert", packaged(bundled.bundled.path), "--output", output, "--mean", "0.1", "--std", "0.3")
    done = run(*arguments, "--dataset", "mnist")
    assert (done.code, done.out, output.exists()) == (2, "", False)
    assert (
        "holds the tensors of wrn_16_1.digits_zoo, which were trained on digits, not on mnist; give --dataset"
        in done.err
    )
    assert "give --dataset digits, or --force" in done.err
    done = run(*arguments, "--dataset", "mnist", "--force", "--format", "json")
    assert done.code == 0, done.err
    assert (
        f"pyramidzoo: --force: {output} says mnist, although it holds the tensors of wrn_16_1.digits_zoo, which were "
        "trained on digits\n"
    ) in done.err
    assert json.loads(done.out)[0]["same tensors as"] == "wrn_16_1.digits_zoo"
    described = Description.of(output)
    assert described is not None
    assert described.dataset == "mnist"
    done = run(*arguments, "--dataset", "digits")
    assert (done.code, "--force" in done.err) == (0, False)


def test_convert_takes_weights_of_data_sets_that_it_cannot_read(run: Any, tmp_path: Path) -> None:
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(random_state("resnet18", num_classes=1000), source)
    constants = ("--mean", "0.4", "0.5", "0.6", "--std", "0.1", "0.2", "0.3")
    arguments = ("--layout", "torchvision", "--arch", "resnet18", "--dataset", "imagenet1k", "--output", output)
    done = run("convert", source, *arguments, *constants)
    assert done.code == 0, done.err
    described = Description.of(output)
    assert described is not None
    assert described.preprocessing == Preprocessing(
        (3, 224, 224), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), resize=256, crop=224, interpolation="bilinear"
    )


def test_documents_name_the_layouts() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    for name in LAYOUTS:
        assert f"| `{name}` | {get_layout(name).repository} |" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--arch", "resnet21"), 2, "no architecture is called 'resnet21'"),
        (("--layout", "nobody"), 2, "no layout is called 'nobody'"),
        (("--dataset", "cifar11"), 2, "no data set is called 'cifar11'"),
        (("--arch", "wrn_40_1"), 4, "missing: layer|missing: block"),
        (("--dataset", "cifar100"), 2, "give --mean and --std"),
        (("--mean", "0", "0", "0"), 2, "belong together"),
        (("--mean", "0", "0", "0", "--std", "0", "1", "1"), 2, "the standard deviation 0.0 1.0 1.0 is not above 0"),
        (
            ("--mean", "51", "102", "127.5", "--std", "63.75", "51", "51"),
            2,
            "--mean and --std: the mean 51.0 102.0 127.5 is not within 0 to 1 and the standard deviation 63.75 51.0 "
            "51.0 is not above 0 and at most 1; values from 0 to 255 must be divided by 255, which gives the mean 0.2 "
            "0.4 0.5 and the standard deviation 0.25 0.2 0.2",
        ),
        (("--output", "out.pth"), 2, "must end in .safetensors"),
    ],
)
def test_convert_refuses(
    run: Any, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = run(*CONVERT, checkpoint, "--output", tmp_path / "out.safetensors", *arguments)
    assert done.code == code
    assert any(part in done.err for part in message.split("|"))
    assert done.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_checkpoints(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])
    assert run(*CONVERT, checkpoint, "--output", output).code == 4
    assert run(*CONVERT, tmp_path / "nothing.pth", "--output", output).code == 5
    assert not output.exists()


@pytest.fixture
def tiny_cifar(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, data_dir, download: small_set)


@pytest.mark.usefixtures("tiny_cifar")
def test_evaluate_a_file(run: Any, converted: Path, tmp_path: Path) -> None:
    done = run("evaluate", converted, "--output", tmp_path / "results")
    assert done.code == 0, done.err
    assert re.search(r"^mine@[0-9a-f]{8}: cifar10 test, 300 images, cpu", done.out)
    assert "recorded       none" in done.out
    assert "claim          none" in done.out
    found = json.loads(run("evaluate", converted, "--format", "json").out)
    assert found["failures"] == []
    assert f"wrong          {found['records'][0]['wrong']} " in done.out
    rows = list(csv.DictReader(io.StringIO(run("evaluate", converted, "--format", "csv").out)))
    assert int(rows[0]["wrong"]) == found["records"][0]["wrong"]
    shown = run("tables", "--records", tmp_path / "results")
    assert (shown.code, shown.out.count(" mine@")) == (0, 1)
    assert "Z. Measured, without a published row" in shown.out
    fast = run("evaluate", converted, "--amp", "--output", tmp_path / "results").out
    assert "claim          not judged: bf16 is not strict fp32" in fast
    assert "none (not strict: bf16)" in run("tables", "Z", "--records", tmp_path / "results").out


@pytest.mark.usefixtures("tiny_cifar")
def test_one_failure_does_not_stop_the_rest(run: Any, converted: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(converted.read_bytes()[:-10])
    done = run("evaluate", "wrn_16_1.cifar10", damaged, converted, "--format", "json")
    assert done.code == 4  # integrity comes before what is unavailable
    found = json.loads(done.out)
    assert [failure["exit_code"] for failure in found["failures"]] == [5, 4]
    assert len(found["records"]) == 1
    assert "cannot get wrn_16_1.cifar10_ferles" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("resnet21",), 2, "no weights are called 'resnet21'"),
        (("resnet20.cifar100",), 2, "no weights are called 'resnet20.cifar100'; did you mean"),
        (("preresnet110_a",), 2, "preresnet110_a has no weights in the manifest"),
        (("nothing.safetensors",), 5, "there is no file nothing.safetensors"),
        (("old.pth",), 2, "`pyramidzoo convert old.pth"),
        (("wrn_16_1.cifar10",), 5, "--data-dir or PYRAMIDZOO_DATA"),
        (("wrn_16_1.cifar10", "--data-dir", "nowhere"), 5, "there is no nowhere"),
        (("wrn_16_1", "-b", "0"), 2, "-b must be positive"),
        (("wrn_16_1", "--amp-dtype", "fp16"), 2, "give both"),
        (("./",), 2, "is a folder with no safetensors file"),
        (("x" * 300 + ".safetensors",), 5, "File name too long"),
        (("wrn_16_1.cifar10", "--data-dir", "x" * 300), 5, "File name too long"),
        (("wrn_16_1", "--device", "gpu"), 2, "no device is called 'gpu'"),
        (("wrn_16_1", "--split", "val"), 2, "it has test, train"),
        (("wrn_16_1", "--batch", "3"), 2, "unrecognized arguments"),
    ],
)
def test_evaluate_refuses(run: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run("evaluate", *arguments)
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("resnet20", ["resnet20.cifar10_akamaster"]),
        ("wrn_16_1", ["wrn_16_1.cifar10_ferles"]),
        ("wrn_16_1.digits", ["wrn_16_1.digits_zoo"]),
        ("wrn_16_1.digits_zoo", ["wrn_16_1.digits_zoo"]),
        ("wrn_16_1*", ["wrn_16_1.cifar10_ferles", "wrn_16_1.digits_zoo"]),
        ("resnet20.*", [f"resnet20.{tag}" for tag in load_manifest().tags("resnet20")]),
    ],
)
def test_a_name_means_one_set_of_weights_and_a_pattern_several(name: str, ids: list[str]) -> None:
    chosen = [entry.id for entry in select([name])]
    assert (chosen if "*" not in name else [i for i in chosen if i in ids]) == ids
    assert len(chosen) == 1 or "*" in name


def test_every_architecture_means_what_create_model_loads() -> None:
    known = load_manifest()
    for name in architectures():
        if known.tags(name):
            assert select([name]) == [known.default_for(name)]
        else:
            with pytest.raises(UsageError, match="has no weights in the manifest"):
                select([name])


def test_fetch_and_verify(run: Any, tmp_path: Path) -> None:
    missing = run("fetch", "wrn_16_1.cifar10")
    assert missing.code == 5
    assert "offline, as HF_HUB_OFFLINE says" in missing.err
    states = json.loads(run("verify", "--all", "--format", "json").out)
    human = run("verify", "--all")
    assert len(human.out.splitlines()) == 1 + sum(state["state"] == "good" for state in states)
    assert "are not on this machine" in human.err
    bundled = {entry.id for entry in load_manifest().entries.values() if entry.bundled}
    assert {state["weights"]: state["state"] for state in states} == {
        weights_id: "good" if weights_id in bundled else "missing" for weights_id in load_manifest().entries
    }
    assert run("verify", "--all").code == 0
    assert run("verify", "wrn_16_1.cifar10").code == 5
    assert run("verify").code == 2
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    (folder / "stranger.safetensors").write_bytes(b"x")
    assert run("verify", "--all").code == 4
    (folder / "wrn_16_1.cifar10_ferles.safetensors").write_bytes(b"x")
    altered = run("verify", "wrn_16_1.cifar10")
    assert altered.code == 4
    assert "nothing vouches for it" in altered.out


def test_tables(run: Any, tmp_path: Path) -> None:
    shown = run("tables", "F1", "--format", "markdown").out
    assert shown.startswith("## F1. CIFAR-10 ResNets")
    assert "| 304,378 | resnet20_fattorib.cifar10 | 8.53 | 8.00 to 9.09 |" in shown
    rows = json.loads(run("tables", "P1", "P3", "--format", "json").out)
    assert {row["table"] for row in rows} == {"P1", "P3"}
    assert run("tables", "Z1").code == 2
    assert run("tables", "--records", "nowhere").code == 2
    empty = run("tables", "--records", tmp_path)
    assert (empty.code, "there are no records in" in empty.err) == (2, True)


def test_interrupts_and_bugs_have_their_codes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    def terminated(args: object) -> int:
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler would
        return 0

    def broken(args: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(measure, "run_tables", interrupted)
    assert run("tables").code == 130
    monkeypatch.setattr(measure, "run_tables", terminated)
    assert run("tables").code == 130
    monkeypatch.setattr(measure, "run_tables", broken)
    done = run("tables")
    assert (done.code, "internal error, RuntimeError: a bug" in done.err) == (1, True)
    assert "Traceback" not in done.err


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
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == code
    if code == 0:
        assert json.loads(done.stdout)["failures"] == []
    else:
        assert "no standard output" in done.stderr


def test_a_stream_that_cannot_spell_everything() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    program = [sys.executable, "-m", "pyramidzoo", "tables", "H1"]
    assert "\\xb1" in subprocess.run(program, capture_output=True, text=True, env=environment, check=True).stdout


def test_paths_as_people_write_them(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "wrn_16_1.digits", "--output=~/r").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    empty = run("evaluate", "wrn_16_1.digits", "--output", "")
    assert (empty.code, "an empty path" in empty.err) == (2, True)


def test_tables_judge_no_claim_of_a_run_that_is_not_strict(run: Any, tmp_path: Path) -> None:
    for options, shown in (([], "none"), (["--channels-last"], "not judged")):
        output = tmp_path / shown
        assert run("evaluate", "wrn_16_1.digits", *options, "--output", output).code == 0
        (row,) = json.loads(run("tables", "Z", "--records", output, "--format", "json").out)
        assert row["claim"] == shown


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = [sys.executable, "-m", "pyramidzoo", "list", "--format", "json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)


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
    shown = facts([("a", "one two three"), ("long", ["x" * 30, "y"]), ("none", None), ("n", 12345)], width=14)
    assert shown.splitlines() == ["a     one two", "      three", f"long  {'x' * 30}", "      y", "n     12,345"]
    assert facts([]) == ""
