"""Where an interrupted training goes on: one file, replaced after every epoch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyramidzoo.errors import IntegrityError
from pyramidzoo.files import replacing


def save_checkpoint(path: Path, run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Replace a checkpoint as a whole. Raises NotWritableError; the one before is still there then."""
    with replacing(path) as part:
        torch.save({"run": dict(run), "state": dict(state)}, part)


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state that `save_checkpoint` kept of this very run; None where there is no file.

    Raises IntegrityError where the file is damaged or belongs to another run.
    """
    next_step = "name another --output, or delete it to start again"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise IntegrityError(f"{path} is not a readable checkpoint ({first}); {next_step}") from error
    if not isinstance(content, dict) or content.get("run") != run:
        raise IntegrityError(f"{path} belongs to a training with other settings; {next_step}")
    state: dict[str, Any] = content["state"]
    return state
