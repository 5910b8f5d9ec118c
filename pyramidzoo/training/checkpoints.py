"""Where an interrupted training goes on: a safetensors file with a checksum, replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pyramidzoo.checkpoints.safetensors_file import read_metadata, read_sealed, write_sealed
from pyramidzoo.errors import IntegrityError, UnavailableError, UsageError


def save_checkpoint(path: Path, run: Mapping[str, Any], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a run.

    Args:
        path: the file.
        run: the settings of the run, as JSON can hold them.
        tensors: its tensors.
        rest: what else it needs to go on, as JSON can hold it.

    Raises:
        UsageError: meanwhile another run has written its checkpoint there. The file stays as it is.
        NotWritableError: the file cannot be written.
    """
    if path.exists() and read_metadata(path).get("run") != _to_json(run):
        raise UsageError(f"{path} was taken by a training with other settings; name another --output")
    write_sealed(path, tensors, {"run": _to_json(run), "rest": json.dumps(rest)})


def load_checkpoint(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load what `save_checkpoint` wrote for this run.

    Args:
        path: the file.
        run: the settings of the run.

    Returns:
        The tensors and `rest`; None where there is no file.

    Raises:
        IntegrityError: the file is damaged.
        UsageError: the file belongs to a run with other settings.
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
    # Copies, because the file is replaced while they are in use, and because the optimizer writes to them.
    tensors = {name: tensor.clone() for name, tensor in content.tensors.items()}
    return tensors, json.loads(content.metadata["rest"])


def _to_json(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True)
