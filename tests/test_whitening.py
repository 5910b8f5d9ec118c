"""Whitened images: the formulas of pylearn2, the file in the cache, training and evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import RunCommand
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from training_tools import load_few_digits

import pyramidzoo
from pyramidzoo.catalog import recipes
from pyramidzoo.catalog.preprocessing import Preprocessing, WhitenedPreprocessing
from pyramidzoo.catalog.recipes import RECIPES, Recipe, get_recipe
from pyramidzoo.checkpoints.description import Description
from pyramidzoo.data import datasets
from pyramidzoo.data._encoded import EncodedSet
from pyramidzoo.data._splits import ImageSet
from pyramidzoo.data.datasets import load_dataset
from pyramidzoo.data.digits import Digits
from pyramidzoo.data.transforms import Normalize
from pyramidzoo.data.whitening import WhitenedSet, Whitening, fit_mean_and_matrix, load_whitening, whiten_split
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.evaluation.compute_settings import ComputeSettings
from pyramidzoo.evaluation.evaluate import evaluate
from pyramidzoo.evaluation.evaluation_target import EvaluationTarget
from pyramidzoo.hub.model_card import describe_preprocessing
from pyramidzoo.training.augmentation import Draws, prepare_batch
from pyramidzoo.training.device_images import TrainingImages
from pyramidzoo.training.logged_run import Task
from pyramidzoo.training.loop import train_together

CPU = torch.device("cpu")
WHITENED = WhitenedPreprocessing((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
# The digits are whitened here only because they are small.
WHITENED_DIGITS = WhitenedPreprocessing((1, 8, 8), (0.0,), (1.0,))


def make_random_images(number: int, seed: int = 0) -> Tensor:
    """Random images of 3 x 4 x 5. The first one has equal values everywhere."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (number, 3, 4, 5), dtype=torch.uint8, generator=generator)
    images[0] = 77
    return images


def normalize_contrast_literally(images: Tensor) -> NDArray[np.float64]:
    """GCN of pylearn2, image by image."""
    rows = []
    for image in images.numpy().astype(np.float64):
        row = image.ravel() - image.mean()
        divisor = np.sqrt(0.0 + np.sum(row**2)) / 55.0
        rows.append(row / (1.0 if divisor < 1e-8 else divisor))
    return np.array(rows)


def fit_literally(images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ZCA of pylearn2 after GCN: the mean and the matrix."""
    inputs = normalize_contrast_literally(images)
    mean = inputs.mean(axis=0)
    centered = inputs - mean
    covariance = np.dot(centered.T, centered) / len(inputs) + 0.1 * np.identity(inputs.shape[1])
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    return mean, np.dot(eigenvectors * (1.0 / np.sqrt(eigenvalues)), eigenvectors.T)


# --- the formulas ---


@pytest.mark.parametrize("number", [40, 300, 4001])  # fewer images than values; some; several batches
def test_the_fit_is_that_of_pylearn2(number: int) -> None:
    images = make_random_images(number)
    mean, matrix = fit_mean_and_matrix(images)
    expected_mean, expected_matrix = fit_literally(images)
    assert mean.dtype == matrix.dtype == torch.float64
    np.testing.assert_allclose(mean.numpy(), expected_mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(matrix.numpy(), expected_matrix, rtol=0, atol=1e-9)


def test_test_images_are_whitened_with_the_statistics_of_the_training_images() -> None:
    training, test = make_random_images(300), make_random_images(50, seed=1)
    mean, matrix = fit_literally(training)
    whitened = Whitening.fit(training).apply(test)
    assert whitened.shape == test.shape
    assert whitened.dtype == torch.float32
    expected = np.dot(normalize_contrast_literally(test) - mean, matrix).reshape(test.shape)
    # The mean and the matrix are rounded to float32, by at most 6e-8 of each value. Each sum has 60 products of a value
    # below 30 and an entry below 4.
    np.testing.assert_allclose(whitened.numpy(), expected, rtol=0, atol=60 * 30 * 4 * 2 * 6e-8)


def test_whitened_training_images_have_nearly_the_identity_as_their_covariance() -> None:
    images = make_random_images(2000)[1:]
    whitened = Whitening.fit(images).apply(images).flatten(1).to(torch.float64)
    covariance = torch.cov(whitened.T, correction=0)
    # GCN removes the mean of each image, so no image differs in the direction (1, ..., 1).
    size = len(covariance)
    identity = torch.eye(size, dtype=torch.float64) - 1 / size
    # An eigenvalue e of the covariance becomes e / (e + 0.1). Here e is 40 on average: 0.1 / 40 less than 1.
    smallest = torch.linalg.eigvalsh(torch.cov(torch.tensor(normalize_contrast_literally(images)).T))[1]
    torch.testing.assert_close(covariance, identity, rtol=0, atol=float(0.1 / smallest))
    assert smallest > 10
    assert whitened.mean(0).abs().max() < 1e-5


def test_the_result_does_not_depend_on_the_batches() -> None:
    images = make_random_images(200)
    whitening = Whitening.fit(images)
    whole = whitening.apply(images)
    for batch_size in (1, 7, 200, 1000):
        # float64 sums in another order may round to the float32 beside it
        torch.testing.assert_close(whitening.apply(images, batch_size), whole, rtol=2**-23, atol=1e-12)


def test_other_images_are_refused() -> None:
    whitening = Whitening.fit(make_random_images(100))
    with pytest.raises(UsageError, match=r"uint8 images of 60 values; these are torch\.uint8 and have 192"):
        whitening.apply(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"torch\.float32"):
        whitening.apply(torch.zeros(2, 3, 4, 5))


# --- the file in the cache ---


@pytest.fixture
def count_fits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that says how often a whitening was fitted."""
    fits = []
    fit = Whitening.fit

    def counted_fit(images: Tensor) -> Whitening:
        fits.append(len(images))
        return fit(images)

    monkeypatch.setattr(Whitening, "fit", counted_fit)
    return lambda: len(fits)


def test_a_fitted_whitening_is_kept(count_fits: Callable[[], int], tmp_path: Path) -> None:
    few = load_few_digits()
    first, second = load_whitening(few), load_whitening(few)
    assert count_fits() == 1
    assert torch.equal(first.matrix, second.matrix)
    assert torch.equal(first.mean, second.mean)
    assert [path.name for path in (tmp_path / "cache" / "whitening").iterdir()] == [f"{few.fingerprint}.safetensors"]
    load_whitening(dataclasses.replace(few, fingerprint="e" * 64))
    assert count_fits() == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, None])
def test_a_damaged_file_is_fitted_again(damage: bytes | None, count_fits: Callable[[], int], tmp_path: Path) -> None:
    few = load_few_digits()
    first = load_whitening(few)
    path = tmp_path / "cache" / "whitening" / f"{few.fingerprint}.safetensors"
    content = path.read_bytes()
    path.unlink()  # the tensors of `first` may be a map of the file
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage is None else damage)
    assert torch.equal(load_whitening(few).matrix, first.matrix)
    assert count_fits() == 2
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_only_costs_time(
    count_fits: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRAMIDZOO_CACHE", str(tmp_path / "file"))
    few = load_few_digits()
    assert torch.equal(load_whitening(few).matrix, load_whitening(few).matrix)
    assert count_fits() == 2


# --- the preprocessing ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"whitening": "pca"}, "whitening 'pca' is unknown"),
        ({"mean": (0.0, 0.0, 0.1)}, "each mean must be 0"),
        ({"std": (1.0, 1.0, 0.5)}, "each std 1"),
        ({"resize": 36, "crop": 32}, "resized or cropped"),
    ],
)
def test_an_impossible_whitening_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dataclasses.replace(WHITENED, **fields)  # type: ignore[arg-type]


def test_the_preprocessing_has_its_own_hash_and_goes_through_a_file() -> None:
    plain = Preprocessing((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    assert plain.sha256() != WHITENED.sha256()
    assert plain != WHITENED
    for preprocessing in (plain, WHITENED):
        description = Description("wrn_16_1", {}, "cifar10", 10, preprocessing, None, None)
        metadata = description.to_metadata()
        assert ("whitening" in metadata["pyramidzoo"]) == (preprocessing is WHITENED)
        assert Description.from_file(Path("file"), metadata) == description


def test_the_preprocessing_is_described() -> None:
    assert "ZCA whitening prepare the images" in describe_preprocessing(WHITENED)
    assert "255" not in describe_preprocessing(WHITENED)


def test_a_single_image_cannot_be_prepared() -> None:
    with pytest.raises(UsageError, match=r"needs the training images; whiten uint8 .*load_whitening"):
        pyramidzoo.eval_transform(WHITENED)
    with pytest.raises(UsageError, match="are not whitened"):
        Normalize(WHITENED)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# --- the recipes ---


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_recipes_differ_from_the_others_in_the_preprocessing_only(dataset: str) -> None:
    plain, whitened = get_recipe(f"wrn_{dataset}"), get_recipe(f"wrn_{dataset}_whitened")
    assert whitened.preprocessing == WHITENED
    assert not whitened.rows
    assert not whitened.quoted
    same = ("name", "preprocessing", "source", "notes", "rows", "quoted")
    assert whitened == plain.replace(**{name: getattr(whitened, name) for name in same})


def test_whitening_is_fitted_on_one_split() -> None:
    with pytest.raises(ValueError, match="splits must be train"):
        get_recipe("wrn_cifar10_whitened").replace(splits=("train", "extra"))


def test_a_recipe_page_names_the_whitening(run_command: RunCommand) -> None:
    page = run_command("recipes", "wrn_cifar10_whitened").out
    assert "\nwhitening           gcn_zca\n" in page
    assert "\nmean " not in page
    (row,) = run_command("recipes", "wrn_cifar10_whitened", "--format", "json").json()
    assert row["settings"]["preprocessing"]["whitening"] == "gcn_zca"


# --- training and evaluation ---


@pytest.fixture
def whitened_digits(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that trains five epochs on whitened digits, shifted and mirrored."""
    recipe = get_recipe("digits").replace(
        name="whitened", preprocessing=WHITENED_DIGITS, epochs=5, padding=1, pad_with="reflect", flip=True
    )
    monkeypatch.setattr(recipes, "RECIPES", {**RECIPES, "whitened": recipe})
    return recipe


def test_images_are_whitened_before_they_are_shifted_and_mirrored(whitened_digits: Recipe) -> None:
    few = load_few_digits()
    whitened = whiten_split(few, load_whitening(few))
    images = TrainingImages(whitened, CPU)
    assert images.images.dtype == torch.float32
    assert images.fingerprint == few.fingerprint
    draws = Draws(index=torch.tensor([3, 0]), shift=torch.tensor([[0, 2], [1, 0]]), flip=torch.tensor([True, False]))
    inputs = prepare_batch(images.images, draws, whitened_digits, Normalize(WHITENED_DIGITS))
    padded = F.pad(whitened.images, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(inputs[0], padded[3][:, 0:8, 2:10].flip(2))
    assert torch.equal(inputs[1], padded[0][:, 1:9, 0:8])


def test_train_and_evaluate(whitened_digits: Recipe, run_command: RunCommand, tmp_path: Path) -> None:
    result = run_command("train", "wrn_16_1", "--recipe", "whitened", "--output", tmp_path / "out")
    assert result.code == 0, result.err
    path = tmp_path / "out" / "wrn_16_1.whitened.seed0.safetensors"
    lines = (tmp_path / "out" / "wrn_16_1.whitened.seed0.jsonl").read_text().splitlines()
    test_error = json.loads(lines[-1])["test_error"]
    assert test_error < 75  # guessing leaves 90 % wrong, with a standard deviation of 1 %

    document = run_command("evaluate", path, "--output", tmp_path / "results", "--format", "json").json()
    (record,) = document["records"]
    assert round(record["top1_error"], 4) == test_error
    assert record["preprocessing_sha256"] == WHITENED_DIGITS.sha256()
    again = run_command("evaluate", path, "--batch-size", "100", "--format", "json").json()["records"][0]
    assert again["top1_error"] == record["top1_error"]

    assert "ZCA whitening, fitted on the training images" in run_command("info", path).out
    model = pyramidzoo.create_model("wrn_16_1", weights=path)
    with pytest.raises(UsageError, match="trained on whitened images"):
        pyramidzoo.eval_transform(model)
    target = EvaluationTarget.from_file(path)
    digits = load_dataset("digits", "test", None)
    with pytest.raises(UsageError, match=r"whiten the test images first .*whiten_split"):
        evaluate(target, digits, ComputeSettings(CPU))
    whitened = whiten_split(digits, load_whitening(load_dataset("digits", "train", None)))
    assert evaluate(target, whitened, ComputeSettings(CPU)).prediction_sha256 == record["prediction_sha256"]
    other = EvaluationTarget.from_file(pyramidzoo_file("wrn_16_1.digits_zoo"))
    with pytest.raises(UsageError, match="these images are whitened"):
        evaluate(other, whitened, ComputeSettings(CPU))
    optimized = run_command("evaluate", path, "--optimize", "--format", "json").json()["records"][0]
    assert optimized["top1_error"] == pytest.approx(record["top1_error"], abs=0.5)  # a few images may be near a tie


def pyramidzoo_file(weights_id: str) -> Path:
    return Path(pyramidzoo.__file__).parent / "bundled" / f"{weights_id}.safetensors"


def test_evaluation_needs_the_training_images(
    whitened_digits: Recipe, run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command("train", "wrn_16_1", "--recipe", "whitened", "--epochs", 1, "--output", tmp_path).code == 0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TestSplitOnly(Digits):
        def read(
            self, split: str, data_dir: Path | None, *, download: bool
        ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
            if split == "train":
                raise UnavailableError("the file train is missing")
            return super().read(split, data_dir, download=download)

    monkeypatch.setattr(datasets, "DATASETS", {**datasets.DATASETS, "digits": TestSplitOnly()})
    result = run_command("evaluate", tmp_path / "wrn_16_1.whitened.seed0.safetensors")
    assert result.code == UnavailableError.exit_code
    assert "whitening needs the training images: the file train is missing" in result.err


def test_whitened_and_other_images_are_not_mixed(whitened_digits: Recipe, tmp_path: Path) -> None:
    few = load_few_digits()
    tasks = [Task("wrn_16_1", whitened_digits, 0), Task("wrn_16_1", get_recipe("digits"), 0)]
    with pytest.raises(UsageError, match="some of these recipes train on whitened images"):
        train_together(tasks, few, few, device=CPU, output=tmp_path)


def test_images_in_files_are_refused() -> None:
    in_files = EncodedSet.__new__(EncodedSet)
    object.__setattr__(in_files, "name", "imagenet1k")
    with pytest.raises(UsageError, match="images of imagenet1k cannot be whitened"):
        load_whitening(in_files)


@pytest.mark.slow
def test_real_images(data_dir: Path) -> None:
    training: ImageSet = load_dataset("cifar10", "train", data_dir)
    whitening = load_whitening(training)
    whitened = whiten_split(training, whitening)
    assert isinstance(whitened, WhitenedSet)
    values = whitened.images.flatten(1)
    covariance = (values.T @ values).to(torch.float64) / len(values)
    matrix = whitening.matrix.to(torch.float64)
    # With P^-2 = C + 0.1, the covariance P C P of the whitened images is 1 - 0.1 P^2.
    expected = torch.eye(len(matrix), dtype=torch.float64) - 0.1 * matrix @ matrix
    # float32 sums of 50,000 products
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-3)
    test = whiten_split(load_dataset("cifar10", "test", data_dir), whitening)
    assert float(test.images.std()) == pytest.approx(float(whitened.images.std()), rel=0.02)
