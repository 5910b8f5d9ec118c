"""Write the measurements of `bench`: as JSON or CSV for programs, and as tables with explanations for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyramidzoo.text_output import line_width, render, wrap_text

Row = Mapping[str, Any]

# If the fastest run of a variant is so many times as fast as its slowest run, a warning is printed. On a machine on
# which nothing else runs, the ratio is at most about 1.2.
_LARGE_SPREAD = 1.5


def render_bench(
    conditions: Mapping[str, Any],
    rows: Sequence[Row],
    failures: Sequence[Mapping[str, Any]],
    peers: Sequence[str],
    libraries: Sequence[str],
    format: str,
) -> str | None:
    """Write all measurements in one format.

    Args:
        conditions: The facts that the numbers depend on: date, device, versions of libraries, number of rounds, and the
            speed of the best convolution on this device.
        rows: The measurements, as `measure_target` returns them: one row for each network, batch size and variant.
        failures: The networks and variants that could not be measured, with the reasons. Only JSON contains them.
        peers: The variants of the same networks from other libraries, such as "timm_bf16".
        libraries: The names of these libraries.
        format: One of `text_output.FORMATS`.

    Returns:
        The text. None if there are no rows and the format is for people.
    """
    if format == "json":
        return json.dumps({**conditions, "rows": rows, "failures": failures}, indent=1)
    if format == "csv":
        return render(rows, "csv")
    if not rows:
        return None
    explanation = " ".join(_write_explanation(conditions, rows, peers, libraries))
    if format == "markdown":
        table = [{"network": row["weights"] or row["network"], **_make_table_row(row)} for row in rows]
        return f"{render(table, format)}\n\n{explanation}"
    return "\n\n".join([*_write_tables(rows), wrap_text(explanation, width=min(120, line_width()))])


def make_row_title(row: Row) -> str:
    """Return a title for a measurement: the weights or the network, and the batch size."""
    return f"{row['weights'] or row['network']}, batch {row['batch']}"


def _write_tables(rows: Sequence[Row]) -> list[str]:
    """Write a table with a title for each network and batch size."""
    rows_by_title: dict[str, list[Row]] = {}
    for row in rows:
        rows_by_title.setdefault(make_row_title(row), []).append(row)
    tables = []
    for title, rows_of_table in rows_by_title.items():
        first_row = rows_of_table[0]
        counts = f"{first_row['multiply_adds']:,} multiply-adds an image, {first_row['parameters']:,} parameters"
        table = [
            {name: cell for name, cell in _make_table_row(row).items() if name != "batch"} for row in rows_of_table
        ]
        tables.append(f"{title} ({counts})\n{render(table, 'human')}")
    return tables


def _make_table_row(row: Row) -> dict[str, str | int]:
    """Return the cells of a measurement in a table for people.

    Speeds are written with three digits, because further digits differ from run to run.
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
    """Write a number with three significant digits. Numbers from 100 on have no decimals. None becomes ""."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write_explanation(
    conditions: Mapping[str, Any], rows: Sequence[Row], peers: Sequence[str], libraries: Sequence[str]
) -> list[str]:
    """Return the sentences below the tables: how the numbers were measured, and what the columns mean."""
    versions = ", ".join(f"{name} {conditions['versions'][name]}" for name in ("torch", *libraries))
    rounds = f"{conditions['rounds']} round{'s' if conditions['rounds'] > 1 else ''}"
    sentences = [
        f"Measured on {conditions['device']}, {conditions['date']}, {versions}: medians of {rounds} in which all "
        "variants took turns, with the lowest and the highest speed.",
        "ms: the time of one forward pass of the whole batch, measured over many passes without a pause between them.",
        "MiB: the most memory that a pass needs at one time, without the images and the weights.",
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
    """Return the explanation of the column "ratio". Return "" if the column is empty."""
    baselines = {row["ratio_to"] for row in rows if row["ratio_to"]}
    if not baselines:
        return ""
    if baselines & set(peers):
        return (
            "ratio: images/s divided by those of the fastest peer of the same precision. If there is no such peer, "
            "divided by those of the fastest fp32 peer, or of the plain network."
        )
    reason = "; no peer has these networks" if peers else ""
    return f"ratio: images/s divided by those of the plain network{reason}."


def warn_of_spread(rows: Sequence[Row]) -> str:
    """Return a warning if the speeds of one variant differ by half or more between runs, or else an empty string."""
    spreads = [
        row["images_per_second_max"] / row["images_per_second_min"] for row in rows if row["images_per_second_min"]
    ]
    largest_spread = max(spreads, default=1.0)
    if largest_spread < _LARGE_SPREAD:
        return ""
    return (
        f"Runs of one variant differ by up to {largest_spread:.1f} times: another program was probably running, so the "
        "ratios are not reliable. Measure again when no other program is running, with more --rounds."
    )
