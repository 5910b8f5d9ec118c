"""Hashes of tensors: they depend on the tensors of a state dict, and not on the format of the file that holds them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from pyramidzoo.checkpoints.signatures import COUNTER, get_signature


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    r"""Hash the tensors of a state dict.

    The tensors are taken in the order of their names. BN's batch counters are left out, because old
    files do not have them. For each tensor two things are hashed:

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
    """Hash the metadata and all tensors that a safetensors file holds, including BN's batch counters.

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
    """Add the name, dtype, shape and values of each tensor to a hash, as `tensors_sha256` describes it."""
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype, shape = get_signature(tensor)
        hasher.update(f"{name} {dtype} {'x'.join(map(str, shape))}\n".encode())
        hasher.update(_get_little_endian_bytes(tensor))


def _get_little_endian_bytes(tensor: Tensor) -> bytes:
    values = tensor.reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":  # The bytes of each element are reversed, so that all machines hash the same bytes.
        values = values.reshape(-1, tensor.element_size()).flip(1)
    return values.numpy().tobytes()
