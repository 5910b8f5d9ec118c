"""The folder of converted weights, and the sidecars that say what each file must be and where it came from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import user_path, write_text
from pyramidzoo.manifest import WeightsEntry


def cache_dir() -> Path:
    """`PYRAMIDZOO_CACHE`, else `pyramidzoo` in `XDG_CACHE_HOME` or ~/.cache."""
    named = os.environ.get("PYRAMIDZOO_CACHE")
    if named:
        return user_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "pyramidzoo"
    except RuntimeError as error:
        raise UnavailableError("this user has no home folder; name one for the cache in PYRAMIDZOO_CACHE") from error


def cache_paths(entry: WeightsEntry) -> tuple[Path, Path]:
    """The entry's converted file in the cache, and the sidecar that says what it must be."""
    folder = cache_dir() / "weights"
    return folder / f"{entry.id}.safetensors", folder / f"{entry.id}.json"


def sidecar(entry: WeightsEntry) -> dict[str, Any]:
    """What was noted of the entry's file; nothing where there is no readable sidecar.

    `url` it came from, `source_sha256` of what came, `commit` of a Hub file; of a converted one also the published hash
    (`origin`), `sha256` and `tensors_sha256`.
    """
    try:
        noted = json.loads(cache_paths(entry)[1].read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def noted_from(entry: WeightsEntry, url: str) -> dict[str, Any]:
    """What was noted of the file that came from this address; nothing where none did."""
    noted = sidecar(entry)
    return noted if noted.get("url") == url else {}


def hold_to_note(entry: WeightsEntry, url: str, sha256: str) -> None:
    """Require what was noted when the first file came from this address, if one did. Raises IntegrityError."""
    before = noted_from(entry, url).get("source_sha256")
    if before not in (None, sha256):
        raise IntegrityError(
            f"{url} has sha256 {sha256} now; the file noted when it first came had {before}. If the new one is to be "
            f"trusted, delete {cache_paths(entry)[1]} and fetch again"
        )


def note(entry: WeightsEntry, facts: dict[str, Any], *, published: bool) -> None:
    """Replace what is noted of the entry's file; `published` is whether anybody has published a hash of it.

    If nobody has, the first note is said on stderr: from then on it is all that vouches for the file. Raises
    NotWritableError.
    """
    before = sidecar(entry)
    if facts == before:
        return
    write_text(cache_paths(entry)[1], json.dumps(facts, indent=1, sort_keys=True) + "\n")
    if not published and before.get("source_sha256") != facts["source_sha256"]:
        print(
            f"pyramidzoo: nobody has published a hash for {entry.id} ({facts['url']}); sha256 of what came: "
            f"{facts['source_sha256']}; noted, any later file must match",
            file=sys.stderr,
        )
