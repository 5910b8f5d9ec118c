"""ImageNet from trees and Parquet files: pixels as in torchvision and timm, known counts, and no image is left out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
import torchvision
from command_line import CommandResult, RunCommand
from imagenet_tree import generate_samples, make_jpeg, make_unusual_images, write_shards, write_tree
from messages import raises_with_words, require_words
from PIL import Image, ImageFile
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.weights_entry import Result
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.checkpoints.safetensors_file import write_tensors
from pyramidzoo.data import imagenet
from pyramidzoo.data._class_order import sort_folders
from pyramidzoo.data._decoding import Decoder
from pyramidzoo.data._encoded import EncodedSet, _DecodedSpans
from pyramidzoo.data._splits import ReaderOptions, Split
from pyramidzoo.data.datasets import load_dataset, open_split
from pyramidzoo.data.transforms import Normalize, Override, eval_transform
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import engine
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model
from pyramidzoo.evaluation.judging import conclude
from pyramidzoo.evaluation.planning import plan
from pyramidzoo.evaluation.predictions import Part
from pyramidzoo.evaluation.records import read_records
from pyramidzoo.evaluation.tables import Measurement, make_table_rows, measurements_from_records
from pyramidzoo.evaluation.verdicts import describe_protocol

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL_PREPROCESSING = Preprocessing((3, 32, 32), MEAN, STD, resize=36, crop=32, interpolation="bilinear")


def make_preprocessing(resize: int, crop: int, interpolation: str) -> Preprocessing:
    return Preprocessing((3, crop, crop), MEAN, STD, resize=resize, crop=crop, interpolation=interpolation)


def open_imagenet(folder: Path, **options: Any) -> Split:
    """Open the images of ImageNet in a folder."""
    return open_split("imagenet1k", None, folder, **options)


def read_pixels(
    images: Split, preprocessing: Preprocessing, reading: ReaderOptions | None = None, batch: int = 4
) -> Any:
    """Read all images as a network gets them, in the order of their indices."""
    spans = [(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    normalize = Normalize(preprocessing)
    with contextlib.closing(images.read_batches(spans, preprocessing, CPU, reading or ReaderOptions())) as batches:
        pixels = torch.cat([normalize(batch) for batch in batches])
    return pixels[np.argsort(images.get_indices(0, len(images)))]


@pytest.fixture(scope="module")
def unusual_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tree of images of unusual sizes and modes, all of one class."""
    folder = tmp_path_factory.mktemp("unusual")
    write_tree(folder / "val", [("n01440764", name, content) for name, content in make_unusual_images().items()])
    return folder


# resize, crop, interpolation
PROTOCOLS = [(36, 32, "bilinear"), (36, 32, "bicubic"), (33, 32, "bicubic"), (32, 32, "bilinear"), (17, 11, "bicubic")]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
def test_pixels_equal_those_of_torchvision_and_timm(protocol: tuple[int, int, str], unusual_folder: Path) -> None:
    resize, crop, interpolation = protocol
    torchvision_transform = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    timm_transform = timm.data.create_transform(
        input_size=crop, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop / (resize + 0.1)
    )
    assert resize == next(step.size for step in timm_transform.transforms if isinstance(step, transforms.Resize))
    reference = ImageFolder(str(unusual_folder / "val"))  # It loads images with Pillow and converts them to RGB.
    all_pixels = read_pixels(open_imagenet(unusual_folder), make_preprocessing(*protocol))
    assert len(all_pixels) == len(reference) == len(make_unusual_images())
    our_transform = eval_transform(make_preprocessing(*protocol))
    for (path, _), (image, _), pixels in zip(reference.samples, reference, all_pixels, strict=True):
        assert torch.equal(pixels, torchvision_transform(image)), path
        assert torch.equal(pixels, timm_transform(image)), path
        assert torch.equal(pixels, our_transform(image)), path


def test_the_orientation_of_exif_is_not_applied(unusual_folder: Path) -> None:
    names = sorted(make_unusual_images())
    pixels = dict(zip(names, read_pixels(open_imagenet(unusual_folder), SMALL_PREPROCESSING), strict=True))
    with Image.open(unusual_folder / "val/n01440764/orientation6.JPEG") as turned:
        assert turned.getexif()[0x0112] == 6
    expected = pixels["plain.JPEG"]  # the same image without EXIF
    assert torch.equal(pixels["orientation3.JPEG"], expected)
    assert torch.equal(pixels["orientation6.JPEG"], expected)


def test_the_number_of_processes_and_the_batch_size_change_no_pixel(unusual_folder: Path) -> None:
    images = open_imagenet(unusual_folder)
    alone = read_pixels(images, SMALL_PREPROCESSING)
    state = torch.get_rng_state()
    assert torch.equal(read_pixels(images, SMALL_PREPROCESSING, ReaderOptions(workers=2), batch=3), alone)
    assert torch.equal(torch.get_rng_state(), state)
    assert multiprocessing.active_children() == []


def test_resizing_tensors_changes_pixels_by_at_most_two_grey_levels(tmp_path: Path) -> None:
    contents = [make_jpeg(120, 90, seed) for seed in range(4)]
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", content) for k, content in enumerate(contents)])
    images = open_imagenet(tmp_path)
    for interpolation in ("bilinear", "bicubic"):
        protocol, levels = make_preprocessing(64, 56, interpolation), []
        for tensor_resize in (False, True):
            with contextlib.closing(
                images.read_batches([(0, 4)], protocol, CPU, ReaderOptions(0, tensor_resize))
            ) as batches:
                levels.append(next(batches).int())
        difference = (levels[0] - levels[1]).abs()
        assert 0 < difference.max() <= 2


DAMAGES = {  # functions that damage the bytes of an image
    "truncated": lambda whole: whole[: len(whole) // 2],
    "two bytes short": lambda whole: whole[:-2],
    "empty": lambda whole: b"",
    "no image": lambda whole: b"<html>not found</html>",
    "no header": lambda whole: whole[:4] + bytes(200),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_an_error_that_names_the_file(
    damage: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_jpeg(80, 60)
    contents = {"a.JPEG": whole, "b.JPEG": DAMAGES[damage](whole), "c.JPEG": whole}
    write_tree(tmp_path / "val", [("n01440764", *item) for item in contents.items()])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # Some libraries set this.
    images = open_imagenet(tmp_path)
    with raises_with_words(IntegrityError, "n01440764/b.JPEG", "damaged") as caught:
        read_pixels(images, SMALL_PREPROCESSING, ReaderOptions(workers))
    # The processes end at once, although the error still holds references to the frames.
    assert multiprocessing.active_children() == []
    assert "a.JPEG" not in str(caught.value)
    assert "c.JPEG" not in str(caught.value)
    assert caught.value.exit_code == 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_image_that_was_deleted_is_an_error(tmp_path: Path) -> None:
    write_tree(tmp_path / "val", [("n01440764", "a.JPEG", make_jpeg())])
    images = open_imagenet(tmp_path)
    (tmp_path / "val/n01440764/a.JPEG").unlink()
    for workers in (0, 1):
        with raises_with_words(UnavailableError, "a.JPEG", "No such file"):
            read_pixels(images, SMALL_PREPROCESSING, ReaderOptions(workers))


# --- folders with images ---


@pytest.mark.parametrize("place", ["", "imagenet", "ILSVRC2012", "imagenet-1k"])
@pytest.mark.parametrize("form", ["val", "validation", "data", "shards"])
def test_images_are_found_in_folders_with_the_usual_names(place: str, form: str, tmp_path: Path) -> None:
    content = make_jpeg()
    folder = tmp_path / place
    if form in ("val", "validation"):
        write_tree(folder / form, [("n01443537", "a.JPEG", content)])
    else:
        write_shards(folder / "data" if form == "data" else folder / "parquet", [("a", 1, content)], shards=1)
        for shard in [] if form == "data" else (folder / "parquet").iterdir():
            shard.rename(folder / shard.name)
    images = open_split("imagenet1k", "val", tmp_path)
    assert (images.name, images.split, images.classes, len(images)) == ("imagenet1k", "val", 1000, 1)
    assert images.labels.tolist() == [1]


def test_the_folder_may_hold_the_folders_of_the_classes_directly(tmp_path: Path) -> None:
    content = make_jpeg()
    write_tree(tmp_path, [("n01443537", "a.JPEG", content)])
    assert open_imagenet(tmp_path).labels.tolist() == [1]


def test_labels_equal_those_of_torchvision(tmp_path: Path) -> None:
    wnids = imagenet._list_wordnet_ids()
    assert len(wnids) == 1000
    assert wnids == sorted(wnids)
    content = make_jpeg()
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    write_tree(tmp_path / "val", [(wnids[k], f"{k}.JPEG", content) for k in (999, 3, 500, 3)])
    torch.save(({wnid: (wnid,) for wnid in wnids}, []), tmp_path / "meta.bin")
    reference = ImageFolder(tmp_path / "val", allow_empty=True)
    with contextlib.suppress(FileNotFoundError):  # Some versions refuse empty classes.
        reference = torchvision.datasets.ImageNet(tmp_path, split="val")
    assert [label for _, label in reference.samples] == [3, 500, 999]
    assert open_imagenet(tmp_path).labels.tolist() == [3, 500, 999]
    for wnid in wnids[:3]:  # Labels must stay as they are when folders of empty classes are missing.
        (tmp_path / "val" / wnid).rmdir()
    assert open_imagenet(tmp_path).labels.tolist() == [3, 500, 999]


def test_a_missing_folder_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with raises_with_words(UnavailableError, "ImageNet", "folder", "val/CLASS"):
        open_split("imagenet1k", None, None)
    with raises_with_words(UnavailableError, "ImageNet", "folder", "val/CLASS") as caught:
        open_imagenet(tmp_path, download=True)
    assert str(tmp_path) in str(caught.value)


def test_wrong_splits_and_reading_into_memory_are_refused(tmp_path: Path) -> None:
    with raises_with_words(UsageError, "ImageNet", "split 'test'", "val"):
        open_split("imagenet1k", "test", tmp_path)
    with raises_with_words(UsageError, "ImageNet", "memory", "open_split"):
        load_dataset("imagenet1k", "val", tmp_path)


def test_folders_without_classes_or_without_images_are_refused(tmp_path: Path) -> None:
    content = make_jpeg()
    write_tree(tmp_path, [("val", "ILSVRC2012_val_00000001.JPEG", content)])
    with raises_with_words(
        UnavailableError, "classes", "ILSVRC2012_img_val.tar", "torchvision.datasets import ImageNet"
    ):
        open_imagenet(tmp_path)
    write_tree(tmp_path / "val", [("0", "a.JPEG", content), ("n01440764", "a.JPEG", content)])
    with raises_with_words(UnavailableError, "2 folders", "'0'", "WordNet", "n01440764"):
        open_imagenet(tmp_path)
    (tmp_path / "other/val/n01440764").mkdir(parents=True)
    with raises_with_words(UnavailableError, "other/val", "no images"):
        open_imagenet(tmp_path / "other")


# --- the order of the classes ---


def make_tree(folder: Path, names: Sequence[str], *, images: Sequence[int] = (999, 10, 2, 1)) -> Path:
    """Make a folder for each class, in the order of the classes. Some have an image whose name is the class number."""
    content = make_jpeg()
    for name in names:
        (folder / "val" / name).mkdir(parents=True)
    write_tree(folder / "val", [(names[k], f"{k}.JPEG", content) for k in images if k < len(names)])
    return folder


def read_labels(folder: Path, **options: Any) -> list[int]:
    """Read the labels in the order of the indices. The name of each image must be its label."""
    images = open_imagenet(folder, **options)
    assert isinstance(images, EncodedSet)
    assert isinstance(images.encoded_images, imagenet.ImageFiles)
    labels: list[int] = images.labels.tolist()
    assert labels == [int(path.stem) for path in images.encoded_images.paths]
    return labels


@pytest.mark.parametrize("prefix", ["", "class_", "imagenet 1k, "])
def test_folders_that_sort_differently_as_text_and_as_numbers_need_an_order(prefix: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path, [f"{prefix}{k}" for k in range(1000)])
    text_order, number_order = (", ".join(f"{prefix}{k}" for k in ks) for ks in ((10, 100, 101), (2, 3, 4)))
    with raises_with_words(UsageError, "class 2", text_order, number_order) as caught:
        open_imagenet(tree)
    require_words(str(caught.value), "val", "--class-order text", "--class-order number", "class_order=", "FILE")
    assert str(tree / "val") in str(caught.value)
    assert read_labels(tree, class_order="number") == [1, 2, 10, 999]
    sorted_as_text = sorted(map(str, range(1000)))
    labels = open_imagenet(tree, class_order="text").labels.tolist()
    assert labels == sorted(sorted_as_text.index(str(k)) for k in (999, 10, 2, 1))


@pytest.mark.parametrize("form", ["class_{:04d}", "{:03d}", "{:04d} of 1000"])
def test_folders_that_sort_equally_as_text_and_as_numbers_need_no_order(form: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path, [form.format(k) for k in range(1000)])
    assert read_labels(tree) == [1, 2, 10, 999]
    fingerprints = {open_imagenet(tree, class_order=o).fingerprint for o in (None, "text", "number")}
    assert len(fingerprints) == 1


def test_only_numbers_in_names_can_sort_in_two_ways() -> None:
    """Other characters stand before and after digits as they do in text. Equal numbers keep the order of text."""
    same_both_ways = [
        "a",
        "a 1",
        "a-1",
        "a1",
        "a1b",
        "a_1",
        "ab",
        "B1",
        "é1",
        "1e5",
        "01",
        "1",
        "001",
        "b2",
        "b2 10",
        "b2-9",
    ]
    assert sort_folders(same_both_ways[:9], None, tree=Path("tree")) == sorted(same_both_ways[:9])
    assert sort_folders(["a1", "a01", "a001"], None, tree=Path("tree")) == ["a001", "a01", "a1"]
    for names in (["2", "10"], ["a2b1", "a2b1", "a10b1"], ["a 9", "a 10"], ["v1.2", "v1.10"], ["x9", "x10", "y"]):
        with raises_with_words(UsageError, "tree", "class 0", "text", "numbers"):
            sort_folders(names, None, tree=Path("tree"))
        assert sort_folders(names, "number", tree=Path("tree")) == names


def test_folders_may_have_the_names_of_the_classes(tmp_path: Path) -> None:
    """The names are known. If they were sorted as text, nearly every class would be wrong."""
    names = imagenet._list_class_names()
    assert len(set(names)) == 1000
    assert (names[0], names[999]) == ("tench", "toilet tissue")
    names = [name.replace("/", " ") for name in names]
    assert read_labels(make_tree(tmp_path / "all", names)) == [1, 2, 10, 999]
    assert read_labels(make_tree(tmp_path / "few", names[:11])) == [1, 2, 10]
    wnids = imagenet._list_wordnet_ids()
    assert read_labels(make_tree(tmp_path / "wnids", wnids), class_order="text") == [1, 2, 10, 999]


def test_a_file_gives_the_order_of_the_classes(tmp_path: Path) -> None:
    names = [f"class_{k}" for k in np.random.default_rng(0).permutation(1000)]
    tree, order = make_tree(tmp_path, names), tmp_path / "order.txt"
    order.write_text(
        "\ufeff" + "\r\n".join(names) + "\n\n", encoding="utf-8"
    )  # An editor of Windows saves text like this.
    assert read_labels(tree, class_order=order) == read_labels(tree, class_order=str(order)) == [1, 2, 10, 999]
    first_missing = ", ".join(sorted(names[:4])[:3])
    for lines, words in [
        (names[1:], [names[0], "each folder"]),
        ([*names[4:], "x", "y"], [first_missing, "1 more", "x, y"]),
        ([*names, names[7]], [names[7], "once"]),
        ([], ["class_0, class_1, class_10", "997 more"]),
    ]:
        order.write_text("\n".join(lines))
        with raises_with_words(UsageError, "order.txt", *words):
            open_imagenet(tree, class_order=order)
    order.write_bytes(b"\xff\xfe")
    with raises_with_words(UsageError, "order.txt", "UTF-8"):
        open_imagenet(tree, class_order=order)
    with raises_with_words(UnavailableError, "class order numbers", "text, number", "file"):
        open_imagenet(tree, class_order="numbers")


def test_an_order_is_refused_where_it_is_of_no_use(tmp_path: Path, thousand: ThousandClasses) -> None:
    tree = make_tree(tmp_path, [f"class_{k}" for k in range(11)])
    with raises_with_words(UnavailableError, "11 folders", "'class_0'"):
        open_imagenet(tree)
    with raises_with_words(UsageError, "11 folders", "1,000", "--class-order"):
        open_imagenet(tree, class_order="number")
    with raises_with_words(UsageError, "hub/data", "labels", "--class-order"):
        open_imagenet(thousand.shards, class_order="number")
    with raises_with_words(UsageError, "UCI digits", "labels"):
        open_split("digits", None, None, class_order="number")


def test_the_official_images_are_known_by_their_number_names_and_classes() -> None:
    wnids, labels = imagenet._list_wordnet_ids(), np.arange(50_000) % 1000
    names = [f"{wnids[k % 1000]}/ILSVRC2012_val_{k + 1:08d}.JPEG" for k in range(50_000)]
    names_on_the_hub = [f"{name[10:-5]}_{name[:9]}.JPEG" for name in names]
    assert imagenet.find_unofficial_reason(names, labels) is None
    assert imagenet.find_unofficial_reason(names_on_the_hub, labels) is None
    require_words(str(imagenet.find_unofficial_reason(names[1:], labels[1:])), "49,999", "50,000")
    require_words(str(imagenet.find_unofficial_reason(names, labels // 2)), "50 images each")
    repeated_name = [names[0].replace("00000001", "00000002"), *names[1:]]
    require_words(str(imagenet.find_unofficial_reason(repeated_name, labels)), "names of the split")
    names_without_classes = [name[10:] for name in names]
    require_words(str(imagenet.find_unofficial_reason(names_without_classes, labels)), "not those of the classes")
    require_words(str(imagenet.find_unofficial_reason(names, np.roll(labels, 1))), "not those of the classes")


def test_the_fingerprint_depends_on_index_name_size_and_label_alone(tmp_path: Path) -> None:
    contents = [make_jpeg(seed=seed) for seed in range(3)]
    folder = tmp_path / "val" / "n01440764"
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", content) for k, content in enumerate(contents)])

    def read_fingerprint() -> str:
        return open_imagenet(tmp_path).fingerprint

    fingerprints = {read_fingerprint()}
    (folder / "0.JPEG").touch()
    os.utime(folder / "1.JPEG", (1, 1))
    assert {read_fingerprint()} == fingerprints
    (folder / "2.JPEG").rename(folder / "9.JPEG")
    fingerprints.add(read_fingerprint())
    with (folder / "9.JPEG").open("ab") as stream:
        stream.write(b"\0")
    fingerprints.add(read_fingerprint())
    folder.rename(tmp_path / "val" / "n01443537")
    fingerprints.add(read_fingerprint())
    (tmp_path / "val/n01443537/9.JPEG").unlink()
    fingerprints.add(read_fingerprint())
    assert len(fingerprints) == 5
    for label in (3, 4):
        write_shards(tmp_path / str(label) / "data", [("a.JPEG", label, contents[0])], shards=1)
    shards = [open_imagenet(tmp_path / str(label)) for label in (3, 4)]
    sizes = {next(tmp_path.glob(f"{label}/data/*")).stat().st_size for label in (3, 4)}
    assert (len(sizes), len({images.fingerprint for images in shards})) == (1, 2)


# --- a thousand classes from end to end: torchvision alone gives the expected predictions ---


@dataclasses.dataclass(frozen=True)
class ThousandClasses:
    """Two images of each of a thousand classes, weights, and what torchvision's own pipeline predicts.

    Attributes:
        tree: A folder with a tree of the images.
        shards: A folder with Parquet files of the same images.
        weights: A safetensors file of resnet18.
        logits: The logits of torchvision's network, in the order of the tree.
        labels: The labels, in the order of the tree.
    """

    tree: Path
    shards: Path
    weights: Path
    logits: torch.Tensor
    labels: torch.Tensor

    @property
    def top1(self) -> int:
        return int((self.logits.argmax(1) == self.labels).sum())

    @property
    def top5(self) -> int:
        return int((self.logits.topk(5).indices == self.labels[:, None]).sum())

    @property
    def prediction_sha256(self) -> str:
        return hashlib.sha256(self.logits.argmax(1).numpy().astype("<i8").tobytes()).hexdigest()


def torchvision_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> ThousandClasses:
    """Images of 32x32 pixels, and a resnet18 whose head recognises a class by its first image.

    The predictions are computed without any code of the zoo.
    """
    folder = tmp_path_factory.mktemp("thousand")
    samples = generate_samples(1000, 2)
    write_tree(folder / "imagenet" / "val", samples)
    by_name = sorted((name, number // 2, content) for number, (_, name, content) in enumerate(samples))
    write_shards(folder / "hub" / "data", by_name)
    steps = [transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    reference = ImageFolder(str(folder / "imagenet" / "val"), transforms.Compose(steps))
    model = torchvision_network()
    head, model.fc = model.fc, torch.nn.Identity()
    with torch.inference_mode():
        batches = torch.stack([image for image, _ in reference]).split(250)
        features = torch.cat([model(batch) for batch in batches])
        labels = torch.tensor(reference.targets)
        centred = features - features.mean(0)
        first = torch.nn.functional.normalize(centred[::2])
        head.weight.copy_(first * 20)
        head.bias.copy_(-(first * 20) @ features.mean(0))
        logits = head(features)
    state = {**model.state_dict(), "fc.weight": head.weight.detach(), "fc.bias": head.bias.detach()}
    weights = folder / "resnet18.safetensors"
    description = Description("resnet18", {}, "imagenet1k", 1000, SMALL_PREPROCESSING, None, None)
    write_tensors(weights, state, description.to_metadata())
    return ThousandClasses(folder, folder / "hub", weights, logits, labels)


def read_record(result: CommandResult) -> dict[str, Any]:
    """Return the one record that `pyramidzoo evaluate --format json` printed. The command must have succeeded."""
    (record,) = result.json()["records"]
    return record


def read_counts(record: dict[str, Any]) -> tuple[int, int, str]:
    return record["top1_correct"], record["top5_correct"], record["prediction_sha256"]


def test_the_counts_for_a_thousand_classes_equal_those_of_torchvision(
    run_command: RunCommand, thousand: ThousandClasses, tmp_path: Path
) -> None:
    assert 1000 < thousand.top1 < thousand.top5 < 2000  # so that mistakes of either count would be noticed
    command = ("evaluate", thousand.weights, "--format", "json")
    of_tree = read_record(run_command(*command, "--data-dir", thousand.tree, "-j", 1, "--output", tmp_path))
    of_shards = read_record(run_command(*command, "--data-dir", thousand.shards, "-j", 0, "-b", 250))
    for record in (of_tree, of_shards):
        assert record["images"] == 2000
        assert read_counts(record) == (thousand.top1, thousand.top5, thousand.prediction_sha256)
    assert of_tree["dataset_fingerprint"] != of_shards["dataset_fingerprint"]
    record = of_tree
    assert (record["dataset"], record["split"]) == ("imagenet1k", "val")
    assert record["protocol"] == "resize 36, center crop 32, one pass"
    images = open_imagenet(thousand.tree)
    reason = images.unofficial_reason
    require_words(str(reason), "2,000", "50,000")
    assert (record["recorded"], record["recorded_detail"], record["claims"]) == ("none", reason, [])
    assert record["flags"]["not_the_split"] == reason
    assert record["flags"]["decoder"].startswith(f"Pillow {Image.__version__}, libjpeg")
    assert not record["flags"]["tensor_resize"]
    assert thousand.labels.tolist() == images.labels.tolist()
    (row,) = make_table_rows("Z", load_manifest(), measurements_from_records(read_records(tmp_path)))
    assert row["data set"] == "imagenet1k val, 2,000 images"


def test_each_order_of_the_classes_has_results_of_its_own(
    run_command: RunCommand, thousand: ThousandClasses, tmp_path: Path
) -> None:
    """The folders are called `class_0` to `class_999`. No order reuses the predictions of another order."""
    (tmp_path / "val").mkdir()
    for k, folder in enumerate(sorted((thousand.tree / "imagenet/val").iterdir())):
        (tmp_path / "val" / f"class_{k}").symlink_to(folder)
    order, results = tmp_path / "order.txt", tmp_path / "results"
    order.write_text("\n".join(f"class_{k}" for k in range(1000)))
    options = ("--data-dir", tmp_path, "-j", 0, "-b", 250, "--output", results, "--format", "json")
    command = ("evaluate", thousand.weights, *options)
    result = run_command(*command)
    assert result.code == 2
    assert json.loads(result.out)["records"] == []
    require_words(result.err, "class_10, class_100, class_101", "class_2, class_3, class_4", "--class-order")
    assert not results.exists()
    by_number, by_text, by_file = (
        read_record(run_command(*command, "--class-order", class_order)) for class_order in ("number", "text", order)
    )
    assert [record["reused_files"] for record in (by_number, by_text, by_file)] == [0, 0, 0]
    expected_counts = (thousand.top1, thousand.top5, thousand.prediction_sha256)
    assert read_counts(by_number) == expected_counts
    assert read_counts(by_file) == expected_counts
    assert by_text["top1_correct"] < 100  # The predictions are the same, but the labels are wrong.
    hash_of_names = hashlib.sha256(order.read_bytes()).hexdigest()
    described_orders = [record["flags"]["class_order"] for record in (by_number, by_text, by_file)]
    assert described_orders == ["number", "text", f"file, sha256 {hash_of_names} of its names"]
    assert len(list(results.glob("*/*/record.json"))) == 3
    again = read_record(run_command(*command, "--class-order", "number"))
    assert again["reused_files"] == 2
    images = open_imagenet(thousand.tree)
    assert images.get_flags(ReaderOptions()).keys() == {"decoder", "tensor_resize"}  # no flag without the option


def make_target_and_images(thousand: ThousandClasses) -> tuple[EvaluationTarget, EncodedSet]:
    """Make an entry of the manifest for the weights, with a true claim and a true result, and open its images.

    A second claim has another protocol.
    """
    entry = load_manifest().find("resnet18.imagenet1k")
    wrong = 2000 - thousand.top1
    claim = dataclasses.replace(
        entry.claims[0],
        split="val",
        protocol="resize 36, center crop 32, one pass",
        top1_error=Decimal(f"{wrong / 20:.2f}"),
    )
    other = dataclasses.replace(claim, protocol="resize 40, center crop 40, one pass", top1_error=Decimal("0.50"))
    result = Result(
        split="val",
        protocol=claim.protocol,
        images=2000,
        top1_correct=thousand.top1,
        top5_correct=thousand.top5,
        statistics={},
        prediction_sha256=thousand.prediction_sha256,
        precision="fp32",
        device="",
        versions={},
        date="",
    )
    entry = dataclasses.replace(
        entry, preprocessing=SMALL_PREPROCESSING, claims=(claim, other), results=(result,), tensors_sha256=None
    )
    target = dataclasses.replace(EvaluationTarget.from_file(thousand.weights), name=entry.id, entry=entry)
    images = open_imagenet(thousand.tree)
    assert isinstance(images, EncodedSet)
    return target, images


def test_only_results_on_the_official_images_are_judged(thousand: ThousandClasses) -> None:
    target, images = make_target_and_images(thousand)
    part = Part("thousand", np.arange(2000), thousand.labels.numpy(), thousand.logits.numpy())
    official = dataclasses.replace(images, unofficial_reason=None)
    record = conclude(plan(load_model(target, official), Engine(ComputeSettings(CPU, 250))), [part])
    assert record.recorded == "exact"
    (claim,) = record.claims
    assert (claim.verdict, claim.published) == ("matched", f"{(2000 - thousand.top1) / 20:.2f}")
    assert "not_the_split" not in record.flags
    record = conclude(plan(load_model(target, images), Engine(ComputeSettings(CPU, 250))), [part])
    assert (record.recorded, record.claims) == ("none", ())
    assert record.recorded_detail == images.unofficial_reason
    require_words(record.recorded_detail, "2,000", "50,000")


@pytest.mark.parametrize(("images", "table"), [(50_000, "W2"), (1_000, "Z")])
def test_only_results_on_all_images_are_in_a_table_of_published_rows(images: int, table: str) -> None:
    measured = Measurement(
        weights="mine",
        architecture="wide_resnet50_2",
        parameters=1,
        dataset="imagenet1k",
        split="val",
        images=images,
        wrong=images // 5,
        recorded="none",
        strict=True,
        claims=(),
        is_whole_split=images == 50_000,
    )
    shown = [name for name in ("W2", "Z") for row in make_table_rows(name, load_manifest(), [measured]) if row["ours"]]
    assert shown == [table]


@pytest.fixture
def first_images(thousand: ThousandClasses) -> tuple[EvaluationTarget, EncodedSet]:
    """The first 60 images, marked as the official split. All images would take too long."""
    target, images = make_target_and_images(thousand)
    return target, dataclasses.replace(images, labels=images.labels[:60], unofficial_reason=None)


def test_another_protocol_is_recorded_and_compared_with_its_own_claims(
    first_images: tuple[EvaluationTarget, EncodedSet], tmp_path: Path
) -> None:
    target, images = first_images

    def evaluate_with(override: Override) -> Any:
        return evaluate(target, images, ComputeSettings(CPU, 30, override=override))

    plain = evaluate_with(Override())
    assert evaluate_with(Override(36, 32, "bilinear")).flags == plain.flags  # the protocol of the weights themselves
    record = evaluate_with(Override(40, 40))
    assert record.protocol == "resize 40, center crop 40, one pass"
    assert [(claim.published, claim.verdict) for claim in record.claims] == [("0.50", "different")]
    assert (record.recorded, record.reproduced) == ("none", False)
    assert record.flags["preprocessing"]["input_size"] == (3, 40, 40)
    assert record.preprocessing_sha256 != plain.preprocessing_sha256
    assert record.prediction_sha256 != plain.prediction_sha256
    assert record.preprocessing_sha256 == make_preprocessing(40, 40, "bilinear").sha256()
    for override in (Override(), Override(40, 40)):  # No protocol reuses the predictions of the other protocol.
        saved = evaluate(target, images, ComputeSettings(CPU, 30, override=override), output=tmp_path)
        assert saved.reused_files == 0
    bicubic = evaluate_with(Override(interpolation="bicubic"))
    assert bicubic.protocol == "resize 36, center crop 32, one pass, bicubic"
    assert (bicubic.claims, bicubic.recorded) == ((), "none")
    for impossible in (Override(crop=40), Override(resize=31), Override(crop=0), Override(resize=-1, crop=-1)):
        with raises_with_words(UsageError, "--resize", "--crop"):
            evaluate_with(impossible)


def test_a_result_with_resized_tensors_is_not_strict(first_images: tuple[EvaluationTarget, EncodedSet]) -> None:
    target, images = first_images
    record = evaluate(target, images, ComputeSettings(CPU, 30, reading=ReaderOptions(0, True)))
    assert record.flags["tensor_resize"]
    assert not record.strict
    assert (record.arithmetic_text, record.claims) == ("fp32, resized as tensors", ())


def test_preprocessing_that_imagenet_does_not_support_is_refused(
    first_images: tuple[EvaluationTarget, EncodedSet],
) -> None:
    target, images = first_images
    for change in (
        {"resize": None, "crop": None},
        {"crop": 31},
        {"resize": 31},
        {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)},
    ):
        other = dataclasses.replace(target, preprocessing=dataclasses.replace(SMALL_PREPROCESSING, **change))
        with raises_with_words(UsageError, "imagenet1k", "resized", "cropped", "square"):
            evaluate(other, images, ComputeSettings(CPU, 30))
    unknown = dataclasses.replace(SMALL_PREPROCESSING, interpolation="magic")
    with raises_with_words(UsageError, "'magic'", "bilinear", "bicubic"):
        evaluate(dataclasses.replace(target, preprocessing=unknown), images, ComputeSettings(CPU, 30))


def test_protocols_are_described_as_in_the_claims() -> None:
    same_description = 0
    for entry in load_manifest().entries.values():
        for claim in entry.claims if entry.dataset == "imagenet1k" else ():
            if claim.protocol != "not stated":
                same_description += claim.protocol == describe_protocol(entry.preprocessing)
    assert same_description > 200
    assert describe_protocol(SMALL_PREPROCESSING, SMALL_PREPROCESSING) == "resize 36, center crop 32, one pass"


@pytest.mark.parametrize(("requested", "used"), [(64, 8), (20, 5), (7, 7)])
def test_the_batch_size_is_halved_until_the_memory_is_enough(
    requested: int,
    used: int,
    first_images: tuple[EvaluationTarget, EncodedSet],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The predictions, and the files of them, equal those of a run with the smaller batch size."""
    target, images = first_images
    compute, sizes = Engine._compute_logits, []

    def compute_small_batches(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 8:
            raise torch.OutOfMemoryError("no memory")
        return compute(self, key, network, batch)

    expected = evaluate(target, images, ComputeSettings(CPU, used), output=tmp_path / "out")
    monkeypatch.setattr(Engine, "_compute_logits", compute_small_batches)
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    record = evaluate(target, images, ComputeSettings(CPU, requested))
    assert max(sizes[-60 // used :]) == used
    assert record.prediction_sha256 == expected.prediction_sha256
    assert record.flags["batch_size"] == used
    assert record.flags.get("batch_size_asked") == (requested if requested > 8 else None)
    again = evaluate(target, images, ComputeSettings(CPU, requested), output=tmp_path / "out")
    assert again.reused_files == -(-60 // (4 * used))


def test_an_evaluation_without_enough_memory_is_an_error(
    first_images: tuple[EvaluationTarget, EncodedSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, images = first_images

    def raise_out_of_memory(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Engine, "_compute_logits", raise_out_of_memory)
    with raises_with_words(UnavailableError, "memory", "batches of 30", "-b") as caught:
        evaluate(target, images, ComputeSettings(CPU, 30, reading=ReaderOptions(1)))
    # The processes end at once, although the error still holds references to the frames.
    assert multiprocessing.active_children() == []
    assert caught.value.exit_code == 5
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    with raises_with_words(UnavailableError, "memory", "batches of 1"):
        evaluate(target, images, ComputeSettings(CPU, 30))


# --- processes ---


def test_a_killed_decoding_process_is_an_error(first_images: tuple[EvaluationTarget, EncodedSet]) -> None:
    _, images = first_images
    spans, before = [(start, start + 1) for start in range(60)], signal.getsignal(signal.SIGCHLD)
    with contextlib.closing(images.read_batches(spans, SMALL_PREPROCESSING, CPU, ReaderOptions(1))) as batches:
        next(batches)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid or 0, signal.SIGKILL)
        with raises_with_words(UnavailableError, "process", "decodes", "-j"):
            list(batches)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGCHLD) is before


def test_closing_early_ends_the_processes(first_images: tuple[EvaluationTarget, EncodedSet]) -> None:
    _, images = first_images
    batches = images.read_batches(
        [(start, start + 1) for start in range(60)], SMALL_PREPROCESSING, CPU, ReaderOptions(2)
    )
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_the_reader_of_images_can_be_pickled(thousand: ThousandClasses) -> None:
    """It is pickled for the processes on a platform that does not fork."""
    for folder in (thousand.tree, thousand.shards):
        images = open_imagenet(folder)
        assert isinstance(images, EncodedSet)
        spans = _DecodedSpans(images.encoded_images, Decoder(SMALL_PREPROCESSING, tensor_resize=False))
        span = spans[0, 2]
        assert isinstance(span, torch.Tensor)
        assert torch.equal(pickle.loads(pickle.dumps(spans))[0, 2], span)


@pytest.mark.skipif(sys.platform != "linux", reason="sends a signal to a process group, and expects that it is gone")
def test_an_interrupt_leaves_no_process(thousand: ThousandClasses, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyramidzoo", "evaluate", str(thousand.weights), "--data-dir", str(thousand.tree)]
    process = subprocess.Popen(
        [*command, "-j", "2", "-b", "1", "--output", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("predictions-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # A terminal sends the signal to all processes.
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().endswith("pyramidzoo: interrupted")
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_torchrun_with_decoding_processes_gives_the_same_predictions(thousand: ThousandClasses) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pyramidzoo"]
    arguments = ["evaluate", thousand.weights, "--data-dir", thousand.shards, "-j", 1, "-b", 50, "--format", "json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["records"]
    assert (record["images"], record["prediction_sha256"]) == (2000, thousand.prediction_sha256)


# --- Parquet ---


def test_images_have_the_same_index_in_parquet_files_and_in_a_tree(thousand: ThousandClasses) -> None:
    tree, rows = (open_imagenet(folder) for folder in (thousand.tree, thousand.shards))
    index = rows.get_indices(0, 2000)
    assert sorted(index) == list(range(2000))
    assert (index != np.arange(2000)).any()
    assert torch.equal(rows.labels, tree.labels[index])
    places = np.argsort(index)[:3]
    with contextlib.closing(
        rows.read_batches([(p, p + 1) for p in places], SMALL_PREPROCESSING, CPU, ReaderOptions())
    ) as batches:
        first_three = torch.cat(list(batches))
    with contextlib.closing(tree.read_batches([(0, 3)], SMALL_PREPROCESSING, CPU, ReaderOptions())) as batches:
        assert torch.equal(first_three, next(batches))


def test_each_row_group_is_read_once(thousand: ThousandClasses, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow.parquet import ParquetFile

    row_groups: list[int] = []
    read_row_group = ParquetFile.read_row_group

    def read_and_record(self: Any, number: int, *arguments: Any, **options: Any) -> Any:
        row_groups.append(number)
        return read_row_group(self, number, *arguments, **options)

    monkeypatch.setattr(ParquetFile, "read_row_group", read_and_record)
    images = open_imagenet(thousand.shards)
    assert row_groups == []
    assert isinstance(images, EncodedSet)
    names = [
        name for start in range(0, 2000, 64) for name, _ in images.encoded_images.read(start, min(start + 64, 2000))
    ]
    assert len(names) == len(set(names)) == 2000
    assert len(row_groups) == 3 * 7  # 100 rows each


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """The one Parquet file of a folder, with five images."""
    path = tmp_path / "data" / "validation-00000-of-00001.parquet"
    write_shards(path.parent, [(f"{k}.JPEG", k, make_jpeg()) for k in range(5)], shards=1)
    return path


def test_damaged_parquet_files_are_refused(shard: Path, tmp_path: Path) -> None:
    images, whole = open_imagenet(tmp_path), shard.read_bytes()
    shard.write_bytes(whole[:4] + bytes(64) + whole[68:])  # This damages the first page.
    with raises_with_words(IntegrityError, shard.name, "file again"):
        read_pixels(images, SMALL_PREPROCESSING)
    for damaged in (b"", b"PAR1" + bytes(50), whole[:-20]):
        shard.write_bytes(damaged)
        with raises_with_words(IntegrityError, shard.name, "file again"):
            open_imagenet(tmp_path)


def test_parquet_files_with_other_columns_or_labels_are_refused(shard: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"picture": [b""], "label": [1]}), shard)
    with raises_with_words(IntegrityError, shard.name, "picture", "image (bytes and path)", "label"):
        open_imagenet(tmp_path)
    shard.unlink()
    shard.parent.rmdir()
    write_shards(shard.parent, [("a", -1, make_jpeg())], shards=1)
    with raises_with_words(IntegrityError, "data", "labels", "0 to 999"):
        open_imagenet(tmp_path)


def test_parquet_files_need_pyarrow(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_with_words(UnavailableError, "pip install 'pyramidzoo[parquet]'"):
        open_imagenet(tmp_path)


def test_a_damaged_image_in_a_parquet_file_is_an_error_that_names_its_place(tmp_path: Path) -> None:
    content = make_jpeg()
    contents = [content, content, content[:300]]
    write_shards(tmp_path / "data", [(f"{k}.JPEG", 0, c) for k, c in enumerate(contents)], shards=1, rows=2)
    with raises_with_words(IntegrityError, "image 0", "row group 1", "00000-of-00001.parquet", "damaged"):
        read_pixels(open_imagenet(tmp_path), SMALL_PREPROCESSING)


# --- the command `evaluate` ---


@pytest.fixture
def three_images(tmp_path: Path) -> Path:
    """A folder with a tree of three images of one class."""
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", make_jpeg()) for k in range(3)])
    return tmp_path


def test_options_of_evaluate_set_the_protocol(
    run_command: RunCommand, thousand: ThousandClasses, three_images: Path
) -> None:
    options = ("--resize", 40, "--crop", 40, "--interpolation", "bicubic", "--tensor-resize", "--format", "json")
    record = read_record(run_command("evaluate", thousand.weights, "--data-dir", three_images, "-j", 0, *options))
    assert record["protocol"] == "resize 40, center crop 40, one pass, bicubic"
    assert record["flags"]["tensor_resize"]


def test_evaluate_prints_the_protocol_and_why_no_claim_is_compared(
    run_command: RunCommand, thousand: ThousandClasses, three_images: Path
) -> None:
    result = run_command("evaluate", thousand.weights, "--data-dir", three_images, "-j", 0)
    assert result.code == 0, result.err
    lines = [line.split(maxsplit=1) for line in result.out.splitlines()]
    assert ["protocol", "resize 36, center crop 32, one pass"] in lines
    (claim,) = (line[1] for line in lines if line[:1] == ["claim"])
    require_words(claim, "none", "3 images", "50,000")


def test_evaluate_fails_for_a_damaged_image(
    run_command: RunCommand, thousand: ThousandClasses, three_images: Path
) -> None:
    damaged = three_images / "val/n01440764/1.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    result = run_command("evaluate", thousand.weights, "--data-dir", three_images, "-j", 1)
    assert result.code == 4
    require_words(result.err, "n01440764/1.JPEG", "damaged")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-j", -1), ["-j", "negative"]),
        (("--split", "test"), ["ImageNet", "split 'test'"]),
        (("--crop", 300), ["300", "--resize", "--crop"]),
    ],
)
def test_evaluate_refuses_wrong_options(
    options: tuple[object, ...],
    words: list[str],
    run_command: RunCommand,
    thousand: ThousandClasses,
    three_images: Path,
) -> None:
    result = run_command("evaluate", thousand.weights, "--data-dir", three_images, *options)
    assert result.code == 2
    require_words(result.err, *words)
