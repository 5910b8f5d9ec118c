"""`pyramidzoo convert`: what it recognises, what it writes, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from command_line import CONVERT, RunCommand
from conftest import random_state

from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.convert.layouts import get_layout
from pyramidzoo.files import package_path

pytestmark = pytest.mark.usefixtures("quick_unpickle")


def test_convert_says_what_it_made(run_command: RunCommand, ferles_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    (row,) = run_command(*CONVERT, ferles_checkpoint, "--output", output, "--format", "json").json()
    assert row["path"] == str(output)
    assert row["same tensors as"] is None
    assert "no weights of the manifest" in run_command(*CONVERT, ferles_checkpoint, "--output", output).out


def test_convert_recognises(run_command: RunCommand, ferles_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    arguments = ("convert", ferles_checkpoint, "--dataset", "cifar10", "--output", output, "--format", "json")
    for known in ((), ("--layout", "ferles"), ("--arch", "wrn_16_1")):
        result = run_command(*arguments, *known)
        (row,) = result.json()
        assert result.err == f"pyramidzoo: recognised {ferles_checkpoint} as wrn_16_1 in the layout ferles\n"
        assert (row["architecture"], row["layout"]) == ("wrn_16_1", "ferles")
    assert "recognised" not in run_command(*CONVERT, ferles_checkpoint, "--output", output).err
    # The file says what it is, so that only the images are missing.
    assert run_command("evaluate", output, "--data-dir", tmp_path).code == 5


def test_convert_does_not_guess(run_command: RunCommand, ferles_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    torch.save({"something.weight": torch.zeros(3)}, ferles_checkpoint)
    result = run_command("convert", ferles_checkpoint, "--dataset", "cifar10", "--output", output)
    assert (result.code, result.out, output.exists()) == (4, "", False)
    assert "fits no layout and architecture" in result.err
    # The network preresnet164_s3 has the same tensors. It differs in its strides, which no tensor shows.
    torch.save(random_state("preresnet164"), ferles_checkpoint)
    result = run_command("convert", ferles_checkpoint, "--dataset", "cifar10", "--output", output)
    assert (result.code, result.out, output.exists()) == (2, "", False)
    assert "say which with --layout and --arch" in result.err


def test_convert_needs_a_dataset_and_an_output(run_command: RunCommand) -> None:
    result = run_command("convert", "in.pth", "--layout", "torchvision", "--arch", "resnet18")
    assert (result.code, "required: --dataset, --output" in result.err) == (2, True)


def test_convert_refuses_tensors_that_are_known_from_another_dataset(run_command: RunCommand, tmp_path: Path) -> None:
    """The manifest knows the bundled network of the digits; somebody calls a copy of it a network of MNIST."""
    bundled = load_manifest().find("wrn_16_1.digits_zoo")
    assert bundled.bundled is not None
    output = tmp_path / "out.safetensors"
    arguments = ("convert", package_path(bundled.bundled.path), "--output", output, "--mean", "0.1", "--std", "0.3")
    result = run_command(*arguments, "--dataset", "mnist")
    assert (result.code, result.out, output.exists()) == (2, "", False)
    assert re.search("holds the tensors of wrn_16_1.digits_zoo, .* digits, not on mnist", result.err)
    assert "give --dataset digits, or --force" in result.err

    result = run_command(*arguments, "--dataset", "mnist", "--force", "--format", "json")
    (row,) = result.json()
    assert row["same tensors as"] == "wrn_16_1.digits_zoo"
    assert re.search(f"--force: {output} says mnist, .* wrn_16_1.digits_zoo, .* digits\n", result.err)
    description = Description.from_file(output)
    assert description is not None
    assert description.dataset == "mnist"

    result = run_command(*arguments, "--dataset", "digits")
    assert (result.code, "--force" in result.err) == (0, False)


def test_convert_takes_weights_of_datasets_that_it_cannot_read(run_command: RunCommand, tmp_path: Path) -> None:
    source, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    torch.save(random_state("resnet18", num_classes=1000), source)
    constants = ("--mean", "0.4", "0.5", "0.6", "--std", "0.1", "0.2", "0.3")
    arguments = ("--layout", "torchvision", "--arch", "resnet18", "--dataset", "imagenet1k", "--output", output)
    result = run_command("convert", source, *arguments, *constants)
    assert result.code == 0, result.err
    description = Description.from_file(output)
    assert description is not None
    assert description.preprocessing == Preprocessing(
        (3, 224, 224), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3), resize=256, crop=224, interpolation="bilinear"
    )


def test_documents_name_the_layouts() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    for name in LAYOUTS:
        assert f"| `{name}` | {get_layout(name).repository} |" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--arch", "resnet21"), 2, "no architecture is called 'resnet21'"),
        (("--layout", "nobody"), 2, "no layout is called 'nobody'"),
        (("--dataset", "cifar11"), 2, "is called 'cifar11'"),
        (("--arch", "wrn_40_1"), 4, "missing: layer|missing: block"),
        (("--dataset", "cifar100"), 2, "give --mean and --std"),
        (("--mean", "0", "0", "0"), 2, "belong together"),
        (("--mean", "0", "0", "0", "--std", "0", "1", "1"), 2, "the standard deviation 0.0 1.0 1.0 is not above 0"),
        (
            ("--mean", "51", "102", "127.5", "--std", "63.75", "51", "51"),
            2,
            "divided by 255, which gives the mean 0.2 0.4 0.5 and the standard deviation 0.25 0.2 0.2",
        ),
        (("--output", "out.pth"), 2, "must end in .safetensors"),
    ],
)
def test_convert_refuses(
    run_command: RunCommand,
    ferles_checkpoint: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    result = run_command(*CONVERT, ferles_checkpoint, "--output", tmp_path / "out.safetensors", *arguments)
    assert result.code == code
    assert any(part in result.err for part in message.split("|"))
    assert result.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_checkpoints(run_command: RunCommand, ferles_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    ferles_checkpoint.write_bytes(ferles_checkpoint.read_bytes()[:-5000])
    assert run_command(*CONVERT, ferles_checkpoint, "--output", output).code == 4
    assert run_command(*CONVERT, tmp_path / "nothing.pth", "--output", output).code == 5
    assert not output.exists()
