"""Several trainings side by side: none depends on another, and files, settings and images must fit each other."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tools import Watch, load_few_digits

from pyramidzoo import cli
from pyramidzoo.catalog import recipes
from pyramidzoo.catalog.recipes import RECIPES, Recipe, get_recipe
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_tensors
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.training import logged_run, loop
from pyramidzoo.training.logged_run import METADATA_KEY, Epoch, Task, TrainingResult
from pyramidzoo.training.loop import train, train_together
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
SHORT = dataclasses.replace(get_recipe("digits"), epochs=3)
LONGER = dataclasses.replace(SHORT, name="longer", epochs=4, learning_rate=0.05, drop_incomplete=True)
WILD = dataclasses.replace(SHORT, name="wild", learning_rate=1e30)


@pytest.fixture(scope="module")
def few() -> ImageSet:
    return load_few_digits()


def together(few: ImageSet, output: Path, *tasks: Task, **options: Any) -> list[TrainingResult | None]:
    return train_together(tasks, few, few, device=CPU, output=output, **options)


def paths(results: list[TrainingResult | None]) -> list[Path]:
    """The files of trainings that all have ended."""
    assert None not in results
    return [done.path for done in results if done is not None]


def test_results_do_not_depend_on_what_runs_beside(few: ImageSet, tmp_path: Path) -> None:
    """Different networks, recipes with other numbers of steps and epochs, and seeds: the bytes of each one alone."""
    tasks = [
        Task("wrn_16_1", SHORT, 0),
        Task("wrn_16_1", LONGER, 0),
        Task("wrn_16_1", LONGER, 1),
        Task("resnet20", SHORT, 7),
    ]
    seen: list[tuple[str, int]] = []
    beside = paths(
        together(few, tmp_path / "all", *tasks, report=lambda task, epoch: seen.append((task.stem, epoch.epoch)))
    )
    for task, path in zip(tasks, beside, strict=True):
        (alone,) = paths(together(few, tmp_path / "alone", task))
        assert path.name == alone.name == f"{task.stem}.safetensors"
        assert path.read_bytes() == alone.read_bytes()
        assert [epoch for stem, epoch in seen if stem == task.stem] == list(range(1, task.recipe.epochs + 1))
    assert sorted(path.suffix for path in (tmp_path / "all").iterdir()) == [
        *[".csv"] * 4,
        *[".jsonl"] * 2,  # the recipe of the digits, which SHORT has, keeps its old files
        *[".safetensors"] * 4,
    ]


def test_one_network_by_train_and_together(few: ImageSet, tmp_path: Path) -> None:
    alone = train("wrn_16_1", SHORT, few, few, seed=3, device=CPU, output=tmp_path / "a")
    (path,) = paths(together(few, tmp_path / "b", Task("wrn_16_1", SHORT, 3)))
    assert path.read_bytes() == alone.path.read_bytes()


def test_names_of_files() -> None:
    """A recipe that is the dataset's own is not named; every other is, with the seed."""
    assert Task("wrn_16_1", SHORT, 5).stem == "wrn_16_1.digits"
    assert Task("preresnet20", get_recipe("hysts_mnist"), 5).stem == "preresnet20.hysts_mnist.seed5"


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (loop, logged_run):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_the_time_is_over(few: ImageSet, tmp_path: Path, clock: Clock, checkpoint_seconds: float) -> None:
    """Epochs of one minute each: two end within 2.5 minutes. What ends in time has its files, the other goes on."""
    tasks = [Task("wrn_16_1", dataclasses.replace(SHORT, name="two", epochs=2), 0), Task("wrn_16_1", LONGER, 0)]
    whole = paths(together(few, tmp_path / "whole", *tasks))
    seen: list[tuple[str, int]] = []

    def report(task: Task, epoch: Epoch) -> None:
        seen.append((task.recipe.name, epoch.epoch))
        clock.now += 60 if task is tasks[1] else 0

    options: dict[str, Any] = {"minutes": 2.5, "checkpoint_seconds": checkpoint_seconds, "report": report}
    first, second = together(few, tmp_path / "cut", *tasks, **options)
    assert seen == [("two", 1), ("longer", 1), ("two", 2), ("longer", 2)]
    assert first is not None
    assert second is None
    assert (tmp_path / "cut" / f"{tasks[1].stem}.checkpoint").exists()
    log = (tmp_path / "cut" / f"{tasks[1].stem}.csv").read_text().splitlines()
    assert [line["epoch"] for line in csv.DictReader(log)] == ["1", "2"]

    seen.clear()
    resumed = paths(together(few, tmp_path / "cut", *tasks, **options))
    assert seen == [("longer", 3), ("longer", 4)]
    assert [path.read_bytes() for path in resumed] == [path.read_bytes() for path in whole]


def test_no_time_for_an_epoch(few: ImageSet, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the network has taken the time: nothing is trained, and the checkpoint is there."""
    real = logged_run.TrainingRun.__init__

    def slow(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        clock.now += 60

    monkeypatch.setattr(logged_run.TrainingRun, "__init__", slow)
    assert together(few, tmp_path, Task("wrn_16_1", SHORT, 0), minutes=0.5) == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["wrn_16_1.digits.checkpoint"]


def test_rare_checkpoints(few: ImageSet, tmp_path: Path, clock: Clock) -> None:
    """A checkpoint at least ten seconds after the one before: of epoch 2, not of 1 and 3. The bytes stay the same."""
    task = Task("wrn_16_1", LONGER, 0)
    (whole,) = paths(together(few, tmp_path / "whole", task))

    def stop(task: Task, epoch: Epoch) -> None:
        clock.now += 10 if epoch.epoch == 1 else 0
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(few, tmp_path / "cut", task, checkpoint_seconds=10, report=stop)
    watch = Watch()
    (path,) = paths(together(few, tmp_path / "cut", task, report=watch))
    assert watch.epochs == [3, 4]
    assert path.read_bytes() == whole.read_bytes()


def test_one_that_diverges_does_not_take_the_others_with_it(few: ImageSet, tmp_path: Path) -> None:
    (alone,) = paths(together(few, tmp_path / "alone", Task("wrn_16_1", SHORT, 0)))
    tasks = [Task("wrn_16_1", WILD, 0), Task("wrn_16_1", SHORT, 0), Task("wrn_16_1", WILD, 1)]
    with pytest.raises(IntegrityError, match=r"loss of epoch 1 is (nan|inf); lower the learning rate") as raised:
        together(few, tmp_path / "all", *tasks)
    assert re.findall(r"wrn_16_1\.\w+\.seed\d", str(raised.value)) == ["wrn_16_1.wild.seed0", "wrn_16_1.wild.seed1"]
    assert [path.name for path in (tmp_path / "all").glob("*.safetensors")] == [alone.name]
    assert (tmp_path / "all" / alone.name).read_bytes() == alone.read_bytes()


def test_weights_that_are_no_numbers_in_one_of_several(few: ImageSet, tmp_path: Path) -> None:
    """The last step ruins one network after its last loss; also where the same call finds its last checkpoint."""
    ruined = dataclasses.replace(
        SHORT, name="ruined", epochs=1, batch_size=len(few), learning_rate=1e36, weight_decay=1e3
    )
    for epochs in (2, 3):
        others = Task("wrn_16_1", dataclasses.replace(SHORT, name=f"for{epochs}", epochs=epochs), 0)
        with pytest.raises(IntegrityError, match=r"^[^;]*wrn_16_1\.ruined\.seed0 after epoch 1[^;]*NaN or infinite"):
            together(few, tmp_path, Task("wrn_16_1", ruined, 0), others)
        assert (tmp_path / f"{others.stem}.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "entry"),
    [({"precision": "bf16"}, {"precision": "bf16"}), ({"fixed_algorithms": False}, {"algorithms": "fastest"})],
)
def test_settings_are_part_of_what_a_run_is(
    few: ImageSet, tmp_path: Path, options: dict[str, Any], entry: dict[str, str]
) -> None:
    """What a file or a checkpoint says of itself has them, and other settings in the same folder are refused."""
    short = Task("wrn_16_1", dataclasses.replace(SHORT, epochs=1), 0)

    with pytest.raises(KeyboardInterrupt):
        together(few, tmp_path / "cut", Task("wrn_16_1", SHORT, 0), report=Watch(stop_after=1))
    with pytest.raises(UsageError, match="with other settings; name another --output"):
        together(few, tmp_path / "cut", Task("wrn_16_1", SHORT, 0), **options)

    (strict,) = paths(together(few, tmp_path / "strict", short))
    (other,) = paths(together(few, tmp_path / "other", short, **options))
    other_options: dict[str, dict[str, Any]] = {"strict": options, "other": {}}
    for folder, its_options in other_options.items():
        with pytest.raises(UsageError, match="with these settings"):
            together(few, tmp_path / folder, short, **its_options)
    runs = [json.loads(read_metadata(path)[METADATA_KEY])["run"] for path in (strict, other)]
    assert runs[1] == {**runs[0], **entry}
    assert not set(entry) & set(runs[0])


def test_bf16_computes_otherwise_and_goes_on_after_an_interruption(few: ImageSet, tmp_path: Path) -> None:
    task = Task("wrn_16_1", SHORT, 0)
    (strict,) = paths(together(few, tmp_path / "strict", task))
    (whole,) = paths(together(few, tmp_path / "whole", task, precision="bf16"))
    a, b = read_tensors(strict), read_tensors(whole)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in a.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in b.items()
    }
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])

    with pytest.raises(KeyboardInterrupt):
        together(few, tmp_path / "cut", task, precision="bf16", report=Watch(stop_after=2))
    (resumed,) = paths(together(few, tmp_path / "cut", task, precision="bf16"))
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_seed_in_the_folder_of_another(few: ImageSet, tmp_path: Path) -> None:
    """Named recipes have the seed in the names of their files, so that seeds lie side by side."""
    (own,) = paths(together(few, tmp_path, Task("wrn_16_1", dataclasses.replace(SHORT, epochs=1), 0)))
    with pytest.raises(UsageError, match="with these settings"):
        together(few, tmp_path, Task("wrn_16_1", dataclasses.replace(SHORT, epochs=1), 1))
    quick = dataclasses.replace(SHORT, name="quick", epochs=1)
    first, second = paths(together(few, tmp_path, Task("wrn_16_1", quick, 0), Task("wrn_16_1", quick, 1)))
    assert len({own, first, second}) == 3
    assert first.read_bytes() != second.read_bytes()


def images_for(recipe: Recipe, name: str = "", size: tuple[int, int, int] | None = None, count: int = 10) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    shape = (count, *(size or recipe.preprocessing.input_size))
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return ImageSet(name or recipe.dataset, "train", 10, pixels, labels, "0" * 64)


@pytest.mark.parametrize(
    ("name", "architecture"), [("hysts_mnist_cutout6", "preresnet20"), ("he2015_cifar10", "resnet20")]
)
def test_datasets_of_other_channels_and_sizes(name: str, architecture: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(get_recipe(name), batch_size=4).with_epochs(2, 10)
    images = images_for(recipe)
    trained = train(architecture, recipe, images, images, seed=2, device=CPU, output=tmp_path)
    assert trained.path.name == f"{architecture}.{name}.seed2.safetensors"
    description = Description.from_file(trained.path)
    assert description is not None
    assert (description.architecture, description.dataset) == (architecture, recipe.dataset)
    assert description.preprocessing == recipe.preprocessing
    story = json.loads(read_metadata(trained.path)[METADATA_KEY])["run"]
    assert (story["name"], story["seed"], story["epochs"]) == (name, 2, 2)
    assert trained.last["epoch"] == 2


def test_images_that_a_recipe_is_not_made_for(few: ImageSet, tmp_path: Path) -> None:
    recipe = get_recipe("he2015_cifar10")
    cases = [
        (few, "he2015_cifar10 trains on cifar10, .* digits"),
        (images_for(recipe, size=(1, 32, 32)), r"recipe he2015_cifar10 wants images of \(3, 32, 32\)"),
        (images_for(recipe, size=(3, 28, 28)), r"recipe he2015_cifar10 wants images of \(3, 32, 32\)"),
        (images_for(recipe), "he2015_cifar10 takes 128 images .* 10"),
    ]
    for images, message in cases:
        with pytest.raises(UsageError, match=message):
            train("resnet20", recipe, images, images, seed=0, device=CPU, output=tmp_path / "out")
    right = images_for(recipe, count=128)
    with pytest.raises(UsageError, match="these images are digits"):
        train("resnet20", recipe, right, few, seed=0, device=CPU, output=tmp_path / "out")
    with pytest.raises(UsageError, match=r"hysts_mnist trains on mnist, .* digits"):
        together(few, tmp_path / "out", Task("wrn_16_1", SHORT, 0), Task("wrn_16_1", get_recipe("hysts_mnist"), 0))
    assert not (tmp_path / "out").exists()


def test_files_of_one_name(few: ImageSet, tmp_path: Path) -> None:
    for tasks in (
        [Task("wrn_16_1", SHORT, 0), Task("wrn_16_1", SHORT, 1)],
        [Task("wrn_16_1", LONGER, 0), Task("wrn_16_1", LONGER, 0)],
    ):
        with pytest.raises(UsageError, match=rf"^2 of these trainings would write {tasks[0].stem}\.safetensors; "):
            together(few, tmp_path / "out", *tasks)
    assert not (tmp_path / "out").exists()


def test_the_command_with_several_of_everything(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, two recipes and two seeds are eight trainings, in this order; the same command finds them done."""
    named = {
        name: dataclasses.replace(SHORT, name=name, batch_size=449, learning_rate=rate)
        for name, rate in (("low", 0.01), ("high", 0.1))
    }
    monkeypatch.setattr(recipes, "RECIPES", {**RECIPES, **named})
    arguments = ["train", "wrn_16_1", "resnet20", "--recipe", "low", "high", "--seeds", "4", "5", "--epochs", "1"]
    arguments += ["--output", str(tmp_path), "--format", "json"]
    expected = [
        f"{network}.{recipe}.seed{seed}"
        for network in ("wrn_16_1", "resnet20")
        for recipe in ("low", "high")
        for seed in (4, 5)
    ]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [Path(row["path"]).stem for row in rows] == [Path(row["log"]).stem for row in rows] == expected
    assert [line.split(": epoch 1/1: ")[0] for line in captured.err.splitlines() if ": epoch" in line] == expected
    for row in rows:
        run = json.loads(read_metadata(Path(row["path"]))[METADATA_KEY])["run"]
        assert f"{run['architecture']}.{run['name']}.seed{run['seed']}" == Path(row["path"]).stem
    assert cli.main(arguments) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == rows
    assert again.err == ""


def test_the_command_stops_in_time_and_goes_on(tmp_path: Path, capsys: Any) -> None:
    """So little time that no epoch begins: the command says so and succeeds, and without the limit it goes on."""
    arguments = ["train", "wrn_16_1", "--epochs", "1", "--output", str(tmp_path), "--format", "json"]
    assert cli.main([*arguments, "--minutes", "0.000001"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == []
    assert re.search("time was over for 1 of 1; .* continues", captured.err)
    assert cli.main(arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["epoch"] == 1


def test_the_command_with_precision_and_algorithms(tmp_path: Path, capsys: Any) -> None:
    arguments = ["train", "wrn_16_1", "--epochs", "1", "--output", str(tmp_path), "--format", "json"]
    assert cli.main([*arguments, "--precision", "bf16", "--algorithms", "fastest"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    run = json.loads(read_metadata(Path(row["path"]))[METADATA_KEY])["run"]
    assert (run["precision"], run["algorithms"]) == ("bf16", "fastest")
    assert cli.main(arguments) == 2
    assert "with these settings" in capsys.readouterr().err


# --- fewer at once: `together` ---


FOUR = [
    Task("wrn_16_1", SHORT, 0),
    Task("wrn_16_1", LONGER, 0),
    Task("wrn_16_1", LONGER, 1),
    Task("resnet20", dataclasses.replace(SHORT, name="brief", epochs=1), 7),
]


@pytest.fixture(scope="module")
def all_at_once(few: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of the files of four trainings side by side."""
    return [path.read_bytes() for path in paths(together(few, tmp_path_factory.mktemp("all"), *FOUR))]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_number_at_once_changes_no_result(
    few: ImageSet, tmp_path: Path, all_at_once: list[bytes], number: int
) -> None:
    seen: list[str] = []
    done = together(few, tmp_path, *FOUR, together=number, report=lambda task, epoch: seen.append(task.stem))
    assert [path.read_bytes() for path in paths(done)] == all_at_once
    order = {
        # one after the other
        1: [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3],
        # the third one starts when the first one has ended, and the fourth one when the second one has ended
        2: [0, 1, 0, 1, 0, 1, 1, 2, 2, 3, 2, 2],
        5: [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 1, 2],
    }[number]
    assert seen == [FOUR[place].stem for place in order]


@pytest.mark.parametrize("method", ["__init__", "start_epoch", "run_step", "count_wrong"])
def test_a_training_without_memory_waits(
    few: ImageSet,
    tmp_path: Path,
    all_at_once: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    """There is memory for two networks. A third one waits, and those that have ended take no memory."""
    existing: weakref.WeakSet[TrainingRun] = weakref.WeakSet()
    real = getattr(TrainingRun, method)

    def need_memory(run: TrainingRun, *arguments: Any, **options: Any) -> Any:
        existing.add(run)
        if len(existing) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(run, *arguments, **options)

    monkeypatch.setattr(TrainingRun, method, need_memory)
    done = together(few, tmp_path / "some", *FOUR)
    assert [path.read_bytes() for path in paths(done)] == all_at_once
    assert "it waits until another training has ended" in capsys.readouterr().err
    with pytest.raises(UnavailableError, match="--together"):
        together(few, tmp_path / "fixed", *FOUR, together=3)


def test_the_time_is_over_before_all_have_started(
    few: ImageSet, tmp_path: Path, clock: Clock, all_at_once: list[bytes]
) -> None:
    def report(task: Task, epoch: Epoch) -> None:
        clock.now += 60

    first, *others = together(few, tmp_path, *FOUR, together=1, minutes=3.5, report=report)
    assert first is not None
    assert others == [None] * 3
    assert clock.now == 180
    assert [path.read_bytes() for path in paths(together(few, tmp_path, *FOUR, together=1))] == all_at_once


def test_a_wrong_checkpoint_is_found_before_its_training_has_its_turn(few: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        together(few, tmp_path, FOUR[1], report=Watch(stop_after=1))
    watch = Watch()
    with pytest.raises(UsageError, match=f"{FOUR[1].stem}.checkpoint belongs to a training with other settings"):
        together(few, tmp_path, *FOUR, together=1, precision="bf16", report=watch)
    assert watch.epochs == []


def test_one_that_diverges_gives_its_place_to_the_next(few: ImageSet, tmp_path: Path) -> None:
    tasks = [Task("wrn_16_1", WILD, 0), Task("wrn_16_1", LONGER, 1)]
    with pytest.raises(IntegrityError, match="loss of epoch 1"):
        together(few, tmp_path, *tasks, together=1)
    assert (tmp_path / f"{tasks[1].stem}.safetensors").exists()


def test_the_command_with_few_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "wrn_16_1", "resnet20", "--epochs", "1", "--output", str(tmp_path), "--together"]
    assert cli.main([*arguments, "1"]) == 0
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    capsys.readouterr()
    assert cli.main([*arguments, "0"]) == 2
    assert "--together 0" in capsys.readouterr().err
