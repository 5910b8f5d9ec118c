"""What the tests of layouts share: other packages' networks with statistics, their files, and comparisons."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyramidzoo
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.convert.conversion import ConvertedFile, convert_file, map_tensors
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.models import build

# Rounding in doubles (1e-16 an operation) came to 1e-12 at most, in floats (6e-8) to 1e-5; the rest is room for other
# orders of summation.
DOUBLE = 1e-9
SINGLE = 1e-4


def read_here(source: Path) -> dict[str, Tensor]:
    """What the child process of `unpickle` reads, without a process: seconds for each file."""
    tensors: dict[str, Tensor] = {}

    def collect(value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(item, f"{path}.{key}" if path else str(key))

    collect(torch.load(source, map_location="cpu", weights_only=True), "")
    return tensors


def trained(model: nn.Module, size: int, *, seed: int = 0) -> nn.Module:
    """The network with random BNs, whose statistics are those of random images and so keep activations in range."""
    torch.manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(2, 3, size, size))
    for norm in norms:
        norm.momentum = 0.1
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def without_fixed_pooling(model: nn.Module) -> nn.Module:
    """pytorchcv's network for images of any size: its last pooling is global then."""
    if hasattr(model.features, "final_pool"):
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def zipped(path: Path, content: Any, *, compressed: bool = False) -> Path:
    """A torch checkpoint in a zip, as pytorchcv publishes them (compressed, which takes time)."""
    inner = path.with_suffix("")
    torch.save(content, inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.write(inner, inner.name)
    inner.unlink()
    return path


def converted(
    source: Path, *, layout: str | None, architecture: str | None, dataset: str, classes: int
) -> ConvertedFile:
    """Convert to a file beside the source; ImageNet constants where the layout has none."""
    row = get_architecture(architecture) if architecture else None
    preprocessing = None
    if layout == "timm":
        preprocessing = get_layout("torchvision").preprocessing["imagenet1k"]
    assert row is None or row.name == architecture
    return convert_file(
        source,
        source.with_name("out.safetensors"),
        layout=layout,
        architecture=architecture,
        dataset=dataset,
        num_classes=classes,
        preprocessing=preprocessing,
    )


def loaded(result: ConvertedFile) -> nn.Module:
    """The zoo's network with the converted file."""
    return pyramidzoo.create_model(result.description.architecture, weights=result.path).eval()


def mapped(state: Mapping[str, Tensor], layout: str, architecture: str, classes: int) -> nn.Module:
    """The zoo's network with a foreign state dict, without files."""
    row = get_architecture(architecture)
    tensors = map_tensors(state, get_layout(layout), row, settings={"num_classes": classes}, source_name="it")
    with torch.device("meta"):
        model = build(row, num_classes=classes)
    model.load_state_dict(
        {**{n: torch.zeros_like(t, device="cpu") for n, t in model.state_dict().items()}, **tensors}, assign=True
    )
    return model.eval()


def require_equal(ours: nn.Module, theirs: Any, size: int, *, gradient: bool = True) -> None:
    """Logits in float32 and float64 and gradients with respect to the images, in evaluation mode."""
    torch.manual_seed(1)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        singles = [model(images).double() for model in (ours, theirs)]
    ours = copy.deepcopy(ours).double()
    theirs = theirs.double() if isinstance(theirs, nn.Module) else theirs
    found, expected = (_in_double(model, images, gradient) for model in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        assert distance(a, b) < DOUBLE
    # in hundreds of layers rounding alone can be more than the bound: theirs shows how much
    assert distance(singles[0], expected[0]) < SINGLE + 2 * distance(singles[1], expected[0])


def distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert a.shape == b.shape
    assert bool(torch.isfinite(b).all())
    assert float(b.std()) > 0
    return float((a - b).abs().max() / b.abs().max())


def _in_double(model: Any, images: Tensor, gradient: bool) -> tuple[Tensor, ...]:
    """Logits, and the gradient of a random sum of them with respect to the images."""
    images = images.double().requires_grad_(gradient)
    logits = model(images * 1.0)  # some networks work in place on their input
    if not gradient:
        return (logits.detach(),)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    (derivative,) = torch.autograd.grad((logits * direction).sum(), images)
    return logits.detach(), derivative
