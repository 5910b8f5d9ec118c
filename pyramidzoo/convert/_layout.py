"""What a layout has to say: where each tensor of a network lies in a repository's files, and what else lies there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.manifest import Preprocessing
from pyramidzoo.checkpoints.signatures import COUNTER, Signature, check_signatures, signatures_of
from pyramidzoo.errors import IntegrityError

IMAGENET_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
IMAGENET_224 = Preprocessing(
    input_size=(3, 224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
    interpolation="bilinear",
)
# as it is, or saved by a training script
PLAIN_OR_WRAPPED = ("", "module.", "model.", "model.module.", "state_dict.", "state_dict.module.")
# what such a script saves next to it; no second network (`state_dict_ema.`), whose choice is not ours
TRAINING_STATE = ("optimizer.", "optim.", "scheduler.", "lr_scheduler.", "scaler.", "amp_scaler.")


class TensorSource(NamedTuple):
    """Where one tensor of a network comes from: `name` in the file, with the same values in another shape perhaps.

    Without a name the file has no such tensor, and every element is `fill`.
    """

    name: str | None
    shape: tuple[int, ...] | None = None
    fill: float = 0.0


class FlatCheckpoint(NamedTuple):
    """A file's tensors by their path in it, and the part of the path that its state dict has, with the last dot."""

    container: str
    tensors: dict[str, Tensor]


def same_name(name: str, architecture: Architecture) -> str:
    return name


def unchanged(name: str) -> str:
    return name


def nothing_unused(architecture: Architecture) -> dict[str, Signature]:
    return {}


def no_remark(architecture: Architecture) -> str | None:
    return None


@dataclass(frozen=True)
class Layout:
    """One repository's checkpoints.

    `supports` says which architectures it has; `foreign_name` turns a name of the zoo into the repository's, and where
    that is not all there is to say, `source` says the rest. `unused` gives the tensors that must be there too but take
    no part in the network. `containers` are the paths that the state dict may have in a checkpoint, with their last
    dot, `beside` the starts of what may lie next to it (an optimiser's state). `modern` brings names of the
    repository's older files up to date. `half`: floats may have 16 bits, and become float32 (exactly). `remark` is
    written into the converted file. `preprocessing` is what its authors trained with, by data set.
    """

    name: str
    repository: str
    supports: Callable[[Architecture], bool]
    preprocessing: Mapping[str, Preprocessing]
    foreign_name: Callable[[str, Architecture], str] = same_name
    source: Callable[[str, Signature, Architecture], TensorSource | None] | None = None
    unused: Callable[[Architecture], dict[str, Signature]] = nothing_unused
    containers: tuple[str, ...] = ("",)
    beside: tuple[str, ...] = ()
    modern: Callable[[str], str] = unchanged
    half: bool = False
    remark: Callable[[Architecture], str | None] = no_remark

    def locate(self, name: str, part: Signature, architecture: Architecture) -> TensorSource:
        """Where a tensor of the network is to be found."""
        special = self.source(name, part, architecture) if self.source else None
        return special or TensorSource(self.foreign_name(name, architecture))

    def opened(self, checkpoint: Mapping[str, Tensor], stem: str, *, what: str) -> FlatCheckpoint:
        """A file's tensors under today's names, without training state; the container is where the name `stem` is.

        Raises IntegrityError for a name that occurs twice.
        """
        container = next((c for c in self.containers if c + stem in checkpoint), self.containers[0])
        tensors: dict[str, Tensor] = {}
        for path, tensor in checkpoint.items():
            name = self.modern(path)
            if name in tensors:
                raise IntegrityError(f"{what}: two tensors are called {name}")
            if name.startswith(container) or not name.startswith(self.beside):
                tensors[name] = tensor
        return FlatCheckpoint(container, tensors)

    def wanted(
        self, opened: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture
    ) -> dict[str, Signature]:
        """What a file of this network (`expected`) must hold, given the width of the floats that it does hold."""
        wanted = {opened.container + name: part for name, part in self.unused(architecture).items()}
        for name, part in expected.items():
            source, shape, _ = self.locate(name, part, architecture)
            if source is None:
                continue
            path = opened.container + source
            found = opened.tensors.get(path)
            halved = self.half and part.dtype == "F32" and found is not None and found.dtype == torch.float16
            wanted[path] = Signature("F16" if halved else part.dtype, part.shape if shape is None else shape)
        return wanted

    def read(
        self, opened: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture, *, what: str
    ) -> dict[str, Tensor]:
        """The network's tensors (`expected`) out of a file; every name, dtype and shape is checked.

        The file must hold exactly what the layout says; old files may lack batch counters. Raises IntegrityError.
        """
        wanted = self.wanted(opened, expected, architecture)
        next_step = "check --layout, --arch and --dataset"
        check_signatures(signatures_of(opened.tensors), wanted, what=what, next_step=next_step)
        tensors: dict[str, Tensor] = {}
        for name, part in expected.items():
            source, _, fill = self.locate(name, part, architecture)
            found = None if source is None else opened.tensors.get(opened.container + source)
            if found is not None:
                tensors[name] = found.reshape(part.shape)
            elif not name.endswith(COUNTER):
                tensors[name] = torch.full(part.shape, fill, dtype=torch.float32)
        return {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
