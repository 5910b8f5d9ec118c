"""Files of other packages through their layouts: the converted network computes what theirs did."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorchcv_names
import timm
import torch
import torchvision
from layout_tools import (
    converted,
    loaded,
    mapped,
    read_here,
    require_equal,
    trained,
    without_fixed_pooling,
    zipped,
)
from pytorchcv.model_provider import get_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import pyramidzoo
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.checkpoints.safetensors_file import read_metadata, write_tensors
from pyramidzoo.checkpoints.signatures import check_signatures, get_signatures
from pyramidzoo.convert import read_file
from pyramidzoo.convert.conversion import convert_file
from pyramidzoo.convert.layout import FlatCheckpoint
from pyramidzoo.convert.layouts import _folded, get_layout
from pyramidzoo.convert.layouts.timm import get_timm_name
from pyramidzoo.convert.recognition import compute_expected_signatures, recognise
from pyramidzoo.errors import IntegrityError

# one small network a family, each with what is special about its names
SMALL = (
    "resnet20_cifar10",
    "resnet164bn_cifar100",
    "preresnet20_svhn",
    "preresnet164bn_cifar10",
    "seresnet20_cifar10",
    "seresnet164bn_cifar10",
    "sepreresnet20_cifar10",
    "sepreresnet164bn_cifar10",
    "densenet40_k12_cifar10",
    "densenet40_k12_bc_cifar10",
    "wrn16_10_cifar10",
    "resnext29_32x4d_cifar10",
    "pyramidnet110_a48_cifar10",
    "shakeshakeresnet20_2x16d_cifar10",
    "resnet18_wd4",
    "preresnet18_wd4",
    "preresnetbc14b",
    "seresnet10",
    "sepreresnet10",
    "resnext14_32x2d",
    "densenet121",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are opened without a child process, which takes seconds; test_convert covers it."""
    monkeypatch.setattr(read_file, "unpickle", read_here)


def image_size(architecture: str) -> int:
    """Pixels that are enough for every layer: VGG's linear layers need all of them."""
    row = get_architecture(architecture)
    return 224 if row.class_name == "ImageVgg" else (64 if row.input_size == 224 else 16)


def test_every_published_model_of_pytorchcv_has_a_layout() -> None:
    models = [pytorchcv_names.model(name) for name in pytorchcv_names.published()]
    assert sum(model.dataset != "imagenet1k" for model in models) == 150
    assert sum(model.dataset == "imagenet1k" for model in models) == 89
    layout = get_layout("pytorchcv")
    assert [m for m in models if not layout.supports(get_architecture(m.architecture))] == []
    assert {model.dataset for model in models} == set(layout.preprocessing)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "preresnet110_svhn", "pyramidnet164_a270_bn_cifar100", "senet28"])
def test_pytorchcv_is_refused_where_the_graph_differs(name: str) -> None:
    row = get_architecture(pytorchcv_names.model(name).architecture)
    others = {
        "resnet20_b": "resnet20",
        "preresnet110_rawid": "preresnet110",
        "pyramidnet164_a270": "pyramidnet164_a270_hysts",
        "senet28": "vgg15_bn",
    }
    assert get_layout("pytorchcv").supports(row)
    assert not get_layout("pytorchcv").supports(get_architecture(others[row.name]))


def through_pytorchcv(name: str, tmp_path: Path) -> None:
    model = pytorchcv_names.model(name)
    size = image_size(model.architecture)
    theirs = trained(without_fixed_pooling(get_model(name, pretrained=False)), size)
    source = zipped(tmp_path / f"{name}.pth.zip", theirs.state_dict())
    result = converted(
        source, layout="pytorchcv", architecture=model.architecture, dataset=model.dataset, classes=model.classes
    )
    source.unlink()
    require_equal(loaded(result), theirs, size)
    result.path.unlink()  # hundreds of networks are many gigabytes


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", SMALL)
def test_pytorchcv(name: str, tmp_path: Path) -> None:
    through_pytorchcv(name, tmp_path)


def one_of_each() -> list[str]:
    """pytorchcv's names, one for each architecture: its data sets differ in the classifier alone."""
    models = [pytorchcv_names.model(name) for name in pytorchcv_names.published()]
    return list({model.architecture: model.name for model in reversed(models)}.values())


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("name", one_of_each())
def test_all_of_pytorchcv(name: str, tmp_path: Path) -> None:
    through_pytorchcv(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", pytorchcv_names.published())
def test_all_names_and_shapes_of_pytorchcv(name: str) -> None:
    with torch.device("meta"):
        state = get_model(name, pretrained=False).state_dict()
    model = pytorchcv_names.model(name)
    require_all_names(state, "pytorchcv", model.architecture, model.classes)


def test_a_zip_is_read_by_the_child_process(tmp_path: Path) -> None:
    theirs = trained(without_fixed_pooling(get_model("resnet20_cifar10", pretrained=False)), 16)
    source = zipped(tmp_path / "resnet20_cifar10-0597.pth.zip", theirs.state_dict(), compressed=True)
    result = converted(source, layout=None, architecture=None, dataset="cifar10", classes=10)
    assert (result.description.layout, result.description.architecture) == ("pytorchcv", "resnet20_b")
    require_equal(loaded(result), theirs, 16)


@functools.cache
def folded_network() -> nn.Module:
    return trained(without_fixed_pooling(get_model("wrn50_2", pretrained=False)), 64)


def test_a_folded_network_of_pytorchcv() -> None:
    require_equal(mapped(folded_network().state_dict(), "pytorchcv", "wide_resnet50_2", 1000), folded_network(), 64)


def test_the_dummy_bn_does_nothing() -> None:
    norm = nn.BatchNorm2d(4).eval()
    for name in ("weight", "running_mean", "running_var"):
        getattr(norm, name).data.fill_(_folded.locate_norm_tensor(name, "").fill)
    x = torch.randn(2, 4, 5, 5) * 100
    assert torch.equal(norm(x), x)
    assert torch.allclose(norm.double()(x.double()), x.double(), rtol=1e-14, atol=0)


def functional_wide_resnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """WRN-50-2 as functional-zoo's notebook runs it, on a map of any size."""
    state = {name: tensor.to(x.dtype) for name, tensor in state.items()}

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)

    x = F.max_pool2d(F.relu(conv(x, "conv0", 2, 3)), 3, 2, 1)
    for group, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            base, stride = f"group{group}.block{block}.conv", 2 if group and not block else 1
            y = F.relu(conv(x, f"{base}0"))
            y = conv(F.relu(conv(y, f"{base}1", stride, 1)), f"{base}2")
            x = F.relu(y + (conv(x, f"{base}_dim", stride) if block == 0 else x))
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def functional_name(name: str) -> str:
    """functional-zoo's name for one of pytorchcv's tensors of the same folded network."""
    parts = name.split(".")
    if parts[0] == "output":
        return f"fc.{parts[-1]}"
    if parts[1] == "init_block":
        return f"conv0.{parts[-1]}"
    place = f"group{int(parts[1][-1]) - 1}.block{int(parts[2][4:]) - 1}"
    return f"{place}.{'conv_dim' if parts[3] == 'identity_conv' else f'conv{int(parts[4][-1]) - 1}'}.{parts[-1]}"


def test_functional_zoo() -> None:
    state = {functional_name(name): tensor.float() for name, tensor in folded_network().state_dict().items()}
    assert sum(tensor.numel() for tensor in state.values()) == 68_849_128  # as the notebook prints
    ours = mapped(state, "functional_zoo", "wide_resnet50_2", 1000)
    require_equal(ours, functools.partial(functional_wide_resnet, state), 64, gradient=False)


def torchvision_network(architecture: str, **settings: Any) -> nn.Module:
    return torchvision.models.get_model(architecture, weights=None, **settings)


def timm_network(architecture: str, **settings: Any) -> nn.Module:
    return timm.create_model(get_timm_name(architecture), pretrained=False, **settings)


def in_torchvision() -> list[str]:
    return [row.name for row in architectures().values() if get_layout("torchvision").supports(row)]


def in_timm() -> list[str]:
    return [row.name for row in architectures().values() if get_layout("timm").supports(row)]


def test_the_twins() -> None:
    assert len(in_torchvision()) == 18
    assert set(in_torchvision()) <= set(torchvision.models.list_models())
    assert "resnet26" not in in_timm()
    assert len(in_timm()) == 28
    assert {"seresnet50", "seresnext50_32x4d", "senet154", "vgg16_bn", "wide_resnet50_2"} <= set(in_timm())


@pytest.mark.parametrize(
    ("layout", "architecture"),
    [("torchvision", name) for name in in_torchvision()] + [("timm", name) for name in in_timm()],
)
def test_all_names_and_shapes(layout: str, architecture: str) -> None:
    network = torchvision_network if layout == "torchvision" else timm_network
    with torch.device("meta"):
        state = network(architecture, num_classes=7).state_dict()
    require_all_names(state, layout, architecture, 7)


def require_all_names(state: dict[str, Tensor], layout: str, architecture: str, classes: int) -> None:
    """Exactly this state dict, batch counters included, is what the layout wants of the network."""
    row = get_architecture(architecture)
    wanted = get_layout(layout).list_required_signatures(
        FlatCheckpoint("", state), compute_expected_signatures(row, num_classes=classes), row
    )
    check_signatures(get_signatures(state), wanted, error_start=architecture, next_step="")
    assert wanted.keys() == state.keys()


SMALL_TWINS = [
    ("torchvision", "resnet18"),
    ("torchvision", "densenet121"),
    ("timm", "resnet18"),
    ("timm", "seresnet50"),
]


def through_a_twin(layout: str, architecture: str, tmp_path: Path) -> None:
    size = image_size(architecture)
    network = torchvision_network if layout == "torchvision" else timm_network
    theirs = trained(network(architecture, num_classes=1000), size)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    result = converted(
        tmp_path / "in.pth", layout=layout, architecture=architecture, dataset="imagenet1k", classes=1000
    )
    (tmp_path / "in.pth").unlink()
    require_equal(loaded(result), theirs, size)
    result.path.unlink()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("layout", "architecture"), SMALL_TWINS)
def test_a_twin(layout: str, architecture: str, tmp_path: Path) -> None:
    through_a_twin(layout, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("layout", "architecture"),
    [("torchvision", name) for name in in_torchvision()] + [("timm", name) for name in in_timm()],
)
def test_all_twins(layout: str, architecture: str, tmp_path: Path) -> None:
    through_a_twin(layout, architecture, tmp_path)


def to_a_twin(layout: str, architecture: str, tmp_path: Path) -> None:
    size = image_size(architecture)
    ours = trained(pyramidzoo.create_model(architecture), size)
    write_tensors(tmp_path / "zoo.safetensors", ours.state_dict(), {"format": "pt"})
    theirs = (torchvision_network if layout == "torchvision" else timm_network)(architecture).eval()
    theirs.load_state_dict(load_file(tmp_path / "zoo.safetensors"), strict=True)
    (tmp_path / "zoo.safetensors").unlink()
    require_equal(ours, theirs, size)


@pytest.mark.parametrize(("layout", "architecture"), SMALL_TWINS)
def test_a_file_of_the_zoo_loads_in_a_twin(layout: str, architecture: str, tmp_path: Path) -> None:
    to_a_twin(layout, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "architecture"),
    [("torchvision", name) for name in in_torchvision()]
    + [("timm", name) for name in in_timm() if not name.startswith("vgg")],
)
def test_all_files_of_the_zoo_load_in_twins(layout: str, architecture: str, tmp_path: Path) -> None:
    to_a_twin(layout, architecture, tmp_path)


@pytest.mark.usefixtures("in_this_process")
def test_a_densenet_file_of_2017(tmp_path: Path) -> None:
    theirs = trained(torchvision_network("densenet121"), 64)
    old = {}
    for name, tensor in theirs.state_dict().items():
        if "denselayer" in name:
            for part in ("norm1", "conv1", "norm2", "conv2"):
                name = name.replace(f".{part}.", f".{part[:4]}.{part[4]}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    assert "features.denseblock4.denselayer16.norm.2.running_var" in old
    torch.save(old, tmp_path / "densenet121-a639ec97.pth")
    source = tmp_path / "densenet121-a639ec97.pth"
    result = converted(source, layout="torchvision", architecture="densenet121", dataset="imagenet1k", classes=1000)
    require_equal(loaded(result), theirs, 64, gradient=False)


@pytest.mark.usefixtures("in_this_process")
def test_half_precision_is_kept_exactly_and_noted(tmp_path: Path) -> None:
    theirs = trained(torchvision_network("resnet18"), 64).half()
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    arguments: dict[str, Any] = {"architecture": "resnet18", "dataset": "imagenet1k", "classes": 1000}
    result = converted(tmp_path / "in.pth", layout="torchvision", **arguments)
    for name, tensor in loaded(result).state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name].to(tensor.dtype))
    assert read_metadata(result.path)["conversion"] == "float16 in the origin, float32 here: the same values"
    with pytest.raises(IntegrityError, match=r"is F16\[64\], not F32\[64\].*it looks like a torchvision"):
        converted(tmp_path / "in.pth", layout="timm", **arguments)


def test_legacy_networks_of_timm_are_others() -> None:
    """Their first pooling has no padding but a ceiling, so other windows: the same tensors would compute otherwise."""
    theirs = timm.create_model("legacy_seresnet50").pool0
    assert (theirs.padding, theirs.ceil_mode) == (0, True)
    with torch.device("meta"):
        state = timm.create_model("legacy_seresnet50").state_dict()
    assert recognise(state) == []


# names that the authors' code gives, read there
@pytest.mark.parametrize(
    ("layout", "architecture", "names"),
    [
        ("akamaster", "resnet20", {"conv1.weight", "layer3.2.bn2.running_var", "linear.bias"}),
        ("bearpaw", "resnet164", {"layer1.0.downsample.1.weight", "layer3.17.conv3.weight", "fc.weight"}),
        ("bearpaw", "preresnet164_bearpaw", {"layer1.0.downsample.0.weight", "layer3.17.bn3.weight", "bn.bias"}),
        ("bearpaw", "wrn_28_10", {"block2.layer.0.convShortcut.weight", "block3.layer.3.bn2.bias", "bn1.weight"}),
        (
            "bearpaw",
            "resnext29_8x64d",
            {
                "conv_1_3x3.weight",
                "bn_1.bias",
                "stage_2.stage_2_bottleneck_0.shortcut.shortcut_bn.running_mean",
                "stage_3.stage_3_bottleneck_2.conv_expand.weight",
                "stage_1.stage_1_bottleneck_1.bn.weight",
                "classifier.bias",
            },
        ),
        (
            "bearpaw",
            "densenet_bc_190_k40",
            {"dense1.0.bn1.weight", "dense3.30.conv2.weight", "trans2.conv1.weight", "trans1.bn1.bias", "bn.bias"},
        ),
        ("bearpaw", "vgg19_bn_bearpaw", {"features.0.bias", "features.49.weight", "classifier.weight"}),
        ("chenyaofo", "vgg16_bn_chenyaofo", {"features.0.bias", "classifier.0.weight", "classifier.6.bias"}),
        ("dice", "densenet_bc_100_k12", {"block3.layer.15.conv2.weight", "trans1.bn1.weight", "bn1.bias", "fc.bias"}),
        ("dyhan", "pyramidnet200_a240", {"layer3.21.bn4.weight", "bn_final.running_mean", "fc.weight"}),
        ("dyhan", "pyramidnet101_a360", {"layer4.2.conv3.weight", "bn_final.weight", "bn1.bias"}),
        ("ferles", "wrn_16_1", {"block1.nblockLayer.0.conv1.weight", "batch_norm.bias", "fc.weight"}),
        (
            "functional_zoo",
            "wide_resnet50_2",
            {"conv0.bias", "group3.block0.conv_dim.bias", "group0.block2.conv2.weight"},
        ),
    ],
)
def test_names(layout: str, architecture: str, names: set[str]) -> None:
    row = get_architecture(architecture)
    key_map = get_layout(layout)
    assert key_map.supports(row)
    expected = compute_expected_signatures(row)
    wanted = key_map.list_required_signatures(FlatCheckpoint("", {}), expected, row)
    assert names <= wanted.keys()
    filled = sum(key_map.locate(name, part, row).name is None for name, part in expected.items())
    assert len(wanted) == len(expected) - filled + len(key_map.list_unused_tensors(row))


def test_the_real_densenet_knows_its_images(origins: Path, data_dir: Path, tmp_path: Path) -> None:
    """A network that is wrong anywhere would guess. Its layout is recognised."""
    from pyramidzoo.data.datasets import load_dataset
    from pyramidzoo.data.transforms import Normalize

    result = convert_file(
        origins / "dice" / "checkpoint_100.pth.tar",
        tmp_path / "out.safetensors",
        dataset="cifar10",
        num_classes=10,
    )
    assert (result.description.layout, result.description.architecture) == ("dice", "densenet_bc_100_k12")
    images = load_dataset("cifar10", "test", data_dir)
    with torch.no_grad():
        logits = loaded(result)(Normalize(result.description.preprocessing)(images.images[:50]))
    assert (logits.argmax(1) == images.labels[:50]).float().mean() > 0.9
