"""What the rewrites of `pyramidzoo.inference.optimize` are worth, against the plain network and pytorchcv's.

    python benchmarks/inference.py [--networks wrn_28_10 ...] [--batches 64 1] [--rounds 7] [--passes-too]

Same weights everywhere, equal logits checked first (in bfloat16: within a tenth of their spread). `peak` is the
fraction of this machine's best convolution (3x3, 256 channels, channels_last, same precision), counting the plain
network's multiply-adds. `--passes-too` adds the picked form without each of its passes: what `auto_form` is based on.
Freed memory is kept (environment.keep_memory).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import compared, interleaved, write_results
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pyramidzoo import create_model
from pyramidzoo.architectures import get_architecture
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.inference import optimize

# pytorchcv's name for the same graph
NETWORKS = {
    "pyramidnet110_a84": "pyramidnet110_a84_cifar10",
    "pyramidnet110_a270": "pyramidnet110_a270_cifar10",
    "pyramidnet164_a270": "pyramidnet164_a270_bn_cifar10",
    "wrn_28_10": "wrn28_10_cifar10",
    "densenet_bc_100_k12": "densenet100_k12_bc_cifar10",
    "resnext29_8x64d": "",  # pytorchcv has its parts, but no name for it
    "wide_resnet50_2": "wrn50_2",
}


def settled(name: str, images: Tensor) -> nn.Module:
    """Random weights, with BN scales, shifts and statistics under which activations stay in range."""
    torch.manual_seed(0)
    model = create_model(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images[:16])
    return model.eval()


def peer(name: str, model: nn.Module) -> nn.Module:
    """pytorchcv's network with the same tensors, which come in the same order."""
    from pytorchcv.model_provider import get_model  # type: ignore[import-untyped]
    from pytorchcv.models.resnext_cifar import CIFARResNeXt  # type: ignore[import-untyped]

    if NETWORKS[name]:
        network = get_model(NETWORKS[name])
    else:
        widths = [[width] * 3 for width in (256, 512, 1024)]
        network = CIFARResNeXt(widths, 64, cardinality=8, bottleneck_width=64)
    theirs, ours = network.state_dict(), model.state_dict()
    assert [tensor.shape for tensor in theirs.values()] == [tensor.shape for tensor in ours.values()]
    network.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    found: nn.Module = network.eval()
    return found


def runner(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def run() -> Tensor:
        logits: Tensor = model(images)
        return logits

    return run


def convolution_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the best of nine 3x3 convolutions, 256 to 256 channels on 64 maps of 16x16."""
    x = torch.randn(64, 256, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        runs = interleaved({"peak": lambda: F.conv2d(x, weight, padding=1)}, rounds=9)["peak"]
    return 2 * x.numel() * 256 * 9 / min(runs)


def measured(name: str, batch: int, rounds: int, peaks: dict[torch.dtype, float], passes_too: bool) -> list[Any]:
    size = get_architecture(name).input_size
    images = torch.randn(max(batch, 16), 3, size, size, generator=torch.Generator().manual_seed(1))
    plain = settled(name, images)
    images = images[:batch]
    picked, low = optimize(plain), optimize(plain, dtype=torch.bfloat16)  # type: ignore[arg-type]
    models = {"pytorchcv": peer(name, plain), "plain": plain, "optimized": picked, "optimized, bfloat16": low}
    if passes_too:
        for form in (picked, low):
            for left_out in form.passes:
                rest = [other for other in form.passes if other != left_out]
                dtype = form._like.dtype
                variant = f"{str(dtype).removeprefix('torch.')} without {left_out}"
                models[variant] = optimize(plain, form=rest, dtype=dtype)  # type: ignore[arg-type]
    variants = {variant: runner(model, images) for variant, model in models.items()}
    expected = variants["plain"]()
    for variant, run in variants.items():
        tolerance = 0.1 * expected.std() if "bfloat16" in variant else 1e-4 * expected.abs().max()
        difference = (run().float() - expected).abs().max()
        assert difference <= tolerance, f"{name}, {variant}: logits differ by {difference:.1e}"
    with FlopCounterMode(display=False) as counter:
        plain(images[:1])
    work = batch * counter.get_total_flops()
    rows = []
    for row in compared(interleaved(variants, rounds=rounds), "pytorchcv"):
        dtype = torch.bfloat16 if "bfloat16" in row["variant"] else torch.float32
        seconds = statistics.median(row["runs"])
        row["peak"] = round(work / seconds / peaks[dtype], 3)
        row["best_convolution_gflops"] = round(peaks[dtype] / 1e9)
        row["images_per_second"] = round(batch / seconds, 1)
        row["passes"] = list(getattr(models[row["variant"]], "passes", ()))
        rows.append({"subject": f"{name} b{batch}", **row})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes-too", action="store_true")
    options = parser.parse_args()
    keep_memory()
    peaks = {dtype: convolution_peak(dtype) for dtype in (torch.float32, torch.bfloat16)}
    rows = []
    for name in options.networks:
        for batch in options.batches:
            rows += measured(name, batch, options.rounds, peaks, options.passes_too)
    write_results("inference", rows)


if __name__ == "__main__":
    main()
