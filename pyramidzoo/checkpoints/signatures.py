"""Signatures: the name, dtype and shape of every tensor of a checkpoint, and their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyramidzoo.errors import IntegrityError

# The last part of the name of BN's batch counters. Old files lack them, and at momentum 0.1 they
# have no effect.
COUNTER = "num_batches_tracked"

# Names of dtypes in safetensors files.
_DTYPES = {
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
_LISTED = 5  # names in an error message, for each kind of difference


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


def signature_of(tensor: Tensor) -> Signature:
    """Return the signature of a tensor on any device. A dtype that no network has keeps torch's name."""
    dtype = _DTYPES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return Signature(dtype, tuple(tensor.shape))


def signatures_of(tensors: Mapping[str, Tensor]) -> dict[str, Signature]:
    """Return the signature of every tensor, under the tensor's name."""
    return {name: signature_of(tensor) for name, tensor in tensors.items()}


def stored_signatures(model: nn.Module) -> dict[str, Signature]:
    """Return the signatures that a file of a network has.

    Files hold floats in float32, whatever dtype is PyTorch's default in this process.
    """
    return {
        name: part._replace(dtype="F32") if part.dtype.startswith(("F", "BF")) else part
        for name, part in signatures_of(model.state_dict()).items()
    }


def check_signatures(
    actual: Mapping[str, Signature], expected: Mapping[str, Signature], *, what: str, next_step: str
) -> None:
    """Require exactly the expected names, dtypes and shapes. Batch counters may be absent.

    Args:
        actual: The signatures of the tensors that are there.
        expected: The signatures that they must have.
        what: The start of the error message: the file, and what is wrong with it.
        next_step: The end of the error message: what the user should do.

    Raises:
        IntegrityError: They differ. The message names up to five tensors of each kind of
            difference.
    """
    missing = sorted(name for name in expected.keys() - actual.keys() if not name.endswith(COUNTER))
    unexpected = sorted(actual.keys() - expected.keys())
    different = [
        f"{name} is {actual[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & actual.keys())
        if actual[name] != expected[name]
    ]
    problems = []
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("different", different)):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            problems.append(f"{kind}: {', '.join(names[:_LISTED])}{more}")
    if problems:
        raise IntegrityError(f"{what}: {'; '.join(problems)}; {next_step}")
