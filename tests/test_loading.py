"""Loading: nothing is initialised in vain, the file is mapped and never written to, a new head changes nothing else."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_state
from torch import Tensor, nn

import pyramidzoo
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.checkpoints import loading
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import Content, read_tensors, write_tensors
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.files import file_hash, package_path, replacing
from pyramidzoo.models import build, skip_initialisation

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state("wrn_16_1")


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    write_tensors(tmp_path / "model.safetensors", state, {})
    return tmp_path / "model.safetensors"


def holds(model: nn.Module, state: dict[str, Tensor], *, but: str = " ") -> bool:
    found = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(but)}
    return all(torch.equal(tensor, state[name]) for name, tensor in found.items())


def test_no_random_number_is_drawn(path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    pyramidzoo.create_model("wrn_16_1", weights=path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_context_does_not_reach_loaded_tensors(path: Path, state: dict[str, Tensor]) -> None:
    write_tensors(path, {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}, {})
    with torch.device("meta"):
        model = pyramidzoo.create_model("wrn_16_1", weights=path, num_classes=3)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert holds(model, {**state, **{n: torch.zeros_like(t) for n, t in state.items() if t.dim() == 0}}, but="fc.")


def test_a_new_head_is_the_one_that_a_seed_gives(path: Path, state: dict[str, Tensor]) -> None:
    torch.manual_seed(3)
    model = pyramidzoo.create_model("wrn_16_1", weights=path, num_classes=37)
    torch.manual_seed(3)
    alone = nn.Linear(64, 37)
    assert torch.equal(model.get_parameter("fc.weight"), alone.weight)
    assert not model.fc.bias.any()
    assert holds(model, state, but="fc.")
    assert len([name for name in model.state_dict() if not name.startswith("fc.")]) == len(state) - 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells what is mapped on Linux only")
def test_the_file_is_mapped_and_not_copied(path: Path) -> None:
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    spans = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    assert all(any(a <= tensor.data_ptr() < b for a, b in spans) for tensor in model.state_dict().values())


def test_training_writes_to_memory_only(path: Path, state: dict[str, Tensor]) -> None:
    before = file_hash(path)
    model = pyramidzoo.create_model("wrn_16_1", weights=path).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        model(IMAGES).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        model.get_parameter("fc.weight").zero_()
    assert not any(torch.equal(p, state[name]) for name, p in model.named_parameters())
    assert file_hash(path) == before
    assert holds(pyramidzoo.create_model("wrn_16_1", weights=path), state)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


def test_two_models_of_one_file_do_not_share_memory(path: Path) -> None:
    first, second = (pyramidzoo.create_model("wrn_16_1", weights=path) for _ in range(2))
    with torch.no_grad():
        first.conv1.weight.zero_()
    assert second.conv1.weight.any()


def test_a_file_replaced_while_mapped(path: Path, state: dict[str, Tensor]) -> None:
    """Nothing of the old file was touched before it was replaced: what the model reads then must still be it."""
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    loading.forget_verified()
    other = random_state("wrn_16_1", seed=1)
    write_tensors(path, other, {})
    assert holds(model, state)
    assert holds(pyramidzoo.create_model("wrn_16_1", weights=path), other)
    path.unlink()
    assert holds(model, state)


def _train_and_replace(path: Path) -> None:
    for _ in range(20):
        model = pyramidzoo.create_model("wrn_16_1", weights=path)
        with torch.no_grad():
            model.conv1.weight.zero_()
        with replacing(path) as part:
            part.write_bytes(path.read_bytes())


def test_processes_that_load_train_and_replace_one_file(path: Path, state: dict[str, Tensor]) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_train_and_replace, args=(path,)) for _ in range(3)]
    for process in others:
        process.start()
    while any(process.is_alive() for process in others):
        assert holds(pyramidzoo.create_model("wrn_16_1", weights=path), state)
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_values_are_looked_at_once_for_each_state_of_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = loading.check_finite

    def counted(tensors: Mapping[str, Tensor], error_start: str) -> None:
        looked.append(error_start)
        real(tensors, error_start=error_start)

    monkeypatch.setattr(loading, "check_finite", counted)
    for _ in range(3):
        pyramidzoo.create_model("wrn_16_1", weights=path)
    assert len(looked) == 1
    tensors = read_tensors(path)
    write_tensors(path, {**tensors, "norm.bias": torch.full((64,), float("nan"))}, {})
    for _ in range(2):  # what was found bad is not remembered as good
        with pytest.raises(IntegrityError, match=r"NaN or infinite values in norm\.bias"):
            pyramidzoo.create_model("wrn_16_1", weights=path)
    assert len(looked) == 3
    state = {name: tensor.clone() for name, tensor in tensors.items()}
    write_tensors(path, state, {})
    pyramidzoo.create_model("wrn_16_1", weights=path)
    content = bytearray(path.read_bytes())
    content[-4:] = b"\xff\xff\xff\x7f"  # a NaN, written into the file in place
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=times)
    with pytest.raises(IntegrityError, match="NaN or infinite values"):
        pyramidzoo.create_model("wrn_16_1", weights=path)


def test_a_file_that_comes_back_while_it_is_mapped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash the good file, map another, and put the good one back: what is loaded must be what was hashed."""
    good, bad = path.read_bytes(), path.with_name("bad")
    write_tensors(bad, random_state("wrn_16_1", seed=1), {})
    real = loading.read_content
    swaps: list[int] = []

    def swapped(name: Path, **_: bool) -> Content:
        if swaps:
            return real(name)
        swaps.append(1)
        with replacing(name) as part:
            part.write_bytes(bad.read_bytes())
        content = real(name)
        with replacing(name) as part:
            part.write_bytes(good)
        return content

    expected = read_tensors(path)
    monkeypatch.setattr(loading, "read_content", swapped)
    content = loading.read_weights(path, sha256=file_hash(path))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in content.tensors.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_files_are_float32_whatever_the_default_is(dtype: torch.dtype, path: Path, state: dict[str, Tensor]) -> None:
    torch.set_default_dtype(dtype)
    try:
        model = pyramidzoo.create_model("wrn_16_1", weights=path, num_classes=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert holds(model, state, but="fc.")


def test_a_file_without_a_description_tells_its_channels(tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    write_tensors(path, build(get_architecture("wrn_16_1"), in_chans=1).state_dict(), {})
    assert pyramidzoo.create_model("wrn_16_1", weights=path).conv1.in_channels == 1
    with pytest.raises(UsageError, match="read images of 1 channel, not in_chans=3"):
        pyramidzoo.create_model("wrn_16_1", weights=path, in_chans=3)


def test_a_classifier_that_is_not_the_described_one(path: Path, state: dict[str, Tensor]) -> None:
    entry = load_manifest().find("wrn_16_1.digits")
    assert entry.bundled is not None
    described = Description.from_file(package_path(entry.bundled.path))
    assert described is not None
    metadata = dataclasses.replace(described, num_classes=7).to_metadata()
    write_tensors(path, read_tensors(package_path(entry.bundled.path)), metadata)
    with pytest.raises(IntegrityError, match="name 7 classes, but its classifier has 10"):
        pyramidzoo.create_model("wrn_16_1", weights=path)


@pytest.mark.parametrize("shape", [(2**40, 0), (0, 64), (1_000_000, 1)])
def test_no_memory_is_taken_for_an_impossible_classifier(shape: tuple[int, int], path: Path) -> None:
    """A header of a few bytes can name any shape that holds no value."""
    tensors = {name: t.clone() for name, t in read_tensors(path).items()}
    write_tensors(path, {**tensors, "fc.weight": torch.zeros(shape)}, {})
    with pytest.raises(IntegrityError, match=r"has no classifier \(fc\.weight\)"):
        pyramidzoo.create_model("wrn_16_1", weights=path)


@pytest.mark.parametrize(("dtype", "shape"), [("F6_E2M3", [4]), ("F32", [0, 2**64 - 1]), ("U64", [0])])
def test_tensors_that_pytorch_cannot_hold(dtype: str, shape: list[int], path: Path) -> None:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, 3 if dtype == "F6_E2M3" else 0]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * entry["data_offsets"][1])
    with pytest.raises(IntegrityError):
        pyramidzoo.create_model("wrn_16_1", weights=path)


@pytest.mark.parametrize("as_what", ["id", "tag", "data set", "file", "path"])
def test_every_way_to_name_weights(as_what: str) -> None:
    entry = load_manifest().find("resnet20.digits_zoo")
    assert entry.bundled is not None
    path = package_path(entry.bundled.path)
    named: dict[str, Any] = {"id": entry.id, "tag": "digits_zoo", "data set": "digits", "file": str(path), "path": path}
    model = pyramidzoo.create_model("resnet20", weights=named[as_what])
    assert holds(model, read_tensors(path))
    assert model.preprocessing == entry.preprocessing


def test_initialisation_is_skipped_here_and_nowhere_else() -> None:
    """Another thread that builds a network at the same time gets a whole one; so does this one afterwards."""
    row = get_architecture("wrn_16_1")

    def fresh() -> dict[str, Tensor]:
        return build(row).state_dict()

    torch.manual_seed(0)
    expected = fresh()
    found: list[dict[str, Tensor]] = []
    torch.manual_seed(0)
    with skip_initialisation():
        build(row)
        thread = threading.Thread(target=lambda: found.append(fresh()))
        thread.start()
        thread.join()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found[0].items())
    torch.manual_seed(0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh().items())


def test_missing_batch_counters_start_at_zero(path: Path, state: dict[str, Tensor]) -> None:
    write_tensors(path, {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}, {})
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    assert int(model.get_buffer("norm.num_batches_tracked")) == 0
    model.train()(IMAGES)
    assert int(model.get_buffer("norm.num_batches_tracked")) == 1


@pytest.mark.skipif(os.name != "posix", reason="folder permissions are POSIX")
def test_a_read_only_folder_is_enough(path: Path, state: dict[str, Tensor]) -> None:
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        assert holds(pyramidzoo.create_model("wrn_16_1", weights=path), state)
    finally:
        path.parent.chmod(0o755)


def test_a_file_with_an_implausible_normalisation_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Its metadata say that it was made with constants of values from 0 to 255: the answers would be nonsense."""
    settings = {
        "architecture": "wrn_16_1",
        "arguments": {},
        "dataset": "cifar10",
        "num_classes": 10,
        "preprocessing": {
            "input_size": [3, 32, 32],
            "mean": [51, 102, 127.5],
            "std": [0.2, 0.2, 0.2],
            "resize": None,
            "crop": None,
            "interpolation": None,
        },
        "layout": None,
        "origin_sha256": None,
    }
    path = tmp_path / "own.safetensors"
    write_tensors(path, state, {"pyramidzoo": json.dumps(settings)})
    message = r"own\.safetensors: .*the mean 51 102 127.5 is not within 0 to 1; .* gives the mean 0.2 0.4 0.5"
    with pytest.raises(IntegrityError, match=message):
        pyramidzoo.create_model("wrn_16_1", weights=path)
    with pytest.raises(IntegrityError, match="must be divided by 255"):
        EvaluationTarget.from_file(path)
