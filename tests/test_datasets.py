"""The data that are evaluated are the official ones, normalised as torchvision would."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms

from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError
from pyramidzoo.evaluation import datasets
from pyramidzoo.evaluation.datasets import load_dataset
from pyramidzoo.evaluation.datasets.cifar import Cifar
from pyramidzoo.files import file_hash
from pyramidzoo.manifest import Preprocessing
from pyramidzoo.preprocessing import Normalize, eval_transform

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
    assert torch.equal(eval_transform(preprocessing)(transforms.ToPILImage()(images[0])), expected[0])


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
    with pytest.raises(UsageError, match="has no weights that would say how to prepare images"):
        eval_transform(None)


def test_where_the_data_are_not(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="--data-dir or PYRAMIDZOO_DATA"):
        load_dataset("cifar10", "test", None)
    with pytest.raises(UnavailableError, match=r"no .*test_batch; unpack https.*or let --download fetch it"):
        load_dataset("cifar10", "test", tmp_path / "nowhere")
    with pytest.raises(UnavailableError, match="HF_HUB_OFFLINE forbids"):
        load_dataset("cifar10", "test", tmp_path, download=True)
    with pytest.raises(UsageError, match="no data set is called 'cifar'; the data sets are cifar10, cifar100, digits"):
        load_dataset("cifar", "test", tmp_path)
    with pytest.raises(UsageError, match="has no split 'val'; it has test, train"):
        load_dataset("cifar10", "val", tmp_path)
    assert list(tmp_path.iterdir()) == []


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
        folder="bad",
        files={"test": {"test": file_hash(folder / "test", "md5")}},
        labels="labels",
        url="",
        torchvision="",
    )
    monkeypatch.setattr(datasets, "DATASETS", {"bad": source})
    with pytest.raises(IntegrityError, match="which no official file does"):
        load_dataset("bad", "test", tmp_path)
