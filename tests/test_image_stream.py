"""Training from files of images: torchvision's changes, the same bytes with any processes, and clear errors."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagenet_tree import encode, make_picture, write_shards, write_tree
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from training_tools import Watch, load_few_digits, require_two_steps

from pyramidzoo import cli
from pyramidzoo.catalog import recipes
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.recipes import Recipe, get_recipe
from pyramidzoo.data import imagenet
from pyramidzoo.data._encoded import EncodedSet
from pyramidzoo.data.datasets import open_split
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.training.image_stream import ImageStream, StreamedImages, draw_lighting, draw_order, make_image_seed
from pyramidzoo.training.logged_run import Task, TrainingResult
from pyramidzoo.training.loop import train_together
from pyramidzoo.training.step import TrainingRun

CPU = torch.device("cpu")
SMALL = Preprocessing(
    (3, 24, 24), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=28, crop=24, interpolation="bicubic"
)
RECIPE = get_recipe("fb_imagenet").replace(
    name="small", epochs=3, batch_size=4, learning_rate=0.01, milestones=(2,), preprocessing=SMALL
)
CLASSES, EACH = 3, 5


def make_samples(classes: int, each: int) -> list[tuple[str, str, bytes]]:
    """Small images of the first classes of ImageNet: class, name, content."""
    return [
        (wnid, f"{wnid}_{number}.JPEG", encode(Image.fromarray(make_picture(48, 36 + number, 10 * label + number))))
        for label, wnid in enumerate(imagenet._list_wordnet_ids()[:classes])
        for number in range(each)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    write_tree(folder / "train", make_samples(CLASSES, EACH))
    write_tree(folder / "val", make_samples(CLASSES, 2))
    return folder


def open_few(folder: Path, split: str) -> EncodedSet:
    """A split as if ImageNet had three classes."""
    images = open_split("imagenet1k", split, folder)
    assert isinstance(images, EncodedSet)
    return dataclasses.replace(images, classes=CLASSES)


def run(folder: Path, output: Path, recipe: Recipe = RECIPE, report: Any = None, **options: Any) -> TrainingResult:
    (result,) = train_together(
        [Task("wrn_16_1", recipe, 0)],
        open_few(folder, "train"),
        open_few(folder, "val"),
        device=CPU,
        output=output,
        report=report or Watch(),
        **options,
    )
    assert result is not None
    return result


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A training without other processes and without an interruption."""
    return run(folder, tmp_path_factory.mktemp("whole"))


def test_processes_change_no_bit(folder: Path, whole: TrainingResult, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    assert run(folder, tmp_path, workers=2).path.read_bytes() == whole.path.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("stop_after", [1, 2])
def test_an_interrupted_training_goes_on(folder: Path, whole: TrainingResult, tmp_path: Path, stop_after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path, report=Watch(stop_after))
    watch = Watch()
    assert run(folder, tmp_path, report=watch).path.read_bytes() == whole.path.read_bytes()
    assert watch.epochs == list(range(stop_after + 1, 4))


def test_an_interruption_within_an_epoch(
    folder: Path, whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = TrainingRun.compute_step, []

    def stop_in_second_epoch(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 6:  # an epoch has four steps
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(TrainingRun, "compute_step", stop_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path)
    monkeypatch.undo()
    assert run(folder, tmp_path).path.read_bytes() == whole.path.read_bytes()


def test_the_log_counts_as_evaluate_does(folder: Path, whole: TrainingResult) -> None:
    record = evaluate(EvaluationTarget.from_file(whole.path), open_few(folder, "val"), ComputeSettings(CPU))
    assert whole.last["test_error"] == round(record.top1_error, 4)


def test_parquet(tmp_path: Path) -> None:
    """Images in groups of four rows: any number of processes gives the same."""
    for split, each in (("train", EACH), ("validation", 2)):
        labels = {wnid: label for label, wnid in enumerate(imagenet._list_wordnet_ids()[:CLASSES])}
        samples = [(name, labels[wnid], content) for wnid, name, content in make_samples(CLASSES, each)]
        write_shards(tmp_path / split, samples, shards=2, rows=4)
        for shard in (tmp_path / split).iterdir():
            (tmp_path / "data").mkdir(exist_ok=True)
            shard.rename(tmp_path / "data" / shard.name.replace("validation", split))
    first, second = (run(tmp_path, tmp_path / str(workers), workers=workers) for workers in (0, 2))
    assert first.path.read_bytes() == second.path.read_bytes()


def read_epoch(folder: Path, recipe: Recipe, seed: int, epoch: int) -> dict[int, Any]:
    """The inputs of one epoch, by the place of the image."""
    stream = ImageStream(StreamedImages(open_few(folder, "train"), CPU, 0), recipe, seed)
    batches = stream.draw_epoch(torch.Generator().manual_seed(seed))
    stream.start_epoch(epoch, batches)
    found: dict[int, Any] = {}
    for batch in batches:
        inputs = stream.next_inputs(lambda pixels: pixels)  # type: ignore[arg-type]
        found.update(zip(batch.index.tolist(), inputs, strict=True))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        (recipe.name, architecture)
        for recipe in recipes.RECIPES.values()
        if recipe.dataset == "imagenet1k"
        for architecture in recipe.rows.values()
    ],
)
def test_two_steps_of_each_recipe(folder: Path, name: str, architecture: str) -> None:
    """With images of 224 pixels, in batches of four."""
    recipe = get_recipe(name).replace(batch_size=4)
    require_two_steps(TrainingRun(architecture, recipe, StreamedImages(open_few(folder, "train"), CPU, 0), 0, CPU))


@pytest.mark.parametrize("color_jitter", [0.0, 0.4])
def test_images_are_changed_as_by_torchvision(folder: Path, color_jitter: float) -> None:
    recipe = RECIPE.replace(color_jitter=color_jitter, lighting=0.0)
    steps = [
        v2.RandomResizedCrop(24, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation=InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        *([v2.ColorJitter(0.4, 0.4, 0.4)] if color_jitter else []),
    ]
    found = read_epoch(folder, recipe, seed=3, epoch=2)
    assert sorted(found) == list(range(CLASSES * EACH))
    for place, (_, _, content) in enumerate(make_samples(CLASSES, EACH)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(make_image_seed(3, 2, place))
            expected = np.asarray(v2.Compose(steps)(Image.open(io.BytesIO(content)).convert("RGB")))
        assert np.array_equal(found[place].permute(1, 2, 0).numpy(), expected)
    for seed, epoch in ((4, 2), (3, 1)):
        others = read_epoch(folder, recipe, seed, epoch)
        assert sum(torch.equal(found[place], others[place]) for place in found) < 3


def test_the_light_changes_along_the_main_colours() -> None:
    """The formula of AlexNet's paper: the directions times (normal numbers times variances)."""
    directions = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    normal = (torch.randn(3, generator=torch.Generator().manual_seed(5)) * 0.1).tolist()
    shares = [number * variance for number, variance in zip(normal, (0.2175, 0.0188, 0.0045), strict=True)]
    expected = [sum(a * b for a, b in zip(row, shares, strict=True)) for row in directions]
    torch.testing.assert_close(draw_lighting(0.1, 5), torch.tensor(expected))


def test_light_is_added_before_the_normalization(folder: Path) -> None:
    stream = ImageStream(StreamedImages(open_few(folder, "train"), CPU, 0), RECIPE, 0)
    dark = ImageStream(stream.data, RECIPE.replace(lighting=0.0), 0)
    training = TrainingRun("wrn_16_1", RECIPE, stream.data, 0, CPU)
    batches = stream.draw_epoch(torch.Generator().manual_seed(0))
    inputs = []
    for one in (stream, dark):
        one.start_epoch(0, batches)
        inputs.append(one.next_inputs(training.normalize))
        one.close()
    place = int(batches[0].index[1])
    expected = draw_lighting(0.1, make_image_seed(0, 0, place, 1)) / torch.tensor(SMALL.std)
    found = (inputs[0] - inputs[1])[1]
    torch.testing.assert_close(found, expected[:, None, None].expand_as(found), rtol=0, atol=1e-5)


def test_groups_are_shuffled_together() -> None:
    order = draw_order(400, range(0, 400, 10), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(400))
    for start in (0, 160, 320):  # the images of sixteen groups, in any order
        groups = {place // 10 for place in order[start : start + 160].tolist()}
        assert len(groups) == min(16, 40 - start // 10)
    assert len({place // 10 for place in order[:10].tolist()}) > 3


def test_a_class_without_images(folder: Path) -> None:
    with pytest.raises(UnavailableError, match=r"training images of 3 of the 1,000 classes of imagenet1k; complete"):
        StreamedImages(dataclasses.replace(open_few(folder, "train"), classes=1000), CPU, 0)


def test_a_damaged_image(folder: Path, tmp_path: Path) -> None:
    samples = make_samples(CLASSES, EACH)
    samples[7] = (*samples[7][:2], samples[7][2][:400])
    write_tree(tmp_path / "train", samples)
    write_tree(tmp_path / "val", make_samples(CLASSES, 2))
    for workers in (0, 1):
        with pytest.raises(IntegrityError, match=rf"{samples[7][1]} is damaged: .*; get it again"):
            run(tmp_path, tmp_path / "out", workers=workers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": 4, "mixup": 1.0}, "recipe small has padding, mixup, which is only for images in memory"),
        ({"random_area": None}, "recipe small has no random_area"),
        ({"preprocessing": get_recipe("digits").preprocessing}, "resize None"),
        ({"batch_size": 16, "drop_incomplete": True}, "takes 16 images a step; there are 15"),
    ],
)
def test_recipes_that_do_not_fit(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(folder, tmp_path, RECIPE.replace(**changes))


def test_changes_of_large_images_on_small_ones(tmp_path: Path) -> None:
    few, recipe = load_few_digits(), get_recipe("digits").replace(lighting=0.1)
    with pytest.raises(UsageError, match="recipe digits has lighting, which is only for images in files"):
        train_together([Task("wrn_16_1", recipe, 0)], few, few, device=CPU, output=tmp_path)


def test_the_command(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of a thousand classes with an image each. The file knows how its images are prepared."""
    monkeypatch.setitem(recipes.RECIPES, "small", RECIPE.replace(batch_size=100))
    write_tree(tmp_path / "data" / "train", make_samples(1000, 1))
    write_tree(tmp_path / "data" / "val", make_samples(CLASSES, 2))
    command = ["train", "wrn_16_1", "--recipe", "small", "--epochs", "1", "--output", str(tmp_path), "--format", "json"]
    assert cli.main([*command, "-j", "1", "--data-dir", str(tmp_path / "data")]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    target = EvaluationTarget.from_file(Path(row["path"]))
    record = evaluate(target, open_split("imagenet1k", None, tmp_path / "data"), ComputeSettings(CPU))
    assert round(record.top1_error, 4) == row["test_error"]


@pytest.mark.parametrize(
    ("classes", "options", "code", "message"),
    [
        (0, [], 5, "the training images of ImageNet are not in "),
        (2, [], 5, "there are training images of 2 of the 1,000 classes"),
        (2, ["-j", "-1"], 2, "-j -1: the number of processes cannot be negative"),
    ],
)
def test_bad_requests(classes: int, options: list[str], code: int, message: str, tmp_path: Path, capsys: Any) -> None:
    write_tree(tmp_path / "train", make_samples(classes, 1))
    write_tree(tmp_path / "val", make_samples(2, 1))
    command = ["train", "resnet18", "--recipe", "fb_imagenet", "--data-dir", str(tmp_path), *options]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_classes(tmp_path: Path, capsys: Any) -> None:
    write_tree(tmp_path / "train", [("cats", "1.JPEG", make_samples(1, 1)[0][2])])
    command = ["train", "resnet18", "--recipe", "fb_imagenet", "--data-dir", str(tmp_path)]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 5
    assert "has 1 folders, one of them 'cats'; name them by ImageNet's WordNet ids" in capsys.readouterr().err
