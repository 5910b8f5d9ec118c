"""What every model promises, on one small network of each graph."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from pyramidzoo.models._contract import ImageClassifier
from pyramidzoo.models.preresnet import CifarPreResNet
from pyramidzoo.models.pyramidnet import CifarPyramidNet, ImagePyramidNet
from pyramidzoo.models.resnet import CifarResNet
from pyramidzoo.models.wide_resnet import WideResNet

GRAPHS = {
    "resnet_a": (CifarResNet, {"depth": 14}),
    "resnet_b": (CifarResNet, {"depth": 14, "shortcut": "B"}),
    "resnet_fattorib": (CifarResNet, {"depth": 14, "transition": "last"}),
    "preresnet": (CifarPreResNet, {"depth": 14}),
    "preresnet_a": (CifarPreResNet, {"depth": 14, "shortcut": "A"}),
    "preresnet_bottleneck": (CifarPreResNet, {"depth": 11, "bottleneck": True}),
    "wrn": (WideResNet, {"depth": 10, "width": 1, "drop_rate": 0.3}),
    "pyramidnet": (CifarPyramidNet, {"depth": 14, "alpha": 20}),
    "pyramidnet_mul": (CifarPyramidNet, {"depth": 14, "alpha": 3, "multiplicative": True}),
    "pyramidnet_bottleneck": (CifarPyramidNet, {"depth": 11, "alpha": 20, "bottleneck": True}),
    "pyramidnet_imagenet": (ImagePyramidNet, {"depth": 50, "alpha": 20, "drop_rate": 0.5}),
}
graphs = pytest.mark.parametrize("graph", GRAPHS)


def build(graph: str, **arguments: int) -> ImageClassifier:
    torch.manual_seed(0)
    cls, fixed = GRAPHS[graph]
    return cls(**fixed, **arguments)


def size_for(graph: str) -> int:
    return 64 if "imagenet" in graph else 32


@graphs
@pytest.mark.parametrize(("num_classes", "in_chans", "more"), [(1, 1, 0), (10, 3, 1), (37, 4, 32)])
def test_any_classes_channels_and_sizes(graph: str, num_classes: int, in_chans: int, more: int) -> None:
    model = build(graph, num_classes=num_classes, in_chans=in_chans).eval()
    size = size_for(graph) + more
    images = torch.randn(2, in_chans, size, size)
    features = model.forward_features(images)
    assert features.shape[:2] == (2, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert model(images).shape == (2, num_classes)


@graphs
def test_features_are_what_feature_info_says(graph: str) -> None:
    model, size = build(graph).eval(), size_for(graph)
    found = {}
    for info in model.feature_info:
        model.get_submodule(info["module"]).register_forward_hook(
            lambda module, inputs, output, name=info["module"]: found.update({name: output.shape})
        )
    model(torch.randn(1, 3, size, size))
    for info in model.feature_info:
        assert found[info["module"]] == (1, info["num_chs"], size // info["reduction"], size // info["reduction"])


@graphs
def test_reset_classifier_keeps_device_and_dtype(graph: str) -> None:
    model = build(graph).to(torch.float64)
    model.reset_classifier(5)
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    assert (head.out_features, head.weight.dtype, model.num_classes) == (5, torch.float64, 5)
    model.reset_classifier(0)
    size = size_for(graph)
    assert model(torch.randn(2, 3, size, size, dtype=torch.float64)).shape == (2, model.num_features)
    model.reset_classifier(7)
    assert model.get_classifier().weight.dtype == torch.float64


@graphs
def test_checkpointing_changes_neither_gradients_nor_statistics(graph: str) -> None:
    plain = build(graph)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    images = torch.randn(4, 3, size_for(graph), size_for(graph))
    for model in (plain, saving):
        torch.manual_seed(1)  # dropout
        model.train()(images).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@graphs
def test_traced_pickled_and_reloaded_models_compute_the_same(graph: str) -> None:
    model = build(graph).eval()
    images = torch.randn(2, 3, size_for(graph), size_for(graph))
    expected = model(images)
    assert list(model.state_dict())[-1] == "fc.bias"  # maps that go by order rely on it
    traced = torch.fx.symbolic_trace(model)
    traced.graph.eliminate_dead_code()  # an in-place addition that nothing reads would vanish here
    traced.recompile()
    assert torch.equal(traced(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
    other = build(graph).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), expected)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")  # of that very patch release
@graphs
def test_compile_captures_one_graph(graph: str) -> None:
    model = build(graph).eval()
    images = torch.randn(2, 3, size_for(graph), size_for(graph))
    torch.compiler.reset()
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))


@graphs
def test_export_with_dynamic_batch(graph: str) -> None:
    model = build(graph).eval()
    size = size_for(graph)
    exported = torch.export.export(
        model, (torch.randn(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ).module()
    for batch in (1, 3):
        images = torch.randn(batch, 3, size, size)
        torch.testing.assert_close(exported(images), model(images), rtol=0, atol=1e-6)


@graphs
def test_channels_last_and_autocast(graph: str) -> None:
    model = build(graph).eval()
    images = torch.randn(2, 3, size_for(graph), size_for(graph))
    expected = model(images)
    scale = expected.abs().max()
    last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert (last - expected).abs().max() <= 1e-5 * scale  # another order of summation, float32
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(images) - expected).abs().max() <= 0.1 * scale  # 8 bits of mantissa


@graphs
def test_groups_cover_every_parameter_in_order(graph: str) -> None:
    from timm.models import group_parameters

    model = build(graph)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse))
        named = [name for names in groups.values() for name in names]
        assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    first, last = groups[min(groups)], groups[max(groups)]
    assert "conv1.weight" in first
    assert "fc.weight" in last
