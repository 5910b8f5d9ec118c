"""`bench`: time networks, rewritten forms of them and the same in other libraries."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pyramidzoo.catalog.architectures import architectures, get_architecture, list_models
from pyramidzoo.commands._select import select
from pyramidzoo.errors import PyramidzooError, UsageError, worst_exit_code
from pyramidzoo.files import names_a_file
from pyramidzoo.text_output import line_width, render, show, wrapped

if TYPE_CHECKING:
    from pyramidzoo.bench.measuring import BenchmarkTarget

# small, of different kinds, and other libraries have the same ones
DEFAULT = ("resnet20_b", "densenet_bc_40_k12", "pyramidnet110_a48")
_UNAVAILABLE, _DIFFERENT = 5, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"architectures, ids of weights, patterns (default: {', '.join(DEFAULT)})",
    )
    parser.add_argument(
        "-b", "--batch-size", type=int, nargs="+", default=[64], metavar="N", help="images at once (default: 64)"
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
        "--peers", nargs="+", default=["auto"], metavar="P", help="pytorchcv, timm, torchvision, none (default: auto)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, metavar="N", help="of a CPU (default: PyTorch's own choice)")


def run(args: argparse.Namespace) -> int:
    """Time networks, their rewritten forms and the same networks of other libraries, all in turn."""
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads} computes nothing; it must be positive")

    import torch
    from tqdm import tqdm

    from pyramidzoo.bench.measuring import DIFFERENT, BenchmarkSettings, Peaks, measure_target
    from pyramidzoo.bench.peers import chosen
    from pyramidzoo.evaluation.environment import device_name, keep_memory, pick_device, versions

    subjects = _subjects(args.names or DEFAULT)
    peers = chosen(args.peers)
    settings = BenchmarkSettings(pick_device(args.device), args.batch_size, args.variants, tuple(peers), args.rounds)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    keep_memory()
    peaks = Peaks(settings.device)
    rows: list[dict[str, Any]] = []
    failures: list[tuple[str, str, int]] = []
    with tqdm(total=len(subjects) * settings.steps, unit="round", disable=None) as bar:
        for done, subject in enumerate(subjects, start=1):
            bar.set_description(subject.name)
            try:
                found = measure_target(subject, settings, peaks, step=bar.update)
            except PyramidzooError as error:  # of one set of weights; the rest go on
                failures.append((subject.name, str(error), error.exit_code))
                found = []
            for row in found:
                if row["error"]:
                    code = _DIFFERENT if row["error"].startswith(DIFFERENT) else _UNAVAILABLE
                    failures.append((f"{_heading(row)}: {row['variant']}", row["error"], code))
            rows += found
            bar.update(done * settings.steps - bar.n)  # what could not be measured counts as done
    peaks.set_fractions(rows)
    for name, reason, _ in failures:
        print(f"pyramidzoo: {name}: {reason}", file=sys.stderr)
    conditions = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": device_name(settings.device),
        "versions": {**versions(), **peers},
        "rounds": settings.rounds,
        "best_convolution_gflops": {precision: round(peak / 1e9, 1) for precision, peak in peaks.known.items()},
    }
    if args.format == "json":
        failed = [{"name": name, "error": reason, "exit_code": code} for name, reason, code in failures]
        show(json.dumps({**conditions, "rows": rows, "failures": failed}, indent=1))
    elif args.format == "csv":
        show(render(rows, "csv"))
    elif rows:
        show("\n\n".join([*_tables(rows, args.format), *_sentences(conditions, rows, tuple(peers), args.format)]))
    return worst_exit_code([code for _, _, code in failures])


def _subjects(names: Iterable[str]) -> list[BenchmarkTarget]:
    """What names mean: architectures; with a dot, or as a pattern that fits none, weights. Raises UsageError."""
    from pyramidzoo.bench.measuring import BenchmarkTarget

    subjects: dict[str, BenchmarkTarget] = {}
    for name in names:
        if names_a_file(name):
            raise UsageError(f"{name} is a file; bench takes architectures, ids of weights and patterns of either")
        if fitting := list_models(name):
            found = [BenchmarkTarget(architectures()[fit]) for fit in fitting]
        elif re.search(r"[.*?\[]", name):
            found = [BenchmarkTarget.of_entry(entry) for entry in select([name])]
        else:
            found = [BenchmarkTarget(get_architecture(name))]  # it says what was meant
        subjects |= {subject.name: subject for subject in found}
    return list(subjects.values())


def _tables(rows: Sequence[Mapping[str, Any]], format: str) -> list[str]:
    """One for each network and batch size under a heading, or all in one for a document."""
    if format == "markdown":
        return [render([{"network": row["weights"] or row["network"], **_cells(row)} for row in rows], format)]
    blocks: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        blocks.setdefault(_heading(row), []).append(row)
    tables = []
    for heading, block in blocks.items():
        counts = f"{block[0]['multiply_adds']:,} multiply-adds an image, {block[0]['parameters']:,} parameters"
        cells = [{name: cell for name, cell in _cells(row).items() if name != "batch"} for row in block]
        tables.append(f"{heading} ({counts})\n{render(cells, format)}")
    return tables


def _heading(row: Mapping[str, Any]) -> str:
    return f"{row['weights'] or row['network']}, batch {row['batch']}"


def _cells(row: Mapping[str, Any]) -> dict[str, str | int]:
    """What people read of a row: three digits, which is more than two runs agree in."""
    cells = {"batch": row["batch"], "variant": row["variant"]}
    cells |= {
        label: _digits(row[key])
        for label, key in (
            ("images/s", "images_per_second"),
            ("lowest", "images_per_second_min"),
            ("highest", "images_per_second_max"),
            ("ms", "milliseconds"),
        )
    }
    return cells | {
        "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "MiB": "" if row["activations_mib"] is None else f"{row['activations_mib']:,.1f}",
        "of peak": "" if row["fraction_of_peak"] is None else f"{row['fraction_of_peak']:.2f}",
    }


def _digits(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _sentences(
    conditions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], peers: Sequence[str], format: str
) -> list[str]:
    """What was measured on what, and what the columns are."""
    versions = ", ".join(f"{name} {conditions['versions'][name]}" for name in ("torch", *peers))
    rounds = f"{conditions['rounds']} round{'s' if conditions['rounds'] > 1 else ''}"
    parts = [
        f"Measured on {conditions['device']}, {conditions['date']}, {versions}: medians of {rounds} in which all "
        "variants took turns, with the lowest and the highest speed.",
        "ms: one forward pass of the whole batch, with others queued behind it.",
        "MiB: the most that a pass holds at once beyond weights and images.",
        _about_ratios(rows, peers),
    ]
    if conditions["best_convolution_gflops"]:
        peaks = ", ".join(f"{peak:,.0f} in {name}" for name, peak in conditions["best_convolution_gflops"].items())
        parts.append(
            "of peak: the plain network's multiply-adds a second, of those that the best convolution does on this "
            f"device in the same precision (GFLOP/s: {peaks})."
        )
    parts.append(_about_spread(rows))
    text = " ".join(part for part in parts if part)
    return [wrapped(text, width=min(120, line_width())) if format == "human" else text]


def _about_spread(rows: Sequence[Mapping[str, Any]]) -> str:
    """A warning where runs of one variant differ by half or more: quiet machines stay within a tenth or two."""
    spreads = [
        row["images_per_second_max"] / row["images_per_second_min"] for row in rows if row["images_per_second_min"]
    ]
    worst = max(spreads, default=1.0)
    if worst < 1.5:
        return ""
    return (
        f"Runs of one variant differ by up to {worst:.1f} times: something else was running, and ratios mean little. "
        "Measure again when the machine is quiet, with more --rounds."
    )


def _about_ratios(rows: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> str:
    baselines = {row["ratio_to"] for row in rows if row["ratio_to"]}
    if not baselines:
        return ""
    if not baselines & set(peers):
        return f"ratio: images/s over those of the plain network{'; no peer has these networks' if peers else ''}."
    return "ratio: images/s over those of the fastest peer, or of the plain network where no peer has it."
