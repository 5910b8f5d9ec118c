"""Write the measurements of `bench`: as documents for programs, or as tables with explanations for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyramidzoo.text_output import line_width, render, wrap_text

Row = Mapping[str, Any]

# If nothing else runs on a machine, the runs of a variant differ by at most 10 or 20 %. If the fastest run is this many
# times as fast as the slowest one, the output has a warning.
_LARGE_SPREAD = 1.5


def render_bench(
    conditions: Mapping[str, Any],
    rows: Sequence[Row],
    failures: Sequence[Mapping[str, Any]],
    peers: Sequence[str],
    libraries: Sequence[str],
    format: str,
) -> str | None:
    """Write all measurements in a format.

    Args:
        conditions: What the numbers depend on: date, device, versions, rounds, and the speed of the best convolution.
        rows: One for each network, batch size and variant, as `measure_target` returns them.
        failures: What could not be measured, for JSON.
        peers: The variants of other libraries that were compared with, such as "timm_bf16".
        libraries: The libraries of the peers.
        format: One of `text_output.FORMATS`.

    Returns:
        The text, or None if people would see a table without rows.
    """
    if format == "json":
        return json.dumps({**conditions, "rows": rows, "failures": failures}, indent=1)
    if format == "csv":
        return render(rows, "csv")
    if not rows:
        return None
    explanations = " ".join(_make_explanations(conditions, rows, peers, libraries))
    if format == "markdown":
        table = [{"network": row["weights"] or row["network"], **_make_cells(row)} for row in rows]
        return f"{render(table, format)}\n\n{explanations}"
    return "\n\n".join([*_make_tables(rows), wrap_text(explanations, width=min(120, line_width()))])


def row_title(row: Row) -> str:
    """Return the network or weights and the batch size of a row, as the title of a table."""
    return f"{row['weights'] or row['network']}, batch {row['batch']}"


def _make_tables(rows: Sequence[Row]) -> list[str]:
    """Write a table, with a title, for each network and batch size."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row_title(row), []).append(row)
    tables = []
    for title, group in groups.items():
        counts = f"{group[0]['multiply_adds']:,} multiply-adds an image, {group[0]['parameters']:,} parameters"
        # The batch size is in the title already.
        cells = [{name: cell for name, cell in _make_cells(row).items() if name != "batch"} for row in group]
        tables.append(f"{title} ({counts})\n{render(cells, 'human')}")
    return tables


def _make_cells(row: Row) -> dict[str, str | int]:
    """Return the cells of a row for people, by the title of the column.

    Speeds have three digits, because two runs differ in the third digit already.
    """
    return {
        "batch": row["batch"],
        "variant": row["variant"],
        "images/s": _format_three_digits(row["images_per_second"]),
        "lowest": _format_three_digits(row["images_per_second_min"]),
        "highest": _format_three_digits(row["images_per_second_max"]),
        "ms": _format_three_digits(row["milliseconds"]),
        "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "MiB": "" if row["activations_mib"] is None else f"{row['activations_mib']:,.1f}",
        "of peak": "" if row["fraction_of_peak"] is None else f"{row['fraction_of_peak']:.2f}",
    }


def _format_three_digits(value: float | None) -> str:
    """Write a number with three digits, or as an integer from 100 on; an empty text for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _make_explanations(
    conditions: Mapping[str, Any], rows: Sequence[Row], peers: Sequence[str], libraries: Sequence[str]
) -> list[str]:
    """Write sentences that say how the numbers were measured, and what each column means."""
    versions = ", ".join(f"{name} {conditions['versions'][name]}" for name in ("torch", *libraries))
    rounds = f"{conditions['rounds']} round{'s' if conditions['rounds'] > 1 else ''}"
    sentences = [
        f"Measured on {conditions['device']}, {conditions['date']}, {versions}: medians of {rounds} in which all "
        "variants took turns, with the lowest and the highest speed.",
        "ms: one forward pass of the whole batch, with others queued behind it.",
        "MiB: the most memory that a pass needs at once beyond images and weights.",
        _explain_ratios(rows, peers),
    ]
    if conditions["best_convolution_gflops"]:
        peaks = ", ".join(f"{peak:,.0f} in {name}" for name, peak in conditions["best_convolution_gflops"].items())
        sentences.append(
            "of peak: the multiply-adds a second of the plain network, as a fraction of those of the best convolution "
            f"on this device in the same precision (GFLOP/s: {peaks})."
        )
    sentences.append(warn_of_spread(rows))
    return [sentence for sentence in sentences if sentence]


def _explain_ratios(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """Write what the speeds are compared with; an empty text if no row has a ratio."""
    baselines = {row["ratio_to"] for row in rows if row["ratio_to"]}
    if not baselines:
        return ""
    if baselines & set(peers):
        return (
            "ratio: images/s over those of the fastest peer of the same precision. Where there is none, over those of "
            "the fastest fp32 peer, or of the plain network."
        )
    no_peer = "; no peer has these networks" if peers else ""
    return f"ratio: images/s over those of the plain network{no_peer}."


def warn_of_spread(rows: Sequence[Row]) -> str:
    """Return a warning if runs of one variant differ by half or more, or else an empty string."""
    spreads = [
        row["images_per_second_max"] / row["images_per_second_min"] for row in rows if row["images_per_second_min"]
    ]
    largest = max(spreads, default=1.0)
    if largest < _LARGE_SPREAD:
        return ""
    return (
        f"Runs of one variant differ by up to {largest:.1f} times: something else was running, and ratios mean little. "
        "Measure again when the machine is quiet, with more --rounds."
    )
