"""`create_model(name, weights=PATH)` against building an initialised network and loading the file into it.

    python benchmarks/loading.py [--rounds 11]

The files are in the page cache and were seen before in this process, so their values are not looked at again: what
is compared is the time of a second load.
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


def measured(architecture: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    path = folder / f"{architecture}.safetensors"
    save_file(create_model(architecture).state_dict(), path)

    def usual() -> nn.Module:
        model = create_model(architecture)
        model.load_state_dict(load_file(path))
        return model

    def ours() -> nn.Module:
        return create_model(architecture, weights=path)

    for (name, a), b in zip(usual().state_dict().items(), ours().state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    runs = time_in_turns({"initialise, then load": usual, "create_model(weights=PATH)": ours}, rounds=rounds)
    return [{"subject": architecture, **row} for row in compare_runs(runs, "initialise, then load")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in NETWORKS for row in measured(name, Path(folder), rounds)]
    write_results("loading", rows)


if __name__ == "__main__":
    main()
