"""Make the manifest's entry of weights that were published on the Hugging Face Hub."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramidzoo.catalog.weights_entry import Result
from pyramidzoo.hub.upload import Publication


def make_published_entry(publication: Publication, content: dict[str, Any]) -> dict[str, Any]:
    """Make the manifest's entry of published weights, as JSON.

    The field `hub` names the published file. If the weights came from another repository on the Hub, and the entry had
    no origin, that repository's file is the origin. The hash of the tensors is added if it was missing. The results
    contain those of the evaluation records with which the weights were published.

    Args:
        publication: The published weights.
        content: The JSON of the entry in the manifest. It is not changed.

    Returns:
        The JSON of the new entry.
    """
    prepared, entry = publication.prepared, publication.prepared.entry
    return {
        **content,
        "default": entry.default,
        "hub": dataclasses.asdict(publication.hub_file),
        "origin": entry.origin and dataclasses.asdict(entry.origin),
        "tensors_sha256": prepared.tensors_sha256,
        "results": [_convert_result_to_json(result) for result in entry.results],
    }


def _convert_result_to_json(result: Result) -> dict[str, Any]:
    """Convert a result to a dict that can be written as JSON.

    `dataclasses.asdict` cannot do this, because it cannot copy the read-only mappings in a result. They become dicts.
    """
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: dict(value) if hasattr(value, "items") else value for name, value in values.items()}
