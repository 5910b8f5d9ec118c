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

_LARGE_IMAGE = 64  # pixels; images that are larger are resized and cropped


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
    """The options of `convert`; `add_arguments` says what each means."""

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
        preprocessing=_preprocessing(options.mean, options.std, dataset.image_size),
        force=options.force,
    )
    _report(converted, options)
    return 0


def _preprocessing(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, image_size: tuple[int, int, int]
) -> Preprocessing | None:
    """Make a preprocessing of the user's own constants, if there are any.

    Large images are resized to 256 and cropped, as nearly every project does it.
    """
    if (mean is None) != (std is None):
        raise UsageError("--mean and --std belong together; give both, or none")
    if mean is None or std is None:
        return None
    is_large = image_size[1] > _LARGE_IMAGE
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


def _report(converted: ConvertedFile, options: ConvertOptions) -> None:
    """Print what was found out about the checkpoint, and what was written."""
    description = converted.description
    if options.layout is None or options.arch is None:
        print(
            f"pyramidzoo: recognised {options.file} as {description.architecture} in the layout {description.layout}",
            file=sys.stderr,
        )
    same = load_manifest().find_by_tensors_hash(converted.tensors_sha256, dataset=options.dataset)
    if same and same.dataset != options.dataset:
        print(
            f"pyramidzoo: --force: {options.output} says {options.dataset}, although it holds the tensors of "
            f"{same.id}, which were trained on {same.dataset}",
            file=sys.stderr,
        )
    row = {
        "path": str(converted.path),
        "architecture": description.architecture,
        "layout": description.layout,
        "origin sha256": description.origin_sha256,
        "sha256": converted.sha256,
        "tensors sha256": converted.tensors_sha256,
        "same tensors as": same.id if same else None,
    }
    if options.format == "human":
        print(render_facts([(name, value or "no weights of the manifest") for name, value in row.items()]))
    else:
        print(render([row], options.format))
