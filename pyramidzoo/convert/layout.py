"""What a layout is: it says where each tensor of a network is in a project's checkpoints, and what else is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.signatures import COUNTER, Signature, check_signatures, signatures_of
from pyramidzoo.errors import IntegrityError


class TensorSource(NamedTuple):
    """Where one tensor of a network comes from.

    Attributes:
        name: The tensor's name in the file; None if the file has no such tensor.
        shape: The tensor's shape in the file, if it is another one than in the network. The values
            are the same.
        fill: The value of all elements, if the file has no such tensor.
    """

    name: str | None
    shape: tuple[int, ...] | None = None
    fill: float = 0.0


class FlatCheckpoint(NamedTuple):
    """The tensors of a checkpoint without the training state.

    Attributes:
        container: The part of the path that all tensors of the state dict begin with, as
            "state_dict.module."; it is empty or ends with a dot.
        tensors: The tensors by their path in the file, container included.
    """

    container: str
    tensors: dict[str, Tensor]


def keep_name(name: str, architecture: Architecture) -> str:
    """Return a name as it is: the project has the zoo's names."""
    return name


def keep_path(path: str) -> str:
    """Return a path as it is: the project has never changed its names."""
    return path


def no_unused_tensors(architecture: Architecture) -> dict[str, Signature]:
    """Return no tensors: the project's files hold what the network needs, and nothing else."""
    return {}


def no_remark(architecture: Architecture) -> str | None:
    """Return no remark: the values are converted as they are."""
    return None


@dataclass(frozen=True)
class Layout:
    """How one project names and stores the tensors of its checkpoints.

    Attributes:
        name: The name of the layout; it is also that of its module.
        repository: The project, as users know it.
        supports: Says whether the project has an architecture.
        preprocessing: What the authors trained with, by dataset. Empty if it differs from file to
            file.
        foreign_name: Turns a tensor's name in the zoo into the project's name.
        source: Says where a tensor comes from, if its foreign name does not say all; else it
            returns None.
        unused: The tensors that a file must also hold, although the network does not use them.
        containers: The paths that the state dict may have in a checkpoint, each empty or with a dot
            at the end.
        ignored_prefixes: The starts of paths of training state (as an optimizer's), which is
            ignored.
        rename_old_path: Turns a path in an older file of the project into today's path.
        allows_float16: Whether floats may have 16 bits. They become float32, which keeps their
            values exactly.
        remark: What the converted file says about its conversion, if something needs to be said.
    """

    name: str
    repository: str
    supports: Callable[[Architecture], bool]
    preprocessing: Mapping[str, Preprocessing]
    foreign_name: Callable[[str, Architecture], str] = keep_name
    source: Callable[[str, Signature, Architecture], TensorSource | None] | None = None
    unused: Callable[[Architecture], dict[str, Signature]] = no_unused_tensors
    containers: tuple[str, ...] = ("",)
    ignored_prefixes: tuple[str, ...] = ()
    rename_old_path: Callable[[str], str] = keep_path
    allows_float16: bool = False
    remark: Callable[[Architecture], str | None] = no_remark

    def locate(self, name: str, part: Signature, architecture: Architecture) -> TensorSource:
        """Say where a tensor of a network comes from.

        Args:
            name: The tensor's name in the zoo.
            part: Its signature in the zoo.
            architecture: The network.
        """
        special = self.source(name, part, architecture) if self.source else None
        return special or TensorSource(self.foreign_name(name, architecture))

    def find_state_dict(self, checkpoint: Mapping[str, Tensor], stem: str, *, what: str) -> FlatCheckpoint:
        """Find the state dict in a checkpoint.

        Args:
            checkpoint: All tensors of the file by their path.
            stem: The foreign name of the network's first weight. The container is the one that
                holds it, or the first of the layout's containers if none does.
            what: The file, for an error message.

        Returns:
            The tensors without training state, under the names that the project uses today.

        Raises:
            IntegrityError: Two tensors have the same name.
        """
        container = next((c for c in self.containers if c + stem in checkpoint), self.containers[0])
        tensors: dict[str, Tensor] = {}
        for old_path, tensor in checkpoint.items():
            path = self.rename_old_path(old_path)
            if path in tensors:
                raise IntegrityError(f"{what}: two tensors are called {path}")
            if path.startswith(container) or not path.startswith(self.ignored_prefixes):
                tensors[path] = tensor
        return FlatCheckpoint(container, tensors)

    def required_signatures(
        self, flat: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture
    ) -> dict[str, Signature]:
        """Return what a file of a network must hold.

        Args:
            flat: The file's state dict, which decides whether a float has 16 bits.
            expected: The signatures of the network's tensors in the zoo.
            architecture: The network.

        Returns:
            The signature of each tensor that the file must hold, by its path.
        """
        required = {flat.container + name: part for name, part in self.unused(architecture).items()}
        for name, part in expected.items():
            foreign_name, shape, _ = self.locate(name, part, architecture)
            if foreign_name is None:
                continue
            path = flat.container + foreign_name
            tensor = flat.tensors.get(path)
            is_half = tensor is not None and tensor.dtype == torch.float16
            dtype = "F16" if self.allows_float16 and is_half and part.dtype == "F32" else part.dtype
            required[path] = Signature(dtype, part.shape if shape is None else shape)
        return required

    def extract_tensors(
        self, flat: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture, *, what: str
    ) -> dict[str, Tensor]:
        """Take a network's tensors out of a checkpoint.

        The checkpoint must hold exactly what the layout says. Only batch counters may be absent.

        Args:
            flat: The file's state dict.
            expected: The signatures of the network's tensors in the zoo.
            architecture: The network.
            what: The start of an error message.

        Returns:
            The tensors under the zoo's names. Batch counters that the file lacks are not among
            them.

        Raises:
            IntegrityError: A name, a dtype or a shape is another one.
        """
        required = self.required_signatures(flat, expected, architecture)
        next_step = "check --layout, --arch and --dataset"
        check_signatures(signatures_of(flat.tensors), required, what=what, next_step=next_step)
        tensors: dict[str, Tensor] = {}
        for name, part in expected.items():
            foreign_name, _, fill = self.locate(name, part, architecture)
            tensor = None if foreign_name is None else flat.tensors.get(flat.container + foreign_name)
            if tensor is not None:
                tensors[name] = tensor.reshape(part.shape)
            elif not name.endswith(COUNTER):
                tensors[name] = torch.full(part.shape, fill, dtype=torch.float32)
        return {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
