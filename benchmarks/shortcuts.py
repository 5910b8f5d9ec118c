"""Compare a strict evaluation with ordinary sums ("textbook") with one that computes sums in place.

    python benchmarks/shortcuts.py [--networks pyramidnet110_a84 ...] [--rounds 15]

A plain network pads the shortcut with zero channels and adds it to the branch, which allocates two maps. The pass
`slice_add` adds the shortcut to some channels of the branch instead. The pass `in_place` lets the other sums and the
ReLUs overwrite maps that are not read any more. The script first checks that the logits are equal, bit by bit. Then all
variants take turns, one batch at a time, in the arithmetic of a strict evaluation. A batch has 128 images, as in
`evaluate`, but 32 for the largest networks, so that a turn does not take long. The process keeps freed memory, as
`evaluate` does. `mib` is the most memory in MiB that one forward pass holds at once, without weights and images.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from timing import compare_runs, time_in_turns, write_results
from torch import nn

from pyramidzoo.bench.counting import count_activation_bytes
from pyramidzoo.bench.targets import random_calibrated_model
from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine, PreparedNetwork
from pyramidzoo.evaluation.environment import keep_memory
from pyramidzoo.inference import optimize

# The batch size of each network.
NETWORKS = {"resnet56": 128, "pyramidnet110_a84": 128, "pyramidnet164_a270": 32, "wrn_28_10": 32}


def measure_network(name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Check that all variants of a network have equal logits, time them, and count their memory."""
    plain = random_calibrated_model(get_architecture(name))
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    models: dict[str, nn.Module] = {
        "textbook": plain,
        "slice_add": optimize(plain, form="slice_add"),
        "slice_add, in_place": optimize(plain, form=("slice_add", "in_place")),
    }
    cpu = torch.device("cpu")
    engine = Engine(ComputeSettings(cpu, batch))
    programs = {
        variant: engine.make_program(PreparedNetwork(model, (), variant), batch) for variant, model in models.items()
    }
    with engine.use_arithmetic():
        expected = programs["textbook"](images)
        for variant, program in programs.items():
            assert torch.equal(program(images), expected), f"{name}: {variant} has other logits"
        computing = {variant: partial(program, images) for variant, program in programs.items()}
        runs = time_in_turns(computing, rounds=rounds)
        memory = {variant: count_activation_bytes(compute, cpu) for variant, compute in computing.items()}
    subject = f"{name}, batch {batch}"
    return [
        {"subject": subject, **row, "mib": round(memory[row["variant"]] / 2**20, 1)}
        for row in compare_runs(runs, "textbook")
    ]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_memory()
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        measured = measure_network(name, NETWORKS[name], options.rounds)
        rows += measured
        write_results("shortcuts", rows, shown=len(rows) - len(measured))


if __name__ == "__main__":
    main()
