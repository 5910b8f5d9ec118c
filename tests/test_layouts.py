"""Files of other packages are converted: the converted network computes what the original network computes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from layout_tools import (
    build_from_state_dict,
    convert_beside_source,
    load_converted_network,
    make_pooling_global,
    randomise_and_calibrate,
    require_equal_outputs,
    write_zipped_checkpoint,
)
from messages import raises_with_words
from pytorchcv.model_provider import get_model
from pytorchcv_models import list_published_models
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import pyramidzoo
from pyramidzoo.bench.pytorchcv_names import describe_model
from pyramidzoo.catalog.architectures import architectures, get_architecture
from pyramidzoo.checkpoints.safetensors_file import read_metadata, write_tensors
from pyramidzoo.checkpoints.signatures import check_signatures, get_signatures
from pyramidzoo.convert.conversion import convert_file
from pyramidzoo.convert.layout import FlatCheckpoint
from pyramidzoo.convert.layouts import _folded, get_layout
from pyramidzoo.convert.layouts.timm import get_timm_name
from pyramidzoo.convert.recognition import compute_expected_signatures, recognise
from pyramidzoo.errors import IntegrityError

pytestmark = pytest.mark.usefixtures("one_thread")

# One small network of each family. Each shows what is special about the names of its family.
SMALL_PYTORCHCV_MODELS = (
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


def choose_image_size(architecture: str) -> int:
    """Return a size that is large enough for every layer. The linear layers of VGG need the full size."""
    row = get_architecture(architecture)
    return 224 if row.class_name == "ImageVgg" else (64 if row.input_size == 224 else 16)


def test_every_published_model_of_pytorchcv_has_a_layout() -> None:
    models = list_published_models()
    assert sum(model.dataset != "imagenet1k" for model in models) == 150
    assert sum(model.dataset == "imagenet1k" for model in models) == 89
    layout = get_layout("pytorchcv")
    assert [m for m in models if not layout.supports(get_architecture(m.architecture))] == []
    assert {model.dataset for model in models} == set(layout.preprocessing)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "preresnet110_svhn", "pyramidnet164_a270_bn_cifar100", "senet28"])
def test_the_pytorchcv_layout_does_not_support_similar_graphs(name: str) -> None:
    row = get_architecture(describe_model(name).architecture)
    similar = {
        "resnet20_b": "resnet20",
        "preresnet110_rawid": "preresnet110",
        "pyramidnet164_a270": "pyramidnet164_a270_hysts",
        "senet28": "vgg15_bn",
    }
    assert get_layout("pytorchcv").supports(row)
    assert not get_layout("pytorchcv").supports(get_architecture(similar[row.name]))


def require_equal_conversion_from_pytorchcv(name: str, tmp_path: Path) -> None:
    model = describe_model(name)
    size = choose_image_size(model.architecture)
    theirs = randomise_and_calibrate(make_pooling_global(get_model(name, pretrained=False)), size)
    source = write_zipped_checkpoint(tmp_path / f"{name}.pth.zip", theirs.state_dict())
    result = convert_beside_source(
        source, layout="pytorchcv", architecture=model.architecture, dataset=model.dataset, classes=model.classes
    )
    source.unlink()
    require_equal_outputs(load_converted_network(result), theirs, size)
    result.path.unlink()  # The files of hundreds of networks together have many gigabytes.


@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize("name", SMALL_PYTORCHCV_MODELS)
def test_small_models_of_pytorchcv_compute_the_same_after_conversion(name: str, tmp_path: Path) -> None:
    require_equal_conversion_from_pytorchcv(name, tmp_path)


def list_one_model_for_each_architecture() -> list[str]:
    """Return pytorchcv's names. The models of one architecture for several datasets differ in the classifier alone."""
    return list({model.architecture: model.name for model in reversed(list_published_models())}.values())


@pytest.mark.slow
@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize("name", list_one_model_for_each_architecture())
def test_all_models_of_pytorchcv_compute_the_same_after_conversion(name: str, tmp_path: Path) -> None:
    require_equal_conversion_from_pytorchcv(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [model.name for model in list_published_models()])
def test_names_and_shapes_of_all_models_of_pytorchcv(name: str) -> None:
    with torch.device("meta"):
        state = get_model(name, pretrained=False).state_dict()
    model = describe_model(name)
    require_all_names(state, "pytorchcv", model.architecture, model.classes)


def test_the_child_process_reads_a_compressed_zip(tmp_path: Path) -> None:
    theirs = randomise_and_calibrate(make_pooling_global(get_model("resnet20_cifar10", pretrained=False)), 16)
    source = write_zipped_checkpoint(tmp_path / "resnet20_cifar10-0597.pth.zip", theirs.state_dict(), compressed=True)
    result = convert_beside_source(source, layout=None, architecture=None, dataset="cifar10", classes=10)
    assert (result.description.layout, result.description.architecture) == ("pytorchcv", "resnet20_b")
    require_equal_outputs(load_converted_network(result), theirs, 16)


@functools.cache
def make_folded_network() -> nn.Module:
    return randomise_and_calibrate(make_pooling_global(get_model("wrn50_2", pretrained=False)), 64)


def test_a_network_of_pytorchcv_with_folded_bns_computes_the_same() -> None:
    theirs = make_folded_network()
    ours = build_from_state_dict(theirs.state_dict(), "pytorchcv", "wide_resnet50_2", 1000)
    require_equal_outputs(ours, theirs, 64)


def test_the_bn_for_a_folded_convolution_changes_no_value() -> None:
    norm = nn.BatchNorm2d(4).eval()
    for name in ("weight", "running_mean", "running_var"):
        getattr(norm, name).data.fill_(_folded.locate_norm_tensor(name, "").fill)
    x = torch.randn(2, 4, 5, 5) * 100
    assert torch.equal(norm(x), x)
    assert torch.allclose(norm.double()(x.double()), x.double(), rtol=1e-14, atol=0)


def run_functional_wide_resnet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Run WRN-50-2 as the notebook of functional-zoo does, but for images of any size."""
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


def rename_for_functional_zoo(name: str) -> str:
    """Return functional-zoo's name for a tensor that pytorchcv calls `name`. Both have the same folded network."""
    parts = name.split(".")
    if parts[0] == "output":
        return f"fc.{parts[-1]}"
    if parts[1] == "init_block":
        return f"conv0.{parts[-1]}"
    place = f"group{int(parts[1][-1]) - 1}.block{int(parts[2][4:]) - 1}"
    return f"{place}.{'conv_dim' if parts[3] == 'identity_conv' else f'conv{int(parts[4][-1]) - 1}'}.{parts[-1]}"


def test_a_file_of_functional_zoo_computes_the_same() -> None:
    state = {
        rename_for_functional_zoo(name): tensor.float() for name, tensor in make_folded_network().state_dict().items()
    }
    assert sum(tensor.numel() for tensor in state.values()) == 68_849_128  # as the notebook prints
    ours = build_from_state_dict(state, "functional_zoo", "wide_resnet50_2", 1000)
    require_equal_outputs(ours, functools.partial(run_functional_wide_resnet, state), 64, gradient=False)


def create_network_of_library(library: str, architecture: str, **settings: Any) -> nn.Module:
    """Create torchvision's or timm's network for an architecture of the zoo."""
    if library == "torchvision":
        return torchvision.models.get_model(architecture, weights=None, **settings)
    return timm.create_model(get_timm_name(architecture), pretrained=False, **settings)


def list_supported_architectures(layout: str) -> list[str]:
    return [row.name for row in architectures().values() if get_layout(layout).supports(row)]


LIBRARY_NETWORKS = [
    (library, name) for library in ("torchvision", "timm") for name in list_supported_architectures(library)
]


def test_the_layouts_of_torchvision_and_timm_support_these_architectures() -> None:
    in_torchvision, in_timm = (list_supported_architectures(library) for library in ("torchvision", "timm"))
    assert len(in_torchvision) == 18
    assert set(in_torchvision) <= set(torchvision.models.list_models())
    assert "resnet26" not in in_timm
    assert len(in_timm) == 28
    assert {"seresnet50", "seresnext50_32x4d", "senet154", "vgg16_bn", "wide_resnet50_2"} <= set(in_timm)


@pytest.mark.parametrize(("layout", "architecture"), LIBRARY_NETWORKS)
def test_names_and_shapes_of_all_networks_of_torchvision_and_timm(layout: str, architecture: str) -> None:
    with torch.device("meta"):
        state = create_network_of_library(layout, architecture, num_classes=7).state_dict()
    require_all_names(state, layout, architecture, 7)


def require_all_names(state: dict[str, Tensor], layout: str, architecture: str, classes: int) -> None:
    """Require that the layout expects exactly the names and shapes of this state dict, batch counters included."""
    row = get_architecture(architecture)
    wanted = get_layout(layout).list_required_signatures(
        FlatCheckpoint("", state), compute_expected_signatures(row, num_classes=classes), row
    )
    check_signatures(get_signatures(state), wanted, error_start=architecture, next_step="")
    assert wanted.keys() == state.keys()


SMALL_LIBRARY_NETWORKS = [
    ("torchvision", "resnet18"),
    ("torchvision", "densenet121"),
    ("timm", "resnet18"),
    ("timm", "seresnet50"),
]


def require_equal_conversion_from_library(layout: str, architecture: str, tmp_path: Path) -> None:
    size = choose_image_size(architecture)
    theirs = randomise_and_calibrate(create_network_of_library(layout, architecture, num_classes=1000), size)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    result = convert_beside_source(
        tmp_path / "in.pth", layout=layout, architecture=architecture, dataset="imagenet1k", classes=1000
    )
    (tmp_path / "in.pth").unlink()
    require_equal_outputs(load_converted_network(result), theirs, size)
    result.path.unlink()


@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize(("layout", "architecture"), SMALL_LIBRARY_NETWORKS)
def test_small_networks_of_libraries_compute_the_same_after_conversion(
    layout: str, architecture: str, tmp_path: Path
) -> None:
    require_equal_conversion_from_library(layout, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("unpickle_in_this_process")
@pytest.mark.parametrize(("layout", "architecture"), LIBRARY_NETWORKS)
def test_all_networks_of_libraries_compute_the_same_after_conversion(
    layout: str, architecture: str, tmp_path: Path
) -> None:
    require_equal_conversion_from_library(layout, architecture, tmp_path)


def require_zoo_file_loads_in_library(layout: str, architecture: str, tmp_path: Path) -> None:
    size = choose_image_size(architecture)
    ours = randomise_and_calibrate(pyramidzoo.create_model(architecture), size)
    write_tensors(tmp_path / "zoo.safetensors", ours.state_dict(), {"format": "pt"})
    theirs = create_network_of_library(layout, architecture).eval()
    theirs.load_state_dict(load_file(tmp_path / "zoo.safetensors"), strict=True)
    (tmp_path / "zoo.safetensors").unlink()
    require_equal_outputs(ours, theirs, size)


@pytest.mark.parametrize(("layout", "architecture"), SMALL_LIBRARY_NETWORKS)
def test_files_of_the_zoo_load_in_small_networks_of_libraries(layout: str, architecture: str, tmp_path: Path) -> None:
    require_zoo_file_loads_in_library(layout, architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "architecture"),
    [(library, name) for library, name in LIBRARY_NETWORKS if not (library == "timm" and name.startswith("vgg"))],
)
def test_files_of_the_zoo_load_in_all_networks_of_libraries(layout: str, architecture: str, tmp_path: Path) -> None:
    require_zoo_file_loads_in_library(layout, architecture, tmp_path)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_a_densenet_file_of_2017_with_older_names_is_converted(tmp_path: Path) -> None:
    theirs = randomise_and_calibrate(create_network_of_library("torchvision", "densenet121"), 64)
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
    result = convert_beside_source(
        source, layout="torchvision", architecture="densenet121", dataset="imagenet1k", classes=1000
    )
    require_equal_outputs(load_converted_network(result), theirs, 64, gradient=False)


@pytest.mark.usefixtures("unpickle_in_this_process")
def test_half_precision_is_kept_exactly_and_noted(tmp_path: Path) -> None:
    theirs = randomise_and_calibrate(create_network_of_library("torchvision", "resnet18"), 64).half()
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    arguments: dict[str, Any] = {"architecture": "resnet18", "dataset": "imagenet1k", "classes": 1000}
    result = convert_beside_source(tmp_path / "in.pth", layout="torchvision", **arguments)
    for name, tensor in load_converted_network(result).state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name].to(tensor.dtype))
    # This text is part of the converted file, so it is compared as a whole.
    assert read_metadata(result.path)["conversion"] == "float16 in the origin, float32 here: the same values"
    with raises_with_words(IntegrityError, "F16[64]", "F32[64]", "torchvision"):
        convert_beside_source(tmp_path / "in.pth", layout="timm", **arguments)


def test_legacy_networks_of_timm_are_not_recognised() -> None:
    """Their first pooling has no padding and rounds up, so it has other windows.

    The zoo's network would compute other logits with the same tensors.
    """
    theirs = timm.create_model("legacy_seresnet50").pool0
    assert (theirs.padding, theirs.ceil_mode) == (0, True)
    with torch.device("meta"):
        state = timm.create_model("legacy_seresnet50").state_dict()
    assert recognise(state) == []


# These names were read in the code of the authors.
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
def test_a_layout_expects_the_names_of_the_authors_code(layout: str, architecture: str, names: set[str]) -> None:
    row = get_architecture(architecture)
    key_map = get_layout(layout)
    assert key_map.supports(row)
    expected = compute_expected_signatures(row)
    wanted = key_map.list_required_signatures(FlatCheckpoint("", {}), expected, row)
    assert names <= wanted.keys()
    filled = sum(key_map.locate(name, part, row).name is None for name, part in expected.items())
    assert len(wanted) == len(expected) - filled + len(key_map.list_unused_tensors(row))


def test_the_published_densenet_of_dice_predicts_well(origins: Path, data_dir: Path, tmp_path: Path) -> None:
    """The layout is recognised, and a network that is wrong anywhere would only guess."""
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
        logits = load_converted_network(result)(Normalize(result.description.preprocessing)(images.images[:50]))
    assert (logits.argmax(1) == images.labels[:50]).float().mean() > 0.9
