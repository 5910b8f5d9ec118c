"""The DenseNet, ResNeXt and shake-shake authors' recipes: rows of table H1 that quote papers."""

from __future__ import annotations

from collections.abc import Iterator

from pyramidzoo.catalog.recipes._normalization import CIFAR10_FB
from pyramidzoo.catalog.recipes._recipe import Recipe


def recipes() -> Iterator[Recipe]:
    """Yield the recipes of this module."""
    fb = Recipe(
        name="densenet_cifar10",
        dataset="cifar10",
        preprocessing=CIFAR10_FB,
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(149, 224),
        padding=4,
        pad_with="mean",
        flip=True,
        source="liuzhuang13/DenseNet, README.md and train.lua",
        notes=(
            "The learning rate falls at the start of epochs 150 and 225, counted from 1: after 149 and 224 epochs.",
            "There is no dropout where images are cropped and flipped.",
        ),
        rows={
            "H1:8 paper": "densenet_100_k12",
            "H1:9 paper": "densenet_100_k24",
            "H1:10 paper": "densenet_bc_100_k12",
            "H1:11 paper": "densenet_bc_250_k24",
            "H1:12 paper": "densenet_bc_190_k40",
        },
    )
    yield fb
    yield fb.replace(
        name="resnext_cifar10",
        batch_size=128,
        weight_decay=5e-4,
        milestones=(147, 222),
        source="facebookresearch/ResNeXt, README.md and train.lua",
        notes=(
            "The learning rate falls at the start of epochs 148 and 223, counted from 1: after 147 and 222 epochs.",
            "The command uses eight GPUs, and batch normalization used the 16 images of each. One device normalizes "
            "over all 128 images here.",
            "The paper says pre-activated blocks and batches of 256. The code, which the README calls better, has "
            "post-activated blocks and batches of 128.",
        ),
        rows={
            "H1:17 paper": "resnext29_4x64d",
            "H1:18 paper": "resnext29_8x64d",
            "H1:19 paper": "resnext29_16x64d",
        },
    )
    yield fb.replace(
        name="shakeshake_cifar10",
        epochs=1800,
        batch_size=128,
        learning_rate=0.2,
        schedule="cosine",
        first_cosine_step=1,
        milestones=(),
        source="xgastaldi/shake-shake, README.md and train.lua",
        notes=(
            "The learning rate falls at each step along half a cosine, without restarts. The steps are counted from 1, "
            "so that the last step has the learning rate zero.",
            "The command uses two GPUs, and batch normalization used the 64 images of each. One device normalizes over "
            "all 128 images here.",
            "The last epoch counts, as in the paper.",
        ),
        rows={
            "H1:20 paper": "shakeshake26_2x32d",
            "H1:21 paper": "shakeshake26_2x64d",
            "H1:22 paper": "shakeshake26_2x96d",
        },
    )
