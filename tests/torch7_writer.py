"""A tiny writer of Torch7's binary files, and trees of modules that can be written and run."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Lua:
    """An object of a Torch7 class: its name ("nn.Linear") and its fields."""

    def __init__(self, typename: str, **fields: Any) -> None:
        self.typename = typename
        self.fields = fields

    def add(self, *modules: Lua) -> Lua:
        self.fields.setdefault("modules", []).extend(modules)
        return self


class Writer:
    """Serialises None, booleans, numbers, strings, lists, dictionaries, float arrays and `Lua` objects."""

    def __init__(self, stream: BinaryIO, *, tensor: str = "torch.CudaTensor", version: str = "V 1") -> None:
        self.stream = stream
        self.tensor = tensor
        self.version = version
        self.objects: dict[int, int] = {}

    def write(self, value: Any) -> None:
        if value is None:
            self.int(0)
        elif isinstance(value, bool):
            self.int(5)
            self.int(int(value))
        elif isinstance(value, (int, float)):
            self.int(1)
            self.stream.write(struct.pack("<d", value))
        elif isinstance(value, str):
            self.int(2)
            self.string(value)
        elif isinstance(value, list):
            self.write_table(value, dict(enumerate(value, start=1)))
        elif isinstance(value, dict):
            self.write_table(value, value)
        elif isinstance(value, np.ndarray):
            self.write_tensor(value)
        elif self.known(4, value):
            self.header(value.typename)
            self.write(value.fields)

    def write_table(self, key: Any, table: dict[Any, Any]) -> None:
        if self.known(3, key):
            self.int(len(table))
            for name, item in table.items():
                self.write(name)
                self.write(item)

    def write_tensor(self, array: Any) -> None:
        if not self.known(4, array):
            return
        self.header(self.tensor)
        self.int(array.ndim)
        self.long(*array.shape)
        self.long(*(stride // array.itemsize for stride in array.strides))
        self.long(1)
        self.int(4)
        self.objects[-id(array)] = len(self.objects) + 1
        self.int(len(self.objects))
        self.header(self.tensor.replace("Tensor", "Storage"))
        self.long(array.size)
        self.stream.write(array.tobytes())

    def known(self, kind: int, value: Any) -> bool:
        """Write kind and number of an object; whether its content must follow."""
        new = id(value) not in self.objects
        index = self.objects.setdefault(id(value), len(self.objects) + 1)
        self.int(kind)
        self.int(index)
        return new

    def header(self, typename: str) -> None:
        if self.version:
            self.string(self.version)
        self.string(typename)

    def int(self, value: Any) -> None:
        self.stream.write(struct.pack("<i", value))

    def long(self, *values: Any) -> None:
        self.stream.write(struct.pack(f"<{len(values)}q", *values))

    def string(self, text: str) -> None:
        self.int(len(text))
        self.stream.write(text.encode("latin-1"))


def save(path: Path, value: Any, **options: str) -> Path:
    """What Lua's `torch.save(path, value)` writes."""
    with path.open("wb") as stream:
        Writer(stream, **options).write(value)
    return path


def run(module: Lua, x: Any) -> Any:
    """Forward pass in evaluation mode; the last pooling takes the whole map."""
    kind, fields = module.typename.rpartition(".")[2], module.fields
    if kind == "Sequential":
        for child in fields["modules"]:
            x = run(child, x)
        return x
    if kind == "ConcatTable":
        return [run(child, x) for child in fields["modules"]]
    values = {
        name: torch.from_numpy(array).to(x.dtype) for name, array in fields.items() if isinstance(array, np.ndarray)
    }
    if kind == "SpatialConvolution":
        groups = fields.get("groups", 1)
        stride, padding = fields["dH"], fields["padH"]
        return F.conv2d(x, values["weight"], values.get("bias"), stride, padding, groups=groups)
    if kind == "SpatialBatchNormalization":
        variance = values["running_var"] if "running_var" in values else values["running_std"] ** -2 - fields["eps"]
        return F.batch_norm(x, values["running_mean"], variance, values["weight"], values["bias"], eps=fields["eps"])
    if kind == "Linear":
        return F.linear(x, values["weight"], values["bias"])
    return _without_parameters(kind, fields, x)


def _without_parameters(kind: str, fields: dict[str, Any], x: Any) -> Any:
    if kind == "CAddTable":
        return sum(x[1:], start=x[0])
    if kind == "ReLU":
        return F.relu(x)
    if kind == "SpatialMaxPooling":
        return F.max_pool2d(x, fields["kH"], fields["dH"], fields["padH"])
    if kind == "SpatialAveragePooling":
        return F.adaptive_avg_pool2d(x, 1) if fields["kH"] == 7 else F.avg_pool2d(x, fields["kH"], fields["dH"])
    if kind == "Padding":  # zeros after the channels
        zeros: Tensor = torch.zeros_like(x[:, :1]).expand(-1, fields["pad"], -1, -1)
        return torch.cat((x, zeros), dim=1)
    if kind == "View":
        return x.flatten(1)
    assert kind in ("Identity", "Copy", "Dropout"), kind
    return x
