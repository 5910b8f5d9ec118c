"""Helpers for the tests of layouts: networks of other packages with statistics, their files, and comparisons."""

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

# The largest differences that we have seen are 1e-12 in doubles (rounding: 1e-16 an operation) and 1e-5 in floats
# (rounding: 6e-8). The bounds are wider, because another order of summation may round more.
DOUBLE = 1e-9
SINGLE = 1e-4


def read_tensors_of_torch_file(source: Path) -> dict[str, Tensor]:
    """Read what the child process of `unpickle` reads, but in this process. A child process takes seconds to start."""
    tensors: dict[str, Tensor] = {}

    def collect(value: Any, path: str) -> None:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(item, f"{path}.{key}" if path else str(key))

    collect(torch.load(source, map_location="cpu", weights_only=True), "")
    return tensors


def randomise_and_calibrate(model: nn.Module, size: int, *, seed: int = 0) -> nn.Module:
    """Give a network random batch norms and biases, and return it in evaluation mode.

    The running statistics are those of random images of `size` x `size` pixels, so that activations stay in range.
    """
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


def make_pooling_global(model: nn.Module) -> nn.Module:
    """Make the last pooling of a network of pytorchcv global, so that it accepts images of any size."""
    if hasattr(model.features, "final_pool"):
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def write_zipped_checkpoint(path: Path, content: Any, *, compressed: bool = False) -> Path:
    """Write a torch checkpoint in a zip. pytorchcv publishes compressed ones, but compression takes time."""
    inner = path.with_suffix("")
    torch.save(content, inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.write(inner, inner.name)
    inner.unlink()
    return path


def convert_beside_source(
    source: Path, *, layout: str | None, architecture: str | None, dataset: str, classes: int
) -> ConvertedFile:
    """Convert to `out.safetensors` beside the source. The layout timm has no preprocessing: it gets torchvision's."""
    preprocessing = get_layout("torchvision").preprocessing["imagenet1k"] if layout == "timm" else None
    assert architecture is None or get_architecture(architecture).name == architecture
    return convert_file(
        source,
        source.with_name("out.safetensors"),
        layout=layout,
        architecture=architecture,
        dataset=dataset,
        num_classes=classes,
        preprocessing=preprocessing,
    )


def load_converted_network(result: ConvertedFile) -> nn.Module:
    """Create the zoo's network with the weights of a converted file."""
    return pyramidzoo.create_model(result.description.architecture, weights=result.path).eval()


def build_from_state_dict(state: Mapping[str, Tensor], layout: str, architecture: str, classes: int) -> nn.Module:
    """Build the zoo's network from a foreign state dict, without any file."""
    row = get_architecture(architecture)
    tensors = map_tensors(state, get_layout(layout), row, settings={"num_classes": classes}, source_name="it")
    with torch.device("meta"):
        model = build(row, num_classes=classes)
    model.load_state_dict(
        {**{n: torch.zeros_like(t, device="cpu") for n, t in model.state_dict().items()}, **tensors}, assign=True
    )
    return model.eval()


def require_equal_outputs(ours: nn.Module, theirs: Any, size: int, *, gradient: bool = True) -> None:
    """Require equal logits in float32 and float64, and equal gradients with respect to the images."""
    torch.manual_seed(1)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        our_logits, their_logits = (model(images).double() for model in (ours, theirs))
    ours = copy.deepcopy(ours).double()
    theirs = theirs.double() if isinstance(theirs, nn.Module) else theirs
    our_outputs, their_outputs = (_compute_in_double(model, images, gradient) for model in (ours, theirs))
    for our_output, their_output in zip(our_outputs, their_outputs, strict=True):
        assert relative_difference(our_output, their_output) < DOUBLE
    # With hundreds of layers, rounding alone can exceed the bound. Their own rounding shows by how much.
    exact = their_outputs[0]
    assert relative_difference(our_logits, exact) < SINGLE + 2 * relative_difference(their_logits, exact)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, divided by the largest value of `b`."""
    assert a.shape == b.shape
    assert bool(torch.isfinite(b).all())
    assert float(b.std()) > 0
    return float((a - b).abs().max() / b.abs().max())


def _compute_in_double(model: Any, images: Tensor, gradient: bool) -> tuple[Tensor, ...]:
    """Compute the logits, and the gradient of a random weighted sum of them with respect to the images."""
    images = images.double().requires_grad_(gradient)
    logits = model(images * 1.0)  # A copy, because some networks overwrite their input.
    if not gradient:
        return (logits.detach(),)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    (derivative,) = torch.autograd.grad((logits * direction).sum(), images)
    return logits.detach(), derivative
