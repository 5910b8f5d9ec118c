"""The PyramidNet authors' recipes: tables P1, P2 and two rows of P3.

Source: jhkim89/PyramidNet, whose code runs inside facebookarchive/fb.resnet.torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyramidzoo.catalog.recipes._normalization import CIFAR10_FB, CIFAR100_FB, IMAGENET
from pyramidzoo.catalog.recipes._recipe import Recipe

_SOURCE = "jhkim89/PyramidNet, README.md (section Usage) and facebookarchive/fb.resnet.torch, opts.lua and train.lua"

# Row of the table and architecture, for both CIFAR datasets.
_ROWS = {
    "P1:1": "pyramidnet110_mul_a4p75",
    "P1:2": "pyramidnet110_a48",
    "P1:3": "pyramidnet110_mul_a8",
    "P1:4": "pyramidnet110_a84",
    "P1:5": "pyramidnet110_mul_a27",
    "P1:6": "pyramidnet110_a270",
    "P2:1": "pyramidnet164_a48",
    "P2:2": "pyramidnet164_a84",
    "P2:3": "pyramidnet164_a270",
    "P2:4": "pyramidnet200_a240",
    "P2:5": "pyramidnet236_a220",
    "P2:6": "pyramidnet272_a200",
}
# Table H1 quotes the same experiments, with the spread of several runs.
_QUOTED = {
    "H1:13 paper": "pyramidnet110_a84",
    "H1:14 paper": "pyramidnet110_a270",
    "H1:15 paper": "pyramidnet164_a270",
    "H1:16 paper": "pyramidnet272_a200",
}
_BEST_OR_LAST = (
    "The code prints the best epoch at the end. The tables do not say whether their numbers are of the best or of the "
    "last epoch. The last epoch counts here."
)


def recipes() -> Iterator[Recipe]:
    """Yield the recipes of the PyramidNet authors."""
    cifar10 = Recipe(
        name="pyramidnet_cifar10",
        dataset="cifar10",
        preprocessing=CIFAR10_FB,
        epochs=300,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(149, 224),
        padding=4,
        pad_with="mean",
        flip=True,
        source=_SOURCE,
        notes=(
            "The learning rate falls at the start of epochs 150 and 225, counted from 1: after 149 and 224 epochs.",
            _BEST_OR_LAST,
        ),
        rows=_ROWS,
        quoted=_QUOTED,
    )
    yield cifar10
    yield cifar10.replace(
        name="pyramidnet_cifar100",
        dataset="cifar100",
        preprocessing=CIFAR100_FB,
        learning_rate=0.5,
        rows=_ROWS,
        quoted={},
        notes=(
            *cifar10.notes,
            "The command for CIFAR-100 has learning rate 0.5 and four GPUs, and batch normalization used the 32 images "
            "of each GPU. One device normalizes over all 128 images here.",
        ),
    )
    imagenet = Recipe(
        name="pyramidnet_imagenet",
        dataset="imagenet1k",
        preprocessing=IMAGENET,
        epochs=120,
        batch_size=128,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(60, 90, 105),
        padding=0,
        flip=True,
        random_area=(0.08, 1.0),
        color_jitter=0.4,
        lighting=0.1,
        source="arXiv:1610.02915, section 4; facebookarchive/fb.resnet.torch, datasets/imagenet.lua",
        notes=(
            "The repository gives no command for ImageNet. 120 epochs with learning rate 0.05, divided by 10 after 60, "
            "90 and 105 epochs, is the paper's recipe as hysts/pytorch_image_classification writes it down.",
            _BEST_OR_LAST,
        ),
        rows={"P3:2": "pyramidnet200_a300"},
    )
    yield imagenet
    yield imagenet.replace(
        name="pyramidnet_imagenet_dropout",
        arguments={"drop_rate": 0.5},
        notes=(*imagenet.notes, "Dropout 0.5 stands before the classifier."),
        rows={"P3:3": "pyramidnet200_a450"},
    )
