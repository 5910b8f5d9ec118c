"""What the rewrites of `pyramidzoo.inference.optimize` are worth, against the plain network and a peer's.

    python benchmarks/inference.py [--networks wrn_28_10 ...] [--batches 64 1] [--rounds 7] [--passes-too] [--give-back]

Same weights everywhere, equal logits checked first (in bfloat16: at most twice as far off as the plain network in
bfloat16). `peak` is the fraction of this machine's best convolution (3x3, 256 channels, channels_last, same
precision), counting the plain network's multiply-adds. A run is as many forward passes as take the plain network a
third of a second. `--passes-too` adds the picked form without each of its passes, and with each other one. Freed
memory is kept (environment.keep_memory), for the peer as well, which does not do that by itself: `--give-back` has it
as it is without.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from typing import Any

import torch
from timing import compared, interleaved, write_results
from torch import nn

from pyramidzoo.bench.counting import multiply_adds
from pyramidzoo.bench.measuring import random_calibrated_model, unequal
from pyramidzoo.bench.peers import peer
from pyramidzoo.bench.timing import convolution_peak, forward_passes, passes_for
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.inference import PASSES, OptimizedClassifier, optimize

# which library has the same graph
NETWORKS = {
    "pyramidnet110_a84": "pytorchcv",
    "pyramidnet110_a270": "pytorchcv",
    "pyramidnet164_a270": "pytorchcv",
    "wrn_28_10": "pytorchcv",
    "densenet_bc_100_k12": "pytorchcv",
    "resnext29_8x64d": "pytorchcv",
    "wide_resnet50_2": "timm",  # pytorchcv's has its BN folded
}


def with_or_without(form: OptimizedClassifier, changed: str) -> list[str]:
    """The passes of a form without one of them, or with one more; channels are aligned once."""
    if changed in form.passes:
        return [name for name in form.passes if name != changed]
    aligning = changed.startswith("align")
    return [*(name for name in form.passes if not (aligning and name.startswith("align"))), changed]


def measured(name: str, batch: int, rounds: int, peaks: dict[torch.dtype, float], passes_too: bool) -> list[Any]:
    row = get_architecture(name)
    image = (3, row.input_size, row.input_size)
    images = torch.randn(batch, *image, generator=torch.Generator().manual_seed(1))
    plain = random_calibrated_model(row)
    picked, low = optimize(plain), optimize(plain, dtype=torch.bfloat16)
    theirs = peer(NETWORKS[name], row, plain, image)
    assert theirs is not None, f"the peer has another network than {name}"
    models: dict[str, nn.Module] = {"peer": theirs, "plain": plain, "optimized": picked, "optimized, bfloat16": low}
    if passes_too:
        for form in (picked, low):
            for name_of_pass in PASSES:
                word = "without" if name_of_pass in form.passes else "with"
                try:
                    changed = optimize(plain, form=with_or_without(form, name_of_pass), dtype=form._dtype_marker.dtype)
                except UsageError:  # this network cannot be rewritten so
                    continue
                if set(changed.passes) != set(form.passes):  # else it found nothing to do
                    models[f"{str(form._dtype_marker.dtype).removeprefix('torch.')} {word} {name_of_pass}"] = changed
    passes = passes_for(lambda: plain(images))
    variants = {variant: forward_passes(model, images, passes) for variant, model in models.items()}
    differing = unequal(plain, models, images)
    assert not differing, f"{name}: {differing}"
    work = 2 * passes * batch * multiply_adds(copy.deepcopy(plain).to("meta"), image)
    results = []
    for timed in compared(interleaved(variants, rounds=rounds), "peer"):
        dtype = torch.bfloat16 if "bfloat16" in timed["variant"] else torch.float32
        seconds = statistics.median(timed["runs"])
        timed["peak"] = round(work / seconds / peaks[dtype], 3)
        timed["best_convolution_gflops"] = round(peaks[dtype] / 1e9)
        timed["images_per_second"] = round(passes * batch / seconds, 1)
        timed["forward_passes"] = passes
        timed["rewrites"] = list(getattr(models[timed["variant"]], "passes", ()))
        results.append({"subject": f"{name} b{batch}", "peer": NETWORKS[name], **timed})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes-too", action="store_true")
    parser.add_argument("--give-back", action="store_true", help="freed memory, as glibc does by default")
    options = parser.parse_args()
    if not options.give_back:
        keep_memory()
    peaks = {dtype: convolution_peak(dtype) for dtype in (torch.float32, torch.bfloat16)}
    results = "inference" + "_passes" * options.passes_too + "_give_back" * options.give_back
    rows: list[Any] = []
    for name in options.networks:
        for batch in options.batches:
            new = measured(name, batch, options.rounds, peaks, options.passes_too)
            rows += new
            write_results(results, rows, shown=len(rows) - len(new))  # each time: it is long


if __name__ == "__main__":
    main()
