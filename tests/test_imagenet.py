"""ImageNet from trees and Parquet files: the pixels of torchvision and timm, counts known in advance, no image lost."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
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
from imagenet_tree import encode, generate_samples, make_picture, odd_images, write_shards, write_tree
from PIL import Image, ImageFile
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pyramidzoo import cli
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
SMALL = Preprocessing((3, 32, 32), MEAN, STD, resize=36, crop=32, interpolation="bilinear")


def prepared(resize: int, crop: int, interpolation: str) -> Preprocessing:
    return Preprocessing((3, crop, crop), MEAN, STD, resize=resize, crop=crop, interpolation=interpolation)


def read_pixels(
    images: Split, preprocessing: Preprocessing, reading: ReaderOptions | None = None, batch: int = 4
) -> Any:
    """All images as a network sees them, in the order of their indices."""
    spans = [(start, min(start + batch, len(images))) for start in range(0, len(images), batch)]
    normalize = Normalize(preprocessing)
    with contextlib.closing(images.batches(spans, preprocessing, CPU, reading or ReaderOptions())) as batches:
        found = torch.cat([normalize(batch) for batch in batches])
    return found[np.argsort(images.index(0, len(images)))]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    write_tree(folder / "val", [("n01440764", name, content) for name, content in odd_images().items()])
    return folder


PROTOCOLS = [(36, 32, "bilinear"), (36, 32, "bicubic"), (33, 32, "bicubic"), (32, 32, "bilinear"), (17, 11, "bicubic")]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency", "ignore:Corrupt EXIF data")
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
def test_every_image_is_torchvisions_and_timms(protocol: tuple[int, int, str], odd: Path) -> None:
    resize, crop, interpolation = protocol
    theirs = transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    timms = timm.data.create_transform(
        input_size=crop, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=crop / (resize + 0.1)
    )
    assert resize == next(step.size for step in timms.transforms if isinstance(step, transforms.Resize))
    reference = ImageFolder(str(odd / "val"))  # its loader: Pillow, to RGB
    found = read_pixels(open_split("imagenet1k", None, odd), prepared(*protocol))
    assert len(found) == len(reference) == len(odd_images())
    ours = eval_transform(prepared(*protocol))
    for (path, _), (image, _), pixels in zip(reference.samples, reference, found, strict=True):
        assert torch.equal(pixels, theirs(image)), path
        assert torch.equal(pixels, timms(image)), path
        assert torch.equal(pixels, ours(image)), path


def test_the_orientation_of_exif_is_not_applied(odd: Path) -> None:
    names = sorted(odd_images())
    found = dict(zip(names, read_pixels(open_split("imagenet1k", None, odd), SMALL), strict=True))
    with Image.open(odd / "val/n01440764/orientation6.JPEG") as turned:
        assert turned.getexif()[0x0112] == 6
    expected = found["plain.JPEG"]  # the same without EXIF
    assert torch.equal(found["orientation3.JPEG"], expected)
    assert torch.equal(found["orientation6.JPEG"], expected)


def test_processes_and_batches_change_no_pixel(odd: Path) -> None:
    images = open_split("imagenet1k", None, odd)
    alone = read_pixels(images, SMALL)
    state = torch.get_rng_state()
    assert torch.equal(read_pixels(images, SMALL, ReaderOptions(workers=2), batch=3), alone)
    assert torch.equal(torch.get_rng_state(), state)
    assert multiprocessing.active_children() == []


def test_tensors_are_resized_to_within_two_grey_levels(tmp_path: Path) -> None:
    contents = [encode(Image.fromarray(make_picture(120, 90, seed))) for seed in range(4)]
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", content) for k, content in enumerate(contents)])
    images = open_split("imagenet1k", None, tmp_path)
    for interpolation in ("bilinear", "bicubic"):
        protocol, levels = prepared(64, 56, interpolation), []
        for tensor_resize in (False, True):
            with contextlib.closing(
                images.batches([(0, 4)], protocol, CPU, ReaderOptions(0, tensor_resize))
            ) as batches:
                levels.append(next(batches).int())
        off = (levels[0] - levels[1]).abs()
        assert 0 < off.max() <= 2


DAMAGED = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "two bytes short": lambda whole: whole[:-2],
    "empty": lambda whole: b"",
    "no image": lambda whole: b"<html>not found</html>",
    "no header": lambda whole: whole[:4] + bytes(200),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_and_never_left_out(
    damage: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(Image.fromarray(make_picture(80, 60, 1)))
    contents = {"a.JPEG": whole, "b.JPEG": DAMAGED[damage](whole), "c.JPEG": whole}
    write_tree(tmp_path / "val", [("n01440764", *item) for item in contents.items()])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as some libraries leave it
    images = open_split("imagenet1k", None, tmp_path)
    with pytest.raises(IntegrityError, match=r"^\S*n01440764/b.JPEG is damaged: .*; get it again$") as caught:
        read_pixels(images, SMALL, ReaderOptions(workers))
    assert multiprocessing.active_children() == []  # although somebody has the error, and with it the frames
    assert caught.value.exit_code == 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_image_that_has_gone(tmp_path: Path) -> None:
    write_tree(tmp_path / "val", [("n01440764", "a.JPEG", encode(Image.fromarray(make_picture(40, 40, 1))))])
    images = open_split("imagenet1k", None, tmp_path)
    (tmp_path / "val/n01440764/a.JPEG").unlink()
    for workers in (0, 1):
        with pytest.raises(UnavailableError, match=r"a\.JPEG: No such file"):
            read_pixels(images, SMALL, ReaderOptions(workers))


# --- where the images are ---


@pytest.mark.parametrize("place", ["", "imagenet", "ILSVRC2012", "imagenet-1k"])
@pytest.mark.parametrize("form", ["val", "validation", "data", "shards"])
def test_images_are_found_under_the_names_people_use(place: str, form: str, tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
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


def test_the_folder_of_the_classes_itself(tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    write_tree(tmp_path, [("n01443537", "a.JPEG", content)])
    assert open_split("imagenet1k", None, tmp_path).labels.tolist() == [1]


def test_torchvisions_layout_has_torchvisions_labels(tmp_path: Path) -> None:
    wnids = imagenet._wnids()
    assert len(wnids) == 1000
    assert wnids == sorted(wnids)
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    for wnid in wnids:
        (tmp_path / "val" / wnid).mkdir(parents=True)
    write_tree(tmp_path / "val", [(wnids[k], f"{k}.JPEG", content) for k in (999, 3, 500, 3)])
    torch.save(({wnid: (wnid,) for wnid in wnids}, []), tmp_path / "meta.bin")
    reference = ImageFolder(tmp_path / "val", allow_empty=True)
    with contextlib.suppress(FileNotFoundError):  # where empty classes are not to its taste
        reference = torchvision.datasets.ImageNet(tmp_path, split="val")
    assert (
        open_split("imagenet1k", None, tmp_path).labels.tolist() == [y for _, y in reference.samples] == [3, 500, 999]
    )
    for wnid in wnids[:3]:  # without the empty ones, labels must not move up
        (tmp_path / "val" / wnid).rmdir()
    assert open_split("imagenet1k", None, tmp_path).labels.tolist() == [3, 500, 999]


def test_where_the_images_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="nothing says where ImageNet is; name the folder"):
        open_split("imagenet1k", None, None)
    with pytest.raises(UnavailableError, match=r"ImageNet is not in .*; name the folder that holds val/CLASS"):
        open_split("imagenet1k", None, tmp_path, download=True)
    with pytest.raises(UsageError, match="ImageNet has no split 'test'; it has val"):
        open_split("imagenet1k", "test", tmp_path)
    with pytest.raises(UsageError, match="is too large to be held in memory"):
        load_dataset("imagenet1k", "val", tmp_path)
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    write_tree(tmp_path, [("val", "ILSVRC2012_val_00000001.JPEG", content)])
    with pytest.raises(UnavailableError, match=r"images without their classes.*torchvision.datasets import ImageNet"):
        open_split("imagenet1k", None, tmp_path)
    write_tree(tmp_path / "val", [("0", "a.JPEG", content), ("n01440764", "a.JPEG", content)])
    with pytest.raises(UnavailableError, match="has 2 folders, one of them '0'; name them by"):
        open_split("imagenet1k", None, tmp_path)
    (tmp_path / "other/val/n01440764").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="hold no images"):
        open_split("imagenet1k", None, tmp_path / "other")


# --- which class a folder is ---


def make_tree(folder: Path, names: Sequence[str], *, images: Sequence[int] = (999, 10, 2, 1)) -> Path:
    """A folder for each class, in the order of the classes; in some of them an image, named by its class."""
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    for name in names:
        (folder / "val" / name).mkdir(parents=True)
    write_tree(folder / "val", [(names[k], f"{k}.JPEG", content) for k in images if k < len(names)])
    return folder


def read_labels(folder: Path, **options: Any) -> list[int]:
    """The labels in the order of the indices; that of each image must be the class that it is named by."""
    images = open_split("imagenet1k", None, folder, **options)
    assert isinstance(images, EncodedSet)
    assert isinstance(images.encoded, imagenet.ImageFiles)
    labels: list[int] = images.labels.tolist()
    assert labels == [int(path.stem) for path in images.encoded.paths]
    return labels


@pytest.mark.parametrize("prefix", ["", "class_", "imagenet 1k, "])
def test_folders_whose_order_is_not_clear_are_refused(prefix: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path, [f"{prefix}{k}" for k in range(1000)])
    text, numbers = ([f"{prefix}{k}" for k in ks] for ks in ((10, 100, 101), (2, 3, 4)))
    with pytest.raises(UsageError) as caught:
        open_split("imagenet1k", None, tree)
    message = str(caught.value)
    assert f"from class 2 on, text gives {', '.join(text)} and numbers give {', '.join(numbers)}." in message
    assert all(part in message for part in (str(tree / "val"), "--class-order text", "class_order=", "FILE"))
    assert read_labels(tree, class_order="number") == [1, 2, 10, 999]
    as_text = open_split("imagenet1k", None, tree, class_order="text")
    assert as_text.labels.tolist() == sorted(sorted(map(str, range(1000))).index(str(k)) for k in (999, 10, 2, 1))


@pytest.mark.parametrize("form", ["class_{:04d}", "{:03d}", "{:04d} of 1000"])
def test_folders_that_sort_equally_both_ways(form: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path, [form.format(k) for k in range(1000)])
    assert read_labels(tree) == [1, 2, 10, 999]
    fingerprints = {open_split("imagenet1k", None, tree, class_order=o).fingerprint for o in (None, "text", "number")}
    assert len(fingerprints) == 1


def test_numbers_are_all_that_sorts_in_two_ways() -> None:
    """Other characters stand before and after digits as they do in text, and equal numbers keep the order of text."""
    alike = ["a", "a 1", "a-1", "a1", "a1b", "a_1", "ab", "B1", "é1", "1e5", "01", "1", "001", "b2", "b2 10", "b2-9"]
    assert sort_folders(alike[:9], None, where=Path("tree")) == sorted(alike[:9])
    assert sort_folders(["a1", "a01", "a001"], None, where=Path("tree")) == ["a001", "a01", "a1"]
    for names in (["2", "10"], ["a2b1", "a2b1", "a10b1"], ["a 9", "a 10"], ["v1.2", "v1.10"], ["x9", "x10", "y"]):
        with pytest.raises(UsageError, match="from class 0 on, text gives"):
            sort_folders(names, None, where=Path("tree"))
        assert sort_folders(names, "number", where=Path("tree")) == names


def test_names_of_the_classes_are_known(tmp_path: Path) -> None:
    """Sorted as text, the class of nearly every name would be wrong."""
    names = imagenet._class_names()
    assert len(set(names)) == 1000
    assert (names[0], names[999]) == ("tench", "toilet tissue")
    names = [name.replace("/", " ") for name in names]
    assert read_labels(make_tree(tmp_path / "all", names)) == [1, 2, 10, 999]
    assert read_labels(make_tree(tmp_path / "few", names[:11])) == [1, 2, 10]
    wnids = imagenet._wnids()
    assert read_labels(make_tree(tmp_path / "wnids", wnids), class_order="text") == [1, 2, 10, 999]


def test_an_order_from_a_file(tmp_path: Path) -> None:
    names = [f"class_{k}" for k in np.random.default_rng(0).permutation(1000)]
    tree, order = make_tree(tmp_path, names), tmp_path / "order.txt"
    order.write_text("\ufeff" + "\r\n".join(names) + "\n\n", encoding="utf-8")  # as an editor of Windows saves it
    assert read_labels(tree, class_order=order) == read_labels(tree, class_order=str(order)) == [1, 2, 10, 999]
    for lines, message in [
        (names[1:], f"does not name the folders {names[0]}. It must"),
        (
            [*names[4:], "x", "y"],
            r"does not name the folders class_\d+, .* and 1 more; it .*not a folder there: x, y",
        ),
        ([*names, names[7]], f"it names more than once {names[7]}. It must have the name of each folder once"),
        ([], "does not name the folders class_0, class_1, class_10 and 997 more"),
    ]:
        order.write_text("\n".join(lines))
        with pytest.raises(UsageError, match=message):
            open_split("imagenet1k", None, tree, class_order=order)
    order.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        open_split("imagenet1k", None, tree, class_order=order)
    with pytest.raises(
        UnavailableError, match=r"cannot read the class order .*numbers: .*; give text, number or a file"
    ):
        open_split("imagenet1k", None, tree, class_order="numbers")


def test_where_an_order_does_not_help(tmp_path: Path, known: Known) -> None:
    tree = make_tree(tmp_path, [f"class_{k}" for k in range(11)])
    with pytest.raises(UnavailableError, match="has 11 folders, one of them 'class_0'"):
        open_split("imagenet1k", None, tree)
    with pytest.raises(UsageError, match="has 11 folders, and an order of folders tells the classes only where"):
        open_split("imagenet1k", None, tree, class_order="number")
    with pytest.raises(UsageError, match="have labels in them, so there is no order of folders to choose"):
        open_split("imagenet1k", None, known.shards, class_order="number")
    with pytest.raises(UsageError, match="files of the UCI digits have labels in them"):
        open_split("digits", None, None, class_order="number")


def test_what_the_official_images_are() -> None:
    wnids, labels = imagenet._wnids(), np.arange(50_000) % 1000
    names = [f"{wnids[k % 1000]}/ILSVRC2012_val_{k + 1:08d}.JPEG" for k in range(50_000)]
    assert imagenet.not_the_split(names, labels) is None
    assert imagenet.not_the_split([f"{name[10:-5]}_{name[:9]}.JPEG" for name in names], labels) is None  # the Hub's
    assert imagenet.not_the_split(names[1:], labels[1:]) == "49,999 images are not the 50,000 of the split"
    assert "do not have 50 images each" in str(imagenet.not_the_split(names, labels // 2))
    twice = [names[0].replace("00000001", "00000002"), *names[1:]]
    assert "do not have the names of the split" in str(imagenet.not_the_split(twice, labels))
    for strange in ([name[10:] for name in names], labels), (names, np.roll(labels, 1)):
        assert "are not those of the classes" in str(imagenet.not_the_split(*strange))


def test_the_fingerprint_covers_index_name_size_and_label(tmp_path: Path) -> None:
    contents = [encode(Image.fromarray(make_picture(40, 40, seed))) for seed in range(3)]
    place = tmp_path / "val" / "n01440764"
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", content) for k, content in enumerate(contents)])

    def now() -> str:
        return open_split("imagenet1k", None, tmp_path).fingerprint

    seen = {now()}
    (place / "0.JPEG").touch()
    os.utime(place / "1.JPEG", (1, 1))
    assert {now()} == seen
    (place / "2.JPEG").rename(place / "9.JPEG")
    seen.add(now())
    with (place / "9.JPEG").open("ab") as stream:
        stream.write(b"\0")
    seen.add(now())
    place.rename(tmp_path / "val" / "n01443537")
    seen.add(now())
    (tmp_path / "val/n01443537/9.JPEG").unlink()
    seen.add(now())
    assert len(seen) == 5
    for label in (3, 4):
        write_shards(tmp_path / str(label) / "data", [("a.JPEG", label, contents[0])], shards=1)
    shards = [open_split("imagenet1k", None, tmp_path / str(label)) for label in (3, 4)]
    sizes = {next(tmp_path.glob(f"{label}/data/*")).stat().st_size for label in (3, 4)}
    assert (len(sizes), len({images.fingerprint for images in shards})) == (1, 2)


# --- a thousand classes from end to end: what is right is known from torchvision alone ---


@dataclasses.dataclass(frozen=True)
class Known:
    """The tree's folder, that of the same as Parquet, the weights, and what torchvision's own pipeline predicts."""

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
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """resnet18 with a head that knows a class by its first image, images of 32x32; none of the zoo's code predicts."""
    folder = tmp_path_factory.mktemp("known")
    samples = generate_samples(1000, 2)
    write_tree(folder / "imagenet" / "val", samples)
    by_name = sorted((name, number // 2, content) for number, (_, name, content) in enumerate(samples))
    write_shards(folder / "hub" / "data", by_name)
    sized = [transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    reference = ImageFolder(str(folder / "imagenet" / "val"), transforms.Compose(sized))
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
    described = Description("resnet18", {}, "imagenet1k", 1000, SMALL, None, None)
    write_tensors(weights, state, described.to_metadata())
    return Known(folder, folder / "hub", weights, logits, labels)


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """`pyramidzoo evaluate`: its exit code, its one record, and what it said beside."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["evaluate", *map(str, arguments), "--format", "json"])
    records = json.loads(out.getvalue())["records"] if out.getvalue() else []
    return code, records[0] if records else {}, err.getvalue()


def test_the_counts_of_a_thousand_classes(known: Known, tmp_path: Path) -> None:
    assert 1000 < known.top1 < known.top5 < 2000  # some right, some wrong, some nearly
    found = {}
    for name, place, extra in (
        ("tree", known.tree, ("-j", 1, "--output", tmp_path)),
        ("shards", known.shards, ("-j", 0, "-b", 250)),
    ):
        code, record, err = run(known.weights, "--data-dir", place, *extra)
        assert code == 0, err
        counts = record["images"], record["top1_correct"], record["top5_correct"], record["prediction_sha256"]
        assert counts == (2000, known.top1, known.top5, known.prediction_sha256), name
        found[name] = record
    assert found["tree"]["dataset_fingerprint"] != found["shards"]["dataset_fingerprint"]
    record = found["tree"]
    assert (record["dataset"], record["split"]) == ("imagenet1k", "val")
    assert record["protocol"] == "resize 36, center crop 32, one pass"
    reason = "2,000 images are not the 50,000 of the split"
    assert (record["recorded"], record["recorded_detail"], record["claims"]) == ("none", reason, [])
    assert record["flags"]["not_the_split"] == reason
    assert record["flags"]["decoder"].startswith(f"Pillow {Image.__version__}, libjpeg")
    assert not record["flags"]["tensor_resize"]
    assert known.labels.tolist() == open_split("imagenet1k", None, known.tree).labels.tolist()
    (row,) = make_table_rows("Z", load_manifest(), measurements_from_records(read_records(tmp_path)))
    assert row["data set"] == "imagenet1k val, 2,000 images"


def test_results_of_different_orders_never_meet(known: Known, tmp_path: Path) -> None:
    """The same images in folders `class_0` to `class_999`; each order has results and a record of its own."""
    (tmp_path / "val").mkdir()
    for k, folder in enumerate(sorted((known.tree / "imagenet/val").iterdir())):
        (tmp_path / "val" / f"class_{k}").symlink_to(folder)
    order, results = tmp_path / "order.txt", tmp_path / "results"
    order.write_text("\n".join(f"class_{k}" for k in range(1000)))
    arguments = (known.weights, "--data-dir", tmp_path, "-j", 0, "-b", 250, "--output", results)
    code, record, err = run(*arguments)
    assert (code, record) == (2, {})
    assert "text gives class_10, class_100, class_101 and numbers give class_2, class_3, class_4" in err
    assert not results.exists()
    found = {}
    for way in ("number", "text", order):
        code, found[str(way)], err = run(*arguments, "--class-order", way)
        assert code == 0, err
        assert "are there already" not in err
    number, text, listed = found.values()
    right = (known.top1, known.top5, known.prediction_sha256)
    assert (number["top1_correct"], number["top5_correct"], number["prediction_sha256"]) == right
    assert (listed["top1_correct"], listed["top5_correct"], listed["prediction_sha256"]) == right
    assert text["top1_correct"] < 100  # the same predictions, of images that are called otherwise
    names = hashlib.sha256(order.read_bytes()).hexdigest()
    chosen = ["number", "text", f"file, sha256 {names} of its names"]
    assert [each["flags"]["class_order"] for each in found.values()] == chosen
    assert len(list(results.glob("*/*/record.json"))) == 3
    code, again, err = run(*arguments, "--class-order", "number")
    assert (code, again["reused_files"]) == (0, 2)
    images = open_split("imagenet1k", None, known.tree)
    assert images.flags(ReaderOptions()).keys() == {"decoder", "tensor_resize"}  # without the option nothing is new


def posing(known: Known) -> tuple[EvaluationTarget, EncodedSet]:
    """The weights as an entry of the manifest, with a claim and a result that are true, and the images they are on."""
    entry = load_manifest().find("resnet18.imagenet1k")
    wrong = 2000 - known.top1
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
        top1_correct=known.top1,
        top5_correct=known.top5,
        statistics={},
        prediction_sha256=known.prediction_sha256,
        precision="fp32",
        device="",
        versions={},
        date="",
    )
    entry = dataclasses.replace(
        entry, preprocessing=SMALL, claims=(claim, other), results=(result,), tensors_sha256=None
    )
    subject = dataclasses.replace(EvaluationTarget.of_file(known.weights), name=entry.id, entry=entry)
    images = open_split("imagenet1k", None, known.tree)
    assert isinstance(images, EncodedSet)
    return subject, images


def test_verdicts_need_the_official_images(known: Known) -> None:
    subject, images = posing(known)
    part = Part("known", np.arange(2000), known.labels.numpy(), known.logits.numpy())
    official = dataclasses.replace(images, not_the_split=None)
    record = conclude(plan(load_model(subject, official), Engine(ComputeSettings(CPU, 250))), [part])
    assert record.recorded == "exact"
    (claim,) = record.claims
    assert (claim.verdict, claim.published) == ("matched", f"{(2000 - known.top1) / 20:.2f}")
    assert "not_the_split" not in record.flags
    record = conclude(plan(load_model(subject, images), Engine(ComputeSettings(CPU, 250))), [part])
    assert (record.recorded, record.claims) == ("none", ())
    assert record.recorded_detail == "2,000 images are not the 50,000 of the split"


@pytest.mark.parametrize(("images", "table"), [(50_000, "W2"), (1_000, "Z")])
def test_published_rows_are_about_all_images(images: int, table: str) -> None:
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
def few(known: Known) -> tuple[EvaluationTarget, EncodedSet]:
    """The first 60 images alone, posing as all of them: every image takes its time."""
    subject, images = posing(known)
    return subject, dataclasses.replace(images, labels=images.labels[:60], not_the_split=None)


def test_another_protocol_is_said_and_judged_by_its_own_claims(
    few: tuple[EvaluationTarget, EncodedSet], tmp_path: Path
) -> None:
    subject, images = few

    def judged(override: Override, **settings: Any) -> Any:
        return evaluate(subject, images, ComputeSettings(CPU, 30, override=override, **settings))

    plain = judged(Override())
    assert judged(Override(36, 32, "bilinear")).flags == plain.flags  # their own
    record = judged(Override(40, 40))
    assert record.protocol == "resize 40, center crop 40, one pass"
    assert [(claim.published, claim.verdict) for claim in record.claims] == [("0.50", "different")]
    assert (record.recorded, record.reproduced) == ("none", False)
    assert record.flags["preprocessing"]["input_size"] == (3, 40, 40)
    assert record.preprocessing_sha256 != plain.preprocessing_sha256
    assert record.prediction_sha256 != plain.prediction_sha256
    assert record.preprocessing_sha256 == prepared(40, 40, "bilinear").sha256()
    for override in (Override(), Override(40, 40)):  # one does not take the other's predictions
        kept = evaluate(subject, images, ComputeSettings(CPU, 30, override=override), output=tmp_path)
        assert kept.reused_files == 0
    bicubic = judged(Override(interpolation="bicubic"))
    assert bicubic.protocol == "resize 36, center crop 32, one pass, bicubic"
    assert (bicubic.claims, bicubic.recorded) == ((), "none")
    for bad in (Override(crop=40), Override(resize=31), Override(crop=0), Override(resize=-1, crop=-1)):
        with pytest.raises(UsageError, match="give --resize and --crop that fit each other"):
            judged(bad)


def test_tensor_resizing_is_not_strict(few: tuple[EvaluationTarget, EncodedSet]) -> None:
    subject, images = few
    record = evaluate(subject, images, ComputeSettings(CPU, 30, reading=ReaderOptions(0, True)))
    assert record.flags["tensor_resize"]
    assert not record.strict
    assert (record.arithmetic, record.claims) == ("fp32, resized as tensors", ())


def test_weights_that_want_other_images(few: tuple[EvaluationTarget, EncodedSet]) -> None:
    subject, images = few
    for change in (
        {"resize": None, "crop": None},
        {"crop": 31},
        {"resize": 31},
        {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,)},
    ):
        other = dataclasses.replace(subject, preprocessing=dataclasses.replace(SMALL, **change))
        with pytest.raises(UsageError, match="images of imagenet1k are resized and then cropped to a square"):
            evaluate(other, images, ComputeSettings(CPU, 30))
    odd = dataclasses.replace(subject, preprocessing=dataclasses.replace(SMALL, interpolation="magic"))
    with pytest.raises(UsageError, match="resized by 'magic'; bilinear and bicubic are possible"):
        evaluate(odd, images, ComputeSettings(CPU, 30))


def test_protocols_are_the_words_of_the_claims() -> None:
    claims = 0
    for entry in load_manifest().entries.values():
        for claim in entry.claims if entry.dataset == "imagenet1k" else ():
            if claim.protocol != "not stated":
                claims += claim.protocol == describe_protocol(entry.preprocessing)
    assert claims > 200
    assert describe_protocol(SMALL, SMALL) == "resize 36, center crop 32, one pass"


@pytest.mark.parametrize("wanted", [64, 20, 7])
def test_too_little_memory_halves_the_batch(
    wanted: int, few: tuple[EvaluationTarget, EncodedSet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What comes out, file for file, is what a run gives that was asked for the smaller batch."""
    subject, images = few
    compute, sizes = Engine._compute_logits, []

    def cramped(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 8:
            raise torch.OutOfMemoryError("no memory")
        return compute(self, key, network, batch)

    expected = {64: 8, 20: 5, 7: 7}[wanted]
    asked = evaluate(subject, images, ComputeSettings(CPU, expected), output=tmp_path / "out")
    monkeypatch.setattr(Engine, "_compute_logits", cramped)
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    record = evaluate(subject, images, ComputeSettings(CPU, wanted))
    assert max(sizes[-60 // expected :]) == expected
    assert record.prediction_sha256 == asked.prediction_sha256
    assert record.flags["batch_size"] == expected
    assert record.flags.get("batch_size_asked") == (wanted if wanted > 8 else None)
    again = evaluate(subject, images, ComputeSettings(CPU, wanted), output=tmp_path / "out")
    assert again.reused_files == -(-60 // (4 * expected))


def test_no_memory_at_all(few: tuple[EvaluationTarget, EncodedSet], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, images = few

    def none(self: Engine, key: Any, network: Any, batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Engine, "_compute_logits", none)
    with pytest.raises(UnavailableError, match="no memory for batches of 30; try a smaller -b") as caught:  # on the way
        evaluate(subject, images, ComputeSettings(CPU, 30, reading=ReaderOptions(1)))
    assert multiprocessing.active_children() == []  # although somebody has the error, and with it the frames
    assert caught.value.exit_code == 5
    monkeypatch.setattr(engine, "_can_continue_after_out_of_memory", lambda device: True)
    with pytest.raises(UnavailableError, match="no memory for batches of 1"):
        evaluate(subject, images, ComputeSettings(CPU, 30))


# --- processes ---


def test_a_decoding_process_that_is_killed(few: tuple[EvaluationTarget, EncodedSet]) -> None:
    _, images = few
    spans, before = [(start, start + 1) for start in range(60)], signal.getsignal(signal.SIGCHLD)
    with contextlib.closing(images.batches(spans, SMALL, CPU, ReaderOptions(1))) as batches:
        next(batches)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(UnavailableError, match=r"a process that decodes images has ended \(.*try fewer with -j"):
            list(batches)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGCHLD) is before


def test_closing_early_ends_the_processes(few: tuple[EvaluationTarget, EncodedSet]) -> None:
    _, images = few
    batches = images.batches([(start, start + 1) for start in range(60)], SMALL, CPU, ReaderOptions(2))
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_processes_that_are_spawned_get_what_they_need(known: Known) -> None:
    """Where a platform does not fork, all that they work with is pickled."""
    for place in (known.tree, known.shards):
        images = open_split("imagenet1k", None, place)
        assert isinstance(images, EncodedSet)
        crops = _DecodedSpans(images.encoded, Decoder(SMALL, tensor_resize=False))
        crop = crops[0, 2]
        assert isinstance(crop, torch.Tensor)
        assert torch.equal(pickle.loads(pickle.dumps(crops))[0, 2], crop)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes of a session in the kernel's table")
def test_an_interrupt_leaves_no_process(known: Known, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyramidzoo", "evaluate", str(known.weights), "--data-dir", str(known.tree)]
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
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().endswith("pyramidzoo: interrupted")
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.slow
def test_torchrun_with_processes_of_its_own(known: Known) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pyramidzoo"]
    arguments = ["evaluate", known.weights, "--data-dir", known.shards, "-j", 1, "-b", 50, "--format", "json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["records"]
    assert (record["images"], record["prediction_sha256"]) == (2000, known.prediction_sha256)


# --- Parquet ---


def test_rows_are_indexed_as_the_tree_is(known: Known) -> None:
    tree, rows = (open_split("imagenet1k", None, place) for place in (known.tree, known.shards))
    index = rows.index(0, 2000)
    assert sorted(index) == list(range(2000))
    assert (index != np.arange(2000)).any()
    assert torch.equal(rows.labels, tree.labels[index])
    places = np.argsort(index)[:3]
    with contextlib.closing(rows.batches([(p, p + 1) for p in places], SMALL, CPU, ReaderOptions())) as batches:
        found = torch.cat(list(batches))
    with contextlib.closing(tree.batches([(0, 3)], SMALL, CPU, ReaderOptions())) as batches:
        assert torch.equal(found, next(batches))


def test_row_groups_are_read_once_in_a_row(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow.parquet import ParquetFile

    read: list[int] = []
    real = ParquetFile.read_row_group

    def counting(self: Any, number: int, *arguments: Any) -> Any:
        read.append(number)
        return real(self, number, *arguments)

    monkeypatch.setattr(ParquetFile, "read_row_group", counting)
    images = open_split("imagenet1k", None, known.shards)
    assert read == []
    assert isinstance(images, EncodedSet)
    names = [name for start in range(0, 2000, 64) for name, _ in images.encoded.read(start, min(start + 64, 2000))]
    assert len(names) == len(set(names)) == 2000
    assert len(read) == 3 * 7  # of 100 rows each


def test_parquet_files_that_are_none(known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    shard = tmp_path / "data" / "validation-00000-of-00001.parquet"
    write_shards(shard.parent, [(f"{k}.JPEG", k, content) for k in range(5)], shards=1)
    images, whole = open_split("imagenet1k", None, tmp_path), shard.read_bytes()
    shard.write_bytes(whole[:4] + bytes(64) + whole[68:])  # the first page
    with pytest.raises(IntegrityError, match=r"00000-of-00001\.parquet cannot be read: .*; get the file again"):
        read_pixels(images, SMALL)
    for damaged in (b"", b"PAR1" + bytes(50), whole[:-20]):
        shard.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"00000-of-00001\.parquet cannot be read: .*; get the file again"):
            open_split("imagenet1k", None, tmp_path)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"make_picture": [b""], "label": [1]}), shard)
    with pytest.raises(IntegrityError, match=r"not image \(bytes and path\) and label"):
        open_split("imagenet1k", None, tmp_path)
    shard.unlink()
    shard.parent.rmdir()
    write_shards(shard.parent, [("a", -1, content)], shards=1)
    with pytest.raises(IntegrityError, match="has labels that are not 0 to 999"):
        open_split("imagenet1k", None, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'pyramidzoo\[parquet\]'"):
        open_split("imagenet1k", None, tmp_path)


def test_a_damaged_image_among_the_rows(tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    contents = [content, content, content[:300]]
    write_shards(tmp_path / "data", [(f"{k}.JPEG", 0, c) for k, c in enumerate(contents)], shards=1, rows=2)
    with pytest.raises(IntegrityError, match=r"^image 0 of row group 1 in \S*00000-of-00001\.parquet is damaged"):
        read_pixels(open_split("imagenet1k", None, tmp_path), SMALL)


# --- the command ---


def test_the_command_line(known: Known, tmp_path: Path) -> None:
    content = encode(Image.fromarray(make_picture(40, 40, 1)))
    write_tree(tmp_path / "val", [("n01440764", f"{k}.JPEG", content) for k in range(3)])
    code, record, err = run(
        *(known.weights, "--data-dir", tmp_path, "-j", 0, "--resize", 40, "--crop", 40, "--interpolation", "bicubic"),
        "--tensor-resize",
    )
    assert code == 0, err
    assert record["protocol"] == "resize 40, center crop 40, one pass, bicubic"
    assert record["flags"]["tensor_resize"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(["evaluate", str(known.weights), "--data-dir", str(tmp_path), "-j", "0"]) == 0
    assert "  protocol       resize 36, center crop 32, one pass\n" in out.getvalue()
    assert "  claim          none: 3 images are not the 50,000 of the split\n" in out.getvalue()
    (tmp_path / "val/n01440764/1.JPEG").write_bytes(content[:200])
    code, _, err = run(known.weights, "--data-dir", tmp_path, "-j", 1)
    assert code == 4
    assert "n01440764/1.JPEG is damaged" in err
    for arguments, message in (
        (("-j", -1), "cannot be negative"),
        (("--split", "test"), "ImageNet has no split 'test'"),
        (("--crop", 300), "that fit each other"),
    ):
        code, _, err = run(known.weights, "--data-dir", tmp_path, *arguments)
        assert (code, message in err) == (2, True), err
