"""Hashes of predictions and of tensors, and the names of result folders, for given settings.

The values are in `tests/data/pinned/hashes.json`, those of real checkpoints too: a changed manifest is noticed here.
Hashes of predictions do not depend on the machine where the two largest logits of every image are farther apart than
rounding can move them. For the digits by wrn_16_1 they are at least 0.25 apart in all precisions, for those by resnet20
0.03, which is enough in fp32 (rounding moves logits by 1e-5) and in fp16, not in bf16. Hashes of logits are not pinned.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pinned import (
    EXPECTATIONS,
    folder_hash,
    is_writing,
    names_in,
    read_tensors,
    run,
    same,
    sha256_of,
    stable,
    tensors_sha256,
)
from safetensors.torch import save_file

import pyramidzoo

DOCUMENT = "hashes"
SMALL, LARGER = "wrn_16_1.digits_zoo", "resnet20.digits_zoo"

# settings of evaluate: which weights, and the options
SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "strict": ([SMALL, LARGER], []),
    "strict, batches of 1000": ([SMALL, LARGER], ["-b", "1000"]),
    "strict, batches of 7": ([SMALL], ["-b", "7"]),
    "strict, training images": ([SMALL, LARGER], ["--split", "train"]),
    "channels last": ([SMALL, LARGER], ["--channels-last"]),
    "optimized": ([SMALL, LARGER], ["--optimize"]),
    "optimized bf16": ([SMALL], ["--optimize", "--precision", "bf16"]),
    "bf16": ([SMALL], ["--precision", "bf16"]),
    "fp16": ([SMALL, LARGER], ["--precision", "fp16"]),
    "mixed": ([SMALL], ["--amp"]),
    "mixed fp16": ([SMALL, LARGER], ["--amp", "--amp-dtype", "fp16"]),
    "mixed, channels last, batches of 64": ([SMALL], ["--amp", "--channels-last", "-b", "64"]),
}
CHEAP = ["wrn_16_1.cifar10_ferles"]
REST = [
    "resnet20_fattorib.cifar10",
    "resnet20.cifar10_akamaster",
    "resnet32.cifar10_akamaster",
    "resnet32_fattorib.cifar10",
    "resnet44_fattorib.cifar10",
    "resnet56_fattorib.cifar10",
    "wrn_16_2.cifar10_ferles",
    "wrn_40_1.cifar10_ferles",
    "densenet_bc_100_k12.cifar10_dice",
]
# in place of what a folder's name holds of the machine: the name it would have there
SOMEWHERE = {"device": "cpu", "versions": {}}


def test_every_expectation_is_checked() -> None:
    if is_writing():
        pytest.skip("expectations are being written anew")
    wanted = [*SETTINGS, "tensors of the manifest", "tensors of bundled files", "custom preprocessing", *CHEAP, *REST]
    assert sorted(names_in(DOCUMENT)) == sorted(wanted)


def facts(record: dict[str, Any], output: Path) -> dict[str, Any]:
    """What of a record depends on nothing but weights, images and settings; and its folder."""
    (folder,) = (path.parent for path in (output / record["weights"]).rglob("record.json"))
    units = [json.loads(read_tensors(path)[0]["unit"]) for path in sorted(folder.glob("predictions-*"))]
    unit = units[0]
    assert folder.name.endswith(f"-{folder_hash(unit)}")
    settings = {key: value for key, value in unit.items() if key not in ("start", "stop")}
    assert {"device": unit["device"], "versions": unit["versions"]} == {k: record[k] for k in ("device", "versions")}
    return {
        "folder": f"{folder.name[:-8]}{folder_hash({**unit, **SOMEWHERE})}",
        "files": len(units),
        "first range": [unit["start"], unit["stop"]],
        "unit": stable(settings, {}),
        "flags": record["flags"],
        **{
            name: record[name]
            for name in (
                "file_sha256",
                "prediction_sha256",
                "preprocessing_sha256",
                "precision",
                "protocol",
                "recorded",
                "tensors_sha256",
                "top1_correct",
                "top5_correct",
            )
        },
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_digits(name: str, tmp_path: Path) -> None:
    weights, options = SETTINGS[name]
    found = run("evaluate", *weights, *options, "--output", tmp_path, "--format", "json").json()
    assert found["failures"] == []
    same(DOCUMENT, name, {record["weights"]: facts(record, tmp_path) for record in found["records"]})


def test_settings_have_folders_of_their_own(tmp_path: Path) -> None:
    """No two settings share a folder's hash, and only `--output` and `--compare` change none."""
    if is_writing():
        pytest.skip("expectations are being written anew")
    document = json.loads((EXPECTATIONS / f"{DOCUMENT}.json").read_text())
    folders = [document[name][SMALL]["folder"] for name in SETTINGS]
    assert len(set(folders)) == len(folders)


def test_tensors_of_the_manifest() -> None:
    """Every hash that is known, one line each; the single hash is in names.json."""
    entries = [pyramidzoo.get_weights(name) for name in pyramidzoo.list_weights()]
    known = {entry.id: entry.tensors_sha256 for entry in entries if entry.tensors_sha256}
    results = {
        f"{entry.id}, {result.split}, {result.precision}": result.prediction_sha256
        for entry in entries
        for result in entry.results
    }
    same(DOCUMENT, "tensors of the manifest", {"tensors_sha256": known, "prediction_sha256": results})


def test_tensors_of_bundled_files() -> None:
    """Computed here as the documentation says, and equal to what the zoo says."""
    found = {}
    for name in (SMALL, LARGER):
        (row,) = run("fetch", name, "--format", "json").json()
        tensors = read_tensors(Path(row["path"]))[1]
        found[name] = {"file": row["sha256"], "tensors": tensors_sha256(tensors), "names": sha256_of(sorted(tensors))}
        assert found[name]["tensors"] == pyramidzoo.get_weights(name).tensors_sha256
    same(DOCUMENT, "tensors of bundled files", found)


@pytest.fixture(scope="module")
def large_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data with a few images of ImageNet's kind, and a network for them that always predicts class 7."""
    folder = tmp_path_factory.mktemp("large")
    pictures = folder / "val" / "n01440764"
    pictures.mkdir(parents=True)
    for number in range(3):
        levels = np.arange(50 * 60 * 3).reshape(50, 60, 3) * (number + 1) % 256
        Image.fromarray(levels.astype(np.uint8)).save(pictures / f"{number}.JPEG", "BMP")  # other codecs vary
    model = pyramidzoo.create_model("wrn_16_1", num_classes=1000)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    tensors["fc.bias"][7] = 1.0
    preprocessing = {"input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}
    preprocessing |= {"resize": 36, "crop": 32, "interpolation": "bilinear"}
    described = {"architecture": "wrn_16_1", "arguments": {}, "dataset": "imagenet1k", "num_classes": 1000}
    described |= {"layout": None, "origin_sha256": None, "preprocessing": preprocessing}
    # one key only: safetensors writes several in a random order, and the file is hashed
    save_file(tensors, folder / "net.safetensors", {"pyramidzoo": json.dumps(described)})
    return folder


CUSTOM = {
    "own": [],
    "sizes": ["--resize", "48", "--crop", "40"],
    "interpolation": ["--interpolation", "bicubic"],
    "as tensors": ["--tensor-resize"],
}


def test_custom_preprocessing(large_images: Path, tmp_path: Path) -> None:
    """Each way to prepare large images has a folder, a protocol and a hash of its own."""
    observed = {}
    for name, options in CUSTOM.items():
        output = tmp_path / name
        arguments = ("--data-dir", large_images, "-j", "0", "--output", output, "--format", "json")
        found = run("evaluate", large_images / "net.safetensors", *options, *arguments).json()
        assert found["failures"] == []
        observed[name] = facts(found["records"][0], output)
        observed[name]["flags"]["not_the_split"] = "<text>"
    same(DOCUMENT, "custom preprocessing", observed)
    assert len({found["folder"] for found in observed.values()}) == len(CUSTOM)


@pytest.fixture
def real(origins: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real checkpoints and data are to be found."""
    monkeypatch.setenv("PYRAMIDZOO_ORIGINS", str(origins))
    monkeypatch.setenv("PYRAMIDZOO_DATA", str(data_dir))


def evaluate_really(name: str, output: Path) -> None:
    ran = run("evaluate", name, "--output", output, "--format", "json")
    found = ran.json()
    assert found["failures"] == [], ran.err
    (record,) = found["records"]
    verdicts = [[claim["by"], claim["published"], claim["verdict"]] for claim in record["claims"]]
    same(DOCUMENT, name, {**facts(record, output), "claims": verdicts, "exit code": ran.code})


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", CHEAP)
def test_real_checkpoints(name: str, tmp_path: Path) -> None:
    evaluate_really(name, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", REST)
def test_more_real_checkpoints(name: str, tmp_path: Path) -> None:
    evaluate_really(name, tmp_path)
