"""Every graph against another implementation of it with the same tensors: logits, gradients, running statistics.

The others are networks of pytorchcv, torchvision and timm, and the literal functions of `reference_graphs`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import pytest
import reference_graphs as reference
import timm.models.resnet
import torch
import torchvision.models.resnet
from pytorchcv.models.preresnet import PreResUnit
from pytorchcv.models.preresnet_cifar import CIFARPreResNet
from pytorchcv.models.pyramidnet import PyramidNet
from pytorchcv.models.pyramidnet_cifar import CIFARPyramidNet
from pytorchcv.models.resnet_cifar import CIFARResNet
from pytorchcv.models.wrn_cifar import CIFARWRN
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import pyramidzoo
from pyramidzoo.architectures import architectures
from pyramidzoo.models import _blocks
from pyramidzoo.models.preresnet import CifarPreResNet
from pyramidzoo.models.pyramidnet import CifarPyramidNet, ImagePyramidNet, unit_widths
from pyramidzoo.models.resnet import CifarResNet
from pyramidzoo.models.wide_resnet import WideResNet

Forward = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor]
Counterpart = Callable[[nn.Module], tuple[Forward, Tensors]]

# Rounding in doubles (1e-16 an operation) came to 1e-13 at most; the rest is room for other orders of summation.
DOUBLE = 1e-9
# Rounding in floats (6e-8 an operation) came to 1e-6 at most; the rest as above.
SINGLE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from more, and wait ten times as long where the other cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomised(model: nn.Module) -> nn.Module:
    """The model with batch norms and a classifier bias that change what passes through them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.bias)
    return model


def peer(build: Callable[[], nn.Module], *, by_name: bool = False) -> Counterpart:
    """A network of another package, given the model's tensors by position, or by name."""

    def counterpart(model: nn.Module) -> tuple[Forward, Tensors]:
        ours = model.state_dict()
        network = build().to(ours["conv1.weight"].dtype).train(model.training)
        theirs = network.state_dict(keep_vars=True)
        if by_name:
            network.load_state_dict(ours, strict=True)
            return network, theirs
        names = sorted(ours, key=lambda name: name.startswith("fc."))  # the zoo registers its classifier first
        layout = [(name.rpartition(".")[2], tuple(ours[name].shape)) for name in names]
        assert layout == [(name.rpartition(".")[2], tuple(tensor.shape)) for name, tensor in theirs.items()]
        for name, tensor in zip(names, theirs.values(), strict=True):
            tensor.data.copy_(ours[name])
        return network, dict(zip(names, theirs.values(), strict=True))

    return counterpart


def literal(graph: Callable[..., Tensor], **arguments: object) -> Counterpart:
    """A function of `reference_graphs`, given clones of the model's tensors."""

    def counterpart(model: nn.Module) -> tuple[Forward, Tensors]:
        state = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
            for name, tensor in model.state_dict(keep_vars=True).items()
        }
        layers = reference.Layers(state, model.training)
        return lambda x: graph(layers, x, **arguments), state

    return counterpart


class ThreeStages(nn.Module):
    """A CIFAR ResNet of another package's units; torchvision's and timm's own start from 64 channels and 7x7."""

    def __init__(self, block: type[nn.Module], n: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[block(16, 16) for _ in range(n)])
        self.layer2 = nn.Sequential(self._first(block, 16), *[block(32, 32) for _ in range(n - 1)])
        self.layer3 = nn.Sequential(self._first(block, 32), *[block(64, 64) for _ in range(n - 1)])
        self.fc = nn.Linear(64, 10)

    @staticmethod
    def _first(block: type[nn.Module], channels: int) -> nn.Module:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False), nn.BatchNorm2d(2 * channels)
        )
        return block(channels, 2 * channels, stride=2, downsample=shortcut)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3)))


def pcv_preresnet_with_stride_in_1x1(n: int) -> nn.Module:
    """pytorchcv's network has the stride in the 3x3, but its unit takes either place."""
    network = CIFARPreResNet([[64] * n, [128] * n, [256] * n], 16, bottleneck=True)
    network.features.stage2.unit1 = PreResUnit(64, 128, stride=2, bottleneck=True, conv1_stride=True)
    network.features.stage3.unit1 = PreResUnit(128, 256, stride=2, bottleneck=True, conv1_stride=True)
    return network


def by_stage(values: Sequence[int], units: Sequence[int], times: int = 1) -> list[list[int]]:
    remaining = iter(values)
    return [[times * next(remaining) for _ in range(count)] for count in units]


# Widths of the shallow PyramidNets below, worked out by hand
ADD_20 = [19, 23, 26, 29, 33, 36]  # 16 + 20 k / 6
ADD_7 = [17, 18, 20, 21, 22, 23]  # 16 + 7 k / 6
MUL_3 = [19, 23, 28, 33, 40, 48]  # 16 * 3^(k / 6)
ADD_16 = list(range(65, 81))  # 64 + 16 k / 16
TWICE, IMAGENET_50 = (2, 2, 2), (3, 4, 6, 3)


def same(width: int) -> list[list[int]]:
    return [[16 * width] * 2, [32 * width] * 2, [64 * width] * 2]


def pcv_pyramidnet(widths: Sequence[int], *, bottleneck: bool = False, stem: int = 16) -> Counterpart:
    channels = by_stage(widths, TWICE, 4 if bottleneck else 1)
    return peer(lambda: CIFARPyramidNet(channels, stem, bottleneck=bottleneck))


# Each row: our network, the other one, the images' size. Two units a stage are its first one and one like all others.
# At 29, 33 and 193 every map that a stage halves is odd; 29 and 193 end at the 8x8 and 7x7 that pytorchcv must have.
ROWS = {
    "resnet_a-literal": (lambda: CifarResNet(depth=14), literal(reference.resnet_a, n=2), 32),
    "resnet_a-literal-odd": (lambda: CifarResNet(depth=14), literal(reference.resnet_a, n=2), 33),
    "resnet_b-pytorchcv": (
        lambda: CifarResNet(depth=14, shortcut="B"),
        peer(lambda: CIFARResNet(same(1), 16, bottleneck=False)),
        29,
    ),
    "resnet_b-torchvision": (
        lambda: CifarResNet(depth=14, shortcut="B"),
        peer(lambda: ThreeStages(torchvision.models.resnet.BasicBlock, 2), by_name=True),
        32,
    ),
    "resnet_b-timm": (
        lambda: CifarResNet(depth=14, shortcut="B"),
        peer(lambda: ThreeStages(timm.models.resnet.BasicBlock, 2), by_name=True),
        32,
    ),
    "resnet_fattorib-literal": (
        lambda: CifarResNet(depth=14, transition="last"),
        literal(reference.resnet_fattorib, n=2),
        32,
    ),
    "resnet_fattorib-literal-odd": (
        lambda: CifarResNet(depth=8, transition="last"),
        literal(reference.resnet_fattorib, n=1),
        33,
    ),
    "preresnet-literal": (lambda: CifarPreResNet(depth=14), literal(reference.preresnet, n=2), 32),
    "preresnet-literal-odd": (lambda: CifarPreResNet(depth=14), literal(reference.preresnet, n=2), 33),
    "preresnet_w4-literal": (
        lambda: CifarPreResNet(depth=8, width=4),
        literal(reference.preresnet, n=1, width=4),
        16,
    ),
    "preresnet_shared_in_1-literal": (
        lambda: CifarPreResNet(depth=14, shared_stages=(True, False, False)),
        literal(reference.preresnet, n=2, shared=(True, False, False)),
        32,
    ),
    "preresnet_shared_in_2_3-pytorchcv": (
        lambda: CifarPreResNet(depth=14, shared_stages=(False, True, True)),
        peer(lambda: CIFARPreResNet(same(1), 16, bottleneck=False)),
        29,
    ),
    "preresnet_a-literal": (
        lambda: CifarPreResNet(depth=14, shortcut="A"),
        literal(reference.preresnet, n=2, option="A"),
        32,
    ),
    "preresnet_a-literal-odd": (
        lambda: CifarPreResNet(depth=14, shortcut="A"),
        literal(reference.preresnet, n=2, option="A"),
        33,
    ),
    "preresnet_bottleneck-literal": (
        lambda: CifarPreResNet(depth=20, bottleneck=True),
        literal(reference.preresnet_bottleneck, n=2),
        32,
    ),
    "preresnet_bottleneck-pytorchcv": (
        lambda: CifarPreResNet(depth=20, bottleneck=True),
        peer(lambda: pcv_preresnet_with_stride_in_1x1(2)),
        29,
    ),
    "wrn_width1-literal": (lambda: WideResNet(depth=16, width=1), literal(reference.wide_resnet, n=2, width=1), 32),
    "wrn_width1-pytorchcv": (lambda: WideResNet(depth=16, width=1), peer(lambda: CIFARWRN(same(1), 16)), 29),
    "wrn_width2-pytorchcv": (lambda: WideResNet(depth=16, width=2), peer(lambda: CIFARWRN(same(2), 16)), 32),
    "wrn_dropout-literal": (
        lambda: WideResNet(depth=16, width=2, drop_rate=0.3),
        literal(reference.wide_resnet, n=2, width=2, drop=0.3),
        16,
    ),
    "pyramidnet-pytorchcv": (lambda: CifarPyramidNet(depth=14, alpha=20), pcv_pyramidnet(ADD_20), 32),
    "pyramidnet-pytorchcv-odd": (lambda: CifarPyramidNet(depth=14, alpha=20), pcv_pyramidnet(ADD_20), 29),
    "pyramidnet_mul-pytorchcv": (
        lambda: CifarPyramidNet(depth=14, alpha=3, multiplicative=True),
        pcv_pyramidnet(MUL_3),
        32,
    ),
    "pyramidnet_mul-literal": (
        lambda: CifarPyramidNet(depth=14, alpha=3, multiplicative=True),
        literal(reference.pyramidnet, units=TWICE, widths=MUL_3, bottleneck=False),
        33,
    ),
    "pyramidnet_bottleneck-pytorchcv": (
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True),
        pcv_pyramidnet(ADD_7, bottleneck=True),
        32,
    ),
    "pyramidnet_bottleneck-pytorchcv-odd": (
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True),
        pcv_pyramidnet(ADD_7, bottleneck=True),
        29,
    ),
    "pyramidnet_bottleneck_mul-pytorchcv": (
        lambda: CifarPyramidNet(depth=20, alpha=3, bottleneck=True, multiplicative=True),
        pcv_pyramidnet(MUL_3, bottleneck=True),
        32,
    ),
    "pyramidnet_bottleneck_stem64-pytorchcv": (
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True, stem_channels=64),
        pcv_pyramidnet(ADD_7, bottleneck=True, stem=64),
        32,
    ),
    "pyramidnet_dropout-literal": (
        lambda: CifarPyramidNet(depth=20, alpha=7, bottleneck=True, drop_rate=0.5),
        literal(reference.pyramidnet, units=TWICE, widths=ADD_7, bottleneck=True, drop=0.5),
        33,
    ),
    "image_pyramidnet-pytorchcv-odd": (
        lambda: ImagePyramidNet(depth=50, alpha=16, num_classes=10),
        peer(lambda: PyramidNet(by_stage(ADD_16, IMAGENET_50, 4), 64, bottleneck=True, num_classes=10)),
        193,
    ),
    "image_pyramidnet-literal": (
        lambda: ImagePyramidNet(depth=50, alpha=16, num_classes=10, drop_rate=0.5),
        literal(reference.image_pyramidnet, units=IMAGENET_50, widths=ADD_16, drop=0.5),
        64,
    ),
}
all_rows = pytest.mark.parametrize(("build", "counterpart", "size"), ROWS.values(), ids=ROWS)


def measured(forward: Forward, tensors: Tensors, images: Tensor) -> Tensors:
    """Logits, the gradients of one functional of them with respect to everything, and the buffers afterwards."""
    images = images.clone().requires_grad_()
    torch.manual_seed(1)  # dropout
    logits = forward(images)
    logits.backward(torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype))
    results = {"logits": logits.detach(), "gradient of images": images.grad}
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            results[f"gradient of {name}"] = tensor.grad
        else:
            results[name] = tensor
    return results


def assert_close(ours: Tensors, theirs: Tensors, relative: float, shift_floor: float = 0.0) -> None:
    """Each tensor's largest difference is within `relative` of its largest value; gradients of shifts have a floor."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = expected.abs().max().item()
        if name.startswith("gradient") and name.endswith(".bias"):
            scale = max(scale, shift_floor)
        assert scale > 0, f"{name} is all zeros and shows nothing"
        difference = (ours[name] - expected).abs().max().item()
        assert difference <= relative * scale, f"{name} differs by {difference:.1e} at a scale of {scale:.1e}"


@all_rows
def test_eval_mode_in_double(build, counterpart, size):
    """Logits and all gradients with running statistics."""
    torch.manual_seed(0)
    model = randomised(build()).double().eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    forward, tensors = counterpart(model)
    ours = measured(model, model.state_dict(keep_vars=True), images)
    assert_close(ours, measured(forward, tensors, images), DOUBLE)


@all_rows
def test_train_mode_in_double(build, counterpart, size):
    """Logits and all gradients with batch statistics, and what they leave in the running statistics."""
    torch.manual_seed(0)
    model = randomised(build()).double().train()
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    forward, tensors = counterpart(model)
    ours = measured(model, model.state_dict(keep_vars=True), images)
    # A shift that only reaches other batch norms is taken out again by their means: its gradient is zero but for
    # rounding, so it has no scale of its own. A thousandth of the largest gradient stands in for it.
    floor = 1e-3 * max(tensor.abs().max().item() for name, tensor in ours.items() if name.startswith("gradient"))
    assert_close(ours, measured(forward, tensors, images), DOUBLE, floor)


@all_rows
def test_eval_mode_in_single(build, counterpart, size):
    """Logits in the precision that users run."""
    torch.manual_seed(0)
    model = randomised(build()).eval()
    images = torch.randn(2, 3, size, size)
    forward, _ = counterpart(model)
    with torch.no_grad():
        assert_close({"logits": model(images)}, {"logits": forward(images)}, SINGLE)


def pyramid(n: int, widths: list[int], *, bottleneck: bool = True, stem: int = 16) -> Counterpart:
    return literal(reference.pyramidnet, units=(n, n, n), widths=widths, bottleneck=bottleneck, stem=stem)


# Real names at their full depth; small images, as depth is the point
REGISTERED = {
    "resnet110": (literal(reference.resnet_a, n=18), 32),
    "resnet110_b": (peer(lambda: CIFARResNet([[w] * 18 for w in (16, 32, 64)], 16, bottleneck=False)), 32),
    "resnet56_fattorib": (literal(reference.resnet_fattorib, n=9), 32),
    "preresnet110": (literal(reference.preresnet, n=18), 32),
    "preresnet20_w4": (literal(reference.preresnet, n=3, width=4), 16),
    "preresnet56": (literal(reference.preresnet, n=9, shared=(True, False, False)), 32),
    "preresnet56_sharedpreact": (literal(reference.preresnet, n=9), 32),
    "preresnet110_a": (literal(reference.preresnet, n=18, option="A"), 32),
    "preresnet164": (literal(reference.preresnet_bottleneck, n=18), 16),
    "preresnet1001": (literal(reference.preresnet_bottleneck, n=111), 8),
    "wrn_16_1": (peer(lambda: CIFARWRN(same(1), 16)), 32),
    "wrn_40_4": (literal(reference.wide_resnet, n=6, width=4), 16),
    "pyramidnet110_a48": (pyramid(18, reference.additive_widths(16, 48, 54), bottleneck=False), 16),
    "pyramidnet110_mul_a4p75": (pyramid(18, reference.multiplicative_widths(16, 4.75, 54), bottleneck=False), 16),
    "pyramidnet164_a48": (pyramid(18, reference.additive_widths(16, 48, 54)), 16),
    "pyramidnet164_a270_hysts": (pyramid(18, reference.additive_widths(16, 270, 54), stem=64), 8),
    "pyramidnet200_a300": (
        literal(reference.image_pyramidnet, units=(3, 24, 36, 3), widths=reference.additive_widths(64, 300, 66)),
        48,
    ),
}


@pytest.mark.parametrize("name", REGISTERED)
def test_registered_name_at_full_depth(name):
    """The table's arguments build the network that its name promises."""
    counterpart, size = REGISTERED[name]
    torch.manual_seed(0)
    model = randomised(pyramidzoo.create_model(name)).double().eval()
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    forward, _ = counterpart(model)
    with torch.no_grad():
        assert_close({"logits": model(images)}, {"logits": forward(images)}, DOUBLE)


def padded_add(y: Tensor, x: Tensor, start: int = 0) -> Tensor:
    """What `add_into_channels` stands for: zero channels around x, then a sum."""
    return y + F.pad(x, (0, 0, 0, 0, start, y.shape[1] - start - x.shape[1]))


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
def test_slice_is_bitwise_the_padded_shortcut(build, training, size, monkeypatch):
    """Adding into some channels gives every bit of padding with zeros: logits, gradients and statistics."""
    torch.manual_seed(0)
    model = randomised(build()).train(training)
    padded = copy.deepcopy(model)
    images = torch.randn(2, 3, size, size)
    ours = measured(model, model.state_dict(keep_vars=True), images)
    monkeypatch.setattr(_blocks, "add_into_channels", padded_add)
    theirs = measured(padded, padded.state_dict(keep_vars=True), images)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class Operators(TorchDispatchMode):
    """Names of the ATen operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
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
def test_shortcut_makes_no_zeros(build, training, monkeypatch):
    """Neither padding nor concatenation is behind the shortcut; a padded one would be seen."""
    model = build().train(training)
    assert zeros_or_copies(model) == set()
    monkeypatch.setattr(_blocks, "add_into_channels", padded_add)
    assert "constant_pad_nd" in zeros_or_copies(model)


ADDITIVE = [row for row in architectures().values() if row.family == "pyramidnet" and "_mul_" not in row.name]
MULTIPLICATIVE = [row for row in architectures().values() if "_mul_" in row.name]


@pytest.mark.parametrize("row", [*ADDITIVE, *MULTIPLICATIVE], ids=lambda row: row.name)
def test_registered_widths_are_those_of_exact_arithmetic(row):
    """No registered network comes near a tie, so the exact formula must give its widths."""
    depth, alpha = row.arguments["depth"], row.arguments["alpha"]
    base, units = 16, 3 * ((depth - 2) // (9 if row.arguments.get("bottleneck") else 6))
    if row.builder == "ImagePyramidNet":
        base, units = 64, 66
    exact = reference.additive_widths if row in ADDITIVE else reference.multiplicative_widths
    with torch.device("meta"):
        assert pyramidzoo.create_model(row.name).unit_widths == tuple(exact(base, alpha, units))


def test_widths_at_a_tie_follow_the_accumulated_sum():
    """Depth 56, alpha 31: unit 9 is 31.5 exactly, and the accumulated double falls just below."""
    widths = unit_widths(16, 31, 18)
    assert widths == [18, 19, 21, 23, 25, 26, 28, 30, 31, 33, 35, 37, 38, 40, 42, 44, 45, 47]
    assert reference.additive_widths(16, 31, 18)[8] == 32


def test_exact_halves_round_up():
    """Steps of one half are exact in binary, so only the rounding rule decides."""
    assert unit_widths(16, 4, 8) == [17, 17, 18, 18, 19, 19, 20, 20]


def test_early_multiplicative_alpha_differs_in_one_unit():
    """The authors' first alpha was 1.68 for a stage; 1.68^3 is not 4.75, and unit 37 shows it."""
    today, early = unit_widths(16, 4.75, 54, multiplicative=True), unit_widths(16, 1.68**3, 54, multiplicative=True)
    assert [(k, a, b) for k, (a, b) in enumerate(zip(today, early, strict=True), start=1) if a != b] == [(37, 47, 46)]
