"""Compare `create_model(name, weights=PATH)` with two steps: make an initialized network, then load the file into it.

    python benchmarks/loading.py [--rounds 11]

The files are in the page cache, and this process has loaded them before. So their hashes are not checked again, and the
times are those of a second load.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timing import compare_runs, time_in_turns, write_results
from torch import nn

from pyramidzoo import create_model

NETWORKS = ("wrn_28_10", "pyramidnet110_a270", "pyramidnet272_a200")


def measure_loading(architecture: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Time both ways to load a network, after a check that they give the same tensors."""
    path = folder / f"{architecture}.safetensors"
    save_file(create_model(architecture).state_dict(), path)

    def initialize_and_load() -> nn.Module:
        model = create_model(architecture)
        model.load_state_dict(load_file(path))
        return model

    def load_directly() -> nn.Module:
        return create_model(architecture, weights=path)

    for (name, tensor), other_tensor in zip(
        initialize_and_load().state_dict().items(), load_directly().state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other_tensor), name
    variants = {"initialise, then load": initialize_and_load, "create_model(weights=PATH)": load_directly}
    runs = time_in_turns(variants, rounds=rounds)
    return [{"subject": architecture, **row} for row in compare_runs(runs, "initialise, then load")]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in NETWORKS for row in measure_loading(name, Path(folder), rounds)]
    write_results("loading", rows)


if __name__ == "__main__":
    main()
