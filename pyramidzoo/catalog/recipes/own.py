"""Recipes of our own: the digits that come with the package, and short recipes for a good network soon."""

from __future__ import annotations

from collections.abc import Iterator

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.catalog.recipes._normalization import (
    CIFAR10_FB,
    CIFAR100_FB,
    FASHION_MNIST_HYSTS,
    MNIST_HYSTS,
    SVHN_UNIT,
)
from pyramidzoo.catalog.recipes._recipe import Recipe


def recipes() -> Iterator[Recipe]:
    """Yield the recipes of this module."""
    yield Recipe(
        name="digits",
        dataset="digits",
        preprocessing=Preprocessing((1, 8, 8), (0.3075,), (0.377,)),  # of the training images
        epochs=100,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        padding=1,
        source="our own; no constant was chosen by looking at test images",
    )
    for dataset, preprocessing, epochs, images in (
        ("cifar10", CIFAR10_FB, 20, "photos"),
        ("cifar100", CIFAR100_FB, 20, "photos"),
        ("svhn", SVHN_UNIT, 16, "numbers"),
        ("mnist", MNIST_HYSTS, 4, "numbers"),
        ("fashion_mnist", FASHION_MNIST_HYSTS, 16, "photos"),
    ):
        yield Recipe(
            name=f"quick_{dataset}",
            dataset=dataset,
            preprocessing=preprocessing,
            epochs=epochs,
            batch_size=128,
            learning_rate=0.2,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="one_cycle",
            padding=0 if images == "numbers" else 4,
            flip=images == "photos",
            drop_incomplete=True,
            source="our own; no constant was chosen by looking at test images",
            notes=(
                "A tenth of the usual epochs. The learning rate rises in a straight line during the first quarter of "
                "the steps and falls in a straight line to zero during the rest.",
                "No published row answers to it.",
            ),
        )
