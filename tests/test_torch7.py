"""Torch7 files: the tree that the authors' Lua code builds, run as it is, and the converted network."""

from __future__ import annotations

import functools
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch7_networks as networks
import torch7_writer as lua
from layout_tools import convert_beside_source, load_converted_network, require_equal_outputs
from torch import Tensor

from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.checkpoints.signatures import check_signatures, get_signatures
from pyramidzoo.convert.conversion import convert_file
from pyramidzoo.convert.layout import FlatCheckpoint
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.convert.read_file import read_checkpoint
from pyramidzoo.convert.recognition import compute_expected_signatures, recognise
from pyramidzoo.convert.sandbox import torch7_reader
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")

Tree = Callable[[networks.Builder], lua.Lua]

TREES: dict[str, Tree] = {
    "resnet18": functools.partial(networks.resnet, depth=18),
    "resnet34": functools.partial(networks.resnet, depth=34),
    "resnet50": functools.partial(networks.resnet, depth=50),
    "resnet101": functools.partial(networks.resnet, depth=101),
    "resnet152": functools.partial(networks.resnet, depth=152),
    "preresnet200": functools.partial(networks.preresnet, depth=200),
    "wide_resnet50_2": functools.partial(networks.resnet, depth=50, width=2),
    "resnext50_32x4d": functools.partial(networks.resnet, depth=50, groups=32, base=4),
    "resnext101_32x4d": functools.partial(networks.resnet, depth=101, groups=32, base=4),
    "resnext101_64x4d": functools.partial(networks.resnet, depth=101, groups=64, base=4),
    "pyramidnet200_a300": functools.partial(networks.pyramidnet, depth=200, alpha=300),
    "pyramidnet200_a450": functools.partial(networks.pyramidnet, depth=200, alpha=450),
}


def empty(shape: tuple[int, ...], mean: float, deviation: float) -> Any:
    """An array of that shape without its memory."""
    return np.broadcast_to(np.float32(mean), shape)


def randomly(seed: int = 0) -> networks.Fill:
    generator = np.random.default_rng(seed)

    def fill(shape: tuple[int, ...], mean: float, deviation: float) -> Any:
        values = generator.standard_normal(shape, dtype=np.float32)
        return values * np.float32(deviation) + np.float32(mean)

    return fill


class AsRead:
    """What `torchfile` makes of an object of the file."""

    def __init__(self, module: lua.Lua) -> None:
        self.typename, self.fields = module.typename, dict(module.fields)
        if "modules" in self.fields:
            self.fields["modules"] = {k: AsRead(child) for k, child in enumerate(self.fields["modules"], start=1)}

    def torch_typename(self) -> bytes:
        return self.typename.encode()

    def __getattr__(self, name: str) -> Any:
        return self.fields.get(name)


def walked(tree: lua.Lua) -> dict[str, Any]:
    """What the child process finds in a file of this tree, with arrays that may have no memory."""
    collector = torch7_reader.ParameterCollector()
    collector.add = lambda name, **values: collector.tensors.update(  # type: ignore[method-assign]
        {f"{name}.{value}": array for value, array in values.items() if array is not None}
    )
    collector.visit(AsRead(tree))
    return collector.tensors


def found_in(tree: lua.Lua) -> dict[str, Tensor]:
    return {name: torch.empty(array.shape, device="meta") for name, array in walked(tree).items()}


@pytest.mark.parametrize("architecture", TREES)
def test_every_place_of_the_authors_trees(architecture: str) -> None:
    row = get_architecture(architecture)
    found = found_in(TREES[architecture](networks.Builder(empty)))
    expected = {name: part for name, part in compute_expected_signatures(row).items() if "num_batches" not in name}
    wanted = get_layout("torch7").list_required_signatures(FlatCheckpoint("", found), expected, row)
    check_signatures(get_signatures(found), wanted, error_start=architecture, next_step="")


def test_the_trees_are_those_of_all_supported_networks() -> None:
    """But for some that only this project's sources have, whose files would be read all the same."""
    layout = get_layout("torch7")
    supported = {row.name for row in architectures().values() if layout.supports(row)}
    assert set(TREES) <= supported


def through_a_file(architecture: str, tmp_path: Path, **options: bool) -> None:
    tree = TREES[architecture](networks.Builder(randomly(), **options))
    version = "" if options.get("old_norms") else "V 1"
    source = lua.save(tmp_path / "model.t7", tree, version=version)
    result = convert_beside_source(
        source, layout="torch7", architecture=architecture, dataset="imagenet1k", classes=1000
    )
    source.unlink()
    require_equal_outputs(load_converted_network(result), functools.partial(lua.run, tree), 64, gradient=False)
    result.path.unlink()


def test_a_file(tmp_path: Path) -> None:
    through_a_file("resnet18", tmp_path)


def test_a_file_of_2015(tmp_path: Path) -> None:
    """Objects without versions, 1 / sqrt(variance + eps) where the variance is today, biases that are zero."""
    tree = networks.resnet(networks.Builder(randomly(), old_norms=True, biases=True), 18)
    source = lua.save(tmp_path / "model.t7", tree, version="", tensor="torch.FloatTensor")
    result = convert_beside_source(source, layout=None, architecture=None, dataset="imagenet1k", classes=1000)
    assert (result.description.layout, result.description.architecture) == ("torch7", "resnet18")
    require_single(load_converted_network(result), tree)


def require_single(ours: torch.nn.Module, tree: lua.Lua) -> None:
    """The variance itself is a float32 here, computed from another one: no more than single precision can be equal."""
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours(images), lua.run(tree, images)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TREES)
def test_all_files(architecture: str, tmp_path: Path) -> None:
    through_a_file(architecture, tmp_path)


def test_other_graphs_of_the_same_shapes_are_refused() -> None:
    layout, row = get_layout("torch7"), get_architecture("resnet50")
    expected = {name: part for name, part in compute_expected_signatures(row).items() if "num_batches" not in name}

    def require_refused(tree: lua.Lua, message: str) -> None:
        found = found_in(tree)
        with pytest.raises(IntegrityError, match=message):
            check_signatures(
                get_signatures(found),
                layout.list_required_signatures(FlatCheckpoint("", found), expected, row),
                error_start="",
                next_step="",
            )
        assert recognise(found) == []

    require_refused(  # fb's own ResNet-50
        networks.resnet(networks.Builder(empty), 50, norm_after=True), r"missing: .*block1\.branch1\.6\.bn\.bias"
    )
    tree = networks.resnet(networks.Builder(empty), 50)
    branch = tree.fields["modules"][5].fields["modules"][0].fields["modules"][0].fields["modules"][0]
    first, second = branch.fields["modules"][0].fields, branch.fields["modules"][3].fields
    first["dH"], first["dW"], second["dH"], second["dW"] = 2, 2, 1, 1  # He's place for the stride
    require_refused(tree, r"unexpected: block4\.branch1\.1\.conv_stride2\.weight")


def test_what_has_no_place() -> None:
    builder = networks.Builder(empty)
    builder.channels = 64
    for layer, message in (
        (lua.Lua("nn.PReLU", weight=empty((1,), 0, 0)), "before1.1 is an nn.PReLU, a layer with parameters"),
        (lua.Lua("nn.Sequential").add(norm_with(builder, eps=1e-3)), "before1.1 is a BN with eps 0.001, not 1e-05"),
        (conv_with(builder, padH=0, padW=0), "before1.1 is not a square convolution with a padding of half its kernel"),
        (nested(builder), "a ConcatTable within another one"),
    ):
        with pytest.raises(ValueError, match=message):
            walked(layer)
    biased = conv_with(builder, bias=np.ones(64, np.float32))
    assert "before1.1.conv.bias" in walked(biased)  # which no network here has


def norm_with(builder: networks.Builder, **fields: Any) -> lua.Lua:
    norm = builder.norm(64)
    norm.fields |= fields
    return norm


def conv_with(builder: networks.Builder, **fields: Any) -> lua.Lua:
    conv = builder.conv(64, 64, 3)
    conv.fields |= fields
    return conv


def nested(builder: networks.Builder) -> lua.Lua:
    unit = networks.sequential(lua.Lua("nn.ConcatTable").add(builder.conv(64, 64, 3), lua.Lua("nn.Identity")))
    return lua.Lua("nn.ConcatTable").add(unit, lua.Lua("nn.Identity"))


def test_a_data_parallel_table_and_matrices(tmp_path: Path) -> None:
    conv = conv_with(networks.Builder(randomly()))
    weight = conv.fields["weight"]
    conv.fields["weight"] = np.ascontiguousarray(weight.reshape(64, -1))
    conv.typename = "nn.SpatialConvolutionMM"
    replicas = lua.Lua("nn.DataParallelTable", modules=[conv, conv])
    found = read_checkpoint(lua.save(tmp_path / "model.t7", replicas))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"before1.1.conv.weight": (64, 64, 3, 3)}
    assert np.array_equal(found["before1.1.conv.weight"].numpy(), weight)


@pytest.mark.parametrize("kind", ["truncated", "beyond", "negative", "text", "numbers", "cycle", "function"])
def test_damaged_files(kind: str, tmp_path: Path) -> None:
    source = lua.save(tmp_path / "model.t7", conv_with(networks.Builder(randomly())))
    data = bytearray(source.read_bytes())
    shape = struct.pack("<4q", 64, 64, 3, 3)
    place = data.index(shape)
    if kind == "truncated":
        data = data[:-1000]
    elif kind == "beyond":
        data[place : place + 8] = struct.pack("<q", 1 << 40)
    elif kind == "negative":
        data[place + 32 : place + 40] = struct.pack("<q", -9)
    elif kind == "text":
        data[8:] = b"<html>" * 20
    elif kind == "numbers":
        data = bytearray(lua.save(tmp_path / "other.t7", {"epoch": 3}).read_bytes())
    elif kind == "cycle":
        endless = lua.Lua("nn.Sequential")
        data = bytearray(lua.save(tmp_path / "other.t7", endless.add(endless)).read_bytes())
    else:  # a Lua function stays what it is, bytes
        data = bytearray(struct.pack("<ii", 4, 1) + struct.pack("<i", 3) + b"V 1" + struct.pack("<i", 9) + b"nn.Linear")
        data += struct.pack("<iii", 6, 2, 20) + b"os.execute('rm -rf')" + struct.pack("<i", 0)
    source.write_bytes(data)
    with pytest.raises(IntegrityError, match="is not a readable Torch7 file of a network: "):
        read_checkpoint(source)


def test_without_torchfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lua.save(tmp_path / "model.t7", conv_with(networks.Builder(randomly())))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"`pip install 'pyramidzoo\[torch7\]'`"):
        convert_file(
            source,
            tmp_path / "out.safetensors",
            layout="torch7",
            architecture="resnet18",
            dataset="imagenet1k",
            num_classes=1000,
        )


def test_another_layout_for_a_torch7_file(tmp_path: Path) -> None:
    tree = networks.resnet(networks.Builder(randomly()), 18)
    source = lua.save(tmp_path / "model.t7", tree)
    with pytest.raises(
        IntegrityError, match=r"not a torchvision checkpoint of resnet18 .*looks like a torch7 checkpoint"
    ):
        convert_beside_source(source, layout="torchvision", architecture="resnet18", dataset="imagenet1k", classes=1000)
    with pytest.raises(UsageError, match="which has no resnet50_s1"):
        convert_beside_source(source, layout="torch7", architecture="resnet50_s1", dataset="imagenet1k", classes=1000)
    assert not (tmp_path / "out.safetensors").exists()
