"""From a file to a network: hashed and looked at once, then mapped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pyramidzoo.checkpoints.safetensors_file import (
    COUNTER,
    Content,
    check_finite,
    check_signatures,
    read_content,
    signatures,
    stored_signatures,
)
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.files import file_hash
from pyramidzoo.models._interface import ImageClassifier

_ATTEMPTS = 100  # to see one state of a file that others keep replacing
_Identity = tuple[int, ...]  # device, inode, times of modification and change, size: another one is another content
_hashes: dict[tuple[_Identity, str], str] = {}
_finite: set[_Identity] = set()


def read_weights(path: Path, *, sha256: str | None = None) -> Content:
    """Map a weights file; all its values must be finite, and with `sha256` it must be that very file.

    Header and values are looked at when a process first reads a file, and again when it changed. Raises IntegrityError,
    UnavailableError.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        if sha256:
            require_hash(path, sha256, "it was replaced while it was being loaded; load it again")
        content = read_content(path, header_checked=before in _finite)
        if before == _identity(path):
            break  # what was mapped is what was hashed
    else:
        raise UnavailableError(f"{path} is being replaced again and again; load it when that is over")
    if before not in _finite:
        check_finite({n: t for n, t in content.tensors.items() if not n.endswith(COUNTER)}, what=str(path))
        if before is not None:
            _finite.add(before)
    return content


def load_weights(model: ImageClassifier, content: Content, *, head: Literal["require", "drop"] = "require") -> None:
    """Give a model of the zoo the tensors of a file; names, dtypes and shapes must be exactly right.

    `head` "drop" leaves the model's own classifier, whatever its size, and takes all else. The model's tensors are
    replaced, not written to: they become the file's private map. Raises IntegrityError; the model is as it was then.
    """
    own, tensors = model.state_dict(), dict(content.tensors)
    found, expected = signatures(tensors), stored_signatures(model)
    if head == "drop":
        head_prefix = f"{model.classifier_name}."
        left_out = [name for name in tensors if name.startswith(head_prefix)]
        if not left_out:
            raise IntegrityError(f"{content.path} has no classifier to leave out; it is not a classifier's file")
        for name in left_out:
            del tensors[name], found[name]
        tensors |= {name: tensor for name, tensor in own.items() if name.startswith(head_prefix)}
        expected = {name: part for name, part in expected.items() if not name.startswith(head_prefix)}
    check_signatures(
        found, expected, what=f"{content.path} does not fit", next_step="is it another architecture, or not float32?"
    )
    for name in own.keys() - tensors.keys():  # only batch counters can be absent here
        tensors[name] = torch.zeros((), dtype=own[name].dtype, device="cpu")
    _assign(model, tensors)


def _assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """What load_state_dict(assign=True) does, for tensors that are known to fit, and several times as fast."""
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(tensors[start + name], requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = tensors[start + name]


def require_hash(path: Path, expected: str, next_step: str) -> str:
    """The sha256 of a file, which must be the expected one. Raises IntegrityError."""
    found = cached_file_hash(path)
    if found != expected:
        raise IntegrityError(f"{path} is altered: its sha256 is {found}, expected {expected}; {next_step}")
    return found


def cached_file_hash(path: Path, algorithm: str = "sha256") -> str:
    """A file's digest, computed once in a process for the same device, inode, modification time and size."""
    identity = _identity(path)
    if identity is None:
        return file_hash(path, algorithm)  # which says why it cannot be read
    if (identity, algorithm) not in _hashes:
        _hashes[identity, algorithm] = file_hash(path, algorithm)
    return _hashes[identity, algorithm]


def forget_verified() -> None:
    """Verify every file anew from here on, as a new process would."""
    _hashes.clear()
    _finite.clear()


def _identity(path: Path) -> _Identity | None:
    """What tells one state of a file from the next without reading it; None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
