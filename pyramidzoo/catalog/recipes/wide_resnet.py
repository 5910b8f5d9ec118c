"""The Wide ResNet authors' recipes: tables W1 and W2. Source: szagoruyko/wide-residual-networks."""

from __future__ import annotations

from collections.abc import Iterator

from pyramidzoo.catalog.recipes._normalization import CIFAR10_FB, CIFAR_WHITENED, SVHN_UNIT
from pyramidzoo.catalog.recipes._recipe import Recipe

_SOURCE = "szagoruyko/wide-residual-networks, scripts/train_cifar.sh and train.lua"
_MILESTONES = "The learning rate falls at the start of epochs 60, 120 and 160, counted from 1: after 59, 119 and 159."


def make_recipes() -> Iterator[Recipe]:
    """Yield the recipes of the Wide ResNet authors."""
    cifar10 = Recipe(
        name="wrn_cifar10",
        dataset="cifar10",
        preprocessing=CIFAR10_FB,
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        milestones=(59, 119, 159),
        decay=0.2,
        reset_momentum=True,
        padding=4,
        pad_with="reflect",
        flip=True,
        drop_incomplete=True,
        source=_SOURCE,
        notes=(
            _MILESTONES,
            "The optimizer's state is replaced when the learning rate falls, so the momentum starts again at zero.",
            "The printed numbers are medians of five runs. A training with one seed is one of these runs.",
        ),
        rows={"W1:3": "wrn_28_10"},
        quoted={"H1:6 paper": "wrn_28_10"},
    )
    with_dropout = (*cifar10.notes, "Dropout 0.3 stands between the two convolutions of each block.")
    constants = (
        "The code normalizes CIFAR-100 with the mean and standard deviation of CIFAR-10. So does this recipe.",
    )
    yield cifar10
    yield cifar10.replace(
        name="wrn_cifar10_dropout",
        arguments={"drop_rate": 0.3},
        notes=with_dropout,
        rows={"W1:4": "wrn_28_10", "W2:1": "wrn_40_10"},
        quoted={"H1:7 paper": "wrn_28_10"},
    )
    yield cifar10.replace(
        name="wrn_cifar100",
        dataset="cifar100",
        notes=(*cifar10.notes, *constants),
        quoted={},
    )
    yield cifar10.replace(
        name="wrn_cifar100_dropout",
        dataset="cifar100",
        arguments={"drop_rate": 0.3},
        notes=(*with_dropout, *constants),
        rows={"W1:4": "wrn_28_10", "W2:2": "wrn_40_10"},
        quoted={},
    )
    for dataset in ("cifar10", "cifar100"):
        yield cifar10.replace(
            name=f"wrn_{dataset}_whitened",
            dataset=dataset,
            preprocessing=CIFAR_WHITENED,
            source="szagoruyko/wide-residual-networks, README.md, scripts/train_cifar.sh and train.lua; "
            f"lisa-lab/pylearn2, scripts/datasets/make_{dataset}_gcn_whitened.py",
            notes=(
                *cifar10.notes[:2],
                "The README's examples train on whitened images. The printed numbers are of images that were not "
                "whitened, so this recipe answers no row.",
                "pylearn2 whitens in the precision that Theano is configured for. This recipe whitens in float64 and "
                "rounds the result to float32.",
            ),
            rows={},
            quoted={},
        )
    yield Recipe(
        name="wrn_svhn",
        dataset="svhn",
        splits=("train", "extra"),
        preprocessing=SVHN_UNIT,
        arguments={"drop_rate": 0.4},
        epochs=160,
        batch_size=128,
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        milestones=(79, 119),
        reset_momentum=True,
        padding=0,
        drop_incomplete=True,
        source="szagoruyko/wide-residual-networks, scripts/train_svhn.sh; arXiv:1605.07146, section 3",
        notes=(
            "The learning rate falls at the start of epochs 80 and 120, counted from 1: after 79 and 119.",
            "The paper divides the pixels by 255 and does nothing else to them. The code would subtract CIFAR-10's "
            "mean from pixels of bytes; the authors' file of SVHN held numbers that were divided before.",
            "The paper trains on the splits train and extra together.",
        ),
        rows={"W2:3": "wrn_16_8"},
    )
