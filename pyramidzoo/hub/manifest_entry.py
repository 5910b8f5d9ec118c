"""The entry of published weights in the manifest."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyramidzoo.catalog.weights_entry import Result
from pyramidzoo.hub.upload import Publication


def make_published_entry(publication: Publication, content: dict[str, Any]) -> dict[str, Any]:
    """Make the manifest's entry of published weights, as JSON.

    The entry gets the new place on the Hub. The place that it had on the Hub before becomes its origin. A missing hash
    of the tensors is filled in, and so are results that came from records.

    Args:
        publication: The published weights.
        content: The entry as the manifest has it.

    Returns:
        A new entry.
    """
    prepared, entry = publication.prepared, publication.prepared.entry
    return {
        **content,
        "default": entry.default,
        "hub": dataclasses.asdict(publication.hub),
        "origin": entry.origin and dataclasses.asdict(entry.origin),
        "tensors_sha256": prepared.tensors_sha256,
        "results": [_to_json(result) for result in entry.results],
    }


def _to_json(result: Result) -> dict[str, Any]:
    """Turn a result into what JSON can hold; its mappings are read-only views, which `asdict` cannot copy."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: dict(value) if hasattr(value, "items") else value for name, value in values.items()}
