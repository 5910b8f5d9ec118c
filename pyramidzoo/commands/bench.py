"""`bench`: time networks, their rewritten forms, and the same networks in other libraries."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.architectures import architectures, get_architecture, list_models
from pyramidzoo.commands._arguments import add_device_argument
from pyramidzoo.commands._bench_text import make_row_title, render_bench
from pyramidzoo.commands._options import CommandOptions
from pyramidzoo.commands._select import select_entries
from pyramidzoo.errors import PyramidzooError, UnavailableError, UsageError, worst_exit_code
from pyramidzoo.files import is_path
from pyramidzoo.text_output import show

if TYPE_CHECKING:
    from pyramidzoo.bench.measure import BenchmarkSettings
    from pyramidzoo.bench.peaks import Peaks
    from pyramidzoo.bench.rows import BenchmarkRow
    from pyramidzoo.bench.targets import BenchmarkTarget

# These are small and of different kinds, and other libraries have the same ones.
DEFAULT_NAMES = ("resnet20_b", "densenet_bc_40_k12", "pyramidnet110_a48")
_DIFFERENT_LOGITS = 3  # the exit code where a variant does not compute what the plain network computes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"architectures, ids of weights, patterns (default: {', '.join(DEFAULT_NAMES)})",
    )
    parser.add_argument(
        "-b",
        "--batch-size",
        type=int,
        nargs="+",
        default=[64],
        metavar="N",
        help="how many images are computed at once; several values are measured one by one (default: 64)",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["plain", "optimized", "optimized_bf16"],
        metavar="V",
        help="plain and optimized, alone or with _tf32, _bf16, _fp16, _channelslast, _compiled, _graph (default: "
        "plain optimized optimized_bf16)",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        default=["auto"],
        metavar="P",
        help="the libraries to compare with: pytorchcv, timm, torchvision, alone or with the words of --variants "
        "(pytorchcv_bf16); none (default: auto, those installed)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often each variant is timed (default: %(default)s)"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--threads", type=int, metavar="N", help="the number of threads of a CPU (default: PyTorch's own choice)"
    )


@dataclass(frozen=True)
class BenchOptions(CommandOptions):
    """The options of `bench`; `add_arguments` says what each means."""

    names: tuple[str, ...]
    batch_size: tuple[int, ...]
    variants: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads} computes nothing; it must be positive")


@dataclass(frozen=True)
class _Failure:
    """Why a network, or one variant of it, has no number."""

    name: str
    error: str
    exit_code: int


@dataclass
class _Measurements:
    """What was measured so far: rows of `measure_target`, and what could not be measured."""

    rows: list[BenchmarkRow] = field(default_factory=list)
    failures: list[_Failure] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Run `bench`: measure all networks, print the numbers, and return the exit code."""
    options = BenchOptions.from_args(args)

    import torch

    from pyramidzoo.bench.measure import BenchmarkSettings
    from pyramidzoo.bench.peaks import Peaks
    from pyramidzoo.bench.peers import get_library_versions, select_peers
    from pyramidzoo.evaluation.environment import keep_memory, pick_device

    targets = _select_targets(options.names or DEFAULT_NAMES)
    peers = select_peers(options.peers)
    settings = BenchmarkSettings(
        pick_device(options.device), options.batch_size, options.variants, peers, options.rounds
    )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    keep_memory()
    peaks = Peaks(settings.device)
    libraries = get_library_versions(peers)
    measurements = _measure(targets, settings, peaks)
    for failure in measurements.failures:
        print(f"pyramidzoo: {failure.name}: {failure.error}", file=sys.stderr)
    failed = [{"name": f.name, "error": f.error, "exit_code": f.exit_code} for f in measurements.failures]
    rows = [row.as_data() for row in measurements.rows]
    text = render_bench(_conditions(settings, libraries, peaks), rows, failed, peers, tuple(libraries), options.format)
    if text is not None:
        show(text)
    return worst_exit_code([failure.exit_code for failure in measurements.failures])


def _select_targets(names: Iterable[str]) -> list[BenchmarkTarget]:
    """Find what names mean: architectures; or weights, if a name has a dot or is a pattern that fits no architecture.

    Raises:
        UsageError: Nothing has such a name.
    """
    from pyramidzoo.bench.targets import BenchmarkTarget

    targets: dict[str, BenchmarkTarget] = {}
    for name in names:
        if is_path(name):
            raise UsageError(f"{name} is a file; bench takes architectures, ids of weights and patterns of either")
        if matches := list_models(name):
            selected = [BenchmarkTarget(architectures()[match]) for match in matches]
        elif re.search(r"[.*?\[]", name):
            selected = [BenchmarkTarget.of_entry(entry) for entry in select_entries([name])]
        else:
            # No architecture has this name. The error says which names are like it.
            selected = [BenchmarkTarget(get_architecture(name))]
        targets |= {target.name: target for target in selected}
    return list(targets.values())


def _measure(targets: Sequence[BenchmarkTarget], settings: BenchmarkSettings, peaks: Peaks) -> _Measurements:
    """Measure all networks under a progress bar. A failure of one does not stop the rest."""
    from tqdm import tqdm

    from pyramidzoo.bench.measure import measure_target

    measurements = _Measurements()
    with tqdm(total=len(targets) * settings.steps, unit="round", disable=None) as bar:
        for number, target in enumerate(targets, start=1):
            bar.set_description(target.name)
            try:
                rows = measure_target(target, settings, peaks, on_progress=bar.update)
            except PyramidzooError as error:
                measurements.failures.append(_Failure(target.name, str(error), error.exit_code))
            else:
                measurements.rows += rows
                measurements.failures += [_failure_of(row) for row in rows if row.error]
            bar.update(number * settings.steps - bar.n)  # What could not be measured counts as done.
    peaks.set_fractions(measurements.rows)
    return measurements


def _failure_of(row: BenchmarkRow) -> _Failure:
    from pyramidzoo.bench.checking import DIFFERENT

    error = row.error or ""
    code = _DIFFERENT_LOGITS if error.startswith(DIFFERENT) else UnavailableError.exit_code
    return _Failure(f"{make_row_title(row.as_data())}: {row.variant}", error, code)


def _conditions(settings: BenchmarkSettings, libraries: Mapping[str, str], peaks: Peaks) -> dict[str, Any]:
    """Return what the numbers depend on: when, where and with which versions they were measured."""
    from pyramidzoo.evaluation.environment import device_name, versions

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(settings.device),
        "versions": {**versions(), **libraries},
        "rounds": settings.rounds,
        "best_convolution_gflops": {precision: round(peak / 1e9, 1) for precision, peak in peaks.flops.items()},
    }
