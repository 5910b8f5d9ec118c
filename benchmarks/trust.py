"""Measure how much time the verification of weights takes, at a first load and at a second load.

    python benchmarks/trust.py [--rounds 11]

The weights are in the cache of the Hub's client, and an entry of a manifest has their hash. A "first load" is as in a
new process: the file was not verified before. It is compared with the time to compute the SHA-256 of the file. A
"second load" is one after the file was verified. It is compared with "trusting": the same network is built with the
same file, without any check. In all cases the file is in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path

from safetensors.torch import save_file
from timing import compare_runs, time_in_turns, write_results
from torch import nn

ARCHITECTURE = "wrn_28_10"  # 146 MB
REPOSITORY, REVISION = "somebody/net", "0" * 40


def write_manifest(folder: Path) -> Path:
    """Write a file of weights into the cache of the Hub's client, and a manifest with one entry for it.

    Return the path of the weights file.
    """
    from pyramidzoo import create_model
    from pyramidzoo.catalog.manifest import get_package_manifest_path

    path = folder / "hub" / "models--somebody--net" / "snapshots" / REVISION / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(create_model(ARCHITECTURE).state_dict(), path)
    own = json.loads(get_package_manifest_path().read_text(encoding="utf-8"))["weights"]
    name = next(name for name, entry in own.items() if name.startswith(f"{ARCHITECTURE}.cifar10") and entry["default"])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    place = {"repo_id": REPOSITORY, "revision": REVISION, "filename": path.name, "sha256": sha256}
    entry = {**own[name], "hub": {**place, "bytes": path.stat().st_size, "layout": None}, "tensors_sha256": None}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "weights": {name: entry}}), encoding="utf-8")
    return path


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_HUB_CACHE"] = f"{name}/hub"  # The Hub's client reads this variable when it is imported.
        path = write_manifest(Path(name))
        os.environ["PYRAMIDZOO_MANIFEST"] = f"{name}/manifest.json"

        from pyramidzoo.catalog.architectures import get_architecture
        from pyramidzoo.catalog.manifest import load_manifest
        from pyramidzoo.checkpoints.loading import forget_verified
        from pyramidzoo.checkpoints.safetensors_file import read_content
        from pyramidzoo.factory import assemble, create_model
        from pyramidzoo.files import file_hash

        entry = load_manifest().find_by_tag(ARCHITECTURE)

        def load_first() -> nn.Module:
            forget_verified()
            return create_model(ARCHITECTURE, pretrained=True)

        def load_again() -> nn.Module:
            return create_model(ARCHITECTURE, pretrained=True)

        def load_without_checks() -> nn.Module:
            return assemble(
                get_architecture(ARCHITECTURE), read_content(path), arguments={}, preprocessing=entry.preprocessing
            )

        subject = f"{ARCHITECTURE}, {path.stat().st_size / 1e6:.0f} MB"
        runs = time_in_turns({"sha256": lambda: file_hash(path), "first load": load_first}, rounds=rounds)
        rows = [{"subject": subject, **row} for row in compare_runs(runs, "sha256")]
        runs = time_in_turns({"trusting": load_without_checks, "second load": load_again}, rounds=5 * rounds)
        rows += [{"subject": subject, **row} for row in compare_runs(runs, "trusting")]
    write_results("trust", rows)


if __name__ == "__main__":
    main()
