"""The reader of Torch7 files (.t7). It runs in the sandbox's child process, and imports nothing of pyramidzoo.

A .t7 file holds a network as a tree of Lua modules. In these networks a module ConcatTable is a
residual block, whose children are the branch and the shortcut. Every layer with parameters is named
after its place in the tree, in the order of execution. Two examples:

    before3.1.bn.weight                   The BN is the first layer after the second ConcatTable, and
                                          before the third one.
    block3.branch1.2.conv_stride2.weight  The convolution is the second layer in the first child of
                                          the third ConcatTable.

Because the names contain the places, a file of another network has other names, even if its tensors
have the same shapes. So it cannot be converted as the wrong network.

The package `torchfile` builds only numbers, strings, tables and arrays from a file. Functions of
Lua stay bytes, and no class of Python is looked up. Its code for tensors and their storages is not
safe, because it does not check whether a tensor lies inside its storage. That code is replaced
here.
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
BN_EPSILON = 1e-5  # of every BN in the zoo's networks
# The numpy dtype of each number type of Torch7.
DTYPES = {"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Float": "f4", "Double": "f8"}


def make_tensor_reader(dtype: str) -> Callable[[Any, Any], Array]:
    """Make the function with which `torchfile` reads a tensor.

    A Torch7 tensor is a view of a storage, which is a one-dimensional array. It has a shape, a
    stride for each dimension, and the index of its first element in the storage. The function
    raises an error if an element would lie outside of the storage. Its arguments are the reader of
    `torchfile`, and the version of the stored object, which is not used.

    Args:
        dtype: The numpy dtype of the tensor's numbers.
    """

    def read_tensor(reader: Any, version: Any) -> Array:
        dimensions = reader.read_int()
        if not 0 <= dimensions <= 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = reader.read_long_array(dimensions)
        strides = reader.read_long_array(dimensions)  # in elements, not in bytes
        first_index = reader.read_long() - 1  # Lua counts from 1.
        storage = reader.read_obj()
        if storage is None or dimensions == 0 or 0 in shape:
            return np.empty(0, dtype)
        if min(*shape, *strides, first_index) < 0:
            raise ValueError("a tensor reaches beyond its storage")
        last_index = first_index + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if last_index >= len(storage):
            raise ValueError("a tensor reaches beyond its storage")
        strides_in_bytes = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(
            storage[first_index:], shape=shape, strides=strides_in_bytes, writeable=False
        )

    return read_tensor


def make_storage_reader(dtype: str) -> Callable[[Any, Any], Array]:
    """Make the function with which `torchfile` reads a storage: a one-dimensional array of numbers.

    The file states the number of elements. The function raises an error if the rest of the file is
    too short for them, because numpy would allocate the memory before it notices that. Its
    arguments are the reader of `torchfile`, and the version of the stored object, which is not
    used.

    Args:
        dtype: The numpy dtype of the numbers.
    """

    def read_storage(reader: Any, version: Any) -> Array:
        element_count = reader.read_long()
        remaining_bytes = os.fstat(reader.f.fileno()).st_size - reader.f.tell()
        if not 0 <= element_count * np.dtype(dtype).itemsize <= remaining_bytes:
            raise ValueError("the file ends in the middle of a tensor")
        return np.fromfile(reader.f, dtype=dtype, count=element_count)

    return read_storage


def load_tree(source: str) -> Any:
    """Read the tree of modules in a file with `torchfile`, whose readers of tensors and storages are replaced."""
    torchfile = importlib.import_module("torchfile")
    for number_type, dtype in DTYPES.items():
        for device in ("", "Cuda"):
            # For example torch.FloatTensor, torch.CudaIntTensor. The float tensor of Cuda is torch.CudaTensor.
            array_type = "Cuda" if device and number_type == "Float" else f"{device}{number_type}"
            torchfile.type_handlers[f"torch.{array_type}Tensor".encode()] = make_tensor_reader(dtype)
            torchfile.type_handlers[f"torch.{array_type}Storage".encode()] = make_storage_reader(dtype)
    # With the heuristic `torchfile` would turn tables with keys 1, 2, ... into lists. It would do so
    # with any table, even with the table that holds the fields of an object.
    return torchfile.load(source, use_list_heuristic=False)


class ParameterCollector:
    """Collects the parameters of a tree of modules, each named after the place of its layer.

    Attributes:
        tensors: The parameters that were collected so far.
        remaining_bytes: The number of bytes of parameters that may still be collected.
        block_count: The number of ConcatTables, which are residual blocks, that were visited so
            far.
        place: The present place: "before2" between the first and the second block, and
            "block2.branch1" in the first branch of the second block.
        layer_count: The number of layers with parameters that were visited so far at this place.
    """

    def __init__(self, allowed: int = 1 << 40) -> None:
        self.tensors: dict[str, Array] = {}
        self.remaining_bytes = allowed
        self.block_count = 0
        self.place = "before1"
        self.layer_count = 0

    def visit(self, module: Any) -> None:
        """Collect the parameters of a module and of all modules in it, in the order of execution."""
        kind = module.torch_typename().decode("ascii", "replace").rpartition(".")[2]
        children = list_children(module)
        if kind == "DataParallelTable":  # It holds copies of one network for several GPUs.
            self.visit(children[0])
        elif kind == "ConcatTable" and has_parameters(module):
            self.visit_branches(children)
        elif kind == "Sequential":
            for child in children:
                self.visit(child)
        elif has_parameters(module):
            self.add_layer(kind, module)

    def visit_branches(self, children: list[Any]) -> None:
        """Collect the parameters of a ConcatTable's children: the branch and the shortcut of a residual block."""
        if self.place.startswith("block"):
            raise ValueError("a ConcatTable within another one")
        self.block_count += 1
        for branch_number, child in enumerate(children, start=1):
            self.place, self.layer_count = f"block{self.block_count}.branch{branch_number}", 0
            self.visit(child)
        self.place, self.layer_count = f"before{self.block_count + 1}", 0

    def add_layer(self, kind: str, module: Any) -> None:
        """Collect the parameters of one layer; raise ValueError for a kind of layer that no network here has."""
        self.layer_count += 1
        place = f"{self.place}.{self.layer_count}"
        if kind in ("SpatialConvolution", "SpatialConvolutionMM"):
            self.add_convolution(place, module)
        elif kind in ("SpatialBatchNormalization", "BatchNormalization"):
            self.add_norm(place, module)
        elif kind == "Linear":
            self.add(f"{place}.linear", weight=module.weight, bias=module.bias)
        else:
            raise ValueError(f"{place} is an nn.{kind}, a layer with parameters that no network here has")

    def add_convolution(self, place: str, module: Any) -> None:
        """Collect the weight of a convolution, and its bias unless all its values are zero."""
        # kH and kW are the kernel's height and width, dH and dW the strides, padH and padW the
        # padding, which is half the kernel (rounded down) in all networks here.
        if module.kH != module.kW or module.dH != module.dW or {module.padH or 0, module.padW or 0} != {module.kH // 2}:
            raise ValueError(f"{place} is not a square convolution with a padding of half its kernel")
        weight = module.weight
        if weight.ndim == 2:  # SpatialConvolutionMM has one row for each output channel.
            weight = weight.reshape(module.nOutputPlane, module.nInputPlane, module.kH, module.kW)
        name = f"{place}.conv" if module.dH == 1 else f"{place}.conv_stride{module.dH}"
        bias = module.bias
        # The Lua code that builds these networks removes the biases of convolutions, because BN follows.
        # With an old cuDNN it sets them to zero instead.
        self.add(name, weight=weight, bias=bias if bias is not None and np.any(bias) else None)

    def add_norm(self, place: str, module: Any) -> None:
        """Collect the parameters and statistics of a BN."""
        if abs(module.eps - BN_EPSILON) > 1e-9:
            raise ValueError(f"{place} is a BN with eps {module.eps}, not {BN_EPSILON}")
        variance = module.running_var
        # In 2015 Lua's package nn stored 1 / sqrt(variance + eps), in the field running_std.
        if variance is None:
            variance = (module.running_std.astype("f8") ** -2 - module.eps).astype("f4")
        self.add(
            f"{place}.bn",
            weight=module.weight,
            bias=module.bias,
            running_mean=module.running_mean,
            running_var=variance,
        )

    def add(self, name: str, **values: Array | None) -> None:
        """Collect the arrays of one layer.

        Args:
            name: The place and the kind of the layer, as "block3.branch1.2.bn".
            values: The layer's arrays by their names, as `weight`. None stands for an array that
                the layer does not have.
        """
        for value_name, array in values.items():
            if array is not None:
                # The size is computed before the copy, because an array with strides of 0 can show
                # one value a million times, and its copy would need the memory of a million values.
                self.remaining_bytes -= array.nbytes
                if self.remaining_bytes < 0:
                    raise ValueError("its tensors are many times larger than the file")
                self.tensors[f"{name}.{value_name}"] = np.ascontiguousarray(array)


def has_parameters(module: Any) -> bool:
    """Return whether a module or any module in it has a weight."""
    if isinstance(module.weight, np.ndarray):
        return True
    return any(map(has_parameters, list_children(module)))


def list_children(module: Any) -> list[Any]:
    """Return the modules directly inside a module, in their order. The file has them in a table with keys 1, 2, ..."""
    modules = module.modules or {}
    return [modules[index] for index in range(1, len(modules) + 1)]


def read(source: Path, allowed: int) -> dict[str, Array]:
    """Read the parameters of all layers of a Torch7 file.

    Args:
        source: The file.
        allowed: The largest number of bytes that all arrays together may have.

    Returns:
        The arrays. Each is named after the place of its layer, as "block3.branch1.2.bn.weight".

    Raises:
        ValueError: The file is damaged, or holds a layer that no network here has.
    """
    collector = ParameterCollector(allowed)
    collector.visit(load_tree(str(source)))
    if not collector.tensors:
        raise ValueError("it holds no layers")
    return collector.tensors
