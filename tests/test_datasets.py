"""The data that are evaluated are the official ones, normalised as torchvision would."""

from __future__ import annotations

import dataclasses
import gzip
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import transforms

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.data import datasets
from pyramidzoo.data.cifar import Cifar
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.mnist import FASHION_MNIST, MNIST
from pyramidzoo.data.svhn import SVHN
from pyramidzoo.data.transforms import Normalize, eval_transform
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.files import file_hash

CONSTANTS = [
    Preprocessing((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    Preprocessing((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
]


@pytest.mark.parametrize("preprocessing", CONSTANTS, ids=["imagenet", "cifar"])
def test_normalisation_is_torchvisions_bit_for_bit(preprocessing: Preprocessing) -> None:
    # every value of a byte occurs in every channel
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, 16, 16)
    reference = transforms.Compose([transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)])
    expected = torch.stack([reference(transforms.ToPILImage()(image)) for image in images])
    assert torch.equal(Normalize(preprocessing)(images), expected)
    small = dataclasses.replace(preprocessing, input_size=(3, 16, 16))
    assert torch.equal(eval_transform(small)(transforms.ToPILImage()(images[0])), expected[0])


def test_transform_resizes_and_crops() -> None:
    preprocessing = Preprocessing((3, 24, 24), (0.5,) * 3, (0.5,) * 3, resize=28, crop=24, interpolation="bicubic")
    image = transforms.ToPILImage()(torch.zeros(3, 40, 60, dtype=torch.uint8))
    assert eval_transform(preprocessing)(image).shape == (3, 24, 24)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_official_test_sets(name: str, data_dir: Path) -> None:
    found = load_dataset(name, "test", data_dir)
    assert found.images.shape == (10_000, 3, 32, 32)
    assert found.images.dtype == torch.uint8
    assert torch.bincount(found.labels).tolist() == [10_000 // found.classes] * found.classes


def test_pixels_and_labels_are_torchvisions(data_dir: Path) -> None:
    from torchvision.datasets import CIFAR10

    reference = CIFAR10(data_dir, train=False)
    found = load_dataset("cifar10", "test", data_dir)
    assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), reference.data)
    assert found.labels.tolist() == reference.targets


def test_all_five_training_files_count(data_dir: Path) -> None:
    assert len(load_dataset("cifar10", "train", data_dir)) == 50_000


def test_one_changed_byte_of_the_real_file(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    shutil.copyfile(data_dir / "cifar-10-batches-py" / "test_batch", folder / "test_batch")
    with (folder / "test_batch").open("rb+") as stream:
        stream.seek(-5000, 2)
        byte = stream.read(1)
        stream.seek(-5000, 2)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(IntegrityError, match="test_batch is altered: its MD5 is"):
        load_dataset("cifar10", "test", tmp_path)


def test_images_of_a_model_without_weights() -> None:
    with pytest.raises(UsageError, match="has no weights, so it is not known how to prepare images"):
        eval_transform(None)


def test_where_the_data_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="--data-dir or PYRAMIDZOO_DATA"):
        load_dataset("cifar10", "test", None)
    with pytest.raises(
        UnavailableError,
        match=r"the file .*test_batch is missing; put the files from https.*or download them with --download",
    ):
        load_dataset("cifar10", "test", tmp_path / "nowhere")
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE forbids"):
        load_dataset("cifar10", "test", tmp_path, download=True)
    with pytest.raises(UsageError, match=r"'cifar'.*cifar10, cifar100, svhn, mnist"):
        load_dataset("cifar", "test", tmp_path)
    with pytest.raises(UsageError, match="has no split 'val'; it has test, train"):
        load_dataset("cifar10", "val", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mnist_is_torchvisions(data_dir: Path) -> None:
    from torchvision.datasets import MNIST

    for split, number in (("test", 10_000), ("train", 60_000)):
        reference = MNIST(data_dir, train=split == "train")
        found = load_dataset("mnist", split, data_dir)
        assert found.images.shape == (number, 1, 28, 28)
        assert torch.equal(found.images[:, 0], reference.data)
        assert torch.equal(found.labels, reference.targets)


@pytest.mark.parametrize("form", ["gz", "unpacked", "damaged", "no idx"])
def test_idx_files(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
    contents = {
        "images": bytes((0, 0, 8, 3)) + np.array([2, 28, 28], ">i4").tobytes() + pixels.tobytes(),
        "labels": bytes((0, 0, 8, 1)) + np.array([2], ">i4").tobytes() + bytes((7, 9)),
    }
    if form == "no idx":
        contents["images"] = b"<html>"
    packed, plain = {}, {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        packed[f"{name}.gz"], plain[name] = file_hash(tmp_path / f"{name}.gz", "md5"), file_hash(tmp_path / name, "md5")
        (tmp_path / (name if form == "gz" else f"{name}.gz")).unlink()
    monkeypatch.setattr(
        datasets,
        "DATASETS",
        {"mnist": dataclasses.replace(MNIST, files={"test": packed}, unpacked_files={"test": plain})},
    )
    if form == "damaged":
        (tmp_path / "labels").write_bytes(contents["labels"][:-1] + b"\1")
        with pytest.raises(IntegrityError, match="labels is altered: its MD5 is"):
            load_dataset("mnist", "test", tmp_path)
    elif form == "no idx":
        with pytest.raises(IntegrityError, match="images is not an idx file of bytes: it starts with 3c68746d"):
            load_dataset("mnist", "test", tmp_path)
    else:
        found = load_dataset("mnist", "test", tmp_path)
        assert np.array_equal(found.images[:, 0].numpy(), pixels)
        assert found.labels.tolist() == [7, 9]


def test_svhn_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN as REFERENCE

    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    labels = np.arange(20).reshape(20, 1).astype(np.uint8) % 10 + 1  # 10 is the digit 0
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": pixels, "y": labels}, do_compression=True)
    md5 = file_hash(path, "md5")
    monkeypatch.setattr(
        datasets, "DATASETS", {"svhn": dataclasses.replace(SVHN, files={**SVHN.files, "test": {path.name: md5}})}
    )
    monkeypatch.setitem(REFERENCE.split_list, "test", ["", path.name, md5])
    reference, found = REFERENCE(tmp_path, split="test"), load_dataset("svhn", "test", tmp_path)
    assert np.array_equal(found.images.numpy(), reference.data)
    assert found.labels.tolist() == reference.labels.tolist()
    assert sorted(set(found.labels.tolist())) == list(range(10))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'pyramidzoo\[svhn\]'"):
        load_dataset("svhn", "test", tmp_path)


def test_md5s_are_those_that_torchvision_checks() -> None:
    from torchvision import datasets as reference

    for ours, theirs in ((MNIST, reference.MNIST), (FASHION_MNIST, reference.FashionMNIST)):
        found = {Path(name).name: md5 for files in ours.files.values() for name, md5 in files.items()}
        assert found == dict(theirs.resources)
    published = {split: {name: md5} for split, (_, name, md5) in reference.SVHN.split_list.items()}
    assert published == SVHN.files


class Bomb:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Path, ("exploded",)


def test_a_pickle_that_builds_objects_is_refused_whatever_its_md5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "test").write_bytes(pickle.dumps({"data": Bomb()}))
    source = Cifar(
        title="Bad",
        classes=2,
        files={"test": {"bad/test": file_hash(folder / "test", "md5")}},
        labels_key="labels",
        url="",
        torchvision_class="",
    )
    monkeypatch.setattr(datasets, "DATASETS", {"bad": source})
    with pytest.raises(IntegrityError, match="which is in no official file"):
        load_dataset("bad", "test", tmp_path)
