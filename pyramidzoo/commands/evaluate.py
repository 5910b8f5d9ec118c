"""`evaluate`: evaluate weights on their dataset and print both verdicts."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.manifest import load_manifest
from pyramidzoo.catalog.preprocessing import WhitenedPreprocessing
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.commands._arguments import add_data_dir_argument, add_device_argument, path_argument
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._record_text import RECORD_COLUMNS, make_record_lines, make_record_row
from pyramidzoo.commands._select import select_weights
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError, worst_exit_code
from pyramidzoo.text_output import render, show

if TYPE_CHECKING:
    from pyramidzoo.data._splits import Split
    from pyramidzoo.evaluation.compute_settings import ComputeSettings
    from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, LoadedModel
    from pyramidzoo.evaluation.records import Record
    from pyramidzoo.evaluation.workers import Failure, Worker

_NOT_REPRODUCED = 3  # The exit code if a verdict is "changed" or "different".


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.add_argument(
        "weights",
        nargs="*",
        metavar="WEIGHTS",
        help="ids, architectures, patterns, .safetensors files or folders (default: what comes with the package)",
    )
    add_data_dir_argument(parser)
    parser.add_argument("--download", action="store_true", help="download the dataset if it is not here")
    parser.add_argument("--split", help="test or train (default: the tested split, which is val for ImageNet)")
    parser.add_argument(
        "--class-order",
        type=_parse_class_order,
        metavar="ORDER",
        help="which class each folder of images is: 'text' or 'number' sorts the names of the folders, a file has one "
        "name a line",
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="DIR",
        help="keep predictions and records in this folder, and continue from what is there",
    )
    parser.add_argument(
        "-b",
        "--batch-size",
        type=int,
        default=128,
        metavar="N",
        help="how many images are computed at once (default: %(default)s)",
    )
    add_device_argument(parser)
    parser.add_argument(
        "-j", "--jobs", type=int, metavar="N", help="how many processes decode images (default: one for each core)"
    )
    parser.add_argument(
        "--resize", type=int, metavar="N", help="the shorter side of large images (default: that of the weights)"
    )
    parser.add_argument(
        "--crop",
        type=int,
        metavar="N",
        help="the side of the square cut from the center of large images (default: that of the weights)",
    )
    parser.add_argument(
        "--interpolation",
        choices=("bilinear", "bicubic"),
        help="how large images are resized (default: that of the weights)",
    )
    parser.add_argument(
        "--tensor-resize", action="store_true", help="resize large images faster; recorded as not strict"
    )
    parser.add_argument(
        "--channels-last", action="store_true", help="use a faster memory layout; recorded as not strict"
    )
    parser.add_argument(
        "--optimize", action="store_true", help="rewrite the network for inference; recorded as not strict"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16", "fp16"),
        default="fp32",
        help="the precision of the whole network (default: %(default)s); all others are recorded as not strict",
    )
    parser.add_argument("--amp", action="store_true", help="use mixed precision; recorded as not strict")
    parser.add_argument("--amp-dtype", choices=("bf16", "fp16"), help="the lower precision of --amp (default: bf16)")
    parser.add_argument(
        "--compile", action="store_true", help="compile the network with torch.compile; recorded as not strict"
    )
    parser.add_argument(
        "--cuda-graph",
        action="store_true",
        help="record the GPU's kernels once and replay them; recorded as not strict",
    )
    parser.add_argument(
        "--compare", action="store_true", help="compute strictly too, and list the predictions that differ"
    )


def _parse_class_order(text: str) -> str | Path:
    """Return the value of --class-order: "text" or "number" for a way to sort, or else the path of a file."""
    return text if text in ("text", "number") else path_argument(text)


@dataclass(frozen=True)
class EvaluateOptions(CommandOptions):
    """The options of `evaluate`; `add_arguments` says what each means."""

    weights: tuple[str, ...]
    data_dir: Path | None
    download: bool
    split: str | None
    class_order: str | Path | None
    output: Path | None
    batch_size: int
    device: str
    jobs: int | None
    resize: int | None
    crop: int | None
    interpolation: str | None
    tensor_resize: bool
    channels_last: bool
    optimize: bool
    precision: str
    amp: bool
    amp_dtype: str | None
    compile: bool
    cuda_graph: bool
    compare: bool

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"a batch of {self.batch_size} images cannot be evaluated; -b must be positive")
        if self.amp_dtype and not self.amp:
            raise UsageError("--amp-dtype says how to compute under --amp; give both")
        if self.jobs is not None and self.jobs < 0:
            raise UsageError(f"-j {self.jobs}: the number of processes cannot be negative; 0 decodes in this one")


def run(args: argparse.Namespace) -> int:
    """Run `evaluate` and return the exit code. If one set of weights fails, the next ones are still evaluated."""
    options = EvaluateOptions.from_args(args)
    targets = _select_targets(options.weights)

    from pyramidzoo.evaluation.compute_settings import make_strict_settings
    from pyramidzoo.evaluation.engine import Engine
    from pyramidzoo.evaluation.environment import keep_memory
    from pyramidzoo.evaluation.planning import plan
    from pyramidzoo.evaluation.workers import evaluate_all, get_this_worker

    worker = get_this_worker()
    keep_memory()
    settings = _make_settings(options, worker)
    engine = Engine(settings)
    strict_engine = Engine(make_strict_settings(settings)) if options.compare else None
    loader = _ModelLoader(targets, options, settings)
    if options.download:
        loader.download_datasets()

    names = [str(target) if isinstance(target, Path) else target.id for target in targets]
    plan_job = partial(plan, engine=engine, output=options.output, strict_engine=strict_engine)
    results = _Results(options.format)
    results.collect(evaluate_all(names, loader.load, plan_job, worker))
    if not worker.is_first:
        return 0  # Only the first process prints the results, and only its exit code tells about failures.
    results.print_document()
    return _choose_exit_code(results, worker)


def _select_targets(names: Sequence[str]) -> list[WeightsEntry | Path]:
    """Find the weights and files that the names mean. Without names, these are the bundled weights."""
    if names:
        selection = select_weights(names)
        return [*selection.entries, *selection.paths]
    print(
        "pyramidzoo: no weights were named, so these are the small ones that come with the package, on the digits "
        "that come with it; `pyramidzoo list --weights` shows the others",
        file=sys.stderr,
    )
    return [entry for entry in load_manifest().entries.values() if entry.bundled]


def _make_settings(options: EvaluateOptions, worker: Worker) -> ComputeSettings:
    """Make the settings of the evaluation from the options of the command."""
    from pyramidzoo.data._splits import ReaderOptions
    from pyramidzoo.data.transforms import Override
    from pyramidzoo.evaluation.compute_settings import ComputeSettings
    from pyramidzoo.evaluation.environment import count_usable_cores, pick_device

    return ComputeSettings(
        device=pick_device(options.device, worker.local_rank),
        batch_size=options.batch_size,
        amp=(options.amp_dtype or "bf16") if options.amp else None,
        channels_last=options.channels_last,
        precision=options.precision,
        optimized=options.optimize,
        compiled=options.compile,
        cuda_graph=options.cuda_graph,
        reading=ReaderOptions(count_usable_cores() if options.jobs is None else options.jobs, options.tensor_resize),
        override=Override(options.resize, options.crop, options.interpolation),
    )


class _ModelLoader:
    """Loads weights, with the dataset that they are evaluated on. Each dataset is opened only once."""

    def __init__(
        self, targets: Sequence[WeightsEntry | Path], options: EvaluateOptions, settings: ComputeSettings
    ) -> None:
        from pyramidzoo.data.datasets import default_data_dir

        self._targets = targets
        self._options = options
        self._override = settings.override
        self._data_dir = options.data_dir or default_data_dir()
        self._splits: dict[str, Split] = {}
        self._whitened_splits: dict[str, Split] = {}

    def download_datasets(self) -> None:
        """Open the datasets of all entries now, so that they are downloaded in the main thread.

        Ctrl-C stops a download in the main thread at once. An error is not reported here: when the weights are loaded,
        the dataset is opened again, and the error is reported then.
        """
        for dataset in {target.dataset for target in self._targets if isinstance(target, WeightsEntry)}:
            with contextlib.suppress(PyramidzooError):
                self._open_split(dataset)

    def load(self, position: int) -> LoadedModel:
        """Load the weights at a position among all weights, and open their dataset."""
        from pyramidzoo.evaluation.evaluation_target import EvaluationTarget, load_model

        target = self._targets[position]
        if isinstance(target, Path):
            file_target = EvaluationTarget.from_file(target)
            return load_model(file_target, self._open_images(file_target), self._override)
        # The dataset is opened first: if it is missing, the weights need not be fetched.
        images = self._open_split(target.dataset)
        return load_model(EvaluationTarget.from_entry(target), images, self._override)

    def _open_images(self, target: EvaluationTarget) -> Split:
        """Return the split for some weights, whitened if they need it. Whitening needs the training split too."""
        from pyramidzoo.data.datasets import open_split
        from pyramidzoo.data.whitening import load_whitening, whiten_split

        images = self._open_split(target.dataset)
        if not isinstance(target.preprocessing, WhitenedPreprocessing):
            return images
        if target.dataset not in self._whitened_splits:
            try:
                training = open_split(target.dataset, "train", self._data_dir, download=self._options.download)
            except UnavailableError as error:
                raise UnavailableError(
                    f"{target.name} needs whitened images, and whitening needs the training images: {error}"
                ) from error
            self._whitened_splits[target.dataset] = whiten_split(images, load_whitening(training))
        return self._whitened_splits[target.dataset]

    def _open_split(self, dataset: str) -> Split:
        """Return the split of a dataset that the options name. It is opened at the first call."""
        from pyramidzoo.data.datasets import open_split

        if dataset not in self._splits:
            self._splits[dataset] = open_split(
                dataset,
                self._options.split,
                self._data_dir,
                download=self._options.download,
                class_order=self._options.class_order,
            )
        return self._splits[dataset]


class _Results:
    """Collects the records and failures of one run, and prints them.

    Attributes:
        records: One for each set of weights that was evaluated.
        failures: One for each set of weights that could not be evaluated.
    """

    def __init__(self, format: str) -> None:
        self._format = format
        self.records: list[Record] = []
        self.failures: list[Failure] = []

    def collect(self, results: Iterable[Record | Failure]) -> None:
        """Store all results. Print each failure at once, and each record too if the format is "human"."""
        from pyramidzoo.evaluation.workers import Failure

        for result in results:
            if isinstance(result, Failure):
                self.failures.append(result)
                prefix = "" if result.name in result.error else f"{result.name}: "
                print(f"pyramidzoo: {prefix}{result.error}", file=sys.stderr)
            else:
                self.records.append(result)
                if self._format == "human":
                    show("\n".join(make_record_lines(result)) + "\n")

    def print_document(self) -> None:
        """Print all results as one document, if the format is for programs. For people, `collect` has printed them."""
        if self._format == "json":
            failed = [{"weights": f.name, "error": f.error, "exit_code": f.exit_code} for f in self.failures]
            show(json.dumps({"records": [r.to_json() for r in self.records], "failures": failed}, indent=1))
        elif self._format != "human":
            empty: dict[str, Any] = dict.fromkeys(RECORD_COLUMNS)
            rows = [make_record_row(record) for record in self.records]
            rows += [empty | {"weights": f.name, "error": f.error} for f in self.failures]
            show(render(rows, self._format))


def _choose_exit_code(results: _Results, worker: Worker) -> int:
    """Return the exit code of the command.

    It is 0 while torchrun has restarts left: after any other code, torchrun would repeat the whole evaluation.
    """
    codes = [_NOT_REPRODUCED for record in results.records if not record.reproduced]
    code = worst_exit_code(codes + [failure.exit_code for failure in results.failures])
    if code and worker.starts_left:
        print(f"pyramidzoo: torchrun gets 0 instead of {code}, or it would start all of it again", file=sys.stderr)
        return 0
    return code
