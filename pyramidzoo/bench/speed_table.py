"""Images per second that were measured for every network and come with the package; torch is not needed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pyramidzoo.files import package_path

FILE = "bundled/speed.json"


def packaged_speed(architecture: str) -> dict[str, Any] | None:
    """What `tools/make_speed.py` measured: device, versions, date, images/s by batch size and variant; None where not.

    `images_per_second` is {"64": {"plain": 1000.0, "optimized": 1500.0}, ...}.
    """
    document = _document(package_path(FILE))
    measured = document["networks"].get(architecture)
    return None if measured is None else {"device": document["device"], "versions": document["versions"], **measured}


@cache
def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
