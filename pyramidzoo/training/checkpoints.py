"""Where an interrupted training goes on: one safetensors file, sealed, replaced as a whole after every epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_sealed, write_sealed
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError


def save_checkpoint(path: Path, run: Mapping[str, Any], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Replace a checkpoint of a run.

    Raises NotWritableError, and UsageError where another run has put its own there meanwhile; what was there stays.
    """
    if path.exists() and read_metadata(path).get("run") != _canonical(run):
        raise UsageError(f"{path} was taken by a training with other settings; name another --output")
    write_sealed(path, tensors, {"run": _canonical(run), "rest": json.dumps(rest)})


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `save_checkpoint` kept of this very run; None where there is no file.

    Raises IntegrityError where the file is damaged, UsageError where it belongs to another run.
    """
    try:
        content = read_sealed(path)
    except UnavailableError:
        if path.exists():
            raise
        return None
    except IntegrityError as error:
        raise IntegrityError(f"{error}; name another --output, or delete it to start again") from error
    if content.metadata.get("run") != _canonical(run):
        raise UsageError(f"{path} belongs to a training with other settings; name another --output")
    # copies: the file is replaced while they are in use, and the optimizer writes to them
    return {name: tensor.clone() for name, tensor in content.tensors.items()}, json.loads(content.metadata["rest"])


def _canonical(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)
