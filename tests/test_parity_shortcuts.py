"""Shortcuts that zero channels make wider: the same bits as adding into a slice. And the widths that make them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import reference_graphs as reference
import torch
from parity import measure, one_thread, randomise
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

import pyramidzoo
from pyramidzoo.catalog.architectures import Architecture, architectures
from pyramidzoo.inference._fused import slice_add
from pyramidzoo.models._blocks import pad_channels
from pyramidzoo.models.preresnet import CifarBottleneckPreResNet, CifarPreResNet
from pyramidzoo.models.pyramidnet import CifarPyramidNet, ImagePyramidNet, compute_block_widths
from pyramidzoo.models.resnet import CifarResNet

pytestmark = pytest.mark.every_network


def add_into_slices(model: nn.Module) -> fx.GraphModule:
    """The network, in its own mode and with its own tensors, with shortcuts that are added into slices in place."""
    graph_module = fx.symbolic_trace(model)
    assert slice_add(graph_module)
    graph_module.recompile()
    return graph_module


SLICED = {
    "basic": lambda: CifarPyramidNet(depth=14, alpha=20),
    "bottleneck": lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True),
    "imagenet": lambda: ImagePyramidNet(depth=50, alpha=16, num_classes=10),
    "resnet_a": lambda: CifarResNet(depth=14),
    "resnet_fattorib": lambda: CifarResNet(depth=14, transition="last"),
    "preresnet_a": lambda: CifarPreResNet(depth=14, shortcut="A"),
}
every_sliced = pytest.mark.parametrize("build", SLICED.values(), ids=SLICED)
modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@every_sliced
@modes
@pytest.mark.parametrize("size", [32, 33])
def test_padded_shortcut_is_bitwise_the_slice(build: Callable[[], nn.Module], training: bool, size: int) -> None:
    """Padding with zeros gives every bit of adding into some channels: logits, gradients and statistics."""
    with one_thread():
        torch.manual_seed(0)
        model = randomise(build()).train(training)
        other = copy.deepcopy(model)
        images = torch.randn(2, 3, size, size)
        ours = measure(model, model.state_dict(keep_vars=True), images)
        theirs = measure(add_into_slices(other), other.state_dict(keep_vars=True), images)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class Operators(TorchDispatchMode):
    """Names of the ATen operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def zeros_or_copies(model: nn.Module) -> set[str]:
    """The operators in a forward pass that make zeros, pad or concatenate."""
    with Operators() as operators:
        model(torch.randn(2, 3, 32, 32))
    assert "convolution" in operators.names
    return {name for name in operators.names if any(word in name for word in ("zero", "pad", "cat", "full"))}


@every_sliced
@modes
def test_a_slice_needs_no_zeros(build: Callable[[], nn.Module], training: bool) -> None:
    """The plain network pads, as the papers say; neither padding nor concatenation is behind a slice."""
    model = build().train(training)
    assert zeros_or_copies(model) == {"constant_pad_nd"}
    assert zeros_or_copies(add_into_slices(model)) == set()


@modes
def test_identities_are_not_padded(training: bool) -> None:
    assert zeros_or_copies(CifarBottleneckPreResNet(depth=20).train(training)) == set()
    x = torch.randn(1, 2, 3, 3)
    assert pad_channels(x, 0, 0) is x


def test_a_shortcut_loses_no_channels() -> None:
    """`F.pad` would cut them off for a negative number."""
    for numbers in ((-1, 0), (0, -1), (-1, 1)):
        with pytest.raises(ValueError, match="cannot lose channels"):
            pad_channels(torch.randn(1, 2, 3, 3), *numbers)
    with pytest.raises(ValueError, match="cannot lose channels"):
        CifarPyramidNet(depth=14, alpha=-10)(torch.randn(2, 3, 8, 8))


PYRAMIDS = [row for row in architectures().values() if row.family == "pyramidnet"]
IMAGENET_BLOCKS = {101: 3 + 4 + 23 + 3, 200: 3 + 24 + 36 + 3}


@pytest.mark.parametrize("row", PYRAMIDS, ids=lambda row: row.name)
def test_registered_widths_are_those_of_exact_arithmetic(row: Architecture) -> None:
    """No registered network comes near a tie, so the exact formula must give its widths."""
    depth, alpha = row.arguments["depth"], row.arguments["alpha"]
    base, blocks = 16, 3 * ((depth - 2) // (9 if row.arguments.get("bottleneck") else 6))
    if row.class_name == "ImagePyramidNet":
        base, blocks = 64, IMAGENET_BLOCKS[depth]
    exact = reference.multiplicative_widths if "_mul_" in row.name else reference.additive_widths
    with torch.device("meta"):
        assert pyramidzoo.create_model(row.name).block_widths == tuple(exact(base, alpha, blocks))


def test_widths_at_a_tie_follow_the_accumulated_sum() -> None:
    """Depth 56, alpha 31: block 9 is 31.5 exactly, and the accumulated double falls just below."""
    widths = compute_block_widths(16, 31, 18)
    assert widths == [18, 19, 21, 23, 25, 26, 28, 30, 31, 33, 35, 37, 38, 40, 42, 44, 45, 47]
    assert reference.additive_widths(16, 31, 18)[8] == 32


def test_exact_halves_round_up() -> None:
    """Steps of one half are exact in binary, so only the rounding rule decides."""
    assert compute_block_widths(16, 4, 8) == [17, 17, 18, 18, 19, 19, 20, 20]


def test_early_multiplicative_alpha_differs_in_one_block() -> None:
    """The authors' first alpha was 1.68 for a stage; 1.68^3 is not 4.75, and block 37 shows it."""
    today, early = (
        compute_block_widths(16, 4.75, 54, multiplicative=True),
        compute_block_widths(16, 1.68**3, 54, multiplicative=True),
    )
    assert [(k, a, b) for k, (a, b) in enumerate(zip(today, early, strict=True), start=1) if a != b] == [(37, 47, 46)]
