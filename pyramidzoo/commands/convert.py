"""`convert`: turn a foreign checkpoint into a safetensors file that describes itself."""

from __future__ import annotations

import argparse
import sys

from pyramidzoo.catalog.manifest import LAYOUTS, Preprocessing, load_manifest
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.errors import UsageError
from pyramidzoo.text_output import facts, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `convert`."""
    parser.add_argument("file", type=path_argument, metavar="FILE", help="the checkpoint as its authors published it")
    parser.add_argument("--dataset", required=True, help="what it was trained on: cifar10, cifar100, svhn, imagenet1k")
    parser.add_argument("--layout", help=f"whose checkpoint it is: {', '.join(LAYOUTS)} (default: recognised)")
    parser.add_argument("--arch", help="the architecture, such as resnet56 (default: recognised)")
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="OUT", help="the .safetensors file to write"
    )
    parser.add_argument(
        "--mean", type=float, nargs="+", help="mean it was trained with, of [0, 1] values, if not the layout's"
    )
    parser.add_argument("--std", type=float, nargs="+", help="standard deviation, likewise")
    parser.add_argument(
        "--force", action="store_true", help="convert even if the manifest knows these tensors from another data set"
    )


def run(args: argparse.Namespace) -> int:
    """Turn a foreign checkpoint into a safetensors file that `evaluate` and `create_model` can read."""
    from pyramidzoo.convert.conversion import convert_file

    if args.output.suffix != ".safetensors":
        raise UsageError(f"the output {args.output} must end in .safetensors")
    classes, image_size = _data_set(args.dataset)
    converted = convert_file(
        args.file,
        args.output,
        layout=args.layout,
        architecture=args.arch,
        dataset=args.dataset,
        num_classes=classes,
        preprocessing=_preprocessing(args, image_size),
        force=args.force,
    )
    description = converted.description
    if args.layout is None or args.arch is None:
        print(
            f"pyramidzoo: recognised {args.file} as {description.architecture} in the layout {description.layout}",
            file=sys.stderr,
        )
    known = load_manifest().with_tensors(converted.tensors_sha256, dataset=args.dataset)
    if known and known.dataset != args.dataset:
        print(
            f"pyramidzoo: --force: {args.output} says {args.dataset}, although it holds the tensors of {known.id}, "
            f"which were trained on {known.dataset}",
            file=sys.stderr,
        )
    row = {
        "path": str(converted.path),
        "architecture": description.architecture,
        "layout": description.layout,
        "origin sha256": description.origin_sha256,
        "sha256": converted.sha256,
        "tensors sha256": converted.tensors_sha256,
        "same tensors as": known.id if known else None,
    }
    if args.format == "human":
        print(facts([(name, value or "no weights of the manifest") for name, value in row.items()]))
    else:
        print(render([row], args.format))
    return 0


def _data_set(name: str) -> tuple[int, tuple[int, int, int]]:
    """Classes and image size. Raises UsageError."""
    from pyramidzoo.data.datasets import get_dataset

    source = get_dataset(name)
    return source.classes, source.image_size


def _preprocessing(args: argparse.Namespace, image_size: tuple[int, int, int]) -> Preprocessing | None:
    """The user's own constants; large images are resized and cropped as nearly everybody does."""
    if (args.mean is None) != (args.std is None):
        raise UsageError("--mean and --std belong together")
    if args.mean is None:
        return None
    large = image_size[1] > 64
    try:
        return Preprocessing(
            image_size,
            tuple(args.mean),
            tuple(args.std),
            resize=256 if large else None,
            crop=image_size[1] if large else None,
            interpolation="bilinear" if large else None,
        )
    except ValueError as error:
        raise UsageError(f"--mean and --std: {error}") from error
