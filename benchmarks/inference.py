"""Measure how fast `pyramidzoo.inference.optimize` makes a network, compared with the plain network and with a peer.

    python benchmarks/inference.py [--networks wrn_28_10 ...] [--batches 64 1] [--rounds 7] [--passes-too] [--give-back]

A peer is the same network in another library. All variants have the same weights. Before anything is timed, their
logits are compared (`bench.checking.find_different`). A run has as many forward passes as the plain network computes in
a third of a second. `peak` is the number of the plain network's multiply-adds a second, divided by that of the best
convolution on this machine in the same precision (3x3, 256 channels, channels_last).

`--passes-too` also measures the network without each pass that `optimize` chooses, and with each other pass. The
process keeps freed memory (environment.keep_memory), which makes the peer faster too. With `--give-back` it does not.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from timing import compare_runs, time_in_turns, write_results
from torch import nn

from pyramidzoo.bench.checking import find_different
from pyramidzoo.bench.counting import count_multiply_adds
from pyramidzoo.bench.peaks import measure_convolution
from pyramidzoo.bench.peers import build_peer
from pyramidzoo.bench.targets import random_calibrated_model, random_images
from pyramidzoo.bench.timing import choose_passes, repeat_forward
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.inference import PASSES, OptimizedClassifier, optimize

# For each network, a library that has the same graph.
NETWORKS = {
    "pyramidnet110_a84": "pytorchcv",
    "pyramidnet110_a270": "pytorchcv",
    "pyramidnet164_a270": "pytorchcv",
    "wrn_28_10": "pytorchcv",
    "densenet_bc_100_k12": "pytorchcv",
    "resnext29_8x64d": "pytorchcv",
    "wide_resnet50_2": "timm",  # In pytorchcv this network has no BN: it is folded into the convolutions.
}


def change_passes(chosen: Sequence[str], changed: str) -> list[str]:
    """Return the chosen passes without the pass `changed`, or with it if it was not chosen.

    There is only one pass that aligns channels: align16 replaces align8, and align8 replaces align16.
    """
    if changed in chosen:
        return [name for name in chosen if name != changed]
    if changed.startswith("align"):
        return [*(name for name in chosen if not name.startswith("align")), changed]
    return [*chosen, changed]


def build_changed_networks(plain: Any, optimized: OptimizedClassifier) -> dict[str, nn.Module]:
    """Rewrite a network without each of the passes that `optimize` chose, and with each other pass.

    A pass that changes nothing in this network is left out.
    """
    dtype = optimized._dtype_marker.dtype
    networks: dict[str, nn.Module] = {}
    for name in PASSES:
        try:
            changed = optimize(plain, form=change_passes(optimized.passes, name), dtype=dtype)
        except UsageError:  # This network cannot be rewritten with these passes.
            continue
        if set(changed.passes) != set(optimized.passes):
            word = "without" if name in optimized.passes else "with"
            networks[f"{str(dtype).removeprefix('torch.')} {word} {name}"] = changed
    return networks


def measure_network(
    name: str, batch: int, rounds: int, peaks: dict[torch.dtype, float], passes_too: bool
) -> list[dict[str, Any]]:
    """Check and time all variants of a network at one batch size.

    Args:
        name: The name of the architecture.
        batch: The batch size.
        rounds: How often each variant is timed.
        peaks: FLOP/s of the best convolution by dtype.
        passes_too: Whether to measure the network also without each chosen pass, and with each other pass.

    Returns:
        A row of results for each variant.
    """
    row = get_architecture(name)
    image = (3, row.input_size, row.input_size)
    images = random_images(batch, image)
    plain = random_calibrated_model(row)
    peer = build_peer(NETWORKS[name], row, plain, image)
    assert peer is not None, f"the peer has another network than {name}"
    fp32, bf16 = optimize(plain), optimize(plain, dtype=torch.bfloat16)
    models: dict[str, nn.Module] = {"peer": peer, "plain": plain, "optimized": fp32, "optimized, bfloat16": bf16}
    if passes_too:
        models |= build_changed_networks(plain, fp32) | build_changed_networks(plain, bf16)
    passes = choose_passes(lambda: plain(images))
    forwards = {variant: repeat_forward(model, images, passes) for variant, model in models.items()}
    different = find_different(plain, models, images)
    assert not different, f"{name}: {different}"
    operations = 2 * passes * batch * count_multiply_adds(copy.deepcopy(plain).to("meta"), image)
    rows = []
    for measured in compare_runs(time_in_turns(forwards, rounds=rounds), "peer"):
        dtype = torch.bfloat16 if "bfloat16" in measured["variant"] else torch.float32
        seconds = statistics.median(measured["runs"])
        measured["peak"] = round(operations / seconds / peaks[dtype], 3)
        measured["best_convolution_gflops"] = round(peaks[dtype] / 1e9)
        measured["images_per_second"] = round(passes * batch / seconds, 1)
        measured["forward_passes"] = passes
        measured["rewrites"] = list(getattr(models[measured["variant"]], "passes", ()))
        rows.append({"subject": f"{name} b{batch}", "peer": NETWORKS[name], **measured})
    return rows


def main() -> None:
    """Measure the networks that are asked for, and write the results after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes-too", action="store_true")
    parser.add_argument(
        "--give-back", action="store_true", help="return freed memory to the system, as glibc does by default"
    )
    options = parser.parse_args()
    if not options.give_back:
        keep_memory()
    peaks = {dtype: measure_convolution(dtype) for dtype in (torch.float32, torch.bfloat16)}
    results = "inference" + "_passes" * options.passes_too + "_give_back" * options.give_back
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        for batch in options.batches:
            measured = measure_network(name, batch, options.rounds, peaks, options.passes_too)
            rows += measured
            write_results(results, rows, shown=len(rows) - len(measured))


if __name__ == "__main__":
    main()
