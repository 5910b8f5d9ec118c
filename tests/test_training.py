"""`train`: seeded to the last bit, resumable, and refusing what does not fit together."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.containers import read_metadata, read_tensors, write_tensors
from pyramidzoo.errors import IntegrityError, NotWritableError, UsageError
from pyramidzoo.evaluation.datasets import ImageSet, load_dataset
from pyramidzoo.evaluation.engine import Settings
from pyramidzoo.evaluation.harness import evaluate
from pyramidzoo.evaluation.subjects import Subject
from pyramidzoo.files import packaged
from pyramidzoo.training import loop
from pyramidzoo.training.loop import METADATA_KEY, Epoch, Trained, moved, train
from pyramidzoo.training.recipes import Recipe, get_recipe

CPU = torch.device("cpu")
SHORT = dataclasses.replace(get_recipe("digits"), epochs=3)


@pytest.fixture(scope="module")
def few() -> ImageSet:
    whole = load_dataset("digits", "train", None)
    return dataclasses.replace(whole, images=whole.images[:150], labels=whole.labels[:150], fingerprint="f" * 64)


def run(
    few: ImageSet, output: Path, recipe: Recipe = SHORT, seed: int = 0, report: Any = lambda epoch: None
) -> Trained:
    return train("wrn_16_1", recipe, few, few, seed=seed, device=CPU, output=output, report=report)


def test_a_seed_decides_every_bit(few: ImageSet, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (run(few, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.path.read_bytes() == again.path.read_bytes()
    a, b = read_tensors(first.path), read_tensors(other.path)
    assert not any(torch.equal(tensor, b[name]) for name, tensor in a.items() if tensor.dim() == 4)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's own random numbers


def test_the_order_depends_on_the_seed(few: ImageSet) -> None:
    first, again, other = (
        [labels.tolist() for _, labels in loop._Training("wrn_16_1", SHORT, few, seed, CPU)._batches(few)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert sorted(label for labels in first for label in labels) == sorted(few.labels.tolist())


def test_the_bundled_logs_are_what_the_code_does(tmp_path: Path) -> None:
    """The first two epochs of the recipe again: another processor rounds otherwise, another recipe learns otherwise."""
    images, test = (load_dataset("digits", split, None) for split in ("train", "test"))
    found: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        found.append(epoch)
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    recipe = get_recipe("digits")
    with pytest.raises(KeyboardInterrupt):
        train("wrn_16_1", recipe, images, test, seed=0, device=CPU, output=tmp_path, report=stop)
    log = list(csv.DictReader(packaged("bundled/wrn_16_1.digits_zoo.csv").read_text().splitlines()))
    for epoch, line in zip(found, log[:2], strict=True):
        assert epoch.learning_rate == float(line["learning_rate"])
        assert epoch.loss == pytest.approx(float(line["loss"]), rel=0.01)
        assert epoch.training_error == pytest.approx(float(line["training_error"]), abs=1)


def test_the_log_counts_as_evaluate_does(few: ImageSet, tmp_path: Path) -> None:
    test = load_dataset("digits", "test", None)
    trained = train("wrn_16_1", SHORT, few, test, seed=0, device=CPU, output=tmp_path)
    record = evaluate(Subject.of_file(trained.path), test, Settings(CPU))
    assert trained.last["test_error"] == round(record.top1_error, 4)


def test_measuring_changes_nothing(few: ImageSet) -> None:
    training = loop._Training("wrn_16_1", SHORT, few, 0, CPU)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training._error(few)
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())


@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(few: ImageSet, tmp_path: Path, stop_after: int) -> None:
    whole = run(few, tmp_path / "whole")

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path / "cut", report=stop)
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    seen: list[int] = []
    resumed = run(few, tmp_path / "cut", report=lambda epoch: seen.append(epoch.epoch))
    assert seen == list(range(stop_after + 1, 4))
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "wrn_16_1.digits.csv",
        "wrn_16_1.digits.safetensors",
    ]
    assert [int(line["epoch"]) for line in csv.DictReader(resumed.log.read_text().splitlines())] == [1, 2, 3]


def test_an_interruption_within_an_epoch(few: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(few, tmp_path / "whole")
    real, calls = loop.moved, []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:  # three batches make an epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "moved", counted)
    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path / "cut")
    assert run(few, tmp_path / "cut").path.read_bytes() == whole.path.read_bytes()


def test_what_is_finished_is_left_alone(few: ImageSet, tmp_path: Path) -> None:
    done = run(few, tmp_path)
    before = done.path.stat().st_mtime_ns
    assert run(few, tmp_path) == done
    assert done.path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="does not come from a training with these settings; name another --output"):
        run(few, tmp_path, seed=1)
    for story in ("[]", "null", "{", "{}"):
        write_tensors(done.path, read_tensors(done.path), {METADATA_KEY: story})
        with pytest.raises(UsageError, match="does not come from a training with these settings"):
            run(few, tmp_path)


def test_a_checkpoint_of_another_run_or_none_at_all(few: ImageSet, tmp_path: Path) -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path, report=stop)
    with pytest.raises(UsageError, match="belongs to a training with other settings; name another --output"):
        run(few, tmp_path, seed=1)
    checkpoint = tmp_path / "wrn_16_1.digits.checkpoint"
    content = checkpoint.read_bytes()
    places = random.Random(0)
    for damage in ["empty", "garbage", "half", *["flip"] * 60]:
        damaged = {"empty": b"", "garbage": b"garbage", "half": content[: len(content) // 2]}.get(damage)
        if damaged is None:
            place = places.randrange(len(content))
            damaged = content[:place] + bytes([content[place] ^ (1 << places.randrange(8))]) + content[place + 1 :]
        checkpoint.write_bytes(damaged)
        # a flip in "run" itself reads as another run's
        with pytest.raises((IntegrityError, UsageError), match="name another --output"):
            run(few, tmp_path)


def test_two_runs_that_start_at_once_do_not_mix(few: ImageSet, tmp_path: Path) -> None:
    """The second one begins while the first is at work: one of them ends, with its own weights."""
    alone = run(few, tmp_path / "alone", seed=1)

    def intrude(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            (tmp_path / "both" / "wrn_16_1.digits.checkpoint").unlink()  # as if there had been none yet
            run(few, tmp_path / "both", seed=1)

    with pytest.raises(UsageError, match="name another --output"):
        run(few, tmp_path / "both", report=intrude)
    both = tmp_path / "both" / alone.path.name
    assert both.read_bytes() == alone.path.read_bytes()


def test_a_run_that_goes_on_elsewhere_says_so(few: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path, report=stop)
    monkeypatch.setattr(loop, "device_name", lambda device: "another one")
    story = json.loads(read_metadata(run(few, tmp_path).path)[METADATA_KEY])
    assert [part["from_epoch"] for part in story["computed"]] == [1, 2]
    assert story["computed"][1]["device"] == "another one"


def test_weights_that_are_no_numbers_are_not_written(few: ImageSet, tmp_path: Path) -> None:
    """The last step can ruin what the last loss did not show."""
    wild = dataclasses.replace(SHORT, epochs=1, batch_size=len(few), learning_rate=1e36, weight_decay=1e3)
    with pytest.raises(IntegrityError, match="NaN or infinite values"):
        run(few, tmp_path, recipe=wild)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_loss_that_is_no_number(few: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"the loss of epoch 1 is (nan|inf); lower the learning rate"):
        run(few, tmp_path, recipe=dataclasses.replace(SHORT, learning_rate=1e30))
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_output_that_cannot_be_written(few: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match="cannot make the folder"):
        run(few, tmp_path / "file" / "below")


def test_images_are_moved_and_nothing_else(few: ImageSet) -> None:
    generator = torch.Generator().manual_seed(0)
    found = moved(few.images, 1, generator)
    seen = set()
    for image, result in zip(few.images, found, strict=True):
        padded = torch.zeros(1, 10, 10, dtype=torch.uint8)
        padded[:, 1:9, 1:9] = image
        places = [(d, r) for d in range(3) for r in range(3) if torch.equal(padded[:, d : d + 8, r : r + 8], result)]
        assert places
        seen |= set(places[:1])
    assert len(seen) == 9  # every place occurs
    assert torch.equal(moved(few.images, 0, generator), few.images)


def test_it_learns(capsys: Any, tmp_path: Path) -> None:
    """The command on all training images, for a tenth of the recipe's epochs; its file is evaluated like any other."""
    arguments = ["train", "wrn_16_1", "--epochs", "10", "--output", str(tmp_path), "--format", "json"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    path = tmp_path / "wrn_16_1.digits.safetensors"
    assert captured.err.count("epoch ") == 10
    assert cli.main(["evaluate", str(path), "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert int(row["wrong"]) < 90  # a tenth of the 899; guessing would be wrong nine times in ten
    assert row["recorded"] == "none"
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    assert model.preprocessing == get_recipe("digits").preprocessing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["wrn_16_l"], "did you mean wrn_16_"),
        (["wrn_16_1", "--epochs", "0"], "must be positive"),
        (["wrn_16_1", "--seed", "-1"], "--seed -1 is not a number from 0"),
        (["wrn_16_1", "--dataset", "cifar10"], "there is no recipe for 'cifar10'; there are recipes for digits"),
    ],
)
def test_bad_requests(options: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["train", *options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
