"""Checkpoints of trainings: safetensors files with a checksum, from which an interrupted training continues."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_sealed, write_sealed
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError


def save_checkpoint(path: Path, run: Mapping[str, Any], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Write the checkpoint of a run. The old file stays until the new one is complete.

    Args:
        path: The checkpoint file.
        run: The settings of the run, as JSON values. They identify it.
        tensors: The tensors of the run, by name.
        rest: Everything else that is needed to continue, as JSON values.

    Raises:
        UsageError: Another run has written its checkpoint to this path. That file stays as it is.
        NotWritableError: The file cannot be written.
    """
    if path.exists() and read_metadata(path).get("run") != _to_json(run):
        raise UsageError(f"{path} was taken by a training with other settings; name another --output")
    write_sealed(path, tensors, {"run": _to_json(run), "rest": json.dumps(rest)})


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load what `save_checkpoint` wrote for this run.

    Args:
        path: The checkpoint file.
        run: The settings of the run.

    Returns:
        The tensors and `rest`; None if there is no file.

    Raises:
        IntegrityError: The file is damaged.
        UsageError: The file belongs to a run with other settings.
    """
    try:
        content = read_sealed(path)
    except UnavailableError:
        if path.exists():
            raise
        return None
    except IntegrityError as error:
        raise IntegrityError(f"{error}; name another --output, or delete it to start again") from error
    if content.metadata.get("run") != _to_json(run):
        raise UsageError(f"{path} belongs to a training with other settings; name another --output")
    # Copies, because the file will be replaced while the tensors are in use, and because the optimizer changes them.
    tensors = {name: tensor.clone() for name, tensor in content.tensors.items()}
    return tensors, json.loads(content.metadata["rest"])


def _to_json(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)
