"""Two implementations of one graph with the same tensors: how they are made, measured and compared.

The other implementation is a network of pytorchcv, torchvision or timm, or a literal function of `reference_graphs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import pytest
import reference_graphs as reference
import torch
from pytorchcv.models.vgg import VGG
from torch import Tensor, nn

from pyramidzoo.models._blocks import SqueezeExcitation

Forward = Callable[[Tensor], Tensor]
Tensors = dict[str, Tensor]
Counterpart = Callable[[nn.Module], tuple[Forward, Tensors]]
Mode = Literal["eval", "train", "single"]
Network = TypeVar("Network", bound=nn.Module)
MODES: tuple[Mode, ...] = ("eval", "train", "single")

# Rounding in doubles (1e-16 an operation) came to 1e-11 at most; the rest is room for other orders of summation.
DOUBLE = 1e-9
# Rounding in floats (6e-8 an operation) came to 2e-6 at most; the rest as above.
SINGLE = 1e-4


class Row(NamedTuple):
    """Our network, the other one, the side of the images, and in which modes the two are comparable."""

    build: Callable[[], nn.Module]
    counterpart: Counterpart
    size: int
    modes: tuple[Mode, ...] = MODES


def each(rows: Mapping[str, Row]) -> pytest.MarkDecorator:
    """Parametrize a test of `row` and `mode`."""
    cases = [pytest.param(row, mode, id=f"{name}-{mode}") for name, row in rows.items() for mode in row.modes]
    return pytest.mark.parametrize(("row", "mode"), cases)


def compare(row: Row, mode: Mode) -> None:
    """Require equal results.

    "eval": logits and all gradients with running statistics, in double. "train": the same with batch statistics, and
    what they leave in the running ones. "single": logits in evaluation mode, in the precision that users run.
    """
    with one_thread():
        if mode == "single":
            return _compare_logits(row, torch.float32, SINGLE)
        torch.manual_seed(0)
        model = randomise(row.build()).double().train(mode == "train")
        images = torch.randn(3 if mode == "train" else 2, 3, row.size, row.size, dtype=torch.float64)
        forward, tensors = row.counterpart(model)
        ours, theirs = measure(model, model.state_dict(keep_vars=True), images), measure(forward, tensors, images)
        assert_close(ours, theirs, DOUBLE, cancelling=mode == "train")


def compare_logits(row: Row) -> None:
    """Require equal logits, in double: for networks whose gradients would take too long."""
    with one_thread():
        _compare_logits(row, torch.float64, DOUBLE)


def _compare_logits(row: Row, dtype: torch.dtype, relative: float) -> None:
    torch.manual_seed(0)
    model = randomise(row.build()).to(dtype).eval()
    images = torch.randn(2, 3, row.size, row.size, dtype=dtype)
    forward, _ = row.counterpart(model)
    with torch.no_grad():
        assert_close({"logits": model(images)}, {"logits": forward(images)}, relative)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from more, and wait ten times as long where the other cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomise(model: Network) -> Network:
    """The model with batch norms and biases that change what passes through them."""
    for module in reversed(list(model.modules())):  # parts before the whole
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.normal_(module.bias)
        elif isinstance(module, SqueezeExcitation):
            # where it squeezes to a single channel, the ReLU on that one must let something through
            nn.init.normal_(module.fc1.weight, std=0.3 * module.fc1.in_channels**-0.5)
            assert module.fc1.bias is not None
            nn.init.normal_(module.fc1.bias, mean=2.0, std=0.5)
    return model


def peer(build: Callable[[], nn.Module], *, by_name: bool = False) -> Counterpart:
    """A network of another package, given copies of the model's tensors by position, or by name.

    All of its tensors are replaced, so it is built on the meta device: initialising it would take longer than the rest.
    """

    def counterpart(model: nn.Module) -> tuple[Forward, Tensors]:
        ours = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        with torch.device("meta"):
            network = build().train(model.training)
        if by_name:
            network.load_state_dict(ours, strict=True, assign=True)
            return network, network.state_dict(keep_vars=True)
        layout = [(name.rpartition(".")[2], tensor.shape) for name, tensor in network.state_dict().items()]
        assert [(name.rpartition(".")[2], tensor.shape) for name, tensor in ours.items()] == layout
        network.load_state_dict(dict(zip(network.state_dict(), ours.values(), strict=True)), strict=True, assign=True)
        return network, dict(zip(ours, network.state_dict(keep_vars=True).values(), strict=True))

    return counterpart


def pcv(network: Callable[..., Any], *args: Any, **kwargs: Any) -> Counterpart:
    """A network of pytorchcv, by position.

    What it pools last has a fixed size, 7x7 or 8x8 pixels. Here it is as large as small images leave it.
    """

    def build() -> nn.Module:
        built = network(*args, **kwargs)
        last = nn.AdaptiveAvgPool2d(7 if isinstance(built, VGG) else 1)
        built.features.add_module("final_pool", last)  # in place of the one of that name
        return built

    return peer(build)


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


def measure(forward: Forward, tensors: Tensors, images: Tensor) -> Tensors:
    """Logits, the gradients of one functional of them with respect to everything, and the buffers afterwards."""
    images = images.clone().requires_grad_()
    torch.manual_seed(1)  # for dropout and shake-shake, which both sides draw in the same order
    logits = forward(images)
    logits.backward(torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype))
    assert images.grad is not None
    results = {"logits": logits.detach(), "gradient of images": images.grad}
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            assert tensor.grad is not None, f"{name} is not used"
            results[f"gradient of {name}"] = tensor.grad
        else:
            results[name] = tensor
    return results


def assert_close(ours: Tensors, theirs: Tensors, relative: float, *, cancelling: bool = False) -> None:
    """Each tensor's largest difference is within `relative` of its largest value.

    `cancelling`: a shift that only reaches other batch norms is taken out again by their means, so that its gradient is
    zero but for rounding and has no scale of its own. A thousandth of the largest gradient stands in for it.
    """
    assert ours.keys() == theirs.keys()
    gradients = [tensor for name, tensor in theirs.items() if name.startswith("gradient")]
    floor = 1e-3 * max(tensor.abs().max().item() for tensor in gradients) if cancelling else 0.0
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        scale = expected.abs().max().item()
        if name.startswith("gradient") and name.endswith(".bias"):
            scale = max(scale, floor)
        assert scale > 0, f"{name} is all zeros and shows nothing"
        difference = (ours[name] - expected).abs().max().item()
        assert difference <= relative * scale, f"{name} differs by {difference:.1e} at a scale of {scale:.1e}"


def by_stage(values: Sequence[int], blocks: Sequence[int], times: int = 1) -> list[list[int]]:
    """As pytorchcv wants channels: a list for each stage."""
    remaining = iter(values)
    return [[times * next(remaining) for _ in range(count)] for count in blocks]


def twice(*widths: int) -> list[list[int]]:
    """Two blocks a stage: its first one, and one like all others."""
    return [[width, width] for width in widths]
