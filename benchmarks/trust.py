"""What verification costs: a first load against one SHA-256 pass over the same file, a second against trusting it.

    python benchmarks/trust.py [--rounds 11]

The weights lie where the Hub's client keeps them, as an entry of a manifest names them by hash. "First" is as in a new
process: nothing was hashed or looked at before; the file is in the page cache. "Trusting" builds and maps the same
network without any check.
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


def published(folder: Path) -> Path:
    """A manifest of one entry, its file in the cache of the Hub's client."""
    from pyramidzoo import create_model
    from pyramidzoo.catalog.manifest import own_manifest_path

    path = folder / "hub" / "models--somebody--net" / "snapshots" / REVISION / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(create_model(ARCHITECTURE).state_dict(), path)
    own = json.loads(own_manifest_path().read_text(encoding="utf-8"))["weights"]
    name = next(name for name, entry in own.items() if name.startswith(f"{ARCHITECTURE}.cifar10") and entry["default"])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    place = {"repo_id": REPOSITORY, "revision": REVISION, "filename": path.name, "sha256": sha256}
    entry = {**own[name], "hub": {**place, "bytes": path.stat().st_size, "layout": None}, "tensors_sha256": None}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"format": 1, "weights": {name: entry}}), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_HUB_CACHE"] = f"{name}/hub"  # the Hub's client reads it when it is imported
        path = published(Path(name))
        os.environ["PYRAMIDZOO_MANIFEST"] = f"{name}/manifest.json"

        from pyramidzoo.catalog.architectures import get_architecture
        from pyramidzoo.catalog.manifest import load_manifest
        from pyramidzoo.checkpoints.loading import forget_verified
        from pyramidzoo.checkpoints.safetensors_file import read_content
        from pyramidzoo.factory import assemble, create_model
        from pyramidzoo.files import file_hash

        entry = load_manifest().default_for(ARCHITECTURE)

        def first() -> nn.Module:
            forget_verified()
            return create_model(ARCHITECTURE, pretrained=True)

        def again() -> nn.Module:
            return create_model(ARCHITECTURE, pretrained=True)

        def trusting() -> nn.Module:
            return assemble(
                get_architecture(ARCHITECTURE), read_content(path), arguments={}, preprocessing=entry.preprocessing
            )

        subject = f"{ARCHITECTURE}, {path.stat().st_size / 1e6:.0f} MB"
        runs = time_in_turns({"sha256": lambda: file_hash(path), "first load": first}, rounds=rounds)
        rows = [{"subject": subject, **row} for row in compare_runs(runs, "sha256")]
        runs = time_in_turns({"trusting": trusting, "second load": again}, rounds=5 * rounds)
        rows += [{"subject": subject, **row} for row in compare_runs(runs, "trusting")]
    write_results("trust", rows)


if __name__ == "__main__":
    main()
