"""`train`: seeded to the last bit, resumable, and refusing what does not fit together."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_tools import Watch, load_few_digits

import pyramidzoo
from pyramidzoo import cli
from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_tensors, write_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.errors import IntegrityError, NotWritableError, UsageError
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.files import package_path
from pyramidzoo.training import device_images, logged_run
from pyramidzoo.training.augmentation import prepare_batch
from pyramidzoo.training.checkpoints import save_checkpoint
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.logged_run import METADATA_KEY, Epoch, Task, TrainingResult
from pyramidzoo.training.loop import train, train_together
from pyramidzoo.training.schedule import cosine_rates
from pyramidzoo.training.step import TrainingRun, has_random_layers, seed_global_generators

CPU = torch.device("cpu")
SHORT = dataclasses.replace(get_recipe("digits"), epochs=3)

# what a checkpoint and a file of weights said of a run before recipes had names
DIGITS = {
    "dataset": "digits",
    "preprocessing": {
        "input_size": (1, 8, 8),
        "mean": (0.3075,),
        "std": (0.377,),
        "resize": None,
        "crop": None,
        "interpolation": None,
    },
    "epochs": 100,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "padding": 1,
}


def test_the_digits_are_described_as_before() -> None:
    """Exactly the fields that were there before recipes had names; files from then compare equal."""
    assert get_recipe("digits").as_data() == DIGITS


@pytest.fixture(scope="module")
def few() -> ImageSet:
    return load_few_digits()


def run(
    few: ImageSet, output: Path, recipe: Recipe = SHORT, seed: int = 0, report: Any = lambda epoch: None
) -> TrainingResult:
    return train("wrn_16_1", recipe, few, few, seed=seed, device=CPU, output=output, report=report)


def test_a_seed_decides_every_bit(few: ImageSet, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (run(few, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.path.read_bytes() == again.path.read_bytes()
    a, b = read_tensors(first.path), read_tensors(other.path)
    assert not any(torch.equal(tensor, b[name]) for name, tensor in a.items() if tensor.dim() == 4)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's own random numbers


def training_run(
    few: ImageSet, recipe: Recipe = SHORT, seed: int = 0, *, architecture: str = "wrn_16_1"
) -> TrainingRun:
    return TrainingRun(architecture, recipe, TrainingImages(few, CPU), seed, CPU)


def test_the_order_depends_on_the_seed(few: ImageSet) -> None:
    first, again, other = (
        [batch.index.tolist() for batch in training_run(few, seed=seed).draw_epoch()] for seed in (0, 0, 1)
    )
    assert first == again != other
    assert sorted(index for batch in first for index in batch) == list(range(150))


@dataclass
class EarlierTraining:
    """The training loop as it was before recipes had names, in few lines: PyTorch's own optimizer and schedule."""

    recipe: Recipe
    images: ImageSet
    seed: int
    lines: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.model: nn.Module = pyramidzoo.create_model("wrn_16_1", num_classes=10, in_chans=1)
        self.normalize = Normalize(self.recipe.preprocessing)
        rate, momentum, decay = self.recipe.learning_rate, self.recipe.momentum, self.recipe.weight_decay
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=rate, momentum=momentum, weight_decay=decay, nesterov=True
        )
        steps = self.recipe.epochs * math.ceil(len(self.images) / self.recipe.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)
        self.order = torch.Generator().manual_seed(self.seed)

    def run_epoch(self) -> None:
        self.model.train()
        rate, total, wrong = round(float(self.schedule.get_last_lr()[0]), 8), 0.0, 0
        for pixels, labels in self.batches():
            logits = self.model(self.normalize(pixels))
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            total += loss.item() * len(labels)
            wrong += int((logits.argmax(1) != labels).sum())
        n = len(self.images)
        self.lines.append(
            {
                "epoch": len(self.lines) + 1,
                "learning_rate": rate,
                "loss": round(total / n, 6),
                "training_error": round(100 * wrong / n, 4),
                "test_error": round(100 * self.count_wrong() / n, 4),
                "seconds": 1.0,
            }
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        padding = self.recipe.padding
        for index in torch.split(torch.randperm(len(self.images), generator=self.order), self.recipe.batch_size):
            windows = F.pad(self.images.images[index], (padding,) * 4).unfold(2, 8, 1).unfold(3, 8, 1)
            down, right = torch.randint(0, 2 * padding + 1, (2, len(index)), generator=self.order)
            yield windows[torch.arange(len(index)), :, down, right], self.images.labels[index]

    @torch.inference_mode()
    def count_wrong(self) -> int:
        self.model.eval()
        batches = torch.split(self.images.images, self.recipe.batch_size)
        predicted = torch.cat([self.model(self.normalize(pixels)).argmax(1) for pixels in batches])
        return int((predicted != self.images.labels).sum())

    def save(self, path: Path, computed: list[dict[str, Any]]) -> None:
        """Write a checkpoint as that code did."""
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"momentum.{k}": kept["momentum_buffer"] for k, kept in optimizer["state"].items()}
        identity = {"architecture": "wrn_16_1", "seed": self.seed, "data": self.images.fingerprint}
        rest = {
            "groups": optimizer["param_groups"],
            "schedule": self.schedule.state_dict(),
            "epochs": self.lines,
            "computed": computed,
        }
        run = {**identity, **DIGITS, "epochs": self.recipe.epochs}
        save_checkpoint(path, run, {**tensors, "order": self.order.get_state()}, rest)


def test_the_digits_are_trained_as_before_recipes_had_names(few: ImageSet, tmp_path: Path) -> None:
    """To the last bit of every tensor, and what the file says of the run is the same."""
    earlier = EarlierTraining(SHORT, few, seed=0)
    for _ in range(3):
        earlier.run_epoch()
    trained = run(few, tmp_path)
    tensors, expected = read_tensors(trained.path), earlier.model.state_dict()
    assert sorted(tensors) == sorted(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    history = json.loads(read_metadata(trained.path)[METADATA_KEY])
    identity = {"architecture": "wrn_16_1", "seed": 0, "data": few.fingerprint, **DIGITS, "epochs": 3}
    assert history["run"] == json.loads(json.dumps(identity))
    last = {name: value for name, value in earlier.lines[-1].items() if name != "seconds"}
    assert history["last"] == last == trained.last


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_checkpoint_from_before_recipes_had_names(few: ImageSet, tmp_path: Path, epochs: int) -> None:
    whole = run(few, tmp_path / "whole")
    earlier = EarlierTraining(SHORT, few, seed=0)
    for _ in range(epochs):
        earlier.run_epoch()
    (tmp_path / "cut").mkdir()
    computed = json.loads(read_metadata(whole.path)[METADATA_KEY])["computed"]
    earlier.save(tmp_path / "cut" / "wrn_16_1.digits.checkpoint", computed)
    watch = Watch()
    resumed = run(few, tmp_path / "cut", report=watch)
    assert watch.epochs == list(range(epochs + 1, 4))
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    lines = list(csv.DictReader(resumed.log.read_text().splitlines()))
    assert [float(line["loss"]) for line in lines[:epochs]] == [line["loss"] for line in earlier.lines]


@pytest.mark.parametrize(("first", "steps"), [(0.1, 7), (0.2, 500), (1 / 3, 18720)])
def test_the_cosine_is_that_of_pytorch(first: float, steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=first)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    expected = []
    for _ in range(steps + 1):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert cosine_rates(first, steps) == expected


def test_the_bundled_logs_are_what_the_code_does(tmp_path: Path) -> None:
    """Train the first two epochs again. Another processor rounds in another way, which changes little; another recipe
    changes much."""
    images, test = (load_dataset("digits", split, None) for split in ("train", "test"))
    epochs: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    recipe = get_recipe("digits")
    with pytest.raises(KeyboardInterrupt):
        train("wrn_16_1", recipe, images, test, seed=0, device=CPU, output=tmp_path, report=stop)
    log = list(csv.DictReader(package_path("bundled/wrn_16_1.digits_zoo.csv").read_text().splitlines()))
    for epoch, line in zip(epochs, log[:2], strict=True):
        assert epoch.learning_rate == float(line["learning_rate"])
        assert epoch.loss == pytest.approx(float(line["loss"]), rel=0.01)
        assert epoch.training_error == pytest.approx(float(line["training_error"]), abs=1)


def test_the_log_counts_as_evaluate_does(few: ImageSet, tmp_path: Path) -> None:
    test = load_dataset("digits", "test", None)
    trained = train("wrn_16_1", SHORT, few, test, seed=0, device=CPU, output=tmp_path)
    record = evaluate(EvaluationTarget.from_file(trained.path), test, ComputeSettings(CPU))
    assert trained.last["test_error"] == round(record.top1_error, 4)


def test_measuring_changes_nothing(few: ImageSet) -> None:
    training = training_run(few)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.count_wrong(device_images.TestImages(few, CPU))
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())


@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(few: ImageSet, tmp_path: Path, stop_after: int) -> None:
    whole = run(few, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path / "cut", report=Watch(stop_after))
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    watch = Watch()
    resumed = run(few, tmp_path / "cut", report=watch)
    assert watch.epochs == list(range(stop_after + 1, 4))
    assert resumed.path.read_bytes() == whole.path.read_bytes()
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [
        "wrn_16_1.digits.csv",
        "wrn_16_1.digits.safetensors",
    ]
    assert [int(line["epoch"]) for line in csv.DictReader(resumed.log.read_text().splitlines())] == [1, 2, 3]


@pytest.mark.parametrize(("architecture", "arguments"), [("wrn_16_1", {"drop_rate": 0.3}), ("shakeshake26_2x32d", {})])
def test_random_layers_draw_by_the_seed(
    architecture: str, arguments: dict[str, Any], few: ImageSet, tmp_path: Path
) -> None:
    """Dropout and shake-shake draw from global generators. Neither their state, nor a stop, nor a neighbour matters."""
    recipe = dataclasses.replace(SHORT, epochs=2, arguments=arguments)
    assert has_random_layers(training_run(few, recipe, architecture=architecture).model)

    def train_once(folder: str, *, stop_after: int | None = None) -> bytes:
        settings: dict[str, Any] = {"seed": 0, "device": CPU, "output": tmp_path / folder}
        report = Watch(stop_after)
        return train(architecture, recipe, few, few, report=report, **settings).path.read_bytes()

    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = train_once("whole")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with pytest.raises(KeyboardInterrupt):
        train_once("cut", stop_after=1)
    torch.manual_seed(3)
    assert train_once("cut") == whole
    tasks = [Task(architecture, dataclasses.replace(recipe, name="other"), 5), Task(architecture, recipe, 0)]
    beside = train_together(tasks, few, few, device=CPU, output=tmp_path / "beside")[1]
    assert beside is not None
    assert beside.path.read_bytes() == whole


def test_random_layers_draw_other_numbers_in_each_step(few: ImageSet) -> None:
    draws = []
    for numbers in ((0, 0), (0, 1), (1, 0), (0, 0)):
        with seed_global_generators(CPU, numbers):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[3])
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    assert not has_random_layers(training_run(few).model)


def test_an_interruption_within_an_epoch(few: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(few, tmp_path / "whole")
    real, calls = TrainingRun.compute_step, []

    def counted(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 5:  # three batches make an epoch
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "compute_step", counted)
        with pytest.raises(KeyboardInterrupt):
            run(few, tmp_path / "cut")
    assert run(few, tmp_path / "cut").path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("recipe", [SHORT, dataclasses.replace(SHORT, first_cosine_step=1)])
def test_an_interruption_before_the_weights_are_written(
    few: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    """All steps are done, and the last checkpoint is there."""
    whole = run(few, tmp_path / "whole", recipe)

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(logged_run, "write_tensors", stop)
        with pytest.raises(KeyboardInterrupt):
            run(few, tmp_path / "cut", recipe)
    watch = Watch()
    assert run(few, tmp_path / "cut", recipe, report=watch).path.read_bytes() == whole.path.read_bytes()
    assert watch.epochs == []


def test_what_is_finished_is_left_alone(few: ImageSet, tmp_path: Path) -> None:
    done = run(few, tmp_path)
    before = done.path.stat().st_mtime_ns
    assert run(few, tmp_path) == done
    assert done.path.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"with these settings; name another --output"):
        run(few, tmp_path, seed=1)
    for history in ("[]", "null", "{", "{}"):
        write_tensors(done.path, read_tensors(done.path), {METADATA_KEY: history})
        with pytest.raises(UsageError, match="with these settings"):
            run(few, tmp_path)


def test_a_checkpoint_of_another_run_or_none_at_all(few: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path, report=Watch(stop_after=1))
    with pytest.raises(UsageError, match="with other settings; name another --output"):
        run(few, tmp_path, seed=1)
    checkpoint = tmp_path / "wrn_16_1.digits.checkpoint"
    content = checkpoint.read_bytes()
    flips = random.Random(0)
    damaged = [b"", b"garbage", content[: len(content) // 2]]
    damaged += [flip_a_bit(content, flips.randrange(len(content)), flips.randrange(8)) for _ in range(60)]
    for wrong_content in damaged:
        checkpoint.write_bytes(wrong_content)
        # with a flipped bit in its settings it belongs to another run
        with pytest.raises((IntegrityError, UsageError), match="name another --output"):
            run(few, tmp_path)


def flip_a_bit(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


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
    with pytest.raises(KeyboardInterrupt):
        run(few, tmp_path, report=Watch(stop_after=1))
    monkeypatch.setattr(logged_run, "device_name", lambda device: "another one")
    history = json.loads(read_metadata(run(few, tmp_path).path)[METADATA_KEY])
    assert [part["from_epoch"] for part in history["computed"]] == [1, 2]
    assert history["computed"][1]["device"] == "another one"


def test_weights_that_are_no_numbers_are_not_written(few: ImageSet, tmp_path: Path) -> None:
    """The last step can ruin what the last loss did not show."""
    wild = dataclasses.replace(SHORT, epochs=1, batch_size=len(few), learning_rate=1e36, weight_decay=1e3)
    for _ in range(2):  # from the start, and from the last checkpoint
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


def test_it_learns(capsys: Any, tmp_path: Path) -> None:
    """The command on all training images, for a tenth of the recipe's epochs; its file is evaluated like any other."""
    arguments = ["train", "wrn_16_1", "--epochs", "10", "--output", str(tmp_path), "--format", "json"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    path = tmp_path / "wrn_16_1.digits.safetensors"
    assert captured.err.count("epoch ") == 10
    assert cli.main(["evaluate", str(path), "--format", "csv"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    # a quarter of the 899; guessing is wrong nine times in ten, and nine seeds had from 39 to 120 wrong
    assert int(row["wrong"]) < 225
    assert row["recorded"] == "none"
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    assert model.preprocessing == get_recipe("digits").preprocessing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["wrn_16_l"], "did you mean wrn_16_"),
        (["wrn_16_1", "--epochs", "0"], "must be positive"),
        (["wrn_16_1", "--seed", "-1"], "--seed -1"),
        (["wrn_16_1", "--seeds", "0", "-1"], "--seed -1"),
        (["wrn_16_1", "--minutes", "0"], "--minutes 0.0"),
        (["wrn_16_1", "--minutes", "nan"], "--minutes nan"),
        (["wrn_16_1", "--seeds", "0", "1"], "2 of these trainings would write wrn_16_1.digits"),
        (["wrn_16_1", "wrn_16_1"], "2 of these trainings would write wrn_16_1.digits"),
        (["wrn_16_1", "--dataset", "cifar10"], "'cifar10'; did you mean"),
        (["wrn_16_1", "--dataset", "mnist"], "'mnist'; did you mean"),
        (["wrn_16_1", "--recipe", "hysts_minst"], "'hysts_minst'; did you mean hysts_mnist"),
        (["wrn_16_1", "--recipe", "zzz"], "'zzz'; `pyramidzoo recipes`"),
        (
            ["resnet20", "--recipe", "hysts_mnist", "he2015_cifar10"],
            "different datasets, cifar10 and mnist",
        ),
        (["resnet20", "--recipe", "hysts_mnist"], "it is not known where MNIST is"),
    ],
)
def test_bad_requests(options: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["train", *options, "--output", str(tmp_path / "out")]) == (5 if "MNIST" in message else 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_checkpointing_changes_no_bit(few: ImageSet, tmp_path: Path) -> None:
    """Blocks are computed again in the backward pass; weights, statistics and log stay the same."""
    task = Task("wrn_16_1", SHORT, 3)
    plain, again = (
        train_together([task], few, few, device=CPU, output=tmp_path / str(value), grad_checkpointing=value)[0]
        for value in (False, True)
    )
    assert plain is not None
    assert again is not None
    assert plain.path.read_bytes() == again.path.read_bytes()


@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_a_batch_in_parts(few: ImageSet, mixup: float) -> None:
    """The gradients of the parts are added up, each with its share; BN normalizes over each part."""
    recipe = dataclasses.replace(SHORT, batch_size=50, mixup=mixup)
    data = TrainingImages(few, CPU)
    ours = TrainingRun("wrn_16_1", recipe, data, 0, CPU, dtype=torch.float64, accumulate=3)
    model = copy.deepcopy(ours.model).train()
    batches = ours.draw_epoch()
    ours.start_epoch(batches)
    ours.run_step(0)
    draws = batches[0]
    pixels = prepare_batch(data.images, draws, recipe, ours.normalize).double()
    targets = F.one_hot(data.labels[draws.index], 10).double()
    if mixup:
        assert draws.weight is not None
        share = draws.weight[0].double()
        targets = targets * share + targets[draws.partner] * (1 - share)
    for start, stop in ((0, 16), (16, 33), (33, 50)):  # 50 images in three parts
        losses = -(F.log_softmax(model(pixels[start:stop]), 1) * targets[start:stop]).sum(1)
        (losses.sum() / 50).backward()
    for name, parameter in model.named_parameters():
        found = dict(ours.model.named_parameters())[name].grad
        assert found is not None
        torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-12)  # float64, another order of sums
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(ours.model.named_buffers())[name], buffer)


def test_parts_are_recorded(few: ImageSet, tmp_path: Path) -> None:
    """A batch in parts gives another result, so it is another run."""
    task = Task("wrn_16_1", dataclasses.replace(SHORT, epochs=1), 0)
    (result,) = train_together([task], few, few, device=CPU, output=tmp_path, accumulate=2)
    assert result is not None
    assert json.loads(read_metadata(result.path)[METADATA_KEY])["run"]["accumulate"] == 2
    with pytest.raises(UsageError, match="these settings"):
        train_together([task], few, few, device=CPU, output=tmp_path)
