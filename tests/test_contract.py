"""What every model promises, for every constructor of the table.

Numbers are compared on small images, where the deepest networks take milliseconds; shapes on the meta device, at real
sizes. In every run the smallest network of each graph is tried (captured by compile and export: of each family), and
all others where slow tests are asked for (`pytest -m slow`): they differ from it in size alone.
"""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyramidzoo
from pyramidzoo.catalog.architectures import Architecture, architectures, get_architecture
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.models import build, get_model_class
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.models._stage import Stage

pytestmark = pytest.mark.contract

NAMES = list(architectures())
# arguments that make a graph larger but not another one
_SCALE = {"depth", "width", "alpha", "cardinality", "base_width", "growth_rate", "stem_channels", "hidden", "stages"}


def graph_of(row: Architecture) -> tuple[object, ...]:
    """Equal for architectures whose graphs differ in size alone."""
    return row.class_name, *sorted((name, str(value)) for name, value in row.arguments.items() if name not in _SCALE)


def _size(row: Architecture) -> tuple[float, ...]:
    """Depth before width: it is layers that take time on small images."""
    arguments = row.arguments
    sizes = [arguments.get(name, 0) for name in ("width", "alpha", "hidden")]
    return row.input_size, arguments.get("depth", 15), *sizes


def _smallest_of_each_graph() -> dict[tuple[object, ...], str]:
    found: dict[tuple[object, ...], str] = {}
    for row in sorted(architectures().values(), key=_size):
        found.setdefault(graph_of(row), row.name)
    return found


REPRESENTATIVES = sorted(_smallest_of_each_graph().values(), key=NAMES.index)
SMALLEST = {
    get_architecture(name).family: name for name in reversed(_smallest_of_each_graph().values())
}  # the first one stays


def _each(in_every_run: Collection[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in in_every_run else pytest.mark.slow) for name in NAMES]
    )


every = _each(REPRESENTATIVES)


def build_network(name: str, **arguments: int | float) -> ImageClassifier:
    torch.manual_seed(0)
    return build(get_architecture(name), **arguments)


def random_images(name: str, batch: int = 2) -> Tensor:
    """As small as its strides leave one pixel of."""
    row = get_architecture(name)
    size = 8 if row.input_size == 32 and row.family != "vgg" else 32
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def calibrated_model(name: str, **arguments: int | float) -> ImageClassifier:
    """In evaluation mode, with statistics of a real batch: a fresh network of 1,001 layers would overflow."""
    model = build_network(name, **arguments)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(random_images(name, 8))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def test_the_representatives_cover_every_graph() -> None:
    rows = architectures().values()
    assert {get_architecture(name).family for name in REPRESENTATIVES} == {row.family for row in rows}
    some = {"resnet20", "resnet20_b", "resnet10", "preresnet110_a", "preresnet164", "wrn_16_1", "densenet_40_k12"}
    assert some <= set(REPRESENTATIVES)
    assert len(REPRESENTATIVES) == len({graph_of(row) for row in rows})


@every
def test_any_classes_channels_and_sizes(name: str) -> None:
    """Every value of each axis once: the classifier sees nothing but classes, the stem channels, the trunk sizes."""
    sizes = (32, 33, 64) if get_architecture(name).input_size == 32 else (160, 224, 225)
    for num_classes, in_chans, size in zip((1, 10, 37), (3, 1, 4), sizes, strict=True):
        with torch.device("meta"):
            model = build_network(name, num_classes=num_classes, in_chans=in_chans).eval()
            features = model.forward_features(torch.empty(2, in_chans, size, size))
            assert features.shape[:2] == (2, model.num_features)
            assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
            assert model.forward_head(features).shape == (2, num_classes)


@every
def test_features_are_what_feature_info_says(name: str) -> None:
    found = {}
    size = get_architecture(name).input_size
    with torch.device("meta"):
        model = build_network(name).eval()
        for info in model.feature_info:
            model.get_submodule(info["module"]).register_forward_hook(
                lambda module, inputs, output, name=info["module"]: found.update({name: output.shape})
            )
        model(torch.empty(1, 3, size, size))
    for info in model.feature_info:
        assert found[info["module"]] == (1, info["num_chs"], size // info["reduction"], size // info["reduction"])


@every
def test_the_meta_device_holds_no_memory_and_can_be_left(name: str) -> None:
    with torch.device("meta"):
        model = build_network(name)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    other = build_network(name)
    model.load_state_dict(other.state_dict(), assign=True)
    images = random_images(name)
    outputs = []
    for network in (model, other):
        torch.manual_seed(2)  # for shake-shake
        outputs.append(network.train()(images))
    assert torch.equal(*outputs)


@every
def test_reset_classifier_keeps_device_and_dtype(name: str) -> None:
    for device, dtype in (("cpu", torch.float64), ("cpu", torch.bfloat16), ("meta", torch.float16)):
        with torch.device("meta"):
            model = build_network(name).to(dtype)
        if device == "cpu":
            model.get_classifier().to_empty(device=device)
        body = dict(model.named_parameters())
        model.reset_classifier(5)
        head = model.get_classifier()
        assert isinstance(head, nn.Linear)
        assert (head.out_features, head.weight.dtype, head.weight.device.type) == (5, dtype, device)
        assert model.num_classes == 5
        of_head = f"{model.classifier_name}."
        kept = {name: parameter for name, parameter in model.named_parameters() if not name.startswith(of_head)}
        assert all(parameter is body[name] for name, parameter in kept.items())
        assert len(kept) == len(body) - 2
        model.reset_classifier(0)
        assert isinstance(model.get_classifier(), nn.Identity)
        model.reset_classifier(7)  # there is no old head any more: as the rest of the network
        assert {(p.dtype, p.device.type) for p in model.get_classifier().parameters()} == {(dtype, "meta")}
    with pytest.raises(ValueError, match="num_classes is -1"):
        model.reset_classifier(-1)
    with pytest.raises(ValueError, match="global_pool is 'max'"):
        model.reset_classifier(5, "max")


@every
def test_checkpointing_changes_neither_gradients_nor_statistics(name: str) -> None:
    dropout = {"drop_rate": 0.3} if get_architecture(name).family in ("wide_resnet", "densenet") else {}  # in blocks
    plain = build_network(name, **dropout)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    recomputed = []
    first_stage = saving.get_submodule(saving.feature_info[0]["module"])
    layer = next(module for module in first_stage.modules() if not list(module.children()))
    layer.register_forward_pre_hook(lambda *_: recomputed.append(1))
    features = []
    for info in saving.feature_info:  # whoever reads features must get them in training too
        saving.get_submodule(info["module"]).register_forward_hook(lambda *_: features.append(1))
    for model in (plain, saving):
        torch.manual_seed(1)
        model.train()(random_images(name, 4)).square().mean().backward()
    assert len(recomputed) == 2
    assert len(features) == len(saving.feature_info)
    for (key, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad), key
    for (key, buffer), (_, other) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(buffer, other), key


@every
def test_traced_and_pickled_models_compute_the_same(name: str) -> None:
    model, images = calibrated_model(name), random_images(name)
    with torch.no_grad():
        expected = model(images)
        assert expected.isfinite().all()
        traced = torch.fx.symbolic_trace(model)
        traced.graph.eliminate_dead_code()  # an in-place addition that nothing reads would vanish here
        traced.recompile()
        assert torch.equal(traced(images), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)
        odd = nn.functional.pad(images, (0, 1, 0, 1))
        assert torch.equal(traced(odd), model(odd))


@every
def test_a_file_gives_back_every_tensor(name: str, tmp_path: Path) -> None:
    """State dict to safetensors to model: built without initialisation, so anything forgotten would show."""
    state = build_network(name).state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)  # no value that any initialisation would leave
        else:
            tensor.fill_(7)
    assert (
        list(state)[-1] == f"{get_model_class(get_architecture(name)).classifier_name}.bias"
    )  # maps that go by order rely on it
    path = tmp_path / "model.safetensors"
    write_tensors(path, state, {})
    before = torch.get_rng_state()
    model = pyramidzoo.create_model(name, weights=path)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    # a buffer outside the state dict would hold whatever was in memory
    assert {key for key, _ in model.named_buffers()} <= state.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    other = build_network(name)
    other.load_state_dict(model.state_dict(), strict=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())
    shutil.rmtree(tmp_path)  # hundreds of megabytes for some


def error(y: Tensor, expected: Tensor) -> float:
    """The root mean square difference, relative to what is expected."""
    return ((y.double() - expected).square().mean() / expected.square().mean()).sqrt().item()


def rounding_error(network: nn.Module, x: Tensor, dtype: torch.dtype) -> float:
    """Estimate what rounding in a type does to the result of a network (or of a part of it) in float64.

    The result of each layer and block is multiplied by 1 + u, where u is random between -eps and eps of the type. So
    the estimate contains how much this network amplifies rounding: 1 to 10 times in 20 layers, a million times in the
    1,001 layers of resnet1001. It needs no number that was read off one version of PyTorch. The largest of three
    estimates is returned, because one may be small by chance.
    """
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(dtype).eps

    def perturb(module: nn.Module, inputs: object, y: Tensor) -> Tensor:
        return y * (1 + eps * (2 * torch.rand(y.shape, generator=generator, dtype=y.dtype) - 1))

    expected = network(x)
    hooks = [module.register_forward_hook(perturb) for module in network.modules()]
    estimates = [error(network(x), expected) for _ in range(3)]
    for hook in hooks:
        hook.remove()
    return max(estimates)


# A convolution adds up to 4,608 products, and each addition rounds. The errors partly cancel: they sum up to about 4
# roundings of the result (measured: at most 4.7 times the estimate, in VGG).
OTHER_ORDER = 10.0
# Products are added in float32 there. So only the input, the weights and the result of a layer are rounded, each by at
# most eps / 2 (measured: at most 0.6 times the estimate in blocks, 1.2 in networks).
AUTOCAST = 3.0


@every
def test_channels_last_changes_rounding_only(name: str) -> None:
    """In float64 the limit is tight for the deepest networks too; in float32 PyTorch has other convolutions."""
    model = calibrated_model(name)
    with torch.no_grad():
        exact, images = copy.deepcopy(model).double(), random_images(name)
        expected = exact(images.double())
        for dtype in (torch.float64, torch.float32):
            limit = OTHER_ORDER * rounding_error(exact, images.double(), dtype)
            network = copy.deepcopy(model).to(dtype).to(memory_format=torch.channels_last)
            y = network(images.to(dtype=dtype, memory_format=torch.channels_last))
            assert error(y, expected) <= limit, dtype
    images = images.contiguous(memory_format=torch.channels_last)
    features = model.to(memory_format=torch.channels_last).train().forward_features(images)
    assert features.is_contiguous(memory_format=torch.channels_last) or features.shape[2:] == (1, 1)


@every
def test_autocast_changes_rounding_only(name: str) -> None:
    """The whole network, and each block alone: in hundreds of layers bfloat16 leaves little of the logits."""
    model, images = calibrated_model(name), random_images(name)
    exact = copy.deepcopy(model).double()
    stage_inputs: dict[str, Tensor] = {}
    for stage_name, stage in exact.named_modules():
        if isinstance(stage, Stage):
            stage.register_forward_pre_hook(lambda _, x, name=stage_name: stage_inputs.update({name: x[0]}))
    with torch.no_grad():
        expected = exact(images.double())
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        assert logits.dtype == torch.bfloat16
        assert error(logits, expected) <= AUTOCAST * rounding_error(exact, images.double(), torch.bfloat16)
        for stage_name, x in list(stage_inputs.items()):
            stages = (network.get_submodule(stage_name) for network in (model, exact))
            blocks, exact_blocks = (stage.blocks() for stage in stages if isinstance(stage, Stage))
            for index, (block, exact_block) in enumerate(zip(blocks, exact_blocks, strict=True)):
                with torch.autocast("cpu", torch.bfloat16):
                    y = block(x.float())
                limit = AUTOCAST * rounding_error(exact_block, x, torch.bfloat16)
                assert limit < 0.5, "a limit that says nothing"
                x = exact_block(x)
                assert error(y, x) <= limit, f"{stage_name}.{index}"


@every
def test_groups_cover_every_parameter_in_order(name: str) -> None:
    from timm.models import group_parameters

    with torch.device("meta"):
        model = build_network(name)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse))
        named = [key for keys in groups.values() for key in keys]
        assert sorted(named) == sorted(key for key, _ in model.named_parameters())
        first, last = groups[min(groups)], groups[max(groups)]
        assert f"{model.stem_name}.weight" in first
        assert f"{model.classifier_name}.weight" in last


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")  # of that very patch release
@pytest.mark.usefixtures("compiler")
@pytest.mark.compiler
@_each(SMALLEST.values())
def test_compile_captures_one_graph(name: str) -> None:
    model, images = calibrated_model(name), random_images(name)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))


@_each(SMALLEST.values())
def test_export_with_dynamic_batch(name: str) -> None:
    model = calibrated_model(name)
    exported = torch.export.export(model, (random_images(name),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        for batch in (1, 2, 5):
            images = random_images(name, batch)
            expected = model(images)
            # the same operations in the same order
            assert torch.equal(exported.module()(images), expected)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "resnet20" else pytest.mark.slow) for n in SMALLEST.values()]
)
def test_inductor(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real code generation, for the smallest network of each family."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, images = calibrated_model(name), random_images(name)
    with torch.no_grad():
        expected = model(images)
        found = torch.compile(model, fullgraph=True)(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()  # fused sums, float32
