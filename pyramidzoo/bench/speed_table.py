"""Read the images per second of every network from a file of the package. This module does not need torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pyramidzoo.files import package_path

FILE = "bundled/speed.json"


def read_packaged_speed(architecture: str) -> dict[str, Any] | None:
    """Return the speed of a network that `tools/make_speed.py` measured.

    Args:
        architecture: the name of the architecture.

    Returns:
        Device, versions, date, and images per second by batch size and variant, such as
        {"64": {"plain": 1000.0, "optimized": 1500.0}}. None if the network was not measured.
    """
    document = _read_document(package_path(FILE))
    measured = document["networks"].get(architecture)
    return None if measured is None else {"device": document["device"], "versions": document["versions"], **measured}


@cache
def _read_document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
