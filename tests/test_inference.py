"""Rewritten networks compute the same as the plain ones.

In doubles the logits differ by rounding alone. In floats the rewritten network is as exact as the plain one. Each run
tests every graph, with fewer layers than the smallest network of that graph. A run with `-m slow` also tests all
networks with all of their layers.
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
from messages import raises_with_words
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
from pyramidzoo.inference._layers import FusedConv2d, ScaleShift, _list_onednn_dtypes
from pyramidzoo.inference._passes import choose_passes
from pyramidzoo.models import get_model_class
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.models.vgg import CifarVgg

pytestmark = pytest.mark.contract

# The largest difference in doubles that we have seen is 1e-12 (rounding: 1e-16 an operation), in the deepest networks.
# The bound is wider, because another order of summation may round more.
DOUBLE = 1e-10
# The error of a rewritten network in floats, divided by the error of the plain network. We have seen 0.3 to 1.3: a
# rewritten network rounds less often, but sums in another order.
SINGLE = 2.0
FAMILIES = ["resnet20", "preresnet164", "wrn_16_1", "pyramidnet110_a48", "pyramidnet164_a48", "densenet_bc_40_k12"]
FAMILIES += ["resnext29_4x64d", "shakeshake20_2x16d_pytorchcv", "seresnet20", "vgg15_bn"]


def small_network(name: str, **arguments: int | float) -> ImageClassifier:
    """Build a network with the graph of an architecture, but with as few layers as show every kind of block."""
    row = get_architecture(name)
    small = {"alpha": 20} if row.arguments.get("alpha", 0) > 20 else {}
    small |= {"base_width": 4} if "base_width" in row.arguments else {}
    small |= {"hidden": 32} if row.class_name == "ImageVgg" else {}
    for depth in (11,) if row.family == "vgg" else (14, 16, 20, 121):
        if "depth" in row.arguments:
            small["depth"] = depth
        with contextlib.suppress(ValueError):  # The class has no network of this depth.
            settings = {"num_classes": row.num_classes, **row.arguments, **small, **arguments}
            return get_model_class(row)(**settings)
    raise AssertionError(f"{name} has none of these depths")


def random_model(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float64, whole: bool = False
) -> ImageClassifier:
    """Build a network whose batch norms have positive, negative and zero scales, and some zero shifts."""
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


def make_images_of_two_sizes(name: str) -> list[Tensor]:
    """Make three images with even sides and one image with odd sides: 8x8 and 9x11 pixels, or 32x32 and 33x35."""
    return [random_images(name, 3), nn.functional.pad(random_images(name, 1), (0, 3, 0, 1))]


def require_equal_logits(model: nn.Module, optimized: nn.Module, name: str, tolerance: float = DOUBLE) -> None:
    """Require equal logits, and that the optimized network does not overwrite the images."""
    for images in make_images_of_two_sizes(name):
        images = images.double()
        with torch.inference_mode():
            expected, copy_of_images = model(images), images.clone()
            scale = expected.abs().max()
            assert scale > 0
            assert (expected - expected.mean()).abs().max() > 1e-6 * scale, "equal logits would prove nothing"
            assert (optimized(copy_of_images) - expected).abs().max() <= tolerance * scale
            assert torch.equal(copy_of_images, images)


def compute_error(logits: Tensor, exact: Tensor) -> float:
    """Return the root of the mean squared difference."""
    return (logits.double() - exact).square().mean().sqrt().item()


def count_modules(model: nn.Module, module_class: type[nn.Module]) -> int:
    return sum(type(module) is module_class for module in model.modules())


def list_operations(optimized: OptimizedClassifier) -> list[str]:
    """Return the names of the functions, methods and modules that the graph calls."""
    return [getattr(node.target, "__name__", str(node.target)) for node in optimized.network.graph.nodes]


def list_automatic_forms(family: str) -> list[tuple[str, ...]]:
    """Return the passes that `optimize` chooses for a family, for every device and precision."""
    settings = [(device, dtype) for device in ("cpu", "cuda") for dtype in (torch.float32, torch.bfloat16)]
    return sorted({choose_passes(family, device, dtype) for device, dtype in settings})


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_automatic_forms_are_exact(name: str) -> None:
    model = random_model(name)
    tested_passes: set[tuple[str, ...]] = set()
    for form in list_automatic_forms(get_architecture(name).family):
        optimized = optimize(model, form=form)
        if optimized.passes not in tested_passes:
            tested_passes.add(optimized.passes)
            require_equal_logits(model, optimized, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_the_automatic_form_is_exact_for_every_whole_network(name: str) -> None:
    model = random_model(name, whole=True)
    # Hundreds of random gates amplify a change of the last bit. So for this network we measure how much the logits of
    # the plain network change when the last bit of the images changes, and allow ten times as much.
    amplified = 0.0
    for images in make_images_of_two_sizes(name) if name == "seresnet272" else []:
        with torch.inference_mode():
            expected = model(images.double())
            changed = model(images.double() * (1 + 4e-16))
            amplified = max(amplified, ((changed - expected).abs().max() / expected.abs().max()).item())
    assert amplified < 1e-6
    require_equal_logits(model, optimize(model), name, tolerance=max(DOUBLE, 10 * amplified))


each_graph = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow) for name in REPRESENTATIVES]
)


@pytest.mark.parametrize("form", PASSES)
@each_graph
def test_each_pass_alone_is_exact(name: str, form: str) -> None:
    model = random_model(name)
    if form.startswith("align") and "_k12" in name:  # In these DenseNets, the channels are no multiples.
        with raises_with_words(UsageError, "aligned", form.removeprefix("align"), "cat"):
            optimize(model, form=form)
        return
    # The bias of a folded convolution makes the constant channel, so this pass needs `fold_bn`.
    optimized = optimize(model, form=(form, "fold_bn") if form == "constant_channel" else form)
    require_equal_logits(model, optimized, name)


@pytest.mark.parametrize("name", FAMILIES)
def test_in_single_precision_the_error_is_not_larger_than_that_of_the_plain_network(name: str) -> None:
    ratios = []
    for seed in range(4):  # The mean of several networks, because one error may be small by chance.
        model = random_model(name, seed=seed)
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = model(images.double())
            plain = copy.deepcopy(model).float()
            ratios.append(compute_error(optimize(plain)(images), expected) / compute_error(plain(images), expected))
    assert 0 < statistics.mean(ratios) <= SINGLE, ratios


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["pyramidnet110_a48", "densenet_bc_40_k12", "wrn_16_1"])
def test_in_half_precision_the_error_is_not_larger_than_that_of_the_plain_network(
    name: str, dtype: torch.dtype
) -> None:
    model = random_model(name)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images.double())
        plain_error = compute_error(copy.deepcopy(model).to(dtype)(images.to(dtype)), expected)
        optimized = optimize(model, dtype=dtype)
        assert optimized(images).dtype == dtype
        assert 0 < compute_error(optimized(images), expected) <= SINGLE * plain_error
        # The network may also be optimized in single precision and converted afterwards.
        converted_later = optimize(model.float(), form=optimized.passes).to(dtype)
        if not torch.equal(converted_later(images), optimized(images)):
            assert compute_error(converted_later(images), expected) <= SINGLE * plain_error


def test_fold_bn_removes_each_bn_after_a_convolution() -> None:
    for name, remaining in (("resnet20", 0), ("wrn_16_1", 7), ("shakeshake20_2x16d_pytorchcv", 2)):
        assert count_modules(optimize(random_model(name), form="fold_bn"), nn.BatchNorm2d) == remaining


def test_fold_bn_into_next_conv_folds_the_first_bn_of_a_block_into_a_1x1_convolution() -> None:
    form = ("fold_bn", "fold_bn_into_next_conv")
    optimized = optimize(random_model("pyramidnet164_a48"), form=form)
    assert optimized.passes == form
    assert count_modules(optimized, nn.BatchNorm2d) == 1  # the one before the last ReLU
    # The blocks of this network begin with 3x3 convolutions.
    assert "fold_bn_into_next_conv" not in optimize(random_model("pyramidnet110_a48"), form=form).passes


def test_the_constant_channel_replaces_the_first_bn_of_every_block() -> None:
    model, form = random_model("pyramidnet110_a48"), ("fold_bn", "constant_channel")
    optimized = optimize(model, form=form)
    assert count_modules(optimized, nn.BatchNorm2d) == 1
    block_inputs: list[Tensor] = []
    optimized.network.get_submodule("layer3.0.conv1").register_forward_pre_hook(
        lambda _, inputs: block_inputs.append(inputs[0])
    )
    with torch.no_grad():
        optimized(torch.randn(2, 3, 33, 33, dtype=torch.float64))
    (block_input,) = block_inputs
    assert block_input.shape[1] == 1 + model.get_submodule("layer3.0.conv1").in_channels
    # The channel is still one after a pooling of an odd size.
    assert torch.equal(block_input[:, 0], torch.ones(2, 17, 17, dtype=torch.float64))
    for name in ("preresnet56_norelu1", "wrn_16_1"):  # In these networks, other layers also read the trunk.
        assert "constant_channel" not in optimize(random_model(name), form=form).passes


@pytest.mark.parametrize("multiple", [8, 16])
def test_align_makes_all_channels_multiples(multiple: int) -> None:
    form = ("fold_bn", "constant_channel", "fold_bn_into_next_conv", f"align{multiple}")
    for name in ("pyramidnet110_a48", "pyramidnet164_a48"):
        convs = [m for m in optimize(random_model(name), form=form).modules() if isinstance(m, nn.Conv2d)]
        assert all(conv.out_channels % multiple == 0 for conv in convs)
        assert all(conv.in_channels % multiple == 0 for conv in convs[1:])
    assert optimize(random_model("wrn_16_1"), form="align16").passes == ()


def test_concat_buffer_replaces_all_concatenations() -> None:
    for name in ("densenet_bc_40_k12", "densenet_40_k12"):
        operations = list_operations(optimize(random_model(name), form="concat_buffer"))
        assert "cat" not in operations
        assert operations.count("start_buffer") == 3
    both = optimize(random_model("densenet_bc_40_k12"), form=("clamp", "concat_buffer"))
    assert count_modules(both, ScaleShift) == 1  # the last BN, which no convolution follows
    assert count_modules(both, nn.BatchNorm2d) == 3 * 2  # those between the convolutions of a layer


def test_clamp_replaces_bn_and_relu() -> None:
    model = random_model("densenet_bc_40_k12")
    relus_before = list_operations(optimize(model, form=())).count("relu")
    relus_after = list_operations(optimize(model, form="clamp")).count("relu")
    # One before each 1x1 convolution: two layers in each of three blocks, and two transitions.
    assert relus_before - relus_after == 3 * 2 + 2


def test_fuse_replaces_relu_and_addition() -> None:
    for name in ("resnet20_b", "resnext29_4x64d"):
        assert not {"relu", "add"} & set(list_operations(optimize(random_model(name), form=("fold_bn", "fuse"))))
    # Two projections are fused with their sums, which overwrite the results of the gates. The four other blocks do not
    # end with a convolution.
    assert list_operations(optimize(random_model("seresnet20"), form=("fold_bn", "fuse"))).count("add") == 4
    # Aligned to 16, most blocks of a PyramidNet are as wide as the block before. In the two blocks that make the map
    # smaller, the shortcut is computed after the convolutions.
    form = ("fold_bn", "constant_channel", "align16", "fuse")
    assert list_operations(optimize(random_model("pyramidnet110_a48"), form=form)).count("add") == 2


# The numbers of padded shortcuts, and of shortcuts with equally many channels, in networks of six blocks.
SHORTCUTS = {
    "resnet20": (2, 4),
    "resnet20_fattorib": (2, 4),
    "preresnet110_a": (2, 4),
    "pyramidnet110_a48": (6, 0),
    "pyramidnet164_a48": (6, 0),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_slice_add_and_in_place_change_no_bit_of_the_logits(name: str) -> None:
    padded, equal = SHORTCUTS[name]
    model = random_model(name, dtype=torch.float32)
    sliced, overwriting = optimize(model, form="slice_add"), optimize(model, form=("slice_add", "in_place"))
    plain_operations, sliced_operations, overwriting_operations = (
        list_operations(network) for network in (optimize(model, form=()), sliced, overwriting)
    )
    assert sliced.passes == ("slice_add",)
    assert plain_operations.count("pad") == padded
    assert sliced_operations.count("add_into_channels") == padded
    assert overwriting_operations.count("add_into_channels") == padded
    assert sliced_operations.count("add") == overwriting_operations.count("iadd") == equal
    assert not {"pad", "add"} & set(overwriting_operations)
    for images in make_images_of_two_sizes(name):
        with torch.inference_mode():
            expected, copy_of_images = model(images), images.clone()
            assert torch.equal(sliced(copy_of_images), expected)
            assert torch.equal(overwriting(copy_of_images), expected)
            assert torch.equal(copy_of_images, images)


class _SumsOfMapsWithOtherReaders(nn.Module):
    """A network with sums of maps that other operations also read: the image, a map that is read later, a view."""

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
        e = self.convs[4](d) + d  # A convolution cannot overwrite its own input.
        wide = torch.cat((e, d), dim=1)
        f = wide + nn.functional.pad(c, (0, 0, 0, 0, 1, 3))  # The wide map is read again below.
        both = torch.cat((f, wide), dim=1)
        g = both[:, :8] + nn.functional.pad(
            d, (0, 0, 0, 0, 2, 2)
        )  # The first term is a view of a map that is read again below.
        e = e + (f * wide)[:, :4] + g[:, 4:] + both[:, 2:6]
        return nn.functional.relu(e) + later * a + nn.functional.interpolate(view + early, d.shape[2:])


@pytest.mark.parametrize("rewrites", [(fuse,), (slice_add,), (in_place,), (fuse, slice_add, in_place)])
def test_no_map_is_overwritten_before_its_last_reader(rewrites: tuple[Callable[[GraphModule], bool], ...]) -> None:
    torch.manual_seed(0)
    model, images = _SumsOfMapsWithOtherReaders().double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    graph_module, copy_of_images = trace_network(model), images.clone()
    for rewrite in rewrites:
        rewrite(graph_module)
    graph_module.recompile()
    with torch.no_grad():
        assert torch.allclose(graph_module(copy_of_images), model(images), rtol=0, atol=1e-12)
    assert torch.equal(copy_of_images, images)


class _PaddingBeforeOverwriting(nn.Module):
    """A network that pads a map, overwrites the map with a fused sum, and adds the padded map afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(4, out, 3, padding=1) for out in (4, 4, 8)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        padded = nn.functional.pad(x, (0, 0, 0, 0, 0, 4))
        z = self.convs[1](nn.functional.relu(x)) + x
        return torch.sigmoid(self.convs[2](z)) + padded


def test_a_padding_stays_if_the_map_is_overwritten_before_the_sum() -> None:
    torch.manual_seed(0)
    model, images = _PaddingBeforeOverwriting().double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
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
def test_a_fused_layer_computes_the_same_as_its_operations(
    dtype: torch.dtype, groups: int, with_total: bool, relu: bool
) -> None:
    if dtype not in _list_onednn_dtypes():
        pytest.skip(f"oneDNN has no fused convolutions in {dtype} here")
    torch.manual_seed(0)
    plain = nn.Conv2d(12, 20, 3, padding=1, stride=2, groups=groups).requires_grad_(False).to(dtype)
    plain = plain.to(memory_format=torch.channels_last)
    layer = FusedConv2d(copy.deepcopy(plain))
    layer.has_relu = relu
    tolerance = (
        torch.finfo(dtype).eps * 4
    )  # The order of summation differs. In half precision, one rounding is left out.

    def require_equal_results() -> None:
        for shape in ((4, 12, 8, 8), (1, 12, 9, 7), (3, 12, 16, 16)):  # Filters packed for one shape fit the others.
            for memory_format in (torch.channels_last, torch.contiguous_format):
                x = torch.randn(shape, dtype=dtype).contiguous(memory_format=memory_format)
                expected = plain(x)
                total = torch.randn_like(expected) if with_total else None
                if total is not None:
                    expected = expected + total
                expected = expected.relu() if relu else expected
                result = layer(x, total)
                assert (result - expected).abs().max() <= tolerance * expected.abs().max()
                if total is not None:  # The sum overwrites its second term.
                    assert result.data_ptr() == total.data_ptr()
                    assert torch.equal(result, total)

    with torch.inference_mode():
        require_equal_results()
        for conv in (plain, layer):
            conv.weight.mul_(2.0)  # The filters must be packed again.
        require_equal_results()
    clone = pickle.loads(pickle.dumps(layer))
    x = torch.randn(2, 12, 8, 8, dtype=dtype)
    assert torch.equal(clone(x), layer(x))


def test_no_layer_is_fused_without_onednn_or_with_autocast() -> None:
    model = random_model("resnet20", dtype=torch.float32)
    optimized, images = optimize(model), random_images("resnet20")
    with torch.inference_mode():
        expected = model(images)
        before = torch.backends.mkldnn.set_flags(_enabled=False)
        try:
            assert (optimized(images) - expected).abs().max() <= 1e-4 * expected.abs().max()
        finally:
            torch.backends.mkldnn.set_flags(_enabled=before[0])
        assert all(layer._reordered_filters is None for layer in optimized.modules() if isinstance(layer, FusedConv2d))
        with torch.autocast("cpu", torch.bfloat16):
            assert optimized(images).dtype == torch.bfloat16


def test_in_place_overwrites_no_map_with_another_reader() -> None:
    model = random_model("wrn_16_1")
    operations = list_operations(optimize(model, form=("fold_bn", "in_place")))
    assert "relu_" in operations
    assert "iadd" in operations
    # Two convolutions read the results of some ReLUs, so neither may overwrite them. No ReLU may overwrite the trunk.
    require_equal_logits(model, optimize(model, form=("in_place", "fuse")), "wrn_16_1")


def test_channels_last_sets_the_memory_format_of_filters_and_maps() -> None:
    optimized = optimize(random_model("resnet20", dtype=torch.float32), form="channels_last")
    conv = optimized.network.get_submodule("layer2.0.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    conv_inputs = []
    conv.register_forward_pre_hook(lambda _, inputs: conv_inputs.append(inputs[0]))
    optimized(torch.randn(2, 3, 32, 32))
    assert conv_inputs[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["pyramidnet110_a48", "densenet_bc_40_k12"])
@pytest.mark.parametrize("mode", [True, False])
def test_optimize_does_not_change_the_given_model(name: str, mode: bool) -> None:
    model = random_model(name, dtype=torch.float32).train(mode)
    model.preprocessing = load_manifest().find("resnet20.cifar10_akamaster").preprocessing
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimized = optimize(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert model.training is mode
    assert all(parameter.requires_grad for parameter in model.parameters())
    addresses = {parameter.data_ptr() for parameter in model.parameters()}
    assert not addresses & {tensor.data_ptr() for tensor in optimized.state_dict().values()}
    assert not any(module.training for module in optimized.modules())
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    assert (optimized.num_classes, optimized.preprocessing) == (model.num_classes, model.preprocessing)
    images = random_images(name)
    with torch.no_grad():
        expected = model.eval()(images)
        logits = optimized(images)
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(optimized(images), logits)
    assert repr(optimized.passes) in repr(optimized)
    assert len(repr(optimized)) < 300


@each_graph
def test_an_optimized_network_can_be_pickled_copied_and_exported(name: str) -> None:
    model, images = random_model(name, dtype=torch.float32), random_images(name)
    optimized = optimize(model)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(optimized))(images), optimized(images))
        assert torch.equal(copy.deepcopy(optimized)(images), optimized(images))
        exported = torch.export.export(optimized, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        for batch in (1, 2, 5):
            batch_images = random_images(name, batch)
            expected = optimized(batch_images)
            # No layer is fused in an exported network, so the sums are rounded in another way.
            assert (exported(batch_images) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace(_method)?` is deprecated")  # It is still common.
@pytest.mark.parametrize("name", SMALLEST.values())
def test_an_optimized_network_can_be_traced(name: str) -> None:
    """`torch.jit.trace` and `torch.fx.symbolic_trace` give graphs that compute the same."""
    model, images = calibrated_model(name), random_images(name)
    with torch.no_grad():
        optimized = optimize(model)
        traced_graphs = [torch.jit.trace(optimized, images), torch.fx.symbolic_trace(optimized)]
        for batch in (2, 5):
            batch_images = random_images(name, batch)
            expected, copy_of_images = optimized(batch_images), batch_images.clone()
            for graph in traced_graphs:
                # No layer is fused in a traced network, so the sums are rounded in another way.
                assert (graph(copy_of_images) - expected).abs().max() <= 1e-4 * expected.abs().max()
                assert torch.equal(copy_of_images, batch_images)
        assert "narrow_" not in str(traced_graphs[0].inlined_graph)
        assert "add_into_channels" not in str(traced_graphs[1].graph)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.compiler
@pytest.mark.parametrize("name", FAMILIES)
def test_compile_captures_an_optimized_network_as_one_graph(name: str) -> None:
    torch.compiler.reset()
    optimized, images = optimize(random_model(name)), random_images(name).double()
    with torch.no_grad():
        assert torch.equal(torch.compile(optimized, backend="eager", fullgraph=True)(images), optimized(images))
    torch.compiler.reset()


@pytest.mark.slow  # The compiler takes long, not the network.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_a_network_compiled_by_inductor_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    torch.manual_seed(0)
    model = CifarVgg(stages=(1, 1, 1, 1, 1))  # It has few kernels to compile.
    optimized, images = optimize(randomise(model)), random_images("vgg15_bn")
    with torch.no_grad():
        expected = optimized(images)
        logits = torch.compile(optimized, fullgraph=True)(images)
    torch.compiler.reset()
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def _add_hook(model: nn.Module) -> None:
    model.get_submodule("layer1.0").register_forward_hook(lambda *_: None)


def _prune(model: nn.Module) -> None:
    prune.random_unstructured(model.get_submodule("conv1"), "weight", amount=0.5)


def _add_weight_norm(model: nn.Module) -> None:
    parametrizations.weight_norm(model.get_submodule("conv1"))


def _remove_statistics(model: nn.Module) -> None:
    norm: Any = model.get_submodule("bn1")
    norm.running_mean = norm.running_var = None


def _share_layer(model: nn.Module) -> None:
    model.layer1[1].conv1 = model.layer1[0].conv1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_add_hook, ["layer1.0", "hooks"]),
        (_prune, ["conv1", "hooks"]),
        (_add_weight_norm, ["conv1", "computes", "weights"]),
        (_remove_statistics, ["bn1", "running statistics"]),
        (_share_layer, ["layer1.0.conv1", "twice"]),
        (lambda model: model.to("meta"), ["no values"]),
    ],
)
def test_a_network_that_cannot_be_rewritten_is_refused(change: Callable[[nn.Module], None], words: list[str]) -> None:
    model = random_model("resnet20")
    change(model)
    with raises_with_words(UsageError, *words):
        optimize(model)


def test_passes_are_applied_as_given_and_unknown_ones_are_refused() -> None:
    model = random_model("resnet20")
    assert optimize(model, form=["fold_bn", "channels_last"]).passes == ("fold_bn", "channels_last")
    for form in ("fold", ["fold_bn", "fold"]):
        with raises_with_words(UsageError, "'fold'", "pass", "form", "fold_bn"):
            optimize(model, form=form)


def test_optimize_refuses_other_models_and_dtypes() -> None:
    model = random_model("resnet20")
    for other in (nn.Linear(1, 1), optimize(model)):
        with raises_with_words(UsageError, type(other).__name__, "create_model"):
            optimize(other)  # type: ignore[arg-type]
    with raises_with_words(UsageError, "torch.int8", "dtype", "torch.float32"):
        optimize(model, dtype=torch.int8)


def test_an_optimized_network_refuses_training_and_gradients() -> None:
    optimized = optimize(random_model("resnet20"))
    with raises_with_words(UsageError, "inference", "train"):
        optimized.train()
    assert optimized.eval() is optimized
    with raises_with_words(UsageError, "gradients"):
        optimized(torch.randn(1, 3, 32, 32, requires_grad=True))


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"in_chans": 1}, {"drop_rate": 0.5}])
def test_networks_with_other_classes_channels_and_dropout_are_exact(arguments: dict[str, int | float]) -> None:
    images = torch.randn(2, int(arguments.get("in_chans", 3)), 32, 32, dtype=torch.float64)
    for name in ("pyramidnet110_a48", "densenet_40_k12"):
        model = small_network(name, **arguments).double()
        optimized = optimize(model)
        with torch.no_grad():
            expected = model.eval()(images)
            assert (optimized(images) - expected).abs().max() <= DOUBLE * expected.abs().max()


def list_checkpoints() -> Sequence[object]:
    """Return the ids of published weights with results. All but one are marked as slow."""
    entries = [entry for entry in load_manifest().entries.values() if entry.results and not entry.bundled]
    quick = {"resnet20.cifar10_akamaster"}
    return [pytest.param(entry.id, marks=() if entry.id in quick else pytest.mark.slow) for entry in entries]


@pytest.mark.parametrize("weights_id", list_checkpoints())
def test_optimized_networks_with_published_weights_predict_the_same(
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
            # On another machine, the plain network itself may predict something else than the recorded result.
            plain = torch.cat([model(prepared(batch)) for batch in batches])
            assert torch.equal(logits.argmax(1), plain.argmax(1))
