"""Everything known about one architecture, as facts for programs and as a page for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyramidzoo.bench.speed_table import read_packaged_speed
from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.commands._cells import top1_error, weights_license
from pyramidzoo.commands._weights_page import page_width, weights_facts
from pyramidzoo.text_output import line_width, render, render_facts, wrap_text
from pyramidzoo.weights.local import find_local_sources


def architecture_facts(row: Architecture, entries: Sequence[WeightsEntry]) -> dict[str, Any]:
    """Return everything known about an architecture and its weights, as JSON can hold it.

    The network is built on the meta device to count its parameters and multiply-adds.
    """
    import torch

    from pyramidzoo.bench.counting import count_multiply_adds
    from pyramidzoo.models import build

    with torch.device("meta"):
        model = build(row).eval()
    return {
        "architecture": row.name,
        "description": row.description,
        "source": row.source,
        "family": row.family,
        "arguments": dict(row.arguments),
        "dataset": row.dataset,
        "input": f"(N, 3, {row.input_size}, {row.input_size})",
        "classes": row.num_classes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count_multiply_adds(model, (3, row.input_size, row.input_size)),
        "speed": read_packaged_speed(row.name),
        "features": model.num_features,
        "stages": [
            {"module": stage["module"], "channels": stage["num_chs"], "reduction": stage["reduction"]}
            for stage in model.feature_info
        ],
        "weights": [weights_facts(entry) for entry in entries],
    }


def architecture_page(row: Architecture, entries: Sequence[WeightsEntry]) -> str:
    """Return a page for people about an architecture, with a table of its weights."""
    title = wrap_text(f"{row.name}: {row.description}", width=page_width())
    parts = [title, _network_facts(row, entries)]
    if not entries:
        parts.append("No weights are known; `pyramidzoo convert` makes a file of your own.")
    else:
        short_protocols = _short_protocols(entries)
        explained = [(short, protocol) for protocol, short in short_protocols.items() if short != protocol]
        parts += [
            _weights_table(entries, short_protocols),
            render_facts(explained, width=page_width()),
            f"`pyramidzoo info {entries[0].id}` shows everything about that one.",
        ]
    return "\n\n".join(part for part in parts if part)


def _network_facts(row: Architecture, entries: Sequence[WeightsEntry]) -> str:
    known = architecture_facts(row, ())
    arguments = ", ".join(f"{name}={value!r}" for name, value in row.arguments.items())
    size = row.input_size
    has_default = any(entry.default and entry.dataset == row.dataset for entry in entries)
    pretrained = ", pretrained=True" if has_default else ""
    pairs = [
        ("source", row.source),
        ("built as", f"{row.class_name}({arguments}) in pyramidzoo.models.{row.family}"),
        ("images", f"3 x {size} x {size} and {row.num_classes:,} classes, as published for {row.dataset}"),
        ("parameters", known["parameters"]),
        ("multiply-adds", f"{known['multiply_adds']:,} for an image of {size} x {size}"),
        ("images/s", _speed_lines(known["speed"])),
        ("features", f"{known['features']:,} channels before the classifier"),
        (
            "stages",
            [f"{stage['module']}: {stage['channels']} channels at 1/{stage['reduction']}" for stage in known["stages"]],
        ),
        ("load", f'pyramidzoo.create_model("{row.name}"{pretrained})'),
    ]
    return render_facts(pairs, width=page_width())


def _speed_lines(speed: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each batch size, and one for what it was measured on; nothing if nobody measured."""
    if speed is None:
        return []
    lines = []
    for batch, speeds in speed["images_per_second"].items():
        variants = ", ".join(f"{images_per_second:,} {variant}" for variant, images_per_second in speeds.items())
        lines.append(f"{variants}, batch {batch}")
    return [*lines, f"on {speed['device']}, torch {speed['versions']['torch']}, {speed['date']}"]


def _weights_table(entries: Sequence[WeightsEntry], short_protocols: Mapping[str, str]) -> str:
    here = find_local_sources(entries)
    rows = [
        {
            "weights": entry.tag,
            "published %": [str(claim.top1_error) for claim in entry.claims],
            "measured %": [top1_error(result) for result in entry.results],
            "license": weights_license(entry),
            "re-publish": entry.license.redistributable,
            "here": here.get(entry.id),
            "protocol": [short_protocols[protocol] for protocol in _protocols(entry)],
        }
        for entry in entries
    ]
    return render(rows, "human", width=line_width())


def _protocols(entry: WeightsEntry) -> list[str]:
    """Return the protocols by which errors of these weights were counted, each once."""
    protocols = [claim.protocol for claim in entry.claims] + [result.protocol for result in entry.results]
    return list(dict.fromkeys(protocols))


def _short_protocols(entries: Sequence[WeightsEntry]) -> dict[str, str]:
    """Return for each protocol of these weights the short form that stands for it in a narrow column."""
    short_protocols: dict[str, str] = {}
    for entry in entries:
        for protocol in _protocols(entry):
            cropped = re.fullmatch(r"resize (\d+), center crop (\d+), one pass", protocol)
            full = re.fullmatch(r"full (\d+x\d+) image, one pass", protocol)
            if cropped:
                short_protocols[protocol] = f"{cropped[2]} of {cropped[1]}"
            elif full:
                short_protocols[protocol] = f"full {full[1]}"
            else:
                short_protocols[protocol] = protocol
    return short_protocols
