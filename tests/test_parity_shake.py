"""Shake-shake: the three graphs that go by the name, and what its rules do in training."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import reference_plain as plain
import torch
from parity import DOUBLE, Mode, Row, assert_close, compare, each, literal, measure, one_thread, pcv, randomise, twice
from pytorchcv.models.shakeshakeresnet_cifar import CIFARShakeShakeResNet
from torch import Tensor, nn

from pyramidzoo.models.shake_shake import CifarShakeShake

pytestmark = pytest.mark.every_network

# forward, backward, level
RULES = [" ".join(rules) for rules in product(("shake", "even"), ("shake", "even", "keep"), ("image", "batch"))]


def network(variant: str, rules: str = "shake shake image", *, depth: int = 14, width: int = 8) -> CifarShakeShake:
    names = ("forward_rule", "backward_rule", "level")
    arguments: dict[str, Any] = {"variant": variant, **dict(zip(names, rules.split(), strict=True))}
    return CifarShakeShake(depth=depth, width=width, **arguments)


PCV = pcv(CIFARShakeShakeResNet, twice(8, 16, 32), 16, bottleneck=False)

# A stage has its first block and one like all others. Where the first has as many channels as the stem (16), the stem's
# output passes unprojected, which alone tells whether it has a ReLU.
ROWS = {
    "gastaldi-literal": Row(lambda: network("gastaldi"), literal(plain.shake_gastaldi, n=2, width=8), 16),
    "gastaldi-literal-odd": Row(lambda: network("gastaldi"), literal(plain.shake_gastaldi, n=2, width=8), 17),
    "gastaldi_16-literal": Row(
        lambda: network("gastaldi", width=16), literal(plain.shake_gastaldi, n=2, width=16), 16, ("eval",)
    ),
    "hysts-literal": Row(lambda: network("hysts"), literal(plain.shake_hysts, n=2, width=8), 16),
    "hysts-literal-odd": Row(lambda: network("hysts"), literal(plain.shake_hysts, n=2, width=8), 17),
    "pytorchcv-pytorchcv": Row(lambda: network("pytorchcv"), PCV, 16, ("eval", "single")),
    "pytorchcv-pytorchcv-odd": Row(lambda: network("pytorchcv"), PCV, 17, ("eval", "single")),
    "pytorchcv_16-pytorchcv": Row(
        lambda: network("pytorchcv", width=16),
        pcv(CIFARShakeShakeResNet, twice(16, 32, 64), 16, bottleneck=False),
        16,
        ("eval",),
    ),
}
for rules in RULES:
    ROWS[f"{rules.replace(' ', '_')}-literal"] = Row(
        partial(network, "gastaldi", rules),
        literal(plain.shake_gastaldi, n=2, width=8, rules=rules),
        8,
        ("train",),
    )


@each(ROWS)
def test_equal_to_another_implementation(row: Row, mode: Mode) -> None:
    compare(row, mode)


def test_training_is_pytorchcvs_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs draws a in the forward pass, block after block, and b in the backward pass, last block first."""
    blocks, images = 6, 3
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(blocks, 2, images, 1, 1, 1, generator=generator, dtype=torch.float64)
    ours = iter(draws.flatten(0, 1))
    theirs = iter(torch.cat((draws[:, 0], draws[:, 1].flip(0))))
    monkeypatch.setattr(torch, "rand_like", lambda _: next(ours))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(theirs).flatten())
    with one_thread():
        torch.manual_seed(0)
        model = randomise(network("pytorchcv")).double().train()
        batch = torch.randn(images, 3, 16, 16, dtype=torch.float64)
        forward, tensors = PCV(model)
        found = measure(model, model.state_dict(keep_vars=True), batch)
        assert_close(found, measure(forward, tensors, batch), DOUBLE, cancelling=True)
    assert [next(ours, None), next(theirs, None)] == [None, None]


class Given(nn.Module):
    """A branch whose output is known whatever comes in."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        return self.value


def run_block(rules: str, y1: Tensor, y2: Tensor, x: Tensor, *, training: bool = True) -> tuple[Tensor, ...]:
    """A block's output where its branches give y1 and y2 and x is the shortcut; the gradients of the three for ones."""
    block = network("gastaldi", rules, width=16).layer1[1].train(training)
    block.branch1, block.branch2 = Given(y1), Given(y2)
    x = x.clone().requires_grad_()
    output = block(x)
    output.sum().backward()
    assert x.grad is not None
    return output.detach(), block.branch1.value.grad, block.branch2.value.grad, x.grad


def draw_numbers(rules: str, images: int, seed: int) -> tuple[Tensor, Tensor]:
    """a and b for each image."""
    torch.manual_seed(seed)
    ones, zeros = torch.ones(images, 1, 1, 1), torch.zeros(images, 1, 1, 1)
    a, b, _, _ = run_block(rules, ones, zeros, zeros)
    return a.flatten(), b.flatten()


@pytest.mark.parametrize("rules", RULES)
def test_value_with_a_gradient_with_b(rules: str) -> None:
    """The shortcut and its gradient stay as they are."""
    a, b = draw_numbers(rules, 5, seed=4)
    y1, y2, x = torch.randn(3, 5, 2, 3, 3).unbind()
    torch.manual_seed(4)
    output, of_y1, of_y2, of_x = run_block(rules, y1, y2, x)
    a, b = a.view(5, 1, 1, 1), b.view(5, 1, 1, 1)
    torch.testing.assert_close(output, x + a * y1 + (1 - a) * y2)
    torch.testing.assert_close(of_y1, b.expand_as(y1))
    torch.testing.assert_close(of_y2, (1 - b).expand_as(y1))
    assert torch.equal(of_x, torch.ones_like(x))


@pytest.mark.parametrize("rules", RULES)
def test_what_is_drawn(rules: str) -> None:
    """Uniform numbers, anew in each pass; b apart from a; one for each image or one for all."""
    forward, backward, level = rules.split()
    (a, b), again = draw_numbers(rules, 2000, seed=5), draw_numbers(rules, 2000, seed=6)
    random = {"a": forward == "shake", "b": backward == "shake" or (backward == "keep" and forward == "shake")}
    for name, values, others in (("a", a, again[0]), ("b", b, again[1])):
        if not random[name]:
            assert torch.equal(values, torch.full_like(values, 0.5))
            continue
        assert not torch.isclose(values, others).all()
        assert bool(((values >= 0) & (values <= 1)).all())
        if level == "image":
            # deviations of the mean and variance of 2,000 uniform numbers: 0.006 and 0.002
            assert abs(values.mean() - 1 / 2) < 0.03
            assert abs(values.var() - 1 / 12) < 0.01
        else:
            assert torch.equal(values, values[:1].expand_as(values))
    if backward == "keep":
        assert torch.equal(a, b)
    elif random["a"] or random["b"]:
        assert not torch.isclose(a, b).all()
        if random["a"] and random["b"] and level == "image":
            assert abs(torch.corrcoef(torch.stack((a, b)))[0, 1]) < 0.1  # deviation 0.02


@pytest.mark.parametrize("rules", RULES)
def test_evaluation_takes_the_mean(rules: str) -> None:
    y1, y2, x = torch.randn(3, 5, 2, 3, 3).unbind()
    output, of_y1, of_y2, of_x = run_block(rules, y1, y2, x, training=False)
    torch.testing.assert_close(output, x + (y1 + y2) / 2)
    assert torch.equal(of_y1, torch.full_like(y1, 0.5))
    assert torch.equal(of_y2, torch.full_like(y1, 0.5))
    assert torch.equal(of_x, torch.ones_like(x))
