"""The reader of Torch7 files (.t7): it runs in the sandbox, and imports nothing of pyramidzoo.

A .t7 file is a tree of modules. Every layer with parameters is named after its place in the tree,
in the order of execution:

    before3.1.bn.weight                   the first layer between the second ConcatTable and the
    third block3.branch1.2.conv_stride2.weight  the second layer in the first branch of the third
    ConcatTable

Therefore a file of another graph has other names, and is not taken for this one.

The package `torchfile` builds only numbers, strings, tables and arrays: Lua functions stay bytes,
and no class of the file is looked up. It is unsafe in one place, tensors that reach beyond their
storage; that code is replaced here.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file as save

__all__ = ["read", "save"]

Array = npt.NDArray[Any]
EPSILON = 1e-5
NUMBERS = {"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Float": "f4", "Double": "f8"}


def make_tensor_reader(dtype: str) -> Callable[[Any, Any], Array]:
    """Return the function that reads a tensor, and requires that it lies inside its storage."""

    def read(reader: Any, version: Any) -> Array:
        dimensions = reader.read_int()
        if not 0 <= dimensions <= 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = reader.read_long_array(dimensions)
        strides = reader.read_long_array(dimensions)
        start = reader.read_long() - 1
        storage = reader.read_obj()
        if storage is None or dimensions == 0 or 0 in shape:
            return np.empty(0, dtype)
        steps = list(zip(shape, strides, strict=True))
        if min(*shape, *strides, start) < 0 or start + sum((n - 1) * step for n, step in steps) >= len(storage):
            raise ValueError("a tensor reaches beyond its storage")
        in_bytes = [step * storage.dtype.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(storage[start:], shape=shape, strides=in_bytes, writeable=False)

    return read


def make_storage_reader(dtype: str) -> Callable[[Any, Any], Array]:
    """Return the function that reads a storage, and requires that the file is long enough for it."""

    def read(reader: Any, version: Any) -> Array:
        size = reader.read_long()
        left = os.fstat(reader.f.fileno()).st_size - reader.f.tell()
        if not 0 <= size * np.dtype(dtype).itemsize <= left:  # numpy would allocate the memory before it reads.
            raise ValueError("the file ends in the middle of a tensor")
        return np.fromfile(reader.f, dtype=dtype, count=size)

    return read


def load(source: str) -> Any:
    """Read the tree of objects in a file with `torchfile`."""
    torchfile = importlib.import_module("torchfile")
    for name, dtype in NUMBERS.items():
        for prefix in ("", "Cuda"):
            kind = "Cuda" if prefix and name == "Float" else f"{prefix}{name}"
            torchfile.type_handlers[f"torch.{kind}Tensor".encode()] = make_tensor_reader(dtype)
            torchfile.type_handlers[f"torch.{kind}Storage".encode()] = make_storage_reader(dtype)
    # The heuristic would make lists of tables, even of the table of an object's fields.
    return torchfile.load(source, use_list_heuristic=False)


class ParameterCollector:
    """Collects the parameters of a tree of modules under the names of their places.

    Attributes:
        tensors: The parameters that were found so far.
        allowed: The number of bytes that may still be added.
    """

    def __init__(self, allowed: int = 1 << 40) -> None:
        self.tensors: dict[str, Array] = {}
        self.allowed = allowed
        self.tables = 0  # how many ConcatTables were met
        self.place, self.layers = "before1", 0  # where we are, and how many layers were met there

    def visit(self, module: Any) -> None:
        """Collect the parameters of a module and of all modules in it."""
        kind = module.torch_typename().decode("ascii", "replace").rpartition(".")[2]
        children = list_children(module)
        if kind == "DataParallelTable":
            self.visit(children[0])
        elif kind == "ConcatTable" and has_parameters(module):
            self.visit_branches(children)
        elif kind == "Sequential":
            for child in children:
                self.visit(child)
        elif has_parameters(module):
            self.add_layer(kind, module)

    def visit_branches(self, children: list[Any]) -> None:
        """Collect the parameters of a residual block, which is a ConcatTable of branch and shortcut."""
        if self.place.startswith("block"):
            raise ValueError("a ConcatTable within another one")
        self.tables += 1
        for branch, child in enumerate(children, start=1):
            self.place, self.layers = f"block{self.tables}.branch{branch}", 0
            self.visit(child)
        self.place, self.layers = f"before{self.tables + 1}", 0

    def add_layer(self, kind: str, module: Any) -> None:
        """Add the parameters of one layer."""
        self.layers += 1
        place = f"{self.place}.{self.layers}"
        if kind in ("SpatialConvolution", "SpatialConvolutionMM"):
            self.add_convolution(place, module)
        elif kind in ("SpatialBatchNormalization", "BatchNormalization"):
            self.add_norm(place, module)
        elif kind == "Linear":
            self.add(f"{place}.linear", weight=module.weight, bias=module.bias)
        else:
            raise ValueError(f"{place} is an nn.{kind}, which has parameters but no place in these networks")

    def add_convolution(self, place: str, module: Any) -> None:
        """Add the weight of a convolution, and its bias unless that is zero."""
        if module.kH != module.kW or module.dH != module.dW or {module.padH or 0, module.padW or 0} != {module.kH // 2}:
            raise ValueError(f"{place} is not a square convolution that keeps the map's size")
        weight = module.weight
        if weight.ndim == 2:  # SpatialConvolutionMM
            weight = weight.reshape(module.nOutputPlane, module.nInputPlane, module.kH, module.kW)
        name = f"{place}.conv" if module.dH == 1 else f"{place}.conv_stride{module.dH}"
        bias = module.bias
        # The Lua code takes biases away or, with an old cuDNN, sets them to zero.
        self.add(name, weight=weight, bias=bias if bias is not None and np.any(bias) else None)

    def add_norm(self, place: str, module: Any) -> None:
        """Add the parameters and statistics of a BN."""
        if abs(module.eps - EPSILON) > 1e-9:
            raise ValueError(f"{place} is a BN with eps {module.eps}, not {EPSILON}")
        variance = module.running_var
        if variance is None:  # Lua's nn of 2015 stored 1 / sqrt(variance + eps).
            variance = (module.running_std.astype("f8") ** -2 - module.eps).astype("f4")
        self.add(
            f"{place}.bn",
            weight=module.weight,
            bias=module.bias,
            running_mean=module.running_mean,
            running_var=variance,
        )

    def add(self, name: str, **values: Array | None) -> None:
        """Add the arrays of one layer; None stands for an array that it does not have."""
        for value, array in values.items():
            if array is not None:
                self.allowed -= array.nbytes  # An array with strides of 0 may repeat one value a million times.
                if self.allowed < 0:
                    raise ValueError("its tensors are many times larger than the file")
                self.tensors[f"{name}.{value}"] = np.ascontiguousarray(array)


def has_parameters(module: Any) -> bool:
    """Return whether a module or any module in it has a weight."""
    if isinstance(module.weight, np.ndarray):
        return True
    return any(map(has_parameters, list_children(module)))


def list_children(module: Any) -> list[Any]:
    """Return the modules directly inside a module, in their order."""
    modules = module.modules or {}
    return [modules[index] for index in range(1, len(modules) + 1)]


def read(source: Path, allowed: int) -> dict[str, Array]:
    """Read the parameters of all layers of a Torch7 file.

    Args:
        source: The file.
        allowed: The largest number of bytes of all arrays together.

    Returns:
        The arrays, named after the places of their layers.

    Raises:
        ValueError: The file is damaged, or holds what no network here has.
    """
    collector = ParameterCollector(allowed)
    collector.visit(load(str(source)))
    if not collector.tensors:
        raise ValueError("it holds no layers")
    return collector.tensors
