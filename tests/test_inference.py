"""Rewritten networks compute what the plain ones do: in doubles to rounding, in floats as closely as the plain ones.

Every graph is tried in every run, with fewer layers than its smallest network; all networks as they are where slow
tests are asked for.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import randomise
from test_contract import REPRESENTATIVES, SMALLEST, build_network, calibrated_model, random_images
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrizations, prune

import pyramidzoo
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.metrics import prediction_sha256
from pyramidzoo.inference import PASSES, OptimizedClassifier, optimize
from pyramidzoo.inference._fused import fuse, in_place, slice_add
from pyramidzoo.inference._graph import trace_network
from pyramidzoo.inference._layers import FusedConv2d, ScaleShift, _fused_dtypes
from pyramidzoo.inference._passes import choose_passes
from pyramidzoo.models import get_model_class
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.models.vgg import CifarVgg

pytestmark = pytest.mark.contract

# Rounding in doubles (1e-16 an operation) came to 1e-12 in the deepest networks; the rest is room for other orders.
DOUBLE = 1e-10
SINGLE = 2.0  # times the plain network's own error; it rounds less often, but sums in another order (0.3 to 1.3 seen)
FAMILIES = ["resnet20", "preresnet164", "wrn_16_1", "pyramidnet110_a48", "pyramidnet164_a48", "densenet_bc_40_k12"]
FAMILIES += ["resnext29_4x64d", "shakeshake20_2x16d_pytorchcv", "seresnet20", "vgg15_bn"]


def small_network(name: str, **arguments: int | float) -> ImageClassifier:
    """The graph of a name with as few layers as show all of it: blocks of both kinds, dense blocks of two and more."""
    row = get_architecture(name)
    small = {"alpha": 20} if row.arguments.get("alpha", 0) > 20 else {}
    small |= {"base_width": 4} if "base_width" in row.arguments else {}
    small |= {"hidden": 32} if row.class_name == "ImageVgg" else {}
    for depth in (11,) if row.family == "vgg" else (14, 16, 20, 121):
        if "depth" in row.arguments:
            small["depth"] = depth
        with contextlib.suppress(ValueError):  # not one of its depths
            settings = {"num_classes": row.num_classes, **row.arguments, **small, **arguments}
            return get_model_class(row)(**settings)
    raise AssertionError(f"{name} has none of these depths")


def random_model(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, whole: bool = False
) -> ImageClassifier:
    """Batch norms of every kind: scales of both signs and zeros, shifts, zeros among them."""
    torch.manual_seed(seed)
    model = randomise(build_network(name) if whole else small_network(name))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            kind = torch.randint(0, 20, (module.num_features,))
            with torch.no_grad():
                module.weight[kind % 3 == 0] *= -1
                module.weight[kind == 0] = 0.0
                module.bias[kind == 1] = 0.0
    assert isinstance(model, ImageClassifier)
    return model.to(dtype).eval()


def other_sizes(name: str) -> list[Tensor]:
    """A batch of 3 with even sides, one of 1 with odd ones: 8 and 11 by 9 pixels, or 32 and 35 by 33."""
    return [random_images(name, 3), nn.functional.pad(random_images(name, 1), (0, 3, 0, 1))]


def assert_equal_logits(model: nn.Module, optimized: nn.Module, name: str, tolerance: float = DOUBLE) -> None:
    for images in other_sizes(name):
        images = images.double()
        with torch.inference_mode():
            expected, given = model(images), images.clone()
            scale = expected.abs().max()
            assert scale > 0
            assert (expected - expected.mean()).abs().max() > 1e-6 * scale, "logits that show nothing"
            assert (optimized(given) - expected).abs().max() <= tolerance * scale
            assert torch.equal(given, images)


def error(found: Tensor, expected: Tensor) -> float:
    return (found.double() - expected).square().mean().sqrt().item()


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(type(module) in kinds for module in model.modules())


def targets(optimized: OptimizedClassifier) -> list[str]:
    return [getattr(node.target, "__name__", str(node.target)) for node in optimized.network.graph.nodes]


def chosen_forms(family: str) -> list[tuple[str, ...]]:
    """The forms for every device and precision."""
    where = [(device, dtype) for device in ("cpu", "cuda") for dtype in (torch.float32, torch.bfloat16)]
    return sorted({choose_passes(family, *place) for place in where})


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_forms_that_are_picked_are_exact(name: str) -> None:
    model = random_model(name)
    tried: set[tuple[str, ...]] = set()
    for form in chosen_forms(get_architecture(name).family):
        optimized = optimize(model, form=form)
        if optimized.passes not in tried:
            tried.add(optimized.passes)
            assert_equal_logits(model, optimized, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_the_form_that_is_picked_is_exact_at_full_size(name: str) -> None:
    model = random_model(name, whole=True)
    # hundreds of random gates amplify the last bit: what one bit of the images does to the plain network, tenfold
    yardstick = 0.0
    for images in other_sizes(name) if name == "seresnet272" else []:
        with torch.inference_mode():
            expected = model(images.double())
            moved = model(images.double() * (1 + 4e-16))
            yardstick = max(yardstick, ((moved - expected).abs().max() / expected.abs().max()).item())
    assert yardstick < 1e-6
    assert_equal_logits(model, optimize(model), name, tolerance=max(DOUBLE, 10 * yardstick))


every = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow) for name in REPRESENTATIVES]
)


@pytest.mark.parametrize("form", PASSES)
@every
def test_each_pass_alone_is_exact(name: str, form: str) -> None:
    model = random_model(name)
    if form.startswith("align") and "_k12" in name:  # DenseNets, of channels that are no multiples
        with pytest.raises(UsageError, match=r"cannot be aligned to .*: cat would not leave"):
            optimize(model, form=form)
        return
    # without folded convolutions there is no trunk that could carry a channel
    optimized = optimize(model, form=(form, "fold_bn") if form == "constant_channel" else form)
    assert_equal_logits(model, optimized, name)


@pytest.mark.parametrize("name", FAMILIES)
def test_single_precision_errs_no_more_than_the_plain_network(name: str) -> None:
    ratios = []
    for seed in range(4):  # of one small network either error may be small by chance
        model = random_model(name, seed=seed)
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = model(images.double())
            plain = copy.deepcopy(model).float()
            ratios.append(error(optimize(plain)(images), expected) / error(plain(images), expected))
    assert 0 < statistics.mean(ratios) <= SINGLE, ratios


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["pyramidnet110_a48", "densenet_bc_40_k12", "wrn_16_1"])
def test_half_precision_errs_no_more_than_the_plain_network(name: str, dtype: torch.dtype) -> None:
    model = random_model(name)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images.double())
        plain = error(copy.deepcopy(model).to(dtype)(images.to(dtype)), expected)
        optimized = optimize(model, dtype=dtype)
        assert optimized(images).dtype == dtype
        assert 0 < error(optimized(images), expected) <= SINGLE * plain
        moved = optimize(model.float(), form=optimized.passes).to(dtype)
        assert torch.equal(moved(images), optimized(images)) or error(moved(images), expected) <= SINGLE * plain


def test_folding_leaves_no_bn_behind_a_convolution() -> None:
    for name, left in (("resnet20", 0), ("wrn_16_1", 7), ("shakeshake20_2x16d_pytorchcv", 2)):
        assert count(optimize(random_model(name), form="fold_bn"), nn.BatchNorm2d) == left


def test_a_leading_bn_goes_into_the_1x1_behind_it() -> None:
    optimized = optimize(random_model("pyramidnet164_a48"), form=("fold_bn", "fold_bn_into_next_conv"))
    assert optimized.passes == ("fold_bn", "fold_bn_into_next_conv")
    assert count(optimized, nn.BatchNorm2d) == 1  # in front of the last ReLU
    assert (
        "fold_bn_into_next_conv"
        not in optimize(random_model("pyramidnet110_a48"), form=("fold_bn", "fold_bn_into_next_conv")).passes
    )


def test_the_constant_channel_replaces_every_leading_bn() -> None:
    model = random_model("pyramidnet110_a48")
    optimized = optimize(model, form=("fold_bn", "constant_channel"))
    assert count(optimized, nn.BatchNorm2d) == 1
    trunk: dict[str, Tensor] = {}
    optimized.network.get_submodule("layer3.0.conv1").register_forward_pre_hook(
        lambda _, inputs: trunk.update(x=inputs[0])
    )
    with torch.no_grad():
        optimized(torch.randn(2, 3, 33, 33, dtype=torch.float64))
    assert trunk["x"].shape[1] == 1 + model.get_submodule("layer3.0.conv1").in_channels
    assert torch.equal(trunk["x"][:, 0], torch.ones(2, 17, 17, dtype=torch.float64))  # pooled once, at an odd size
    for name in ("preresnet56_norelu1", "wrn_16_1"):  # whose trunks are read by others as well
        assert "constant_channel" not in optimize(random_model(name), form=("fold_bn", "constant_channel")).passes


@pytest.mark.parametrize("multiple", [8, 16])
def test_aligned_channels_are_multiples(multiple: int) -> None:
    form = ("fold_bn", "constant_channel", "fold_bn_into_next_conv", f"align{multiple}")
    for name in ("pyramidnet110_a48", "pyramidnet164_a48"):
        convs = [m for m in optimize(random_model(name), form=form).modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.out_channels % multiple == 0 for conv in convs)
        assert all(conv.in_channels % multiple == 0 for conv in convs[1:])
    assert optimize(random_model("wrn_16_1"), form="align16").passes == ()


def test_dense_blocks_without_concatenation() -> None:
    for name in ("densenet_bc_40_k12", "densenet_40_k12"):
        found = targets(optimize(random_model(name), form="concat_buffer"))
        assert "cat" not in found
        assert found.count("first_channels") == 3
    both = optimize(random_model("densenet_bc_40_k12"), form=("clamp", "concat_buffer"))
    assert count(both, ScaleShift) == 1  # the last BN, which no convolution follows
    assert count(both, nn.BatchNorm2d) == 3 * 2  # inside of the layers


def test_clamps_take_the_place_of_bn_and_relu() -> None:
    model = random_model("densenet_bc_40_k12")
    found = targets(optimize(model, form="clamp"))
    # in front of each 1x1: two layers in three blocks, and two transitions
    assert targets(optimize(model, form=())).count("relu") - found.count("relu") == 3 * 2 + 2


def test_fused_layers_take_the_place_of_relu_and_addition() -> None:
    assert not {"relu", "add"} & set(targets(optimize(random_model("resnet20_b"), form=("fold_bn", "fuse"))))
    assert not {"relu", "add"} & set(targets(optimize(random_model("resnext29_4x64d"), form=("fold_bn", "fuse"))))
    # A projection is fused with its sum and stored over the result of the gate. No convolution ends the four others.
    assert targets(optimize(random_model("seresnet20"), form=("fold_bn", "fuse"))).count("add") == 4
    # aligned to 16, a PyramidNet's block is as wide as the one before; where the map shrinks, the shortcut comes later
    form = ("fold_bn", "constant_channel", "align16", "fuse")
    assert targets(optimize(random_model("pyramidnet110_a48"), form=form)).count("add") == 2


SHORTCUTS = {  # padded ones, and sums of equally many channels, in networks of six blocks
    "resnet20": (2, 4),
    "resnet20_fattorib": (2, 4),
    "preresnet110_a": (2, 4),
    "pyramidnet110_a48": (6, 0),
    "pyramidnet164_a48": (6, 0),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_overwriting_changes_no_bit_and_pads_nothing(name: str) -> None:
    padded, equal = SHORTCUTS[name]
    model = random_model(name, dtype=torch.float32)
    sliced, overwriting = optimize(model, form="slice_add"), optimize(model, form=("slice_add", "in_place"))
    assert sliced.passes == ("slice_add",)
    assert targets(optimize(model, form=())).count("pad") == padded
    assert targets(sliced).count("add_into_channels") == targets(overwriting).count("add_into_channels") == padded
    assert targets(sliced).count("add") == targets(overwriting).count("iadd") == equal
    assert not {"pad", "add"} & set(targets(overwriting))
    for images in other_sizes(name):
        with torch.inference_mode():
            expected, given = model(images), images.clone()
            assert torch.equal(sliced(given), expected)
            assert torch.equal(overwriting(given), expected)
            assert torch.equal(given, images)


class _Readers(nn.Module):
    """Sums whose terms are read by others as well: the image, a map that is read later, a view of one."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)])

    def forward(self, x: Tensor) -> Tensor:
        a = self.convs[0](x) + x
        b = self.convs[1](nn.functional.relu(a)) + a
        later = nn.functional.relu(a)
        c = self.convs[2](b)
        view, early = c[:, :, ::2], nn.functional.relu(c[:, :, 1::2])
        d = self.convs[3](nn.functional.relu(c)) + c
        e = self.convs[4](d) + d  # a convolution cannot overwrite what it reads
        wide = torch.cat((e, d), dim=1)
        f = wide + nn.functional.pad(c, (0, 0, 0, 0, 1, 3))  # the wide map is read again
        both = torch.cat((f, wide), dim=1)
        g = both[:, :8] + nn.functional.pad(d, (0, 0, 0, 0, 2, 2))  # so is the map that this is a view of
        e = e + (f * wide)[:, :4] + g[:, 4:] + both[:, 2:6]
        return nn.functional.relu(e) + later * a + nn.functional.interpolate(view + early, d.shape[2:])


@pytest.mark.parametrize("rewrites", [(fuse,), (slice_add,), (in_place,), (fuse, slice_add, in_place)])
def test_nothing_is_overwritten_that_is_read_later(rewrites: tuple[Callable[[GraphModule], bool], ...]) -> None:
    torch.manual_seed(0)
    model, images = _Readers().double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    graph_module, given = trace_network(model), images.clone()
    for rewrite in rewrites:
        rewrite(graph_module)
    graph_module.recompile()
    with torch.no_grad():
        assert torch.allclose(graph_module(given), model(images), rtol=0, atol=1e-12)
    assert torch.equal(given, images)


class _PaddedEarly(nn.Module):
    """A map that is padded, then overwritten by a fused sum, before the padded one is added."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, out, 3, padding=1) for out in (4, 4, 8)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        padded = nn.functional.pad(x, (0, 0, 0, 0, 0, 4))
        z = self.convs[1](nn.functional.relu(x)) + x
        return torch.sigmoid(self.convs[2](z)) + padded


def test_a_padded_map_is_read_before_it_is_overwritten() -> None:
    torch.manual_seed(0)
    model, images = _PaddedEarly().double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    graph_module = trace_network(model)
    fuse(graph_module)
    assert not slice_add(graph_module)
    graph_module.recompile()
    with torch.no_grad():
        assert torch.allclose(graph_module(images), model(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("with_total", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_a_fused_layer_is_its_operations(dtype: torch.dtype, groups: int, with_total: bool, relu: bool) -> None:
    if dtype not in _fused_dtypes():
        pytest.skip(f"oneDNN has no fused convolutions in {dtype} here")
    torch.manual_seed(0)
    plain = nn.Conv2d(12, 20, 3, padding=1, stride=2, groups=groups).requires_grad_(False).to(dtype)
    plain = plain.to(memory_format=torch.channels_last)
    layer = FusedConv2d(copy.deepcopy(plain))
    layer.relu = relu
    tolerance = torch.finfo(dtype).eps * 4  # another order of summation, and in half precision one rounding less

    def check() -> None:
        for shape in ((4, 12, 8, 8), (1, 12, 9, 7), (3, 12, 16, 16)):  # filters rearranged for the first fit the others
            for memory_format in (torch.channels_last, torch.contiguous_format):
                x = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
                expected = plain(x)
                total = torch.randn_like(expected) if with_total else None
                if total is not None:
                    expected = expected + total
                expected = expected.relu() if relu else expected
                found = layer(x, total)
                assert (found - expected).abs().max() <= tolerance * expected.abs().max()
                if total is not None:
                    assert found.data_ptr() == total.data_ptr()
                    assert torch.equal(found, total)

    with torch.inference_mode():
        check()
        for conv in (plain, layer):
            conv.weight.mul_(2.0)  # what was rearranged before no longer counts
        check()
    clone = pickle.loads(pickle.dumps(layer))
    x = torch.randn(2, 12, 8, 8, dtype=dtype)
    assert torch.equal(clone(x), layer(x))


def test_nothing_is_fused_where_it_is_switched_off() -> None:
    model = random_model("resnet20", dtype=torch.float32)
    optimized, images = optimize(model), random_images("resnet20")
    with torch.inference_mode():
        expected = model(images)
        before = torch.backends.mkldnn.set_flags(_enabled=False)
        try:
            assert (optimized(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
        finally:
            torch.backends.mkldnn.set_flags(_enabled=before[0])
        assert all(layer._packed is None for layer in optimized.modules() if isinstance(layer, FusedConv2d))
        with torch.autocast("cpu", torch.bfloat16):
            assert optimized(images).dtype == torch.bfloat16


def test_in_place_leaves_what_others_read() -> None:
    model = random_model("wrn_16_1")
    found = targets(optimize(model, form=("fold_bn", "in_place")))
    assert "relu_" in found
    assert "iadd" in found
    # a ReLU that is read by two convolutions may be overwritten by neither, and the trunk by no ReLU
    assert_equal_logits(model, optimize(model, form=("in_place", "fuse")), "wrn_16_1")


def test_channels_last_is_where_it_says() -> None:
    optimized = optimize(random_model("resnet20", dtype=torch.float32), form="channels_last")
    conv = optimized.network.get_submodule("layer2.0.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    optimized(torch.randn(2, 3, 32, 32))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["pyramidnet110_a48", "densenet_bc_40_k12"])
@pytest.mark.parametrize("mode", [True, False])
def test_the_given_model_is_left_alone(name: str, mode: bool) -> None:
    model = random_model(name, dtype=torch.float32).train(mode)
    model.preprocessing = load_manifest().find("resnet20.cifar10_akamaster").preprocessing
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimized = optimize(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training is mode
    assert all(parameter.requires_grad for parameter in model.parameters())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {tensor.data_ptr() for tensor in optimized.state_dict().values()}
    assert not any(module.training for module in optimized.modules())
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    assert (optimized.num_classes, optimized.preprocessing) == (model.num_classes, model.preprocessing)
    images = random_images(name)
    with torch.no_grad():
        expected = model.eval()(images)
        found = optimized(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(optimized(images), found)
    assert repr(optimized.passes) in repr(optimized)
    assert len(repr(optimized)) < 300


@every
def test_export_and_pickle(name: str) -> None:
    model, images = random_model(name, dtype=torch.float32), random_images(name)
    optimized = optimize(model)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(optimized))(images), optimized(images))
        assert torch.equal(copy.deepcopy(optimized)(images), optimized(images))
        exported = torch.export.export(optimized, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        for batch in (1, 2, 5):
            others = random_images(name, batch)
            expected = optimized(others)
            # nothing is fused there: other sums, in floats
            assert (exported(others) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace(_method)?` is deprecated")  # and still common
@pytest.mark.parametrize("name", SMALLEST.values())
def test_tracing(name: str) -> None:
    """`torch.jit.trace` and `torch.fx.symbolic_trace` write down what an optimized network computes."""
    model, images = calibrated_model(name), random_images(name)
    with torch.no_grad():
        optimized = optimize(model)
        traced_graphs = [torch.jit.trace(optimized, images), torch.fx.symbolic_trace(optimized)]
        for batch in (2, 5):
            others = random_images(name, batch)
            expected, given = optimized(others), others.clone()
            for graph in traced_graphs:
                # nothing is fused there: other sums, in floats
                assert (graph(given) - expected).abs().max() <= 1e-4 * expected.abs().max()
                assert torch.equal(given, others)
        assert "narrow_" not in str(traced_graphs[0].inlined_graph)
        assert "add_into_channels" not in str(traced_graphs[1].graph)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.compiler
@pytest.mark.parametrize("name", FAMILIES)
def test_compile_captures_one_graph(name: str) -> None:
    torch.compiler.reset()
    optimized, images = optimize(random_model(name)), random_images(name).double()
    with torch.no_grad():
        assert torch.equal(torch.compile(optimized, backend="eager", fullgraph=True)(images), optimized(images))
    torch.compiler.reset()


@pytest.mark.slow  # the compiler, not the network, takes its time
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    torch.manual_seed(0)
    model = CifarVgg(stages=(1, 1, 1, 1, 1))  # few kernels to compile
    optimized, images = optimize(randomise(model)), random_images("vgg15_bn")
    with torch.no_grad():
        expected = optimized(images)
        found = torch.compile(optimized, fullgraph=True)(images)
    torch.compiler.reset()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def _hooked(model: nn.Module) -> None:
    model.get_submodule("layer1.0").register_forward_hook(lambda *_: None)


def _pruned(model: nn.Module) -> None:
    prune.random_unstructured(model.get_submodule("conv1"), "weight", amount=0.5)


def _normed(model: nn.Module) -> None:
    parametrizations.weight_norm(model.get_submodule("conv1"))


def _without_statistics(model: nn.Module) -> None:
    norm: Any = model.get_submodule("bn1")
    norm.running_mean = norm.running_var = None


def _shared(model: nn.Module) -> None:
    model.layer1[1].conv1 = model.layer1[0].conv1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_hooked, r"layer1\.0 has forward hooks"),
        (_pruned, "conv1 has forward hooks"),
        (_normed, "conv1 computes its weights"),
        (_without_statistics, "bn1 keeps no running statistics"),
        (_shared, r"layer1\.0\.conv1 is used twice"),
        (lambda model: model.to("meta"), "has no values"),
    ],
)
def test_what_cannot_be_rewritten_is_refused(change: Callable[[nn.Module], None], message: str) -> None:
    model = random_model("resnet20")
    change(model)
    with pytest.raises(UsageError, match=message):
        optimize(model)


def test_requests_that_are_wrong() -> None:
    model = random_model("resnet20")
    optimized = optimize(model, form=["fold_bn", "channels_last"])
    assert optimized.passes == ("fold_bn", "channels_last")
    for form in ("fold", ["fold_bn", "fold"]):
        with pytest.raises(UsageError, match="no pass is called 'fold'; form is"):
            optimize(model, form=form)
    for other in (nn.Linear(1, 1), optimized):
        with pytest.raises(UsageError, match="is not a network of"):
            optimize(other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"torch\.int8 is not a dtype"):
        optimize(model, dtype=torch.int8)
    with pytest.raises(UsageError, match="is for inference"):
        optimized.train()
    assert optimized.eval() is optimized
    with pytest.raises(UsageError, match="no gradients"):
        optimized(torch.randn(1, 3, 32, 32, requires_grad=True))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_chans": 1}, {"drop_rate": 0.5}])
def test_other_classes_channels_and_dropout(arguments: dict[str, int | float]) -> None:
    images = torch.randn(2, int(arguments.get("in_chans", 3)), 32, 32, dtype=torch.float64)
    for name in ("pyramidnet110_a48", "densenet_40_k12"):
        model = small_network(name, **arguments).double()
        optimized = optimize(model)
        with torch.no_grad():
            expected = model.eval()(images)
            assert (optimized(images) - expected).abs().max() <= DOUBLE * expected.abs().max()


def checkpoints() -> Sequence[object]:
    entries = [entry for entry in load_manifest().entries.values() if entry.results and not entry.bundled]
    quick = {"resnet20.cifar10_akamaster"}
    return [pytest.param(entry.id, marks=() if entry.id in quick else pytest.mark.slow) for entry in entries]


@pytest.mark.parametrize("weights_id", checkpoints())
def test_real_checkpoints_predict_the_same(
    weights_id: str, origins: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    entry = load_manifest().find(weights_id)
    model = pyramidzoo.create_model(entry.architecture, weights=weights_id).eval()
    optimized, prepared = optimize(model), Normalize(entry.preprocessing)
    batches = load_dataset("cifar10", "test", data_dir).images.split(500)
    with torch.inference_mode():
        logits = torch.cat([optimized(prepared(batch)) for batch in batches])
        if prediction_sha256(logits.numpy()) not in {result.prediction_sha256 for result in entry.results}:
            # the plain network itself may predict otherwise on another machine
            plain = torch.cat([model(prepared(batch)) for batch in batches])
            assert torch.equal(logits.argmax(1), plain.argmax(1))
