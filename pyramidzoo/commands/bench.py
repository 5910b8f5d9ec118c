"""`bench`: time networks, their rewritten variants, and the same networks in other libraries."""

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

# These networks are small and of different families, and other libraries have them too.
DEFAULT_NAMES = ("resnet20_b", "densenet_bc_40_k12", "pyramidnet110_a48")
_DIFFERENT_LOGITS = 3  # The exit code if a variant does not compute the logits of the plain network.


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
    """The reason why a network, or one variant of it, was not measured."""

    name: str
    error: str
    exit_code: int


@dataclass
class _Measurements:
    """The rows of all networks that were measured, and the failures of those that could not be measured."""

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
    conditions = _list_conditions(settings, libraries, peaks)
    text = render_bench(conditions, rows, failed, peers, tuple(libraries), options.format)
    if text is not None:
        show(text)
    return worst_exit_code([failure.exit_code for failure in measurements.failures])


def _select_targets(names: Iterable[str]) -> list[BenchmarkTarget]:
    """Find the networks that names mean.

    A name or pattern that fits architectures means these architectures. If it fits none, and it has a dot or is a
    pattern, it means weights.

    Raises:
        UsageError: There is nothing with such a name.
    """
    from pyramidzoo.bench.targets import BenchmarkTarget

    targets: dict[str, BenchmarkTarget] = {}
    for name in names:
        if is_path(name):
            raise UsageError(f"{name} is a file; bench takes architectures, ids of weights and patterns of either")
        if matches := list_models(name):
            selected = [BenchmarkTarget(architectures()[match]) for match in matches]
        elif re.search(r"[.*?\[]", name):
            selected = [BenchmarkTarget.from_entry(entry) for entry in select_entries([name])]
        else:
            # There is no such architecture, so this raises an error that lists similar names.
            selected = [BenchmarkTarget(get_architecture(name))]
        targets |= {target.name: target for target in selected}
    return list(targets.values())


def _measure(targets: Sequence[BenchmarkTarget], settings: BenchmarkSettings, peaks: Peaks) -> _Measurements:
    """Measure all networks, and show a progress bar. If one network fails, the next ones are still measured."""
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
                measurements.failures += [_make_failure(row) for row in rows if row.error]
            # A network that failed reported fewer steps than planned. The bar must count them too.
            bar.update(number * settings.steps - bar.n)
    peaks.set_fractions(measurements.rows)
    return measurements


def _make_failure(row: BenchmarkRow) -> _Failure:
    """Make the failure of a row that has an error."""
    from pyramidzoo.bench.checking import DIFFERENT

    error = row.error or ""
    code = _DIFFERENT_LOGITS if error.startswith(DIFFERENT) else UnavailableError.exit_code
    return _Failure(f"{make_row_title(row.as_data())}: {row.variant}", error, code)


def _list_conditions(settings: BenchmarkSettings, libraries: Mapping[str, str], peaks: Peaks) -> dict[str, Any]:
    """Return what the numbers depend on: the date, the device, the versions, the rounds, and the best convolution."""
    from pyramidzoo.evaluation.environment import device_name, versions

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(settings.device),
        "versions": {**versions(), **libraries},
        "rounds": settings.rounds,
        "best_convolution_gflops": {precision: round(peak / 1e9, 1) for precision, peak in peaks.flops.items()},
    }
