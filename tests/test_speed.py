"""`bench`: the order of the timing, the counting, the peers, and what is printed. No speed is asserted."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorchcv.models.resnet_cifar import CIFARResNet
from pytorchcv_models import list_published_models
from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo import cli
from pyramidzoo.bench import measure, peaks, peers, speed_table, timing
from pyramidzoo.bench.checking import find_different
from pyramidzoo.bench.counting import (
    count_activation_bytes,
    count_graph_bytes,
    count_multiply_adds,
    count_weight_bytes,
)
from pyramidzoo.bench.measure import BenchmarkSettings, measure_target
from pyramidzoo.bench.peaks import Peaks
from pyramidzoo.bench.pytorchcv_names import find_names
from pyramidzoo.bench.rows import BenchmarkRow, compute_speeds
from pyramidzoo.bench.targets import BenchmarkTarget, random_calibrated_model, random_images
from pyramidzoo.bench.variants import Variant
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.evaluation import engine, programs
from pyramidzoo.inference import optimize
from pyramidzoo.models import build
from pyramidzoo.models._interface import ImageClassifier
from tools import make_speed

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs have one forward pass, and the peak is not measured."""
    monkeypatch.setattr(measure, "choose_passes", lambda compute: 1)
    monkeypatch.setattr(peaks, "measure_convolution", lambda dtype, device: 1e15)


def make_row(**values: Any) -> BenchmarkRow:
    """A row of which only some fields have values."""
    return BenchmarkRow(**{field.name: None for field in dataclasses.fields(BenchmarkRow)} | values)


# Timing


def test_variants_take_turns_in_both_directions() -> None:
    order: list[str] = []
    rounds: list[int] = []
    runs = timing.time_in_turns(
        {name: lambda name=name: order.append(name) for name in "ABC"},  # type: ignore[misc]
        rounds=3,
        after_round=lambda: rounds.append(len(order)),
    )
    assert "".join(order) == "CBAABCCBAABC"
    assert rounds == [3, 6, 9, 12]
    assert {name: len(seconds) for name, seconds in runs.items()} == {"A": 3, "B": 3, "C": 3}


def test_medians_and_ratios() -> None:
    runs = {"slow": [2.0, 4.0, 9.0], "fast": [1.0, 1.0, 3.0]}
    slow, fast = timing.compare_runs(runs, "slow")
    assert (slow["median"], slow["min"], slow["max"], slow["ratio"], slow["by_round"]) == (4.0, 2.0, 9.0, 1.0, 1.0)
    assert (fast["median"], fast["ratio"], fast["by_round"]) == (1.0, 0.25, 0.333)
    assert fast["runs"] == [1.0, 1.0, 3.0]


RUNS = {
    "slow": [3.0, 3.0, 6.0],
    "quick": [2.0, 2.0, 2.0],
    "quick_fp16": [1.5, 1.5, 1.5],
    "slow_fp16": [1.75, 1.75, 1.75],
    "plain": [2.5, 2.5, 2.5],
    "optimized": [0.5, 1.0, 2.0],
    "optimized_fp16": [0.5, 0.5, 0.5],
}
PRECISIONS = {name: "fp16" if "fp16" in name else "fp32" for name in RUNS}


@pytest.mark.parametrize(
    ("names", "peers", "baseline", "ratio"),
    [
        (("slow", "quick", "plain", "optimized"), ("slow", "quick"), "quick", 2.0),
        (("slow", "plain", "optimized"), ("slow", "quick"), "slow", 3.0),
        (("plain", "optimized"), (), "plain", 2.5),
        (("optimized",), (), None, None),
    ],
)
def test_ratios_are_to_the_fastest_peer_or_to_plain(
    names: Sequence[str], peers: Sequence[str], baseline: str | None, ratio: float | None
) -> None:
    speeds = compute_speeds({name: RUNS[name] for name in names}, 100, PRECISIONS, peers)
    assert list(speeds) == list(names)
    speed = speeds["optimized"]
    assert (speed.ratio_to, speed.ratio) == (baseline, ratio)
    assert (speed.images_per_second, speed.images_per_second_min, speed.images_per_second_max) == (100, 50, 200)
    if baseline:
        assert speeds[baseline].ratio == speeds[baseline].ratio_by_round == 1.0
    if baseline == "slow":
        assert speed.ratio_by_round == 3.0


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        # the fastest one in fp16 is the baseline in fp16 alone
        (("slow", "quick", "quick_fp16", "slow_fp16"), {"optimized": "quick", "optimized_fp16": "quick_fp16"}),
        (("slow", "slow_fp16"), {"optimized": "slow", "optimized_fp16": "slow_fp16", "slow_fp16": "slow_fp16"}),
        # without a peer in fp16, the fastest one in fp32
        (("slow", "quick"), {"optimized": "quick", "optimized_fp16": "quick"}),
        # a peer in fp16 is no measure of fp32
        (("slow_fp16",), {"optimized": "plain", "optimized_fp16": "slow_fp16", "plain": "plain"}),
        ((), {"optimized": "plain", "optimized_fp16": "plain"}),
    ],
)
def test_ratios_are_to_peers_of_the_same_precision(peers: Sequence[str], expected: dict[str, str]) -> None:
    runs = {name: RUNS[name] for name in (*peers, "plain", "optimized", "optimized_fp16")}
    speeds = compute_speeds(runs, 100, PRECISIONS, peers)
    assert {name: speeds[name].ratio_to for name in expected} == expected


def test_a_run_is_so_many_passes() -> None:
    results: list[Tensor] = []

    def compute() -> Tensor:
        assert torch.is_inference_mode_enabled()
        results.append(torch.full((), len(results)))
        return results[-1]

    assert timing.repeat_passes(compute, 3)().item() == 2
    assert len(results) == 3
    assert timing.choose_passes(compute, 0.0) == 1
    assert timing.choose_passes(lambda: torch.empty(0), 0.1) > 1


def test_the_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        1e8 < peaks.measure_convolution(torch.float32) < 1e15
    )  # FLOP/s: more than of one slow core, less than of a whole rack
    monkeypatch.setattr(peaks, "measure_convolution", lambda dtype, device: 1e12)
    measured_peaks = Peaks(CPU)
    (row,) = measure_target(
        BenchmarkTarget(get_architecture("wrn_16_2")),
        BenchmarkSettings(CPU, (4,), ("plain",), rounds=1),
        measured_peaks,
    )
    assert row.fraction_of_peak is None
    measured_peaks.set_fractions([row])
    seconds = row.runs[0] / row.forward_passes
    assert row.fraction_of_peak == pytest.approx(2 * row.multiply_adds * 4 / seconds / 1e12, abs=1e-4)


def test_the_best_peak_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([2e9, 4e9, 3e9])
    monkeypatch.setattr(peaks, "measure_convolution", lambda dtype, device: next(speeds))
    measured_peaks = Peaks(CPU)
    for _ in range(3):
        measured_peaks.measure("bf16")
    rows = [make_row(precision="bf16", gflops=1.0), make_row(precision="fp16", gflops=None)]
    measured_peaks.set_fractions(rows)
    assert [row.fraction_of_peak for row in rows] == [0.25, None]


# Counting


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # two images, 8 channels, 4x4: 1024 bytes
        z = self.norm(y).add_(y)  # 1024 more; in place
        del y
        z = z.flatten(2)
        z = torch.cat([z, z, z], 2)  # 3072 beside 1024
        return self.fc(z.mean(2))


def test_bytes_alive_are_counted_exactly() -> None:
    model, images = Tiny().eval(), torch.randn(2, 3, 4, 4)
    assert count_activation_bytes(lambda: model(images), CPU) == 4096
    assert count_activation_bytes(lambda: F.relu(F.relu(F.relu(images))), CPU) == 2 * images.nbytes
    assert count_activation_bytes(lambda: images.view(-1).add_(1), CPU) == 0
    assert count_activation_bytes(lambda: model.fc.weight[:2], CPU) == 0
    assert count_weight_bytes(model) == 4 * (27 * 8 + 8 + 4 * 8 + 8 * 5 + 5) + 8


class MemoryPools:
    """A stand-in for the allocator of a GPU: segments of memory, as `torch.cuda.memory_snapshot` lists them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.segments = [segment((0, 0), 2**21), segment((0, 1), 2**22)]  # ordinary memory, and an older graph's
        monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: list(self.segments))

    def capture(self) -> None:
        """What a capture does: the older graph is freed, ordinary memory grows, and a new pool gets two segments."""
        self.segments = [segment((0, 0), 2**21), segment((0, 0), 2**25), segment((0, 2), 2**21), segment((0, 2), 2**23)]


def segment(pool: tuple[int, int], size: int) -> dict[str, Any]:
    return {"segment_pool_id": pool, "total_size": size, "allocated_size": size // 2, "device": 0}


def test_the_memory_of_a_graph_is_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = MemoryPools(monkeypatch)
    assert count_graph_bytes(pools.capture) == 2**21 + 2**23
    assert count_graph_bytes(lambda: None) == 0


@pytest.mark.usefixtures("quick")
def test_graphs_are_captured_and_counted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: `optimized` is said to be captured, and its first pass makes a pool."""
    pools = MemoryPools(monkeypatch)
    passes: list[str] = []
    real = Variant.forward

    def forward(variant: Variant, images: Tensor) -> Tensor:
        if variant.is_captured and not passes:
            pools.capture()
        passes.append("captured" if variant.is_captured else "plain")
        return real(variant, images)

    monkeypatch.setattr(Variant, "is_captured", property(lambda variant: variant.passes != ()))
    monkeypatch.setattr(Variant, "forward", forward)
    settings = BenchmarkSettings(CPU, (2,), ("plain", "optimized"), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert passes[0] == "captured"
    assert [row.error for row in rows] == [None, None]
    assert rows[1].activations_mib == 2 + 8
    assert rows[0].activations_mib is not None
    assert rows[0].activations_mib < 2


def test_rewritten_networks_hold_less() -> None:
    plain, images = random_calibrated_model(get_architecture("densenet_bc_40_k12")), torch.randn(2, 3, 32, 32)
    fast = optimize(plain)
    fast(images)  # filters are rearranged at the first pass
    held = [count_activation_bytes(lambda form=form: form(images), CPU) for form in (plain, fast, fast)]  # type: ignore[misc]
    assert held[1] == held[2] < held[0]


def test_multiply_adds() -> None:
    assert count_multiply_adds(Tiny().eval().to("meta"), (3, 4, 4)) == 27 * 8 * 16 + 8 * 5


# Peers


@pytest.mark.parametrize(
    ("library", "name", "side"),
    [
        ("pytorchcv", "resnet20_b", 32),
        ("pytorchcv", "resnet32_b", 32),  # by its class, as the next two
        ("pytorchcv", "wrn_16_1", 32),
        pytest.param("pytorchcv", "resnext29_4x64d", 32, marks=pytest.mark.slow),
        ("timm", "resnet18", 64),
        ("timm", "resnet26_bottleneck", 64),
        pytest.param("timm", "vgg11_bn", 224, marks=pytest.mark.slow),
        ("torchvision", "resnet18", 64),
    ],
)
def test_a_peer_has_our_tensors_and_our_logits(library: str, name: str, side: int) -> None:
    row = get_architecture(name)
    model = random_calibrated_model(row)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    network = peers.build_peer(library, row, model, (3, side, side))
    assert network is not None
    assert type(network).__module__.split(".")[0] == library
    assert not network.training
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(network(images), model(images), rtol=1e-4, atol=1e-4)
        next(network.parameters()).zero_()  # its tensors are copies: ours stay
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("library", "name", "side"),
    [
        ("pytorchcv", "resnet20", 32),  # option A
        ("timm", "resnet18_wd4", 64),
        ("torchvision", "seresnet50", 64),
        ("pytorchcv", "resnet20_b", 16),  # its pooling wants 8x8
        ("pytorchcv", "wide_resnet50_2", 64),  # folded
    ],
)
def test_a_library_without_the_network_is_no_peer(library: str, name: str, side: int) -> None:
    row = get_architecture(name)
    assert peers.build_peer(library, row, build(row).eval(), (3, side, side)) is None


def stages(blocks: int) -> list[list[int]]:
    return [[width] * blocks for width in (16, 32, 64)]


def other_epsilon(row: Any, classes: int) -> nn.Module:
    network = CIFARResNet(stages(3), 16, bottleneck=False)
    network.features.stage2.unit2.body.conv1.bn.eps = 1.1e-5
    return network


def other_activation(row: Any, classes: int) -> nn.Module:
    network = CIFARResNet(stages(3), 16, bottleneck=False)
    network.features.stage3.unit3.activ = nn.LeakyReLU(1e-3)
    return network


def other_depth(row: Any, classes: int) -> nn.Module:
    return CIFARResNet(stages(2), 16, bottleneck=False)


def other_classes(row: Any, classes: int) -> nn.Module:
    return CIFARResNet(stages(3), 16, bottleneck=False, num_classes=11)


@pytest.mark.parametrize("builder", [other_epsilon, other_activation, other_depth, other_classes, lambda r, c: None])
def test_another_graph_is_no_peer(builder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    row = get_architecture("resnet20_b")
    model = random_calibrated_model(row)
    assert peers.build_peer("pytorchcv", row, model, (3, 32, 32)) is not None
    monkeypatch.setitem(peers.LIBRARIES, "pytorchcv", builder)
    assert peers.build_peer("pytorchcv", row, model, (3, 32, 32)) is None


def test_names_of_pytorchcv_in_both_directions() -> None:
    models = list_published_models()
    published = [model.name for model in models]
    for model in models:
        assert model.name in find_names(model.architecture, published)
    assert find_names("wrn_16_10", published) == ["wrn16_10_cifar10", "wrn16_10_cifar100", "wrn16_10_svhn"]
    assert find_names("resnet20", published) == []


def test_which_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.select_peers(["auto"]) == ["pytorchcv", "timm", "torchvision"]
    assert peers.select_peers(["none"]) == []
    assert peers.select_peers(["timm", "timm"]) == ["timm"]
    assert peers.get_library_versions(["timm"])["timm"].startswith("1.")
    monkeypatch.setitem(sys.modules, "pytorchcv", None)
    assert peers.select_peers(["auto"]) == ["timm", "torchvision"]
    with pytest.raises(UnavailableError, match="pip install pytorchcv"):
        peers.select_peers(["pytorchcv"])
    for names in (["keras"], ["auto", "timm"], ["none", "timm"]):
        with pytest.raises(UsageError, match="no peer is called"):
            peers.select_peers(names)


def test_peers_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["timm_bf16", "timm", "timm_bf16", "torchvision_channelslast"]
    assert peers.select_peers(names) == ["timm_bf16", "timm", "torchvision_channelslast"]
    assert peers.get_library_versions(names).keys() == {"timm", "torchvision"}
    assert BenchmarkSettings(CPU, peers=["pytorchcv_fp16_compiled"]).peers == ["pytorchcv_fp16_compiled"]
    for name, words in {
        "timm_fp8": "no peer is called 'timm_fp8'",
        "timm_optimized": "no peer is called",
        "timm_bf16_fp16": "two precisions",
        "timm_graph": "needs a CUDA device",
        "timm_tf32": "needs a CUDA device",
    }.items():
        with pytest.raises(UsageError, match=words):
            BenchmarkSettings(CPU, peers=[name])
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnavailableError, match="pip install timm"):
        peers.select_peers(["timm_bf16"])


@pytest.mark.usefixtures("quick")
def test_peers_are_measured_in_other_precisions_and_layouts() -> None:
    names = ["pytorchcv", "pytorchcv_bf16", "pytorchcv_channelslast", "pytorchcv_bf16_channelslast"]
    settings = BenchmarkSettings(CPU, (2,), ("plain", "optimized_bf16"), names, rounds=1)
    seen: list[tuple[torch.dtype, bool]] = []

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append((args[0].dtype, args[0].is_contiguous(memory_format=torch.channels_last)))

    real = measure.build_peer

    def build(*arguments: Any) -> nn.Module | None:
        network = real(*arguments)
        assert network is not None
        network.features.init_block.register_forward_pre_hook(note)
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "build_peer", build)
        rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [(row.variant, row.precision, row.error) for row in rows] == [
        ("pytorchcv", "fp32", None),
        ("pytorchcv_bf16", "bf16", None),
        ("pytorchcv_channelslast", "fp32", None),
        ("pytorchcv_bf16_channelslast", "bf16", None),
        ("plain", "fp32", None),
        ("optimized_bf16", "bf16", None),
    ]
    assert set(seen) == {
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.float32, True),
        (torch.bfloat16, True),
    }
    by_name = {row.variant: row for row in rows}
    assert by_name["plain"].ratio_to in ("pytorchcv", "pytorchcv_channelslast")
    assert by_name["optimized_bf16"].ratio_to in ("pytorchcv_bf16", "pytorchcv_bf16_channelslast")
    assert by_name["pytorchcv_bf16"].weights_mib < 0.6 * by_name["pytorchcv"].weights_mib
    assert by_name["pytorchcv"].weights_mib == by_name["pytorchcv_channelslast"].weights_mib


@pytest.mark.usefixtures("quick")
def test_a_peer_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says why, and the others are measured."""

    def fail(network: nn.Module, batch: Tensor) -> Any:
        raise UnavailableError("torch.compile failed (no compiler)")

    monkeypatch.setattr(programs, "compile_network", fail)
    settings = BenchmarkSettings(CPU, (2,), ("plain",), ("pytorchcv", "pytorchcv_compiled"), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [(row.variant, row.error and "torch.compile failed" in row.error) for row in rows] == [
        ("pytorchcv", None),
        ("pytorchcv_compiled", True),
        ("plain", None),
    ]


@pytest.mark.compiler
@pytest.mark.usefixtures("quick")
def test_a_peer_is_compiled() -> None:
    settings = BenchmarkSettings(CPU, (2,), ("plain",), ("pytorchcv_bf16_compiled",), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [(row.variant, row.error) for row in rows] == [("pytorchcv_bf16_compiled", None), ("plain", None)]
    assert rows[0].activations_mib is None


# Equal logits first


class Off(nn.Module):
    """A network whose first logit is wrong by some amount."""

    passes = ()  # no rewrites

    def __init__(self, network: nn.Module, by: float) -> None:
        super().__init__()
        self.network, self.by = network, by

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        logits[:, 0] += self.by
        return logits


def test_networks_with_other_logits_are_found() -> None:
    plain, images = random_calibrated_model(get_architecture("wrn_16_1")), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        sample = random_images(16, (3, 32, 32))
        exact = plain(sample)
        scale = exact.abs().max().item()
        rounded = (plain.bfloat16()(sample.bfloat16()).float() - exact).abs().max().item()
    plain = random_calibrated_model(get_architecture("wrn_16_1"))
    bf16 = optimize(plain, dtype=torch.bfloat16)
    networks = {
        "plain": plain,
        "optimized": Off(optimize(plain), 2e-4 * scale),
        "optimized_bf16": bf16,
        "plain_bf16": Off(bf16, 4 * rounded),
        "timm": Off(plain, 0.5e-4 * scale),
        "torchvision": Off(plain, torch.nan),
    }
    errors = find_different(plain, networks, images)
    assert sorted(errors) == ["optimized", "plain_bf16", "torchvision"]
    assert re.search(r"logits differ .* by \d\.\de-0\d, more than \d", errors["optimized"])


@pytest.mark.usefixtures("quick")
def test_a_form_with_other_logits_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "optimize", lambda model, dtype: Off(optimize(model, dtype=dtype), 1.0))
    rows = measure_target(
        BenchmarkTarget(get_architecture("wrn_16_1")), BenchmarkSettings(CPU, (2,), rounds=2), Peaks(CPU)
    )
    assert [(row.variant, row.runs is None) for row in rows] == [
        ("plain", False),
        ("optimized", True),
        ("optimized_bf16", True),
    ]
    assert "logits differ" in rows[1].error
    assert rows[1].images_per_second is rows[1].activations_mib is rows[1].fraction_of_peak is None


def test_random_networks_are_the_same_every_time() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = random_calibrated_model(get_architecture("wrn_16_1"))
    assert torch.equal(torch.rand(3), expected)
    second = random_calibrated_model(get_architecture("wrn_16_1"))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        logits = first(torch.randn(64, 3, 32, 32))
    assert 0.01 < logits.std() < 100


def test_the_peak_is_that_of_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    cudnn: Any = torch.backends.cudnn

    def peak(dtype: torch.dtype, device: torch.device) -> float:
        seen.append((dtype, cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision))
        return 1.0

    monkeypatch.setattr(peaks, "measure_convolution", peak)
    for precision in ("fp32", "tf32", "bf16"):
        Peaks(CPU).measure(precision)
    assert seen == [
        (torch.float32, "ieee", "ieee"),
        (torch.float32, "tf32", "tf32"),
        (torch.bfloat16, "ieee", "ieee"),
    ]


@pytest.mark.usefixtures("quick")
def test_memory_that_cannot_be_seen_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "compile_network", lambda network, batch: network)
    settings = BenchmarkSettings(CPU, (2,), ("plain", "plain_compiled"), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [row.activations_mib is None for row in rows] == [False, True]
    assert [row.error for row in rows] == [None, None]


def test_a_variant_has_one_precision() -> None:
    with pytest.raises(UsageError, match="'plain_bf16_fp16' names two precisions"):
        BenchmarkSettings(CPU, variants=("plain_bf16_fp16",))


# Out of memory


class Greedy(nn.Module):
    """Runs out of memory with more than some images, or after some passes."""

    passes = ()  # no rewrites

    def __init__(self, network: ImageClassifier, images: int, times: int = 10**9) -> None:
        super().__init__()
        self.network, self.images, self.passes_left = network, images, times

    def forward(self, x: Tensor) -> Tensor:
        self.passes_left -= 1
        if len(x) > self.images or self.passes_left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: Tensor = self.network(x)
        return logits


@pytest.mark.usefixtures("quick")
def test_the_row_of_a_batch_that_does_not_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "optimize", lambda model, dtype: Greedy(model, 20))
    settings = BenchmarkSettings(CPU, (24, 4), ("plain", "optimized"), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [(row.batch, row.variant, row.error) for row in rows] == [
        (24, "plain", None),
        (24, "optimized", "cpu has no memory for batches of 24; try a smaller -b"),
        (4, "plain", None),
        (4, "optimized", None),
    ]
    assert [row.images_per_second is None for row in rows] == [False, True, False, False]


@pytest.mark.usefixtures("quick")
def test_memory_that_runs_out_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "optimize", lambda model, dtype: Greedy(model, 20, times=3))
    settings = BenchmarkSettings(CPU, (4,), ("plain", "optimized"), rounds=5)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_1")), settings, Peaks(CPU))
    assert [row.error for row in rows] == ["cpu has no memory for batches of 4; try a smaller -b"] * 2
    assert [row.runs for row in rows] == [None, None]


# The command


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["bench", *arguments])
        return code, *capsys.readouterr()

    return call


@pytest.mark.usefixtures("quick")
def test_json_has_everything(run: Run) -> None:
    code, out, _ = run("wrn_16_1", "-b", "2", "1", "--rounds", "3", "--peers", "pytorchcv", "timm", "--format", "json")
    document = json.loads(out)
    assert code == 0
    assert document["device"].startswith("cpu (")
    assert abs(date.fromisoformat(document["date"]) - date.today()).days <= 1  # of midnight, and of UTC
    assert {"torch", "pyramidzoo", "python", "pytorchcv", "timm"} <= document["versions"].keys()
    assert document["rounds"] == 3
    assert document["best_convolution_gflops"] == {"fp32": 1e6, "bf16": 1e6}
    rows = document["rows"]
    assert [(row["batch"], row["variant"], row["precision"]) for row in rows] == [
        (batch, variant, precision)
        for batch in (2, 1)
        for variant, precision in (
            ("pytorchcv", "fp32"),
            ("plain", "fp32"),
            ("optimized", "fp32"),
            ("optimized_bf16", "bf16"),
        )
    ]
    assert [len(row) for row in rows] == [len(rows[0])] * 8
    for row in rows:
        assert row["network"] == "wrn_16_1"
        assert row["weights"] is None
        assert row["parameters"] == 175_066
        assert len(row["runs"]) == 3
        assert row["images_per_second_min"] <= row["images_per_second"] <= row["images_per_second_max"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / row["milliseconds"], rel=1e-3)
        assert row["fraction_of_peak"] >= 0
        assert row["ratio_to"] == "pytorchcv"
        assert row["error"] is None
        assert row["activations_mib"] > 0
    assert [row["rewrites"] != [] for row in rows[:4]] == [False, False, True, True]
    assert rows[0]["activations_mib"] > rows[4]["activations_mib"]
    assert rows[3]["weights_mib"] < 0.6 * rows[1]["weights_mib"]


@pytest.mark.usefixtures("quick")
def test_tables_for_people(run: Run) -> None:
    code, out, err = run("wrn_16_1", "-b", "2", "--rounds", "1", "--peers", "pytorchcv", "--variants", "plain")
    assert (code, err) == (0, "")
    heading, columns, *lines = out.splitlines()
    assert re.fullmatch(r"wrn_16_1, batch 2 \([\d,]+ multiply-adds an image, 175,066 parameters\)", heading)
    assert columns.split() == ["variant", "images/s", "lowest", "highest", "ms", "ratio", "MiB", "of", "peak"]
    assert lines[0].startswith("pytorchcv ")
    assert lines[1].startswith("plain ")
    text = " ".join(lines[2:])
    for part in (
        "Measured on cpu (",
        "medians of 1 round in",
        "pytorchcv 0.0.",
        "divided by those of the fastest peer",
        "1,000,000 in fp32",
    ):
        assert part in text
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.usefixtures("quick")
def test_tables_for_programs_and_documents(run: Run) -> None:
    arguments = (
        "wrn_16_1",
        "resnet20",
        "-b",
        "1",
        "--rounds",
        "1",
        "--peers",
        "none",
        "--variants",
        "plain",
        "optimized",
    )
    rows = list(csv.DictReader(io.StringIO(run(*arguments, "--format", "csv")[1])))
    assert [(row["network"], row["variant"], row["ratio_to"]) for row in rows] == [
        (network, variant, "plain") for network in ("wrn_16_1", "resnet20") for variant in ("plain", "optimized")
    ]
    assert float(rows[0]["images_per_second"]) > 0
    lines = run(*arguments, "--format", "markdown")[1].splitlines()
    assert lines[0] == "| network | batch | variant | images/s | lowest | highest | ms | ratio | MiB | of peak |"
    assert lines[2].startswith("| wrn_16_1 | 1 | plain |")
    assert lines[6] == ""
    assert "images/s divided by those of the plain network." in lines[7]
    assert len(lines) == 8


@pytest.mark.usefixtures("quick")
def test_weights_are_measured_with_their_tensors_and_image_size(run: Run) -> None:
    code, out, _ = run("wrn_16_1.digits_*", "-b", "3", "--rounds", "1", "--variants", "optimized", "--format", "json")
    row = json.loads(out)["rows"][0]
    assert code == 0
    assert (row["network"], row["weights"], row["image"]) == ("wrn_16_1", "wrn_16_1.digits_zoo", [1, 8, 8])
    assert (row["variant"], row["ratio"], row["ratio_to"]) == ("optimized", None, None)
    tensors = BenchmarkTarget.from_entry(load_manifest().find("wrn_16_1.digits_zoo")).build_network().state_dict()
    assert "digits" in load_manifest().find("wrn_16_1.digits_zoo").dataset
    assert tensors["conv1.weight"].shape[1] == 1


def test_a_busy_machine_is_named() -> None:
    from pyramidzoo.commands._bench_text import warn_of_spread

    def row(lowest: float | None, highest: float | None) -> dict[str, float | None]:
        return {"images_per_second_min": lowest, "images_per_second_max": highest}

    assert warn_of_spread([row(100, 110), row(None, None), row(50, 70)]) == ""
    assert warn_of_spread([]) == ""
    assert "up to 8.0 times" in warn_of_spread([row(100, 110), row(10, 80), row(10, 20)])


def test_names_mean_architectures_before_weights() -> None:
    from pyramidzoo.commands.bench import DEFAULT_NAMES, _select_targets

    def named(*names: str) -> list[str]:
        return [subject.name for subject in _select_targets(names)]

    assert named("wrn_16_?", "wrn_16_1") == ["wrn_16_1", "wrn_16_2", "wrn_16_8"]
    assert named("wrn_16_1.digits") == named("wrn_16_1.digits*") == ["wrn_16_1.digits_zoo"]
    assert named(*DEFAULT_NAMES) == list(DEFAULT_NAMES)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("resnet21",), 2, "no architecture is called 'resnet21'; did you mean"),
        (("resnet21*",), 2, "resnet21"),
        (("resnet20.nothing",), 2, "no weights are called"),
        (("./mine.safetensors",), 2, "is a file"),
        (("-b", "0"), 2, "-b must be positive"),
        (("--rounds", "0"), 2, "--rounds 0 measures nothing"),
        (("--threads", "0"), 2, "--threads 0"),
        (("--variants", "fast"), 2, "no variant is called 'fast'; plain and optimized are"),
        (("--peers", "keras"), 2, "no peer is called 'keras'"),
        (("--device", "tpu"), 2, "no device is called 'tpu'"),
        (("--device", "cuda:99"), 5, "there is no device cuda:99"),
    ],
)
def test_bench_refuses(run: Run, arguments: tuple[str, ...], code: int, message: str) -> None:
    exit_code, out, err = run(*arguments)
    assert (exit_code, out) == (code, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("quick")
def test_failures_of_some_have_their_exit_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("wrn_16_1", "-b", "2", "--rounds", "1", "--peers", "none")
    monkeypatch.setattr(engine, "optimize", lambda model, dtype: Off(optimize(model, dtype=dtype), 1.0))
    code, out, err = run(*arguments, "--variants", "plain", "optimized")
    assert code == 3
    assert re.match(r"pyramidzoo: wrn_16_1, batch 2: optimized: not measured: logits differ", err)
    assert re.search(r"^plain +\d", out, re.MULTILINE)
    assert re.search(r"^optimized$", out, re.MULTILINE)
    monkeypatch.setattr(engine, "optimize", lambda model, dtype: Greedy(model, 0))
    code, _, err = run(*arguments, "--variants", "plain", "optimized")
    assert code == 5
    assert "wrn_16_1, batch 2: optimized: cpu has no memory for batches of 2" in err
    lost = dataclasses.replace(
        BenchmarkTarget(get_architecture("wrn_16_2")), entry=load_manifest().find("wrn_16_2.cifar10")
    )
    monkeypatch.setattr(
        "pyramidzoo.commands.bench._select_targets", lambda names: [lost, BenchmarkTarget(get_architecture("wrn_16_1"))]
    )
    code, out, err = run(*arguments, "--variants", "plain")
    assert code == 5
    assert err.startswith(f"pyramidzoo: {lost.name}: ")
    assert "wrn_16_1, batch 2" in out
    code, out, err = run(*arguments, "--variants", "plain", "--format", "json")
    document = json.loads(out)
    assert [(failure["name"], failure["exit_code"]) for failure in document["failures"]] == [(lost.name, 5)]
    assert [row["network"] for row in document["rows"]] == ["wrn_16_1"]


@pytest.mark.usefixtures("quick")
def test_threads(run: Run) -> None:
    before = torch.get_num_threads()
    wanted = 2 if before == 1 else 1
    try:
        _, out, _ = run(
            "wrn_16_1", "-b", "1", "--rounds", "1", "--peers", "none", "--variants", "plain", "--threads", str(wanted)
        )
        assert torch.get_num_threads() == wanted
        assert re.search(rf", {wanted} threads?\)", " ".join(out.split()))
    finally:
        torch.set_num_threads(before)


# `info`


def test_the_table_that_comes_with_the_package() -> None:
    document = json.loads(make_speed.TABLE.read_text(encoding="utf-8"))
    assert document["networks"].keys() <= architectures().keys()
    assert document["networks"]
    assert document["device"].startswith(("cpu", "cuda"))
    for name, row in document["networks"].items():
        date.fromisoformat(row["date"])
        batches = make_speed.BATCHES[get_architecture(name).input_size]
        assert list(row["images_per_second"]) == [str(batch) for batch in batches]
        for speeds in row["images_per_second"].values():
            assert list(speeds) == ["plain", "optimized"]
            assert min(speeds.values()) > 0


@pytest.fixture
def package_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "speed.json"
    monkeypatch.setattr(speed_table, "package_path", lambda name: path)
    monkeypatch.setattr(make_speed, "TABLE", path)
    return path


def test_info_has_images_per_second(package_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds = {"64": {"plain": 1230, "optimized": 45600}, "1": {"plain": 99.5, "optimized": 101}}
    row = {"date": "2031-02-03", "images_per_second": speeds}
    document = {
        "device": "cpu (Some, 2 threads)",
        "versions": {"torch": "9.8.7"},
        "rounds": 5,
        "networks": {"resnet20": row},
    }
    package_path.write_text(json.dumps(document), encoding="utf-8")
    cli.main(["info", "resnet20"])
    shown = capsys.readouterr().out
    for line in (
        "images/s +1,230 plain, 45,600 optimized, batch 64",
        " +99.5 plain, 101 optimized, batch 1",
        r" +on cpu \(Some, 2 threads\), torch 9\.8\.7, 2031-02-03",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE), shown
    cli.main(["info", "resnet20", "--format", "json"])
    speed = json.loads(capsys.readouterr().out)["speed"]
    assert speed == {"device": document["device"], "versions": {"torch": "9.8.7"}, **row}
    cli.main(["info", "resnet32"])
    assert "images/s" not in capsys.readouterr().out
    cli.main(["info", "resnet32", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["speed"] is None


@pytest.mark.usefixtures("quick")
def test_the_table_is_made_network_by_network(package_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, tuple[int, ...]]] = []

    def measure_few(target: BenchmarkTarget, settings: BenchmarkSettings, peaks: Peaks) -> list[BenchmarkRow]:
        measured.append((target.name, tuple(settings.batches)))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure_target(target, dataclasses.replace(settings, batches=(2, 1)), peaks)

    monkeypatch.setattr(make_speed, "measure_target", measure_few)
    with pytest.raises(KeyboardInterrupt):
        make_speed.main(["wrn_16_2", "wrn_16_1", "--rounds", "1"])
    document = json.loads(package_path.read_text(encoding="utf-8"))
    assert list(document["networks"]) == ["wrn_16_2"]
    assert list(document["networks"]["wrn_16_2"]["images_per_second"]) == ["2", "1"]
    make_speed.main(["wrn_16_2", "wrn_16_1", "--rounds", "1"])
    document = json.loads(package_path.read_text(encoding="utf-8"))
    assert list(document["networks"]) == ["wrn_16_1", "wrn_16_2"]  # the table's order
    assert measured == [("wrn_16_2", (64, 1)), ("wrn_16_1", (64, 1)), ("wrn_16_1", (64, 1))]
    make_speed.main(["wrn_16_1", "--rounds", "1", "--again"])
    assert measured[3:] == [("wrn_16_1", (64, 1))]
    package_path.write_text(json.dumps({**document, "device": "another"}), encoding="utf-8")
    make_speed.main(["wrn_16_1", "--rounds", "1"])
    assert list(json.loads(package_path.read_text(encoding="utf-8"))["networks"]) == ["wrn_16_1"]


# A GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_is_measured() -> None:
    device = torch.device("cuda")
    settings = BenchmarkSettings(
        device,
        (16,),
        ("plain", "plain_tf32", "optimized_fp16", "optimized_fp16_graph", "optimized_bf16"),
        ("pytorchcv",),
        rounds=2,
    )
    measured_peaks = Peaks(device)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_2")), settings, measured_peaks)
    measured_peaks.set_fractions(rows)
    assert [row.error for row in rows] == [None] * 6
    held = {}
    for row in rows:
        assert row.fraction_of_peak is not None
        assert row.activations_mib is not None
        assert 0 < row.fraction_of_peak <= 1.5
        held[row.variant] = row.activations_mib
        assert held[row.variant] > 0
    # a graph's pool has whole segments for the same activations, and the workspaces of kernels
    assert held["optimized_fp16"] <= held["optimized_fp16_graph"] < held["optimized_fp16"] + 256


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_graph_of_a_larger_batch_holds_more() -> None:
    """The pool of the smaller batch is gone, and is not counted again."""
    settings = BenchmarkSettings(torch.device("cuda"), (256, 1024, 256), ("plain", "plain_graph"), rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_2")), settings, Peaks(settings.device))
    first, larger, again = (row.activations_mib for row in rows if row.variant == "plain_graph")
    assert first is not None
    assert larger is not None
    assert first < larger
    assert again == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peers_on_a_gpu() -> None:
    names = ("pytorchcv_fp16_channelslast", "pytorchcv_tf32", "pytorchcv_fp16_graph")
    settings = BenchmarkSettings(torch.device("cuda"), (16,), ("plain_fp16",), names, rounds=1)
    rows = measure_target(BenchmarkTarget(get_architecture("wrn_16_2")), settings, Peaks(settings.device))
    assert [(row.variant, row.error) for row in rows] == [(name, None) for name in (*names, "plain_fp16")]
    assert rows[-1].ratio_to in (names[0], names[2])
