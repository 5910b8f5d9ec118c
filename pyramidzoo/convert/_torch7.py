"""What `_sandbox` does for `read_torch7`: a .t7 file to named arrays, with nothing of pyramidzoo in it.

A .t7 file is a tree of modules. Every layer with parameters is named after its place in it, in the order of execution:

    before3.1.bn.weight                  the first layer between the second ConcatTable and the third
    unit3.branch1.2.conv_stride2.weight  the second layer in the first branch of the third ConcatTable

so that a file of another graph has other names.

`torchfile` builds numbers, strings, tables and arrays only: Lua functions stay bytes, no class of the file is looked
up. Its one unsafe spot, tensors that reach beyond their storage, is replaced here.
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


def tensor_reader(dtype: str) -> Callable[[Any, Any], Array]:
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


def storage_reader(dtype: str) -> Callable[[Any, Any], Array]:
    def read(reader: Any, version: Any) -> Array:
        size = reader.read_long()
        left = os.fstat(reader.f.fileno()).st_size - reader.f.tell()
        if not 0 <= size * np.dtype(dtype).itemsize <= left:  # numpy would take the memory before it reads
            raise ValueError("the file ends in the middle of a tensor")
        return np.fromfile(reader.f, dtype=dtype, count=size)

    return read


def load(source: str) -> Any:
    torchfile = importlib.import_module("torchfile")
    for name, dtype in NUMBERS.items():
        for prefix in ("", "Cuda"):
            kind = "Cuda" if prefix and name == "Float" else f"{prefix}{name}"
            torchfile.type_handlers[f"torch.{kind}Tensor".encode()] = tensor_reader(dtype)
            torchfile.type_handlers[f"torch.{kind}Storage".encode()] = storage_reader(dtype)
    return torchfile.load(source, use_list_heuristic=False)  # which makes lists of tables, even of an object's fields


class Walk:
    """Collects the parameters of a tree of modules under the names of their places."""

    def __init__(self, allowed: int = 1 << 40) -> None:
        self.tensors: dict[str, Array] = {}
        self.allowed = allowed
        self.tables = 0
        self.place, self.layers = "before1", 0

    def visit(self, module: Any) -> None:
        kind = module.torch_typename().decode("ascii", "replace").rpartition(".")[2]
        children = children_of(module)
        if kind == "DataParallelTable":
            self.visit(children[0])
        elif kind == "ConcatTable" and has_parameters(module):
            self.branches(children)
        elif kind == "Sequential":
            for child in children:
                self.visit(child)
        elif has_parameters(module):
            self.layer(kind, module)

    def branches(self, children: list[Any]) -> None:
        if self.place.startswith("unit"):
            raise ValueError("a ConcatTable within another one")
        self.tables += 1
        for branch, child in enumerate(children, start=1):
            self.place, self.layers = f"unit{self.tables}.branch{branch}", 0
            self.visit(child)
        self.place, self.layers = f"before{self.tables + 1}", 0

    def layer(self, kind: str, module: Any) -> None:
        self.layers += 1
        place = f"{self.place}.{self.layers}"
        if kind in ("SpatialConvolution", "SpatialConvolutionMM"):
            self.convolution(place, module)
        elif kind in ("SpatialBatchNormalization", "BatchNormalization"):
            self.norm(place, module)
        elif kind == "Linear":
            self.add(f"{place}.linear", weight=module.weight, bias=module.bias)
        else:
            raise ValueError(f"{place} is an nn.{kind}, which has parameters but no place in these networks")

    def convolution(self, place: str, module: Any) -> None:
        if module.kH != module.kW or module.dH != module.dW or {module.padH or 0, module.padW or 0} != {module.kH // 2}:
            raise ValueError(f"{place} is not a square convolution that keeps the map's size")
        weight = module.weight
        if weight.ndim == 2:  # SpatialConvolutionMM
            weight = weight.reshape(module.nOutputPlane, module.nInputPlane, module.kH, module.kW)
        name = f"{place}.conv" if module.dH == 1 else f"{place}.conv_stride{module.dH}"
        bias = module.bias
        # the Lua code takes biases away or, with an old cuDNN, sets them to zero
        self.add(name, weight=weight, bias=bias if bias is not None and np.any(bias) else None)

    def norm(self, place: str, module: Any) -> None:
        if abs(module.eps - EPSILON) > 1e-9:
            raise ValueError(f"{place} is a BN with eps {module.eps}, not {EPSILON}")
        variance = module.running_var
        if variance is None:  # nn of 2015 kept 1 / sqrt(variance + eps)
            variance = (module.running_std.astype("f8") ** -2 - module.eps).astype("f4")
        self.add(
            f"{place}.bn",
            weight=module.weight,
            bias=module.bias,
            running_mean=module.running_mean,
            running_var=variance,
        )

    def add(self, name: str, **values: Array | None) -> None:
        for value, array in values.items():
            if array is not None:
                self.allowed -= array.nbytes  # strides of 0 name one value a million times
                if self.allowed < 0:
                    raise ValueError("its tensors are many times larger than the file")
                self.tensors[f"{name}.{value}"] = np.ascontiguousarray(array)


def has_parameters(module: Any) -> bool:
    if isinstance(module.weight, np.ndarray):
        return True
    return any(map(has_parameters, children_of(module)))


def children_of(module: Any) -> list[Any]:
    modules = module.modules or {}
    return [modules[index] for index in range(1, len(modules) + 1)]


def read(source: Path, allowed: int) -> dict[str, Array]:
    """The parameters of all layers by their place, of at most `allowed` bytes together."""
    walk = Walk(allowed)
    walk.visit(load(str(source)))
    if not walk.tensors:
        raise ValueError("it holds no layers")
    return walk.tensors
