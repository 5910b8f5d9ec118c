"""Both ONNX exporters of PyTorch give networks that predict in ONNX Runtime what they predict here.

The smallest network of each family sees real images, the digits that come with the package, and so do the statistics
of its BN. `resnet20` and `wrn_16_1` have weights that were trained on them; the others have random ones. In every run
there are 200 images, and one network goes through `torch.export`, which takes its time. Slow tests have 1,000 images,
both exporters for every family, and real checkpoints.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from test_contract import SMALLEST, build_network
from torch import Tensor, nn
from torch.nn import functional as F

import pyramidzoo
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.inference import optimize
from pyramidzoo.models._interface import ImageClassifier

# In floats both runtimes err by rounding alone (6e-8 an operation): 7e-6 of the largest logit was seen.
TOLERANCE = 1e-4
FEW, MANY = 200, 1000  # images
TRAINED = {"resnet20", "wrn_16_1"}  # on the digits, in the package

pytestmark = [
    pytest.mark.exporters,
    # the exporter by TorchScript says that it is the old one, and calls functions that say the same of themselves
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed. Please remove usage:DeprecationWarning"),
    # it tells that a strided slice stays one, which is right
    pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1 can be constant folded:UserWarning"),
]
forms = pytest.mark.parametrize("optimized", [False, True], ids=["plain", "optimized"])


def digits(size: int) -> Tensor:
    """1,000 digits, test images first, of 8x8 pixels, or enlarged: for strides that leave nothing of so few."""
    images = torch.cat([load_dataset("digits", split, None).images for split in ("test", "train")])[:MANY]
    prepared = Normalize(load_manifest().find("resnet20.digits_zoo").preprocessing)(images)
    return F.interpolate(prepared, size=(size, size)) if size > 8 else prepared


def network(name: str) -> tuple[ImageClassifier, Tensor]:
    """The network of a family, and its images."""
    images = digits(32 if get_architecture(name).family == "vgg" else 8)
    if name in TRAINED:
        return pyramidzoo.create_model(name, weights="digits").eval(), images
    model = build_network(name, in_chans=1, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch to come
    with torch.no_grad():
        model.train()(images[:256])
    return model.eval(), images


def assert_same_in_onnx(model: ImageClassifier, images: Tensor, *, optimized: bool, dynamo: bool, path: Path) -> None:
    """Export for any batch size, run, and compare with the plain network in PyTorch."""
    exported = optimize(model) if optimized else model
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(exported, (images[:2],), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    else:
        axes = {"images": {0: "batch"}}
        torch.onnx.export(exported, (images[:2],), path, dynamo=False, input_names=["images"], dynamic_axes=axes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    found, expected = [], []
    for batch in images.split(150):  # a last one that is shorter
        found.append(torch.from_numpy(session.run(None, {given.name: batch.numpy()})[0]))
        with torch.inference_mode():
            expected.append(model(batch))
    logits = torch.cat(expected)
    assert len(logits.argmax(1).unique()) > 1, "predictions that show nothing"
    assert (torch.cat(found) - logits).abs().max() <= TOLERANCE * logits.abs().max()
    assert torch.equal(torch.cat(found).argmax(1), logits.argmax(1))


def case(name: str, exporter: str, count: int) -> object:
    quick = count == FEW and (exporter == "torchscript" or name == "wrn_16_1")
    marks = () if quick else pytest.mark.slow
    return pytest.param(name, exporter == "export", count, id=f"{name}-{exporter}-{count}", marks=marks)


@forms
@pytest.mark.parametrize(
    ("name", "dynamo", "count"),
    [
        case(name, exporter, count)
        for name in SMALLEST.values()
        for exporter, count in (("torchscript", FEW), ("torchscript", MANY), ("export", MANY))
    ]
    + [case("wrn_16_1", "export", FEW)],
)
def test_onnx_predicts_the_same(name: str, dynamo: bool, count: int, optimized: bool, tmp_path: Path) -> None:
    model, images = network(name)
    images = images[:count]
    assert len(images) == count
    assert_same_in_onnx(model, images, optimized=optimized, dynamo=dynamo, path=tmp_path / "network.onnx")


CHECKPOINTS = (
    "resnet20.cifar10_akamaster",
    "resnet20_fattorib.cifar10",
    "densenet_bc_100_k12.cifar10_dice",
    "wrn_16_1.cifar10_ferles",
)


@pytest.mark.slow
@forms
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "export"])
@pytest.mark.parametrize("weights_id", CHECKPOINTS)
def test_real_checkpoints_in_onnx(
    weights_id: str,
    dynamo: bool,
    optimized: bool,
    origins: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    entry = load_manifest().find(weights_id)
    model = pyramidzoo.create_model(entry.architecture, weights=weights_id).eval()
    images = Normalize(entry.preprocessing)(load_dataset("cifar10", "test", data_dir).images[:MANY])
    assert_same_in_onnx(model, images, optimized=optimized, dynamo=dynamo, path=tmp_path / "network.onnx")
