"""Conversion: a layout accepts exactly its own names and shapes, layouts are recognised, foreign pickles do nothing."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import foreign_checkpoint, random_state
from layout_tools import write_zipped_checkpoint
from messages import raises_with_words
from safetensors.torch import save_file
from torch import Tensor

from pyramidzoo import models
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import Manifest, load_manifest
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_tensors
from pyramidzoo.checkpoints.tensor_hash import tensors_sha256
from pyramidzoo.convert import conversion, recognition
from pyramidzoo.convert.conversion import convert_file, map_tensors
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint, unpickle
from pyramidzoo.convert.recognition import Match, pick_equivalent_match, recognise
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError

ARCHITECTURES = {  # for each layout an architecture that it supports
    "akamaster": "resnet20",
    "bearpaw": "wrn_16_1",
    "chenyaofo": "resnet20_b",
    "dice": "densenet_bc_40_k12",
    "dyhan": "pyramidnet110_a48",
    "fattorib": "resnet20_fattorib",
    "ferles": "wrn_16_1",
    "pytorchcv": "resnet20_b",
}
IMAGENET_ONLY = {"functional_zoo", "timm", "torch7", "torchvision"}  # tested in test_layouts and test_torch7
OWN = {"zoo"}  # has no preprocessing of its own, so it has tests of its own below


def save_as_authors_did(path: Path, layout: str, checkpoint: dict[str, Tensor]) -> Path:
    """Save a flat checkpoint as the authors of the layout did: the containers, the prefixes, the format of torch."""
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


def convert_for_cifar10(source: Path, output: Path, layout: str, architecture: str | None = None) -> Path:
    """Convert a checkpoint of ten classes. Without an architecture, it is the layout's one of `ARCHITECTURES`."""
    return convert_file(
        source,
        output,
        layout=layout,
        architecture=architecture or ARCHITECTURES[layout],
        dataset="cifar10",
        num_classes=10,
    ).path


@pytest.fixture
def ferles_source(tmp_path: Path) -> Path:
    """A checkpoint of wrn_16_1 with random weights, saved as ferles did."""
    return save_as_authors_did(tmp_path / "in.pth", "ferles", dict(make_checkpoint_of_layout("ferles")))


def test_every_layout_is_tested() -> None:
    assert set(ARCHITECTURES) | IMAGENET_ONLY | OWN == set(LAYOUTS)


@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize("layout", ARCHITECTURES)
def test_a_converted_file_has_all_tensors_and_a_description(layout: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[layout]
    state = random_state(architecture)
    source = save_as_authors_did(tmp_path / "in.pth", layout, foreign_checkpoint(architecture, layout, state))
    output = convert_for_cifar10(source, tmp_path / "out.safetensors", layout)
    tensors = read_tensors(output)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    description = Description.from_file(output)
    assert description is not None
    assert (description.architecture, description.dataset, description.layout) == (architecture, "cifar10", layout)
    assert description.preprocessing == get_layout(layout).preprocessing["cifar10"]


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_two_conversions_of_a_file_give_equal_bytes(ferles_source: Path, tmp_path: Path) -> None:
    first, second = (convert_for_cifar10(ferles_source, tmp_path / f"{k}.safetensors", "ferles") for k in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_old_files_without_batch_counters_are_converted(tmp_path: Path) -> None:
    state = {name: t for name, t in random_state("resnet20").items() if "num_batches" not in name}
    source = save_as_authors_did(tmp_path / "in.th", "akamaster", foreign_checkpoint("resnet20", "akamaster", state))
    assert read_tensors(convert_for_cifar10(source, tmp_path / "out.safetensors", "akamaster")).keys() == state.keys()


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_fattorib_has_97536_unused_parameters(depth: int) -> None:
    unused = get_layout("fattorib").list_unused_tensors(get_architecture(f"resnet{depth}_fattorib"))
    learned = [part for name, part in unused.items() if name.endswith(("weight", "bias"))]
    assert sum(torch.Size(part.shape).numel() for part in learned) == 97_536


# Each of these damages a checkpoint, and returns words that the error message must have: the tensor and the reason.
Damage = Callable[[dict[str, Tensor]], Sequence[str]]


def remove_tensor(checkpoint: dict[str, Tensor]) -> Sequence[str]:
    endings = ("conv2.weight", "conv2.conv.weight", "final_block.3.weight")
    name = next(name for name in checkpoint if name.endswith(endings))
    del checkpoint[name]
    return name, "missing"


def add_tensor(checkpoint: dict[str, Tensor]) -> Sequence[str]:
    checkpoint["conv9.weight"] = torch.zeros(3)
    return "conv9.weight", "unexpected"


def change_shape(checkpoint: dict[str, Tensor]) -> Sequence[str]:
    name = next(name for name in checkpoint if name.endswith("weight"))
    right_shape = "x".join(map(str, checkpoint[name].shape))
    assert right_shape in ("16x3x3x3", "24x3x3x3")
    checkpoint[name] = torch.zeros(16, 3, 5, 5)
    return name, "F32[16x3x5x5]", f"F32[{right_shape}]"


def change_dtype(checkpoint: dict[str, Tensor]) -> Sequence[str]:
    name = next(name for name in checkpoint if name.endswith("weight"))
    checkpoint[name] = checkpoint[name].double()
    return name, "F64", "F32"


def insert_nan(checkpoint: dict[str, Tensor]) -> Sequence[str]:
    name = next(name for name in checkpoint if name.endswith("running_var") and "conv_block" not in name)
    checkpoint[name] = checkpoint[name].clone()
    checkpoint[name][0] = float("nan")
    return ("NaN",)


@functools.cache
def make_checkpoint_of_layout(layout: str) -> dict[str, Tensor]:
    """Make a checkpoint of the layout's architecture as the authors would have. Copy it before you change it."""
    return foreign_checkpoint(ARCHITECTURES[layout], layout, random_state(ARCHITECTURES[layout]))


def map_checkpoint(layout: str, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map the names of a checkpoint to those of the zoo, without any file."""
    key_map = get_layout(layout)
    tensors = {key_map.state_dict_prefixes[0] + name: tensor for name, tensor in checkpoint.items()}
    row = get_architecture(ARCHITECTURES[layout])
    return map_tensors(tensors, key_map, row, settings={"num_classes": 10}, source_name="it")


@pytest.mark.parametrize("layout", ARCHITECTURES)
@pytest.mark.parametrize("damage", [remove_tensor, add_tensor, change_shape, change_dtype, insert_nan])
def test_a_checkpoint_with_other_tensors_is_refused(layout: str, damage: Damage) -> None:
    checkpoint = dict(make_checkpoint_of_layout(layout))
    map_checkpoint(layout, dict(checkpoint))
    words = damage(checkpoint)
    with raises_with_words(IntegrityError, *words):
        map_checkpoint(layout, checkpoint)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_a_failed_conversion_does_not_change_the_folder(tmp_path: Path) -> None:
    checkpoint = dict(make_checkpoint_of_layout("ferles"))
    words = insert_nan(checkpoint)
    source = save_as_authors_did(tmp_path / "in.pth", "ferles", checkpoint)
    output = tmp_path / "out.safetensors"
    output.write_text("what was there before")
    with raises_with_words(IntegrityError, *words):
        convert_for_cifar10(source, output, "ferles")
    assert output.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["in.pth", "out.safetensors"]


def test_a_checkpoint_without_the_unused_tensors_is_refused() -> None:
    checkpoint = dict(make_checkpoint_of_layout("fattorib"))
    del checkpoint["second_block.conv_block.3.weight"]
    with raises_with_words(IntegrityError, "missing", "second_block.conv_block.3.weight"):
        map_checkpoint("fattorib", checkpoint)


@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize(
    ("layout", "architecture", "words"),
    [
        # What was asked for, and how to ask for something else.
        ("ferles", "wrn_40_1", ["ferles", "wrn_40_1", "10 classes", "missing", "--layout", "--arch"]),
        ("akamaster", "resnet32", ["akamaster", "resnet32", "10 classes"]),
        # What the file holds instead.
        ("ferles", "wrn_40_1", ["ferles", "wrn_16_1"]),
        ("bearpaw", "wrn_16_1", ["ferles", "wrn_16_1", "10 classes"]),
        ("akamaster", "resnet32", ["ferles", "wrn_16_1"]),
    ],
)
def test_the_error_for_another_network_names_the_network_of_the_file(
    layout: str, architecture: str, words: list[str], ferles_source: Path, tmp_path: Path
) -> None:
    with raises_with_words(IntegrityError, "in.pth", *words):
        convert_for_cifar10(ferles_source, tmp_path / "out.safetensors", layout, architecture)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_the_error_for_another_number_of_classes_names_both_numbers(tmp_path: Path) -> None:
    checkpoint = foreign_checkpoint("resnet20_b", "chenyaofo", random_state("resnet20_b", num_classes=100))
    source = save_as_authors_did(tmp_path / "in.pth", "chenyaofo", checkpoint)
    with raises_with_words(IntegrityError, "10 classes", "100 classes", "chenyaofo", "resnet20_b"):
        convert_for_cifar10(source, tmp_path / "out.safetensors", "chenyaofo")


@pytest.mark.parametrize("layout", ARCHITECTURES)
def test_a_checkpoint_is_recognised(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and shapes are enough, and only a few networks are built to compare with."""
    container = get_layout(layout).state_dict_prefixes[0]
    checkpoint = make_checkpoint_of_layout(layout)
    built: list[str] = []

    def build_and_record(row: object, **settings: object) -> object:
        built.append(row.name)  # type: ignore[attr-defined]
        return models.build(row, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(recognition, "build", build_and_record)
    recognition._compute_signatures_once.cache_clear()
    matches = recognise({container + name: tensor for name, tensor in checkpoint.items()})
    assert matches == [Match(layout, ARCHITECTURES[layout])]
    assert len(built) < 25


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_layout_and_architecture_may_be_left_out(ferles_source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    expected = convert_for_cifar10(ferles_source, output, "ferles").read_bytes()
    possible_arguments: list[dict[str, Any]] = [{}, {"layout": "ferles"}, {"architecture": "wrn_16_1"}]
    for arguments in possible_arguments:
        result = convert_file(ferles_source, output, dataset="cifar10", num_classes=10, **arguments)
        assert result.path.read_bytes() == expected
    with raises_with_words(IntegrityError, "in.pth", "akamaster", "ferles", "wrn_16_1"):
        convert_file(ferles_source, output, layout="akamaster", dataset="cifar10", num_classes=10)
    with raises_with_words(UsageError, "cifar100", "--mean", "--std"):
        convert_file(ferles_source, output, dataset="cifar100", num_classes=10)


@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"something.weight": torch.zeros(3)}, ["1 tensor ", "something.weight F32[3]"]),
        (
            {"net": {f"{k}.weight": torch.zeros(7, 5) for k in range(4)}},
            ["4 tensors", "net.0.weight F32[7x5]", "...", "7 outputs"],
        ),
    ],
)
def test_the_error_for_an_unknown_network_describes_its_tensors(
    content: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(content, source)
    with raises_with_words(IntegrityError, "in.pth", *words, "--layout", "--arch"):
        convert_file(source, output, dataset="cifar10", num_classes=10)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_torchvision_is_chosen_for_a_file_that_fits_torchvision_and_timm(tmp_path: Path) -> None:
    """Files of both libraries have the same names. Only torchvision's preprocessing is known."""
    source = tmp_path / "in.pth"
    torch.save(random_state("resnet18", num_classes=1000), source)
    output = tmp_path / "out.safetensors"
    assert recognise(source) == [("timm", "resnet18"), ("torchvision", "resnet18")]
    possible_arguments: list[dict[str, Any]] = [{}, {"architecture": "resnet18"}, {"layout": "torchvision"}]
    for arguments in possible_arguments:
        result = convert_file(source, output, dataset="imagenet1k", num_classes=1000, **arguments)
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


def test_no_match_is_picked_where_the_choice_changes_the_result() -> None:
    torchvision, timm = get_layout("torchvision"), get_layout("timm")
    matches = [Match("torchvision", "resnet18"), Match("timm", "resnet18")]
    pick = functools.partial(pick_equivalent_match, dataset="imagenet1k")
    assert pick(matches, [torchvision, timm], has_preprocessing=False) == ("torchvision", "resnet18")
    other_preprocessing = {"imagenet1k": get_layout("torch7").preprocessing["imagenet1k"]}
    prepares_otherwise = dataclasses.replace(timm, preprocessing=dict(torchvision.preprocessing) | other_preprocessing)
    assert pick(matches, [torchvision, prepares_otherwise], has_preprocessing=False) is None
    assert pick(matches, [torchvision, prepares_otherwise], has_preprocessing=True) == ("torchvision", "resnet18")
    has_other_names = get_layout("pytorchcv")
    assert pick(matches, [torchvision, has_other_names], has_preprocessing=True) is None
    other_network = [matches[0], Match("timm", "resnet34")]
    assert pick(other_network, [torchvision, timm], has_preprocessing=True) is None


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_a_state_dict_of_the_zoo_needs_an_architecture_and_preprocessing(tmp_path: Path) -> None:
    """Shapes do not show every architecture, and the preprocessing is unknown. Other layouts have precedence."""
    state = random_state("preresnet20_rawid")
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save({"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}}, source)
    assert Match("zoo", "preresnet20_rawid") in recognise(source)
    convert_any = functools.partial(convert_file, source, output, dataset="cifar10", num_classes=10)
    with raises_with_words(UsageError, "--mean", "--std"):
        convert_any(architecture="preresnet20_rawid")
    preprocessing = get_layout("ferles").preprocessing["cifar10"]
    with raises_with_words(UsageError, "in.pth", "zoo checkpoint", "preresnet20_rawid", "--layout", "--arch"):
        convert_any(preprocessing=preprocessing)
    result = convert_any(architecture="preresnet20_rawid", preprocessing=preprocessing)
    assert result.description.layout == "zoo"
    assert result.tensors_sha256 == tensors_sha256(state)
    torch.save(random_state("resnet20_b"), source)
    assert recognise(source) == [Match("chenyaofo", "resnet20_b")]
    assert convert_any(layout="zoo", preprocessing=preprocessing).description.architecture == "resnet20_b"


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_a_state_dict_is_found_in_every_usual_container(tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_a_file_with_a_second_network_is_refused(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "in.pth")
    with raises_with_words(IntegrityError, "unexpected", "state_dict_ema."):
        convert_for_cifar10(tmp_path / "in.pth", tmp_path / "out.safetensors", "chenyaofo", "resnet20_b")


def test_a_safetensors_file_is_converted(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    save_file(state, tmp_path / "model")
    output = convert_for_cifar10(tmp_path / "model", tmp_path / "out.safetensors", "chenyaofo")
    assert tensors_sha256(read_tensors(output)) == tensors_sha256(state)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_the_checkpoint_in_an_archive_is_converted(tmp_path: Path) -> None:
    state = random_state("resnet20_b")
    source = write_zipped_checkpoint(
        tmp_path / "resnet20.pth.zip", foreign_checkpoint("resnet20_b", "pytorchcv", state)
    )
    output = convert_for_cifar10(source, tmp_path / "out.safetensors", "pytorchcv")
    assert tensors_sha256(read_tensors(output)) == tensors_sha256(state)
    source.write_bytes(source.read_bytes()[:-200])
    with raises_with_words(IntegrityError, "resnet20.pth.zip", "archive"):
        convert_for_cifar10(source, output, "pytorchcv")


def test_an_archive_without_tensors_is_refused(tmp_path: Path) -> None:
    source = write_zipped_checkpoint(tmp_path / "page.zip", {"epoch": 3})
    with raises_with_words(IntegrityError, "page.zip", "no tensors"):
        recognise(source)


@pytest.mark.parametrize(
    ("layout", "architecture", "words"),
    [
        ("hysts", "resnet20", ["hysts", "akamaster", "ferles"]),
        ("akamaster", "resnet21", ["architecture", "resnet21"]),
        ("fattorib", "resnet20_b", ["fattorib", "resnet20_b", "resnet20_fattorib, resnet32_fattorib"]),
        ("akamaster", "resnet20_b", ["akamaster", "resnet20_b", "resnet20, resnet32"]),
        ("akamaster", "wrn_16_1", ["akamaster", "wrn_16_1"]),
    ],
)
def test_unknown_layouts_and_architectures_are_refused(
    layout: str, architecture: str, words: list[str], tmp_path: Path
) -> None:
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    source.write_bytes(b"x")
    with raises_with_words(UsageError, *words):
        convert_for_cifar10(source, output, layout, architecture)
    assert not output.exists()


def test_wrong_arguments_and_missing_files_are_refused(tmp_path: Path) -> None:
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    source.write_bytes(b"x")
    with raises_with_words(UsageError, "cifar100", "--mean", "--std"):
        convert_file(source, output, layout="ferles", architecture="wrn_16_1", dataset="cifar100", num_classes=100)
    with raises_with_words(UnavailableError, "nothing.pth"):
        convert_for_cifar10(tmp_path / "nothing.pth", output, "akamaster")
    with raises_with_words(UsageError, "in.pth", "output"):
        convert_for_cifar10(source, source, "akamaster")
    assert source.read_bytes() == b"x"
    assert not output.exists()


class MakesFolderWhenUnpickled:
    """An object whose pickle calls `os.mkdir`, if the reader allows it."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.mkdir, (os.environ["FOLDER_OF_PICKLE"],)  # type: ignore[return-value]


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("code", [".mkdir", "objects"]),
        ("newer code", ["pickle", "state_dict()"]),
        ("module", ["torch.nn.modules.linear.Linear", "state_dict()"]),
        ("truncated", ["cut off", "download"]),
        ("old and truncated", ["damaged", "download"]),
        ("text", ["b'<html>quota exceeded</ht'", "download"]),
        ("gzip", ["gzip", "unpack"]),
        ("tar", ["tar archive", "unpack"]),
        ("empty", ["empty", "download"]),
        ("numbers", ["no tensors", "weights"]),
        ("twice", ["two tensors", "a.b"]),
    ],
)
def test_files_that_are_no_checkpoints_are_refused(
    kind: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of_pickle = tmp_path / "made_by_the_pickle"
    monkeypatch.setenv("FOLDER_OF_PICKLE", str(folder_of_pickle))
    source = tmp_path / "in.pth"
    if kind.endswith("code"):
        source.write_bytes(pickle.dumps(MakesFolderWhenUnpickled(), protocol=2 if kind == "code" else 5))
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
    with raises_with_words(IntegrityError, "in.pth", "torch checkpoint", *words) as caught:
        unpickle(source)
    assert "weights_only" not in str(caught.value)  # torch's own advice would open the file unsafely
    assert str(caught.value).isprintable()
    assert not folder_of_pickle.exists()


def test_a_torch_file_may_have_any_name(tmp_path: Path) -> None:
    """torch itself would choose the format by the extension of a path."""
    torch.save({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path / "model.safetensors")["a"].tolist() == [1, 1, 1]


def test_the_hash_of_tensors_covers_names_shapes_and_values_but_no_counters() -> None:
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
    # The definition must never change. This value is sha256(b"a F32 1\n" + b"\x00\x00\x80\x3f").
    assert tensors_sha256({"a": torch.ones(1)}) == "76dad3bfcd99d4e0a84ab6cdbbd59f2bda9ea42322af45f4ef413a43b3faaa8a"


def test_published_tensors_are_refused_for_another_dataset(origins: Path, tmp_path: Path) -> None:
    """A published network for CIFAR-10 is not converted as one for SVHN, which has the same image size and classes."""
    source, output = origins / "akamaster/resnet20-12fca82f.th", tmp_path / "out.safetensors"
    preprocessing = get_layout("akamaster").preprocessing["cifar10"]
    arguments: dict[str, Any] = {"dataset": "svhn", "num_classes": 10, "preprocessing": preprocessing}
    with raises_with_words(UsageError, "resnet20.cifar10_akamaster", "svhn", "--dataset cifar10", "--force"):
        convert_file(source, output, **arguments)
    assert not output.exists()
    assert convert_file(source, output, force=True, **arguments).description.dataset == "svhn"


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_published_tensors_are_accepted_for_each_dataset_of_the_manifest(
    ferles_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest may have two entries with the same tensors, for two datasets."""
    output = tmp_path / "out.safetensors"
    tensors_hash = tensors_sha256(read_tensors(convert_for_cifar10(ferles_source, output, "ferles")))
    template = load_manifest().find("wrn_16_1.cifar10_ferles")
    entries = {
        name: dataclasses.replace(template, id=name, dataset=dataset, tensors_sha256=tensors_hash)
        for name, dataset in [("wrn_16_1.cifar10_ferles", "cifar10"), ("wrn_16_1.svhn_ferles", "svhn")]
    }
    arguments: dict[str, Any] = {"num_classes": 10, "preprocessing": template.preprocessing}
    monkeypatch.setattr(conversion, "load_manifest", lambda: Manifest(entries))
    for dataset in ("cifar10", "svhn"):
        assert convert_file(ferles_source, output, dataset=dataset, **arguments).description.dataset == dataset
    with raises_with_words(UsageError, "cifar10", "fashion_mnist", "--dataset", "--force"):
        convert_file(ferles_source, output, dataset="fashion_mnist", **arguments)
