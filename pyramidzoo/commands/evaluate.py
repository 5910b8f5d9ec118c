"""`evaluate`: evaluate weights on their dataset and print both verdicts."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.manifest import WeightsEntry, load_manifest
from pyramidzoo.commands._arguments import path_argument
from pyramidzoo.commands._select import split
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.text_output import render, show

if TYPE_CHECKING:
    from pyramidzoo.evaluation.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    parser.add_argument(
        "weights",
        nargs="*",
        metavar="WEIGHTS",
        help="ids, architectures, patterns, .safetensors files or folders (default: what comes with the package)",
    )
    parser.add_argument(
        "--data-dir", type=path_argument, metavar="D", help="folder of the data sets (default: PYRAMIDZOO_DATA)"
    )
    parser.add_argument("--download", action="store_true", help="download the data set where it is absent")
    parser.add_argument("--split", help="test or train (default: the tested one, which is val for ImageNet)")
    parser.add_argument(
        "--class-order",
        type=class_order_argument,
        metavar="ORDER",
        help="which class each folder of images is: 'text' or 'number' sorts their names, a file has one name a line",
    )
    parser.add_argument(
        "--output", type=path_argument, metavar="DIR", help="keep predictions and records, and resume from them"
    )
    parser.add_argument(
        "-b", "--batch-size", type=int, default=128, metavar="N", help="images at once (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    parser.add_argument(
        "-j", "--jobs", type=int, metavar="N", help="processes that decode images (default: one a core)"
    )
    parser.add_argument(
        "--resize", type=int, metavar="N", help="shorter side of large images, instead of the weights' own"
    )
    parser.add_argument("--crop", type=int, metavar="N", help="side of the square cut from their centre, likewise")
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="how they are resized, likewise")
    parser.add_argument("--tensor-resize", action="store_true", help="resize them faster; recorded as not strict")
    parser.add_argument("--channels-last", action="store_true", help="faster memory layout; recorded as not strict")
    parser.add_argument(
        "--optimize", action="store_true", help="rewrite the network for inference; recorded as not strict"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16", "fp16"),
        default="fp32",
        help="of the whole network; all but %(default)s, the default, are recorded as not strict",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision; recorded as not strict")
    parser.add_argument("--amp-dtype", choices=("bf16", "fp16"), help="for --amp (default: bf16)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network; recorded as not strict")
    parser.add_argument("--cuda-graph", action="store_true", help="record its kernels once; recorded as not strict")
    parser.add_argument("--compare", action="store_true", help="compute strictly too, and list predictions that moved")


def class_order_argument(text: str) -> str | Path:
    """A way to sort, or the path of a file."""
    return text if text in ("text", "number") else path_argument(text)


def run(args: argparse.Namespace) -> int:
    """Evaluate weights or files on their data set and print both verdicts; a failure of one does not stop the rest."""
    if args.batch_size < 1:
        raise UsageError(f"a batch of {args.batch_size} images cannot be evaluated; -b must be positive")
    entries, files = split(args.weights)
    if not args.weights:
        entries = [entry for entry in load_manifest().entries.values() if entry.bundled]
        print(
            "pyramidzoo: no weights were named, so these are the small ones that come with the package, on the digits "
            "that come with it; `pyramidzoo list --weights` shows the others",
            file=sys.stderr,
        )
    if args.amp_dtype and not args.amp:
        raise UsageError("--amp-dtype says how to compute under --amp; give both")
    if args.jobs is not None and args.jobs < 0:
        raise UsageError(f"-j {args.jobs}: the number of processes cannot be negative; 0 decodes in this one")

    from pyramidzoo.data.datasets import ReaderOptions, Split, default_data_dir, open_split
    from pyramidzoo.data.transforms import Override
    from pyramidzoo.evaluation.engine import ComputeSettings, Engine
    from pyramidzoo.evaluation.environment import keep_memory, own_cores, pick_device
    from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel, load
    from pyramidzoo.evaluation.harness import plan, strictly
    from pyramidzoo.evaluation.workers import Failure, evaluate_all, this_worker

    worker = this_worker()
    amp = (args.amp_dtype or "bf16") if args.amp else None
    keep_memory()
    settings = ComputeSettings(
        device=pick_device(args.device, worker.local_rank),
        batch_size=args.batch_size,
        amp=amp,
        channels_last=args.channels_last,
        precision=args.precision,
        optimized=args.optimize,
        compiled=args.compile,
        cuda_graph=args.cuda_graph,
        reading=ReaderOptions(own_cores() if args.jobs is None else args.jobs, args.tensor_resize),
        override=Override(args.resize, args.crop, args.interpolation),
    )
    engine, strict = Engine(settings), Engine(strictly(settings)) if args.compare else None
    data_dir = args.data_dir or default_data_dir()
    loaded: dict[str, Split] = {}

    def images_of(dataset: str) -> Split:
        if dataset not in loaded:
            loaded[dataset] = open_split(
                dataset, args.split, data_dir, download=args.download, class_order=args.class_order
            )
        return loaded[dataset]

    targets: list[WeightsEntry | Path] = [*entries, *files]
    names = [str(target) if isinstance(target, Path) else target.id for target in targets]

    if args.download:  # here, where an interrupt reaches it; why it fails is said with each set of weights
        for dataset in {entry.dataset for entry in entries}:
            with contextlib.suppress(PyramidzooError):
                images_of(dataset)

    def loaded_of(position: int) -> LoadedModel:
        target = targets[position]
        if isinstance(target, Path):
            subject = EvaluationTarget.of_file(target)
            return load(subject, images_of(subject.dataset), settings.override)
        images = images_of(target.dataset)  # first: without images there is no use in fetching weights
        return load(EvaluationTarget.of_entry(target), images, settings.override)

    records: list[Record] = []
    failures: list[Failure] = []
    for result in evaluate_all(
        names, loaded_of, partial(plan, engine=engine, output=args.output, strict=strict), worker
    ):
        if isinstance(result, Failure):
            failures.append(result)
            named = "" if result.name in result.error else f"{result.name}: "
            print(f"pyramidzoo: {named}{result.error}", file=sys.stderr)
        else:
            records.append(result)
            if args.format == "human":
                show(_block(result) + "\n")
    if not worker.is_first:
        return 0
    if args.format == "json":
        failed = [{"weights": f.name, "error": f.error, "exit_code": f.exit_code} for f in failures]
        show(json.dumps({"records": [r.to_json() for r in records], "failures": failed}, indent=1))
    elif args.format != "human":
        empty: dict[str, Any] = dict.fromkeys(_COLUMNS)
        rows = [_row(r) for r in records] + [empty | {"weights": f.name, "error": f.error} for f in failures]
        show(render(rows, args.format))
    codes = [3 for record in records if not record.reproduced] + [failure.exit_code for failure in failures]
    code = worst_exit_code(codes)
    if code and worker.starts_left:
        print(f"pyramidzoo: torchrun gets 0 instead of {code}, or it would start all of it again", file=sys.stderr)
        return 0
    return code


def _block(record: Record) -> str:
    low, high = record.interval
    lines = [
        f"{record.weights}: {record.dataset} {record.split}, {record.images:,} images, {record.device}",
        *([] if record.protocol.startswith("full ") else [f"  protocol       {record.protocol}"]),
        f"  wrong          {record.wrong} (top-1 error {record.top1_error:.2f} %, 95 % within {low:.2f} to {high:.2f})",
        *([f"  class order    {order}"] if (order := record.flags.get("class_order")) else []),
        f"  top-5 correct  {record.top5_correct} (top-5 error {record.top5_error:.2f} %)",
        f"  recorded       {record.recorded}: {record.recorded_detail}",
    ]
    for claim in record.claims:
        lines.append(
            f"  claim          {claim.verdict}: {claim.by} published {claim.published} ({claim.statistic}), "
            f"ours is {claim.ours:.3f} by that statistic"
        )
    if (against := record.against_strict) is not None:
        moved = [f"{index} ({before} to {after}, label {label})" for index, label, before, after in against.moved[:8]]
        rest = "" if len(against.moved) <= len(moved) else ", ..."
        lines.append(
            f"  against strict {len(against.moved)} predictions moved, {against.lost} lost, {against.gained} gained; "
            f"logits moved by at most {against.largest_difference:.1e}"
        )
        lines += [f"                 images {', '.join(moved)}{rest}"] if moved else []
    if record.not_the_split:
        lines.append(f"  claim          none: {record.not_the_split}")
    elif not record.strict:
        lines.append(f"  claim          not judged: {record.arithmetic} is not strict fp32, which verdicts are about")
    elif not record.claims:
        lines.append("  claim          none: no published error is known for these weights on this split")
    return "\n".join(lines)


_COLUMNS = (
    "weights",
    "data set",
    "split",
    "images",
    "wrong",
    "top5_correct",
    "top1_error",
    "interval_low",
    "interval_high",
    "recorded",
    "claim",
    "published",
    "ours_by_statistic",
    "moved",
    "error",
)


def _row(record: Record) -> dict[str, Any]:
    low, high = record.interval
    values = (
        record.weights,
        record.dataset,
        record.split,
        record.images,
        record.wrong,
        record.top5_correct,
        f"{record.top1_error:.2f}",
        f"{low:.2f}",
        f"{high:.2f}",
        record.recorded,
        [claim.verdict for claim in record.claims] or "none",
        [f"{claim.published} ({claim.by}, {claim.statistic})" for claim in record.claims],
        [f"{claim.ours:.3f}" for claim in record.claims],
        len(record.against_strict.moved) if record.against_strict else None,
        None,
    )
    return dict(zip(_COLUMNS, values, strict=True))
