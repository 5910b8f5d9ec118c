"""hysts' recipes: tables H1 to H6.

Source: hysts/pytorch_image_classification at b7ad09d (2018-11-06): its README.md prints the tables and the commands,
configs/*.json have the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.recipes._normalization import CIFAR10_HYSTS, FASHION_MNIST_HYSTS, MNIST_HYSTS
from pyramidzoo.catalog.recipes._recipe import Recipe

_SOURCE = "hysts/pytorch_image_classification at b7ad09d (2018-11-06)"
_COSINE: dict[str, Any] = {"schedule": "cosine", "milestones": (), "first_cosine_step": 1}
_STEPPED_FIRST = (
    "The scheduler stepped before the optimizer, so that the first step has the second value of the cosine and the "
    "last step has the learning rate zero."
)
_TEST_IMAGES = (
    "The printed numbers were measured on test images that were cropped and flipped at random like training images. "
    "Numbers of this recipe are measured on the whole images, so they are not the same quantity."
)
_SHAKE: dict[str, Any] = {"epochs": 1800, "learning_rate": 0.2, "config": "shake_shake.json", **_COSINE}


def recipes() -> Iterator[Recipe]:
    """Yield hysts' recipes."""
    yield from _mnist()
    yield from _ablation()
    yield from _cifar10()
    yield from _fashion_mnist()


def _recipe(
    name: str, dataset: str, preprocessing: Preprocessing, config: str = "resnet_preact.json", **changes: Any
) -> Recipe:
    """Make a recipe from the defaults of hysts' code, which are in one file of configs/ for each architecture."""
    notes = (
        f"What the command does not name has the default in configs/{config}.",
        "Most printed rows are medians of three or five runs; one run has one seed.",
        *changes.pop("notes", ()),
    )
    settings: dict[str, Any] = {
        "batch_size": 128,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "padding": 0,
        "drop_incomplete": True,
        "source": _SOURCE,
    }
    return Recipe(name=name, dataset=dataset, preprocessing=preprocessing, **{**settings, **changes, "notes": notes})


def _mnist() -> Iterator[Recipe]:
    """Table H5: learning rate 0.2 along a cosine, no cropping and no flipping."""

    def recipe(name: str, rows: Mapping[str, str], epochs: int = 40, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {"learning_rate": 0.2, **_COSINE, "notes": (_STEPPED_FIRST,), **changes}
        return _recipe(name, "mnist", MNIST_HYSTS, epochs=epochs, rows=rows, **settings)

    yield recipe("hysts_mnist", {"H5:1": "preresnet20", "H5:14": "preresnet50"})
    for row, size in enumerate((6, 8, 10, 12, 14, 16), start=2):
        rows = {f"H5:{row}": "preresnet20"}
        if size == 12:
            rows |= {"H5:13": "preresnet20_w4", "H5:15": "preresnet50", "H5:16": "preresnet50_w4"}
        yield recipe(f"hysts_mnist_cutout{size}", rows, cutout=size)
    yield recipe("hysts_mnist_cutout12_100epochs", {"H5:17": "shakeshake26_2x32d_hysts"}, 100, cutout=12)
    yield recipe("hysts_mnist_erasing", {"H5:8": "preresnet20"}, random_erasing=0.5)
    yield recipe("hysts_mnist_mixup1", {"H5:9": "preresnet20"}, mixup=1.0)
    yield recipe("hysts_mnist_mixup1_80epochs", {"H5:10": "preresnet20"}, 80, mixup=1.0)
    yield recipe("hysts_mnist_mixup05", {"H5:11": "preresnet20"}, mixup=0.5)
    yield recipe("hysts_mnist_mixup05_80epochs", {"H5:12": "preresnet20"}, 80, mixup=0.5)


def _ablation() -> Iterator[Recipe]:
    """Table H6: preresnet56 in six forms on CIFAR-10, learning rate 0.2, 160 epochs."""

    def recipe(name: str, rows: Mapping[str, str], epochs: int = 160, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {
            "learning_rate": 0.2,
            "schedule": "steps",
            "milestones": (80, 120),
            "padding": 4,
            "flip": True,
        }
        return _recipe(name, "cifar10", CIFAR10_HYSTS, epochs=epochs, rows=rows, **{**settings, **changes})

    best = "preresnet56_norelu1_lastbn"
    yield recipe(
        "hysts_ablation",
        {
            "H6:1": "preresnet56_sharedpreact",
            "H6:2": "preresnet56",
            "H6:3": "preresnet56_norelu1",
            "H6:4": "preresnet56_lastbn",
            "H6:5": best,
            "H6:6": f"{best}_sharedpreact",
        },
    )
    yield recipe("hysts_ablation_cosine", {"H6:7": best}, **_COSINE)
    yield recipe("hysts_ablation_cutout", {"H6:8": best}, cutout=16)
    yield recipe("hysts_ablation_erasing", {"H6:9": best}, random_erasing=0.5)
    yield recipe(
        "hysts_ablation_mixup",
        {"H6:10": best},
        300,
        mixup=1.0,
        notes=(
            "The row says 300 epochs, but the command names neither epochs nor milestones. The default milestones, 80 "
            "and 120 (configs/resnet_preact.json), are kept here; the run of the table may have had others.",
        ),
    )


def _cifar10() -> Iterator[Recipe]:
    """Tables H1 and H2: the settings of the papers, nearly, with cropping and flipping."""

    def recipe(name: str, rows: Mapping[str, str], config: str, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {"learning_rate": 0.1, "schedule": "steps", "padding": 4, "flip": True}
        rows = {f"{row} hysts": architecture for row, architecture in rows.items()}
        return _recipe(name, "cifar10", CIFAR10_HYSTS, config, rows=rows, **{**settings, **changes})

    yield recipe(
        "hysts_cifar10",
        {"H1:1": "vgg15_bn", "H1:2": "resnet110_b", "H1:3": "preresnet110", "H1:4": "preresnet164_hysts"},
        "vgg.json, resnet.json and resnet_preact.json",
        epochs=160,
        milestones=(80, 120),
    )
    wide: dict[str, Any] = {"config": "wrn.json", "epochs": 200, "batch_size": 64, "weight_decay": 5e-4}
    yield recipe("hysts_wrn_cifar10", {"H1:6": "wrn_28_10"}, milestones=(60, 120, 160), decay=0.2, **wide)
    yield recipe("hysts_wrn_cifar10_cutout", {"H2:1": "wrn_28_10"}, cutout=16, **{**wide, **_COSINE})
    half: dict[str, Any] = {"epochs": 300, "milestones": (150, 225)}
    yield recipe(
        "hysts_densenet_cifar10",
        {"H1:8": "densenet_100_k12_stem2k"},
        "densenet.json",
        batch_size=64,
        notes=("The README gives no command for this row.",),
        **half,
    )
    yield recipe(
        "hysts_densenet_bc_cifar10",
        {"H1:10": "densenet_bc_100_k12"},
        "densenet.json",
        **{**half, "batch_size": 32, "learning_rate": 0.05},
    )
    yield recipe(
        "hysts_pyramidnet_cifar10",
        {"H1:13": "pyramidnet110_a84", "H1:14": "pyramidnet110_a270", "H1:15": "pyramidnet164_a270_hysts"},
        "pyramidnet.json",
        **half,
    )
    for width, batch_size, rate, row in ((4, 32, 0.025, 17), (8, 64, 0.05, 18)):
        yield recipe(
            f"hysts_resnext_cifar10_batch{batch_size}",
            {f"H1:{row}": f"resnext29_{width}x64d"},
            "resnext.json",
            **{**half, "batch_size": batch_size, "learning_rate": rate, "weight_decay": 5e-4},
        )
    yield recipe(
        "hysts_shakeshake_cifar10",
        {"H1:20": "shakeshake26_2x32d_hysts", "H1:22": "shakeshake26_2x96d_hysts"},
        notes=(_STEPPED_FIRST,),
        **_SHAKE,
    )
    single: dict[str, Any] = {**_SHAKE, "batch_size": 64, "learning_rate": 0.1}
    yield recipe(
        "hysts_shakeshake_cifar10_batch64", {"H1:21": "shakeshake26_2x64d_hysts"}, notes=(_STEPPED_FIRST,), **single
    )
    yield recipe(
        "hysts_shakeshake_cifar10_cutout",
        {"H2:2": "shakeshake26_2x64d_hysts"},
        cutout=16,
        notes=(
            _STEPPED_FIRST,
            "The row says 1,800 epochs, and its time (78 h 55 min) is that of 1,800. The command says 300. 1,800 are "
            "used here.",
        ),
        **single,
    )


def _fashion_mnist() -> Iterator[Recipe]:
    """Tables H3 and H4: learning rate 0.2 along a cosine, cropping and flipping."""

    def recipe(name: str, rows: Mapping[str, str], epochs: int = 160, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {"learning_rate": 0.2, **_COSINE, "padding": 4, "flip": True}
        notes = (_STEPPED_FIRST, "The README gives no commands for this table.", _TEST_IMAGES)
        return _recipe(
            name, "fashion_mnist", FASHION_MNIST_HYSTS, epochs=epochs, rows=rows, notes=notes, **{**settings, **changes}
        )

    yield recipe("hysts_fashion_mnist", {"H4:1": "preresnet20"})
    single_runs = {
        12: {"H3:1": "preresnet20_w4", "H3:3": "preresnet50"},
        14: {"H3:2": "preresnet20_w4", "H3:4": "preresnet50"},
    }
    for row, size in enumerate((6, 8, 10, 12, 14, 16), start=2):
        rows = {f"H4:{row}": "preresnet20", **single_runs.get(size, {})}
        yield recipe(f"hysts_fashion_mnist_cutout{size}", rows, cutout=size)
    yield recipe("hysts_fashion_mnist_erasing", {"H4:8": "preresnet20"}, random_erasing=0.5)
    yield recipe("hysts_fashion_mnist_mixup", {"H4:9": "preresnet20"}, mixup=1.0)
    for row, size in ((5, 12), (6, 14)):
        yield recipe(f"hysts_fashion_mnist_cutout{size}_200epochs", {f"H3:{row}": "preresnet50_w4"}, 200, cutout=size)
    longer = {
        12: {"H3:7": "shakeshake26_2x32d_hysts", "H3:9": "shakeshake26_2x96d_hysts", "H4:10": "preresnet20"},
        14: {"H3:8": "shakeshake26_2x32d_hysts", "H3:10": "shakeshake26_2x96d_hysts"},
    }
    for size, rows in longer.items():
        yield recipe(f"hysts_fashion_mnist_cutout{size}_300epochs", rows, 300, cutout=size)
    yield recipe("hysts_fashion_mnist_erasing_300epochs", {"H4:11": "preresnet20"}, 300, random_erasing=0.5)
    yield recipe("hysts_fashion_mnist_mixup_300epochs", {"H4:12": "preresnet20"}, 300, mixup=1.0)
    yield recipe("hysts_fashion_mnist_mixup_600epochs", {"H4:13": "preresnet20"}, 600, mixup=1.0)
