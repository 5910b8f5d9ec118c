"""Hashes of tensors: they depend on the content of a state dict, and not on the file that holds it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from pyramidzoo.checkpoints.signatures import COUNTER, signature_of


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    r"""Hash the tensors of a state dict.

    The tensors are taken in the order of their names; batch counters are left out. For each tensor
    the sha256 gets

    1. the line "NAME DTYPE SHAPE\n", where DTYPE is the name in safetensors files and SHAPE is
       "64x3x3x3" (nothing for a scalar), in UTF-8;
    2. the values in C order, little-endian.

    Args:
        tensors: The tensors by their names, on any device.

    Returns:
        The sha256 in lower-case hex digits.
    """
    hasher = hashlib.sha256()
    _add_tensors({name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}, hasher)
    return hasher.hexdigest()


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash everything that a safetensors file holds: its metadata and all its tensors, batch counters too.

    Args:
        tensors: The tensors by their names, on any device.
        metadata: The strings in the header. They are hashed as JSON with sorted keys, before the
            tensors.

    Returns:
        The sha256 in lower-case hex digits.
    """
    hasher = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    _add_tensors(tensors, hasher)
    return hasher.hexdigest()


def _add_tensors(tensors: Mapping[str, Tensor], hasher: hashlib._Hash) -> None:
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype, shape = signature_of(tensor)
        hasher.update(f"{name} {dtype} {'x'.join(map(str, shape))}\n".encode())
        hasher.update(_little_endian_bytes(tensor))


def _little_endian_bytes(tensor: Tensor) -> bytes:
    raw = tensor.reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, tensor.element_size()).flip(1)
    return raw.numpy().tobytes()
