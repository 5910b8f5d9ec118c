"""Signatures: the dtype and shape of every tensor of a checkpoint, by its name, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyramidzoo.errors import IntegrityError

# The last part of the name of a batch counter: the number of batches that a BN layer was trained
# with. Old files have no counters. PyTorch uses them only in a BN whose momentum is None, and every
# BN here has momentum 0.1.
COUNTER = "num_batches_tracked"

# The names that dtypes have in safetensors files.
_DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_MAX_LISTED_NAMES = 5  # in an error message, for each kind of difference


class Signature(NamedTuple):
    """The dtype and the shape of one tensor.

    Attributes:
        dtype: The name of the dtype in safetensors files, as "F32".
        shape: The size of each dimension; empty for a scalar.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]"


def get_signature(tensor: Tensor) -> Signature:
    """Return the signature of a tensor on any device.

    A dtype that no network of the zoo has is named as in torch.
    """
    dtype = _DTYPE_NAMES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return Signature(dtype, tuple(tensor.shape))


def get_signatures(tensors: Mapping[str, Tensor]) -> dict[str, Signature]:
    """Return the signature of every tensor, under the tensor's name."""
    return {name: get_signature(tensor) for name, tensor in tensors.items()}


def get_stored_signatures(model: nn.Module) -> dict[str, Signature]:
    """Return the signatures that the tensors of a network have in its weights file.

    Weights files hold all floating-point values in float32. The tensors of the network itself can
    have another dtype.
    """
    return {
        name: signature._replace(dtype="F32") if signature.dtype.startswith(("F", "BF")) else signature
        for name, signature in get_signatures(model.state_dict()).items()
    }


def check_signatures(
    actual: Mapping[str, Signature], expected: Mapping[str, Signature], *, error_start: str, next_step: str
) -> None:
    """Raise an error if tensors do not have exactly the expected names, dtypes and shapes.

    Only batch counters may be absent.

    Args:
        actual: The signatures that the tensors of a checkpoint have, by name.
        expected: The signatures that they must have, by name.
        error_start: The start of the error message: which file it is, and what is wrong with it.
        next_step: The end of the error message: what the user should do.

    Raises:
        IntegrityError: The signatures differ. The message names up to five tensors that are
            missing, five that are unexpected, and five that have another dtype or shape.
    """
    missing = sorted(name for name in expected.keys() - actual.keys() if not name.endswith(COUNTER))
    unexpected = sorted(actual.keys() - expected.keys())
    different = [
        f"{name} is {actual[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & actual.keys())
        if actual[name] != expected[name]
    ]
    differences = []
    for kind, items in (("missing", missing), ("unexpected", unexpected), ("different", different)):
        if items:
            more = f" and {len(items) - _MAX_LISTED_NAMES} more" if len(items) > _MAX_LISTED_NAMES else ""
            differences.append(f"{kind}: {', '.join(items[:_MAX_LISTED_NAMES])}{more}")
    if differences:
        raise IntegrityError(f"{error_start}: {'; '.join(differences)}; {next_step}")
