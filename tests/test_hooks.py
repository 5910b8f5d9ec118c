"""What people who look into a network rely on: hooks on every layer, and the feature extractors of torchvision.

In every run the smallest network of each family is tried, with every layer and block that it has.
"""

from __future__ import annotations

import copy

import pytest
import torch
from test_contract import SMALLEST, calibrated_model, random_images
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

# torchvision's VGG keeps its last layers in a container, and this one calls them one by one
NEVER_CALLED = {"vgg11_bn_chenyaofo": {"classifier"}}
smallest = pytest.mark.parametrize("name", SMALLEST.values())


def layers(name: str, model: nn.Module) -> dict[str, nn.Module]:
    """Every layer and block of a network that is called, and the network itself, by name."""
    return {key: module for key, module in model.named_modules() if key not in NEVER_CALLED.get(name, ())}


def watch_outputs(modules: dict[str, nn.Module]) -> dict[str, tuple[Tensor, Tensor]]:
    """Hook layers and blocks. After a forward pass: what each hook was given, and a clone made at that moment."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: seen.update({name: (output, output.detach().clone())}))

    for name, module in modules.items():
        watch(name, module)
    return seen


def changed(seen: dict[str, tuple[Tensor, Tensor]]) -> list[str]:
    return [name for name, (given, clone) in seen.items() if not torch.equal(given.detach(), clone)]


def image_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """The gradient of the images; those of the parameters are in the model."""
    images = images.clone().requires_grad_()
    torch.manual_seed(2)  # for shake-shake
    model(images).square().mean().backward()
    assert images.grad is not None
    return images.grad


@smallest
def test_what_a_hook_was_given_stays(name: str) -> None:
    model = calibrated_model(name)
    modules = layers(name, model)
    seen = watch_outputs(modules)
    with torch.inference_mode():
        model(random_images(name))
    assert seen.keys() == modules.keys()
    assert changed(seen) == []
    torch.manual_seed(2)
    logits = model.train()(random_images(name))
    assert changed(seen) == []
    logits.square().mean().backward()
    assert changed(seen) == []


@smallest
def test_backward_hooks_work_on_every_layer(name: str) -> None:
    plain = calibrated_model(name).train()
    model = copy.deepcopy(plain)
    modules = layers(name, model)
    kept, gradients = watch_outputs(modules), {}

    def watch(key: str, module: nn.Module) -> None:
        module.register_full_backward_hook(lambda _, __, outputs: gradients.update({key: outputs[0].clone()}))

    for key, module in modules.items():
        watch(key, module)
    assert torch.equal(image_gradient(plain, random_images(name)), image_gradient(model, random_images(name)))
    assert changed(kept) == []
    assert gradients.keys() == modules.keys()
    assert [key for key, gradient in gradients.items() if gradient.shape != kept[key][0].shape] == []
    assert [key for key, gradient in gradients.items() if not gradient.abs().max() > 0] == []
    for (key, a), (_, b) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), key


@smallest
def test_feature_extractors_return_what_hooks_are_given(name: str) -> None:
    model, images = calibrated_model(name), random_images(name)
    names = [key for key in layers(name, model) if key]
    found: dict[str, Tensor] = {}
    for depth in {key.count(".") for key in names}:  # an extractor returns a value once, and a stage is its last block
        wanted = {key: key for key in names if key.count(".") == depth}
        extractor = create_feature_extractor(model, wanted, suppress_diff_warning=True)  # shake-shake trains otherwise
        with torch.no_grad():
            found |= extractor(images)
    seen = watch_outputs(layers(name, model))
    with torch.no_grad():
        model(images)
    assert found.keys() == set(names)
    assert [key for key in names if not torch.equal(found[key], seen[key][1])] == []
