"""Describe one architecture for `info`: as named facts for programs, and as a page of text for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyramidzoo.bench.speed_table import read_packaged_speed
from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.commands._cells import compute_top1_error, get_weights_license
from pyramidzoo.commands._weights_page import collect_weights_facts, get_page_width
from pyramidzoo.text_output import line_width, render, render_facts, wrap_text
from pyramidzoo.weights.local import find_local_sources


def collect_architecture_facts(architecture: Architecture, entries: Sequence[WeightsEntry]) -> dict[str, Any]:
    """Return everything that is known about an architecture and its weights, by name and ready for JSON.

    To count parameters and multiply-adds, the network is built on PyTorch's meta device. It needs no memory there.

    Args:
        architecture: The architecture.
        entries: The weights to include.
    """
    import torch

    from pyramidzoo.bench.counting import count_multiply_adds
    from pyramidzoo.models import build

    with torch.device("meta"):
        model = build(architecture).eval()
    size = architecture.input_size
    return {
        "architecture": architecture.name,
        "description": architecture.description,
        "source": architecture.source,
        "family": architecture.family,
        "arguments": dict(architecture.arguments),
        "dataset": architecture.dataset,
        "input": f"(N, 3, {size}, {size})",
        "classes": architecture.num_classes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count_multiply_adds(model, (3, size, size)),
        "speed": read_packaged_speed(architecture.name),
        "features": model.num_features,
        "stages": [
            {"module": stage["module"], "channels": stage["num_chs"], "reduction": stage["reduction"]}
            for stage in model.feature_info
        ],
        "weights": [collect_weights_facts(entry) for entry in entries],
    }


def write_architecture_page(architecture: Architecture, entries: Sequence[WeightsEntry]) -> str:
    """Return a page of text about an architecture, with a table of its weights."""
    title = wrap_text(f"{architecture.name}: {architecture.description}", width=get_page_width())
    parts = [title, _write_network_part(architecture, entries)]
    if not entries:
        parts.append("The manifest has no weights; `pyramidzoo convert` converts a checkpoint of your own.")
    else:
        short_protocols = _shorten_protocols(entries)
        explanations = [(short, protocol) for protocol, short in short_protocols.items() if short != protocol]
        parts += [
            _write_weights_table(entries, short_protocols),
            render_facts(explanations, width=get_page_width()),
            f"`pyramidzoo info {entries[0].id}` shows everything about the first row.",
        ]
    return "\n\n".join(part for part in parts if part)


def _write_network_part(architecture: Architecture, entries: Sequence[WeightsEntry]) -> str:
    """Return the part of the page about the network itself: its source, size, speed and stages."""
    facts = collect_architecture_facts(architecture, ())
    arguments = ", ".join(f"{name}={value!r}" for name, value in architecture.arguments.items())
    size = architecture.input_size
    # `pretrained=True` loads the default weights for the architecture's own dataset.
    has_default_weights = any(entry.default and entry.dataset == architecture.dataset for entry in entries)
    pretrained_argument = ", pretrained=True" if has_default_weights else ""
    pairs = [
        ("source", architecture.source),
        ("built as", f"{architecture.class_name}({arguments}) in pyramidzoo.models.{architecture.family}"),
        (
            "images",
            f"3 x {size} x {size} and {architecture.num_classes:,} classes, as published for {architecture.dataset}",
        ),
        ("parameters", facts["parameters"]),
        ("multiply-adds", f"{facts['multiply_adds']:,} for an image of {size} x {size}"),
        ("images/s", _write_speed_lines(facts["speed"])),
        ("features", f"{facts['features']:,} channels before the classifier"),
        (
            "stages",
            [f"{stage['module']}: {stage['channels']} channels at 1/{stage['reduction']}" for stage in facts["stages"]],
        ),
        ("load", f'pyramidzoo.create_model("{architecture.name}"{pretrained_argument})'),
    ]
    return render_facts(pairs, width=get_page_width())


def _write_speed_lines(speed: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each batch size, and a line with the device, the version of PyTorch, and the date.

    Return no lines if the speed of the architecture was not measured (None).
    """
    if speed is None:
        return []
    lines = []
    for batch_size, speeds in speed["images_per_second"].items():
        variants = ", ".join(f"{images_per_second:,} {variant}" for variant, images_per_second in speeds.items())
        lines.append(f"{variants}, batch {batch_size}")
    return [*lines, f"on {speed['device']}, torch {speed['versions']['torch']}, {speed['date']}"]


def _write_weights_table(entries: Sequence[WeightsEntry], short_protocols: Mapping[str, str]) -> str:
    """Return a table of weights: their errors, their license, and whether their file is on this machine."""
    local_sources = find_local_sources(entries)
    rows = [
        {
            "weights": entry.tag,
            "published %": [str(claim.top1_error) for claim in entry.claims],
            "measured %": [compute_top1_error(result) for result in entry.results],
            "license": get_weights_license(entry),
            "re-publish": entry.license.redistributable,
            "here": local_sources.get(entry.id),
            "protocol": [short_protocols[protocol] for protocol in _list_protocols(entry)],
        }
        for entry in entries
    ]
    return render(rows, "human", width=line_width())


def _list_protocols(entry: WeightsEntry) -> list[str]:
    """Return the protocols by which errors of these weights were published or measured, each protocol once."""
    protocols = [claim.protocol for claim in entry.claims] + [result.protocol for result in entry.results]
    return list(dict.fromkeys(protocols))


def _shorten_protocols(entries: Sequence[WeightsEntry]) -> dict[str, str]:
    """Return a short form for each protocol of these weights. The table of weights shows the short forms."""
    short_protocols: dict[str, str] = {}
    for entry in entries:
        for protocol in _list_protocols(entry):
            crop_match = re.fullmatch(r"resize (\d+), center crop (\d+), one pass", protocol)
            full_match = re.fullmatch(r"full (\d+x\d+) image, one pass", protocol)
            if crop_match:
                short_protocols[protocol] = f"{crop_match[2]} of {crop_match[1]}"
            elif full_match:
                short_protocols[protocol] = f"full {full_match[1]}"
            else:
                short_protocols[protocol] = protocol
    return short_protocols
