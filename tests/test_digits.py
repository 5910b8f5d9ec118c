"""What comes with the package: the digits, the weights trained on them, and the command that needs nothing else."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.recipes import get_recipe
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.data import digits
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.transforms import Normalize, eval_transform
from pyramidzoo.errors import IntegrityError, UsageError
from pyramidzoo.files import package_path
from pyramidzoo.training.logged_run import METADATA_KEY

BUNDLED = {"wrn_16_1.digits_zoo": (14, 897), "resnet20.digits_zoo": (31, 899)}  # wrong, top-5 correct


def test_the_digits_are_those_of_uci() -> None:
    train, test = (load_dataset("digits", split, None) for split in ("train", "test"))
    assert (len(train), len(test)) == (898, 899)
    assert test.images.shape == (899, 1, 8, 8)
    labels = torch.cat([train.labels, test.labels])
    # the class counts that UCI's own description of the test set gives
    assert torch.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # the first image as scikit-learn's documentation prints it, 0 to 16 stretched to 0 to 255
    levels = [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
        [0, 3, 15, 2, 0, 11, 8, 0],
        [0, 4, 12, 0, 0, 8, 8, 0],
    ]
    expected = (torch.tensor(levels) * 255 / 16 + 0.5).floor()
    assert torch.equal(train.images[0, 0, :4].float(), expected)
    assert labels[:10].tolist() == list(range(10))


def test_the_recipe_normalises_by_its_training_images() -> None:
    recipe, pixels = get_recipe("digits"), load_dataset("digits", "train", None).images / 255
    assert recipe.preprocessing.mean == (round(pixels.mean().item(), 4),)
    assert recipe.preprocessing.std == (round(pixels.std().item(), 4),)


def test_altered_digits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(package_path(digits.FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits.safetensors").write_bytes(content)
    monkeypatch.setattr(digits, "package_path", lambda name: tmp_path / "digits.safetensors")
    with pytest.raises(IntegrityError, match=r"is altered: its sha256 is .* reinstall pyramidzoo"):
        load_dataset("digits", "test", None)


def test_evaluate_without_arguments(capsys: Any) -> None:
    assert cli.main(["evaluate", "--format", "json"]) == 0
    captured = capsys.readouterr()
    found = {r["weights"]: r for r in json.loads(captured.out)["records"]}
    assert {name: (r["wrong"], r["top5_correct"]) for name, r in found.items()} == BUNDLED
    assert {r["recorded"] for r in found.values()} == {"exact"}
    assert {r["protocol"] for r in found.values()} == {"full 8x8 image, one pass"}
    assert "no weights were named" in captured.err


def test_the_margins_are_far_from_rounding() -> None:
    """`exact` must hold on any machine: no two best classes of a test image are nearly tied."""
    test = load_dataset("digits", "test", None)
    for weights_id in BUNDLED:
        model = pyramidzoo.create_model(weights_id.split(".")[0], weights=weights_id).eval()
        with torch.inference_mode():
            best = model(Normalize(model.preprocessing)(test.images)).topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 0.01  # another order of summation moves logits by about 1e-5


def test_nothing_is_written_and_no_network_is_asked(tmp_path: Path) -> None:
    """A container whose every folder is read-only, on a machine without a network."""
    blocked = tmp_path / "blocked"
    blocked.write_text("")  # no folder can be made below a file, not even by root
    program = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise SystemExit('a socket was asked for')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from pyramidzoo import cli\n"
        "sys.exit(cli.main(['evaluate', '--format', 'csv']))\n"
    )
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "PYRAMIDZOO_CACHE", "HF_HOME", "TORCH_HOME")
    environment = {**os.environ, **{name: str(blocked / "below") for name in names}}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["weights"]: row for row in csv.DictReader(done.stdout.splitlines())}
    assert {name: (int(row["wrong"]), int(row["top5_correct"])) for name, row in rows.items()} == BUNDLED
    assert [path.name for path in tmp_path.iterdir()] == ["blocked"]


def test_bundled_weights_are_used_like_any_other(tmp_path: Path) -> None:
    model = pyramidzoo.create_model("wrn_16_1", weights="digits").eval()
    assert model.conv1.in_channels == 1
    from PIL import Image

    test = load_dataset("digits", "test", None)
    image = Image.fromarray(test.images[0, 0].numpy())
    assert model(eval_transform(model.preprocessing)(image)[None]).argmax().item() == test.labels[0]
    assert pyramidzoo.create_model("wrn_16_1", weights="digits", in_chans=1, num_classes=3).fc.out_features == 3
    with pytest.raises(UsageError, match="read images of 1 channel, not in_chans=3"):
        pyramidzoo.create_model("wrn_16_1", weights="digits", in_chans=3)
    assert cli.main(["verify", "wrn_16_1.digits_zoo", "--format", "json"]) == 0


@pytest.mark.parametrize("weights_id", BUNDLED)
def test_bundled_files_tell_how_they_were_made(weights_id: str) -> None:
    entry = load_manifest().find(weights_id)
    assert entry.bundled is not None
    path = package_path(entry.bundled.path)
    assert path.stat().st_size == entry.bundled.bytes
    story = json.loads(read_metadata(path)[METADATA_KEY])
    recipe = json.loads(json.dumps(get_recipe("digits").as_data()))
    assert [part["from_epoch"] for part in story["computed"]] == [1]
    assert story["run"] == {
        "architecture": entry.architecture,
        "seed": 0,
        "data": load_dataset("digits", "train", None).fingerprint,
        **recipe,
    }
    log = list(csv.DictReader(path.with_suffix(".csv").read_text().splitlines()))
    assert [int(line["epoch"]) for line in log] == list(range(1, 101))
    assert float(log[-1]["test_error"]) == story["last"]["test_error"] == round(100 * BUNDLED[weights_id][0] / 899, 4)


def test_altered_bundled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    entry = load_manifest().find("wrn_16_1.digits_zoo")
    copy = tmp_path / "copy.safetensors"
    shutil.copyfile(package_path(entry.bundled.path), copy)
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    for module in ("fetch", "local"):
        monkeypatch.setattr(f"pyramidzoo.weights.{module}.package_path", lambda name: copy)
    assert cli.main(["evaluate", "wrn_16_1.digits_zoo"]) == 4
    assert "is altered: its sha256 is" in capsys.readouterr().err
    assert cli.main(["verify", "wrn_16_1.digits_zoo"]) == 4
    assert "reinstall pyramidzoo" in capsys.readouterr().out
