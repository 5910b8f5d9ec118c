"""Layouts, strict in both directions, recognised by what a file holds; foreign pickles that must not do anything."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import foreign_checkpoint, random_state
from layout_tools import read_here, zipped
from safetensors.torch import save_file
from torch import Tensor

from pyramidzoo import models
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import Manifest, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert import conversion, read_file, recognition
from pyramidzoo.convert.conversion import convert_file, map_tensors
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint, unpickle
from pyramidzoo.convert.recognition import Match, pick_equivalent_match, recognise
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError

CASES = {
    "akamaster": "resnet20",
    "bearpaw": "wrn_16_1",
    "chenyaofo": "resnet20_b",
    "dice": "densenet_bc_40_k12",
    "dyhan": "pyramidnet110_a48",
    "fattorib": "resnet20_fattorib",
    "ferles": "wrn_16_1",
    "pytorchcv": "resnet20_b",
}
IMAGENET_ONLY = {"functional_zoo", "timm", "torch7", "torchvision"}  # see test_layouts and test_torch7
OWN = {"zoo"}  # without preprocessing of its own, see below


def saved(path: Path, layout: str, checkpoint: dict[str, Tensor]) -> Path:
    """Save a flat checkpoint the way the layout's authors did."""
    container = get_layout(layout).state_dict_prefixes[0]
    if not container.startswith("state_dict."):
        torch.save(checkpoint, path)
        return path
    prefix = container.removeprefix("state_dict.")
    content = {"epoch": 3, "state_dict": {prefix + name: tensor for name, tensor in checkpoint.items()}}
    if get_layout(layout).ignored_prefixes:
        content["optimizer"] = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save(content, path, _use_new_zipfile_serialization=layout != "akamaster")
    return path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are opened without a child process, which takes seconds."""
    monkeypatch.setattr(read_file, "unpickle", read_here)


def converted(source: Path, output: Path, layout: str, architecture: str | None = None) -> Path:
    return convert_file(
        source,
        output,
        layout=layout,
        architecture=architecture or CASES[layout],
        dataset="cifar10",
        num_classes=10,
    ).path


def test_every_layout_is_tested() -> None:
    assert set(CASES) | IMAGENET_ONLY | OWN == set(LAYOUTS)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("layout", CASES)
def test_a_checkpoint_arrives_whole(layout: str, tmp_path: Path) -> None:
    state = random_state(CASES[layout])
    source = saved(tmp_path / "in.pth", layout, foreign_checkpoint(CASES[layout], layout, state))
    output = converted(source, tmp_path / "out.safetensors", layout)
    found = read_tensors(output)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    description = Description.from_file(output)
    assert description is not None
    assert (description.architecture, description.dataset, description.layout) == (CASES[layout], "cifar10", layout)
    assert description.preprocessing == get_layout(layout).preprocessing["cifar10"]


@pytest.mark.usefixtures("in_this_process")
def test_equal_conversions_are_equal_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.pth", "ferles", foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")))
    first, second = (converted(source, tmp_path / f"{k}.safetensors", "ferles") for k in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("in_this_process")
def test_old_files_lack_batch_counters(tmp_path: Path) -> None:
    state = {name: t for name, t in random_state("resnet20").items() if "num_batches" not in name}
    source = saved(tmp_path / "in.th", "akamaster", foreign_checkpoint("resnet20", "akamaster", state))
    assert read_tensors(converted(source, tmp_path / "out.safetensors", "akamaster")).keys() == state.keys()


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_fattorib_has_97536_unused_parameters(depth: int) -> None:
    unused = get_layout("fattorib").list_unused_tensors(get_architecture(f"resnet{depth}_fattorib"))
    learned = [part for name, part in unused.items() if name.endswith(("weight", "bias"))]
    assert sum(torch.Size(part.shape).numel() for part in learned) == 97_536


def damage_missing(checkpoint: dict[str, Tensor]) -> str:
    del checkpoint[
        next(
            name for name in checkpoint if name.endswith(("conv2.weight", "conv2.conv.weight", "final_block.3.weight"))
        )
    ]
    return "missing: "


def damage_extra(checkpoint: dict[str, Tensor]) -> str:
    checkpoint["conv9.weight"] = torch.zeros(3)
    return "unexpected: .*conv9.weight"


def damage_shape(checkpoint: dict[str, Tensor]) -> str:
    name = next(name for name in checkpoint if name.endswith("weight"))
    checkpoint[name] = torch.zeros(16, 3, 5, 5)
    return r"different: .*is F32\[16x3x5x5\], not F32\[\d\dx3x3x3\]"


def damage_dtype(checkpoint: dict[str, Tensor]) -> str:
    name = next(name for name in checkpoint if name.endswith("weight"))
    checkpoint[name] = checkpoint[name].double()
    return "different: .*is F64"


def damage_nan(checkpoint: dict[str, Tensor]) -> str:
    name = next(name for name in checkpoint if name.endswith("running_var") and "conv_block" not in name)
    checkpoint[name] = checkpoint[name].clone()
    checkpoint[name][0] = float("nan")
    return "NaN or infinite values in "


@functools.cache
def checkpoint_of(layout: str) -> dict[str, Tensor]:
    """A layout's case as its authors would have saved it, to be copied before anything is changed."""
    return foreign_checkpoint(CASES[layout], layout, random_state(CASES[layout]))


def mapped(layout: str, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """The key map alone, on a checkpoint that is in memory already."""
    key_map = get_layout(layout)
    inside = {key_map.state_dict_prefixes[0] + name: tensor for name, tensor in checkpoint.items()}
    return map_tensors(inside, key_map, get_architecture(CASES[layout]), settings={"num_classes": 10}, source_name="it")


@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("damage", [damage_missing, damage_extra, damage_shape, damage_dtype, damage_nan])
def test_a_checkpoint_that_is_not_that_network(layout: str, damage: Callable[[dict[str, Tensor]], str]) -> None:
    checkpoint = dict(checkpoint_of(layout))
    mapped(layout, dict(checkpoint))
    message = damage(checkpoint)
    with pytest.raises(IntegrityError, match=message):
        mapped(layout, checkpoint)


@pytest.mark.usefixtures("in_this_process")
def test_a_failed_conversion_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoint = foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1"))
    message = damage_nan(checkpoint)
    source = saved(tmp_path / "in.pth", "ferles", checkpoint)
    output = tmp_path / "out.safetensors"
    output.write_text("what was there before")
    with pytest.raises(IntegrityError, match=message):
        converted(source, output, "ferles")
    assert output.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["in.pth", "out.safetensors"]


def test_unused_tensors_must_be_there() -> None:
    checkpoint = foreign_checkpoint("resnet20_fattorib", "fattorib", random_state("resnet20_fattorib"))
    del checkpoint["second_block.conv_block.3.weight"]
    with pytest.raises(IntegrityError, match=r"missing: second_block\.conv_block\.3\.weight"):
        mapped("fattorib", checkpoint)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("layout", "architecture", "message"),
    [
        (
            "ferles",
            "wrn_40_1",
            "not a ferles checkpoint of wrn_40_1 with 10 classes: missing: .*check --layout, --arch",
        ),
        ("ferles", "wrn_40_1", "; it looks like a ferles checkpoint of wrn_16_1 with 10 classes$"),
        ("bearpaw", "wrn_16_1", "; it looks like a ferles checkpoint of wrn_16_1 with 10 classes$"),
        (
            "akamaster",
            "resnet32",
            "is not an akamaster checkpoint of resnet32 .*; it looks like a ferles checkpoint of wrn_16_1 with",
        ),
    ],
)
def test_another_network_is_named(layout: str, architecture: str, message: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "in.pth", "ferles", foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")))
    with pytest.raises(IntegrityError, match=message):
        converted(source, tmp_path / "out.safetensors", layout, architecture)


@pytest.mark.usefixtures("in_this_process")
def test_another_number_of_classes_is_named(tmp_path: Path) -> None:
    state = random_state("resnet20_b", num_classes=100)
    source = saved(tmp_path / "in.pth", "chenyaofo", foreign_checkpoint("resnet20_b", "chenyaofo", state))
    with pytest.raises(IntegrityError, match=r"with 10 classes: .*looks like a chenyaofo .* of resnet20_b with 100 "):
        converted(source, tmp_path / "out.safetensors", "chenyaofo")


@pytest.mark.parametrize("layout", CASES)
def test_a_checkpoint_is_recognised(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its names and shapes, without building more than a few networks."""
    architecture = CASES[layout]
    container = get_layout(layout).state_dict_prefixes[0]
    checkpoint = checkpoint_of(layout)
    built: list[str] = []

    def counted(row: object, **settings: object) -> object:
        built.append(row.name)  # type: ignore[attr-defined]
        return models.build(row, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(recognition, "build", counted)
    recognition._compute_signatures_once.cache_clear()
    found = recognise({container + name: tensor for name, tensor in checkpoint.items()})
    assert found == [Match(layout, architecture)]
    assert len(built) < 25


@pytest.mark.usefixtures("in_this_process")
def test_layout_and_architecture_may_be_left_out(tmp_path: Path) -> None:
    source = saved(tmp_path / "in.pth", "ferles", foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")))
    output = tmp_path / "out.safetensors"
    wanted = converted(source, output, "ferles").read_bytes()
    enough: list[dict[str, Any]] = [{}, {"layout": "ferles"}, {"architecture": "wrn_16_1"}]
    for given in enough:
        result = convert_file(source, output, dataset="cifar10", num_classes=10, **given)
        assert result.path.read_bytes() == wanted
    with pytest.raises(IntegrityError, match=r"not a checkpoint of akamaster; it looks like a ferles .* of wrn_16_1"):
        convert_file(source, output, layout="akamaster", dataset="cifar10", num_classes=10)
    with pytest.raises(UsageError, match="give --mean and --std"):
        convert_file(source, output, dataset="cifar100", num_classes=10)
    torch.save({"something.weight": torch.zeros(3)}, source)
    found = r"it holds 1 tensor \(something\.weight F32\[3\]\) under something; give --layout and --arch"
    with pytest.raises(IntegrityError, match=f"fits no layout and architecture that are known here: {found}"):
        convert_file(source, output, dataset="cifar10", num_classes=10)
    torch.save({"net": {f"{k}.weight": torch.zeros(7, 5) for k in range(4)}}, source)
    found = r"4 tensors \(net\.0\.weight F32\[7x5\], .*, \.\.\.\) under net, and its last linear layer has 7 outputs;"
    with pytest.raises(IntegrityError, match=found):
        convert_file(source, output, dataset="cifar10", num_classes=10)


@pytest.mark.usefixtures("in_this_process")
def test_what_a_file_cannot_tell(tmp_path: Path) -> None:
    """torchvision's and timm's files have the same names, and torchvision's preprocessing is known."""
    source = tmp_path / "in.pth"
    torch.save(random_state("resnet18", num_classes=1000), source)
    output = tmp_path / "out.safetensors"
    assert recognise(source) == [("timm", "resnet18"), ("torchvision", "resnet18")]
    enough: list[dict[str, Any]] = [{}, {"architecture": "resnet18"}, {"layout": "torchvision"}]
    for given in enough:
        result = convert_file(source, output, dataset="imagenet1k", num_classes=1000, **given)
        assert (result.description.layout, result.description.architecture) == ("torchvision", "resnet18")
    result = convert_file(
        source,
        output,
        layout="timm",
        dataset="imagenet1k",
        num_classes=1000,
        preprocessing=get_layout("torchvision").preprocessing["imagenet1k"],
    )
    assert result.description.layout == "timm"


def test_twins_with_different_preprocessing_are_not_chosen_between() -> None:
    layouts = [get_layout("torchvision"), get_layout("timm")]
    found = [Match(layout.name, "resnet18") for layout in layouts]
    assert pick_equivalent_match(found, layouts, "imagenet1k", has_preprocessing=False) == ("torchvision", "resnet18")
    others = dict(layouts[0].preprocessing) | {"imagenet1k": get_layout("torch7").preprocessing["imagenet1k"]}
    differing = [layouts[0], dataclasses.replace(layouts[1], preprocessing=others)]
    assert pick_equivalent_match(found, differing, "imagenet1k", has_preprocessing=False) is None
    assert pick_equivalent_match(found, differing, "imagenet1k", has_preprocessing=True) == ("torchvision", "resnet18")
    unequal = [layouts[0], get_layout("pytorchcv")]
    assert pick_equivalent_match(found, unequal, "imagenet1k", has_preprocessing=True) is None
    assert (
        pick_equivalent_match([found[0], Match("timm", "resnet34")], layouts, "imagenet1k", has_preprocessing=True)
        is None
    )


@pytest.mark.usefixtures("in_this_process")
def test_a_state_dict_of_the_zoo(tmp_path: Path) -> None:
    """It is the last guess; shapes do not show every architecture, and nobody's preprocessing is known."""
    state = random_state("preresnet20_rawid")
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}}, source)
    assert Match("zoo", "preresnet20_rawid") in recognise(source)
    convert_any = functools.partial(convert_file, source, output, dataset="cifar10", num_classes=10)
    with pytest.raises(UsageError, match="give --mean and --std"):
        convert_any(architecture="preresnet20_rawid")
    preprocessing = get_layout("ferles").preprocessing["cifar10"]
    with pytest.raises(UsageError, match=r"fits a zoo checkpoint of .* or a zoo .*; say which with --layout and"):
        convert_any(preprocessing=preprocessing)
    result = convert_any(architecture="preresnet20_rawid", preprocessing=preprocessing)
    assert result.description.layout == "zoo"
    assert result.tensors_sha256 == tensors_sha256(state)
    torch.save(random_state("resnet20_b"), source)
    assert recognise(source) == [Match("chenyaofo", "resnet20_b")]
    assert convert_any(layout="zoo", preprocessing=preprocessing).description.architecture == "resnet20_b"


@pytest.mark.usefixtures("in_this_process")
def test_a_wrapper_may_be_there_or_not(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    training = {
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        "lr_scheduler": {"base": torch.zeros(1)},
    }
    for content in (
        state,
        {"state_dict": state},
        {f"module.{name}": tensor for name, tensor in state.items()},
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3, **training},
        {"model": state, **training},
        {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ):
        torch.save(content, tmp_path / "in.pth")
        result = convert_file(
            tmp_path / "in.pth",
            tmp_path / "out.safetensors",
            layout="chenyaofo",
            architecture="resnet20_b",
            dataset="cifar10",
            num_classes=10,
        )
        assert result.tensors_sha256 == tensors_sha256(state)


@pytest.mark.usefixtures("in_this_process")
def test_a_second_network_in_a_file_is_not_passed_over(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "in.pth")
    with pytest.raises(IntegrityError, match=r"unexpected: state_dict_ema\."):
        converted(tmp_path / "in.pth", tmp_path / "out.safetensors", "chenyaofo", "resnet20_b")


def test_a_safetensors_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    save_file(state, tmp_path / "model")
    output = converted(tmp_path / "model", tmp_path / "out.safetensors", "chenyaofo")
    assert tensors_sha256(read_tensors(output)) == tensors_sha256(state)


@pytest.mark.usefixtures("in_this_process")
def test_archives(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    source = zipped(tmp_path / "resnet20.pth.zip", foreign_checkpoint("resnet20_b", "pytorchcv", state))
    output = converted(source, tmp_path / "out.safetensors", "pytorchcv")
    assert tensors_sha256(read_tensors(output)) == tensors_sha256(state)
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match=r"resnet20\.pth\.zip is not a readable archive"):
        converted(source, output, "pytorchcv")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    source = zipped(tmp_path / "page.zip", {"epoch": 3})
    with pytest.raises(
        IntegrityError, match=r"page\.zip: its one file is not a readable torch checkpoint: .*no tensors"
    ):
        recognise(source)


def test_usage(tmp_path: Path) -> None:
    source = tmp_path / "in.pth"
    source.write_bytes(b"x")
    output = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="no layout is called 'hysts'; the layouts are"):
        converted(source, output, "hysts", "resnet20")
    with pytest.raises(UsageError, match="no architecture is called 'resnet21'"):
        converted(source, output, "akamaster", "resnet21")
    with pytest.raises(UsageError, match="has no resnet20_b; it has resnet20_fattorib, resnet32_fattorib"):
        converted(source, output, "fattorib", "resnet20_b")
    with pytest.raises(UsageError, match="has no resnet20_b; it has resnet20, resnet32"):
        converted(source, output, "akamaster", "resnet20_b")
    with pytest.raises(UsageError, match="which has no wrn_16_1"):
        converted(source, output, "akamaster", "wrn_16_1")
    with pytest.raises(UsageError, match="give --mean and --std"):
        convert_file(source, output, layout="ferles", architecture="wrn_16_1", dataset="cifar100", num_classes=100)
    with pytest.raises(UnavailableError, match="there is no file"):
        converted(tmp_path / "nothing.pth", output, "akamaster")
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        converted(source, source, "akamaster")
    assert not output.exists()


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)  # type: ignore[return-value]


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("code", r"it holds objects \(\w+\.mkdir\) beside tensors"),
        ("newer code", r"its pickle is damaged, or holds more than tensors, .* save the network's state_dict\(\)"),
        (
            "module",
            r"it holds objects \(torch\.nn\.modules\.linear\.Linear\) beside .* save the network's state_dict\(\)",
        ),
        ("truncated", "it is cut off; download it again"),
        ("old and truncated", "it is cut off or damaged; download it again"),
        ("text", "it is not a torch file, because it starts with b'<html>quota exceeded</ht'; download it again"),
        ("gzip", "it is compressed with gzip; unpack it"),
        ("tar", "it is a tar archive; unpack it"),
        ("empty", "it is empty; download it again"),
        ("numbers", "it holds no tensors; name the file with the weights"),
        ("twice", "two tensors are called a.b"),
    ],
)
def test_pickles_that_are_no_checkpoints(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    source = tmp_path / "in.pth"
    if kind.endswith("code"):
        source.write_bytes(pickle.dumps(Bomb(), protocol=2 if kind == "code" else 5))
    elif kind == "module":
        torch.save(torch.nn.Linear(2, 2), source)
    elif kind == "gzip":
        source.write_bytes(gzip.compress(b"weights"))
    elif kind == "tar":
        (tmp_path / "inner").write_bytes(b"weights")
        with tarfile.open(source, "w") as archive:
            archive.add(tmp_path / "inner", "inner")
    elif kind.endswith("truncated"):
        torch.save({"a": torch.zeros(1000)}, source, _use_new_zipfile_serialization=kind == "truncated")
        source.write_bytes(source.read_bytes()[:-500])
    elif kind == "twice":
        torch.save({"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}, source)
    elif kind == "numbers":
        torch.save({"epoch": 3}, source)
    else:
        source.write_bytes(b"<html>quota exceeded</html>" if kind == "text" else b"")
    with pytest.raises(IntegrityError, match=f"is not a readable torch checkpoint: {message}") as caught:
        unpickle(source)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "exploded").exists()


def test_a_torch_file_of_any_name(tmp_path: Path) -> None:
    """torch goes by the extension where it is given a path."""
    torch.save({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path / "model.safetensors")["a"].tolist() == [1, 1, 1]


def test_content_hash_sees_names_shapes_and_values_but_no_counters() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(3)}
    same = {"bn.num_batches_tracked": torch.tensor(4), "a": state["a"].t().contiguous().t()}
    assert tensors_sha256(state) == tensors_sha256(same)
    others = [
        {"b": state["a"]},
        {"a": state["a"].reshape(3, 2)},
        {"a": state["a"] + 1},
        {"a": state["a"].double()},
    ]
    hashes = {tensors_sha256(other) for other in others}
    assert len(hashes) == 4
    assert tensors_sha256(state) not in hashes
    # written down once, so that the definition cannot drift: sha256(b"a F32 1\n" + b"\x00\x00\x80\x3f")
    assert tensors_sha256({"a": torch.ones(1)}) == "76dad3bfcd99d4e0a84ab6cdbbd59f2bda9ea42322af45f4ef413a43b3faaa8a"


def test_tensors_that_are_known_from_another_data_set(origins: Path, tmp_path: Path) -> None:
    """A published CIFAR-10 network is not taken for one of SVHN, whose images have the same size and ten classes."""
    source, output = origins / "akamaster/resnet20-12fca82f.th", tmp_path / "out.safetensors"
    preprocessing = get_layout("akamaster").preprocessing["cifar10"]
    given: dict[str, Any] = {"dataset": "svhn", "num_classes": 10, "preprocessing": preprocessing}
    with pytest.raises(
        UsageError, match=r"tensors of resnet20\.cifar10_akamaster, .* on cifar10, not on svhn; .*--force"
    ):
        convert_file(source, output, **given)
    assert not output.exists()
    described = convert_file(source, output, force=True, **given).description
    assert described.dataset == "svhn"


@pytest.mark.usefixtures("in_this_process")
def test_tensors_that_are_known_from_several_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may name them for both; then neither is a contradiction."""
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    saved(source, "ferles", foreign_checkpoint("wrn_16_1", "ferles", random_state("wrn_16_1")))
    known = converted(source, output, "ferles")
    content = tensors_sha256(read_tensors(known))
    template = load_manifest().find("wrn_16_1.cifar10_ferles")
    entries = {
        name: dataclasses.replace(template, id=name, dataset=dataset, tensors_sha256=content)
        for name, dataset in [("wrn_16_1.cifar10_ferles", "cifar10"), ("wrn_16_1.svhn_ferles", "svhn")]
    }
    given: dict[str, Any] = {"num_classes": 10, "preprocessing": template.preprocessing}
    monkeypatch.setattr(conversion, "load_manifest", lambda: Manifest(entries))
    for dataset in ("cifar10", "svhn"):
        assert convert_file(source, output, dataset=dataset, **given).description.dataset == dataset
    with pytest.raises(UsageError, match="which were trained on cifar10, not on fashion_mnist"):
        convert_file(source, output, dataset="fashion_mnist", **given)
