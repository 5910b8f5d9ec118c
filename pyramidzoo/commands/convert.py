"""`convert`: turn a checkpoint of another project into a safetensors file that describes itself."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import render, render_facts

if TYPE_CHECKING:
    from pyramidzoo.convert.conversion import ConvertedFile

_LARGEST_UNRESIZED_IMAGE = 64  # pixels of a side; larger images, as those of ImageNet, are resized and cropped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument("file", type=path_argument, metavar="FILE", help="the checkpoint as its authors published it")
    parser.add_argument(
        "--dataset", required=True, help="the dataset it was trained on: cifar10, cifar100, svhn, imagenet1k"
    )
    parser.add_argument(
        "--layout", help=f"the project it comes from: {', '.join(LAYOUTS)} (default: found by its tensors)"
    )
    parser.add_argument("--arch", help="the architecture, such as resnet56 (default: found by its tensors)")
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="OUT", help="the .safetensors file to write"
    )
    parser.add_argument(
        "--mean",
        type=float,
        nargs="+",
        help="the mean that it was trained with, for pixel values in [0, 1] (default: the layout's)",
    )
    parser.add_argument(
        "--std", type=float, nargs="+", help="the standard deviation that it was trained with (default: the layout's)"
    )
    parser.add_argument(
        "--force", action="store_true", help="convert even if the manifest has these tensors with another dataset"
    )


@dataclass(frozen=True)
class ConvertOptions(CommandOptions):
    """The options of `convert`. The help texts in `add_arguments` say what each option means."""

    file: Path
    dataset: str
    layout: str | None
    arch: str | None
    output: Path
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    force: bool

    def __post_init__(self) -> None:
        if self.output.suffix != ".safetensors":
            raise UsageError(f"the output {self.output} must end in .safetensors")


def run(args: argparse.Namespace) -> int:
    """Run `convert`: write a file that `evaluate` and `create_model` can read, and return the exit code."""
    from pyramidzoo.convert.conversion import convert_file
    from pyramidzoo.data.datasets import get_dataset

    options = ConvertOptions.from_args(args)
    dataset = get_dataset(options.dataset)
    converted = convert_file(
        options.file,
        options.output,
        layout=options.layout,
        architecture=options.arch,
        dataset=options.dataset,
        num_classes=dataset.classes,
        preprocessing=_make_preprocessing(options.mean, options.std, dataset.image_size),
        force=options.force,
    )
    _print_report(converted, options)
    return 0


def _make_preprocessing(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, image_size: tuple[int, int, int]
) -> Preprocessing | None:
    """Make the preprocessing with the mean and standard deviation that the user has given.

    The shorter side of large images is resized to 256 pixels, and the center is cropped, as nearly
    every project does it for ImageNet.

    Args:
        mean: The values of `--mean`, one for each channel; None if the user has not given it.
        std: The values of `--std`, likewise.
        image_size: The channels, height and width of the network's input.

    Returns:
        The preprocessing; None if the user has given neither value, so that the layout's
        preprocessing is used.
    """
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std belong together; give both, or none")
    if mean is None or std is None:
        return None
    is_large = image_size[1] > _LARGEST_UNRESIZED_IMAGE
    try:
        return Preprocessing(
            image_size,
            mean,
            std,
            resize=256 if is_large else None,
            crop=image_size[1] if is_large else None,
            interpolation="bilinear" if is_large else None,
        )
    except ValueError as error:
        raise UsageError(f"--mean and --std: {error}") from error


def _print_report(converted: ConvertedFile, options: ConvertOptions) -> None:
    """Print the layout and architecture of the checkpoint, and the hashes of the file that was written."""
    description = converted.description
    if options.layout is None or options.arch is None:
        print(
            f"pyramidzoo: recognised {options.file} as {description.architecture} in the layout {description.layout}",
            file=sys.stderr,
        )
    entry = load_manifest().find_by_tensors_hash(converted.tensors_sha256, dataset=options.dataset)
    if entry and entry.dataset != options.dataset:
        print(
            f"pyramidzoo: --force: {options.output} says {options.dataset}, although it holds the tensors of "
            f"{entry.id}, which were trained on {entry.dataset}",
            file=sys.stderr,
        )
    facts = {
        "path": str(converted.path),
        "architecture": description.architecture,
        "layout": description.layout,
        "origin sha256": description.origin_sha256,
        "sha256": converted.sha256,
        "tensors sha256": converted.tensors_sha256,
        "same tensors as": entry.id if entry else None,
    }
    if options.format == "human":
        # Only "same tensors as" can be None here.
        print(render_facts([(name, value or "no weights of the manifest") for name, value in facts.items()]))
    else:
        print(render([facts], options.format))
