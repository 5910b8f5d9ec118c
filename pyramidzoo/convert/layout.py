"""The class `Layout`: it says where each tensor of a network is in the checkpoints of one project.

A name of a tensor in the zoo is called "the zoo's name", and the name that the project gives to the
same tensor is called "the foreign name".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.checkpoints.signatures import COUNTER, Signature, check_signatures, get_signatures
from pyramidzoo.errors import IntegrityError


class TensorSource(NamedTuple):
    """The tensor of a project's file from which a tensor of the zoo's network is made.

    Attributes:
        name: The tensor's name in the file; None if the file has no such tensor.
        shape: The tensor's shape in the file, if the network has the same values in another shape;
            None if the shapes are equal.
        fill: The value of all elements of the network's tensor, if the file has no such tensor.
    """

    name: str | None
    shape: tuple[int, ...] | None = None
    fill: float = 0.0


class FlatCheckpoint(NamedTuple):
    """The tensors of a checkpoint without the training state.

    Attributes:
        state_dict_prefix: The start of the paths of all tensors of the state dict, as
            "state_dict.module."; it is empty or ends with a dot.
        tensors: The tensors by their whole path in the file, which begins with the prefix.
    """

    state_dict_prefix: str
    tensors: dict[str, Tensor]


def keep_name(name: str, architecture: Architecture) -> str:
    """Return a tensor's name as it is, for a project that has the zoo's names."""
    return name


def keep_path(path: str) -> str:
    """Return a tensor's path as it is, for a project that has never changed the names of its tensors."""
    return path


def return_no_unused_tensors(architecture: Architecture) -> dict[str, Signature]:
    """Return an empty dictionary, for a project whose state dicts hold only tensors that the network uses."""
    return {}


def return_no_remark(architecture: Architecture) -> str | None:
    """Return None, for a project whose values are converted without any change."""
    return None


@dataclass(frozen=True)
class Layout:
    """How one project names and stores the tensors of its checkpoints.

    Attributes:
        name: The name of the layout, which is also the name of its module in `layouts/`.
        repository: The name of the project, as users know it.
        supports: Returns whether the project has a network of an architecture.
        preprocessing: The preprocessing with which the authors trained, by dataset. It is empty if
            each file of the project has its own preprocessing.
        get_foreign_name: Returns the foreign name for a tensor's name in the zoo.
        locate_special_tensor: Returns the source of a tensor that is not in the file, or is in the
            file in another shape. For all other tensors it returns None, because their foreign name
            is enough. Its arguments are the tensor's name in the zoo, its signature in the zoo and
            the architecture.
        list_unused_tensors: Returns the signatures, by foreign name, of tensors that a file must
            hold although the network does not use them.
        state_dict_prefixes: The starts that the paths of a state dict's tensors may have in a
            checkpoint. Each is empty or ends with a dot.
        ignored_prefixes: The starts of paths of training state, as an optimizer's. Tensors with
            such paths are ignored.
        rename_old_path: Returns today's path for a path in an older file of the project.
        allows_float16: Whether a file may hold float16. The values become float32, which holds each
            float16 value exactly.
        make_remark: Returns the text that the converted file holds about changes of values by the
            conversion; None if no value is changed.
    """

    name: str
    repository: str
    supports: Callable[[Architecture], bool]
    preprocessing: Mapping[str, Preprocessing]
    get_foreign_name: Callable[[str, Architecture], str] = keep_name
    locate_special_tensor: Callable[[str, Signature, Architecture], TensorSource | None] | None = None
    list_unused_tensors: Callable[[Architecture], dict[str, Signature]] = return_no_unused_tensors
    state_dict_prefixes: tuple[str, ...] = ("",)
    ignored_prefixes: tuple[str, ...] = ()
    rename_old_path: Callable[[str], str] = keep_path
    allows_float16: bool = False
    make_remark: Callable[[Architecture], str | None] = return_no_remark

    def locate(self, name: str, signature: Signature, architecture: Architecture) -> TensorSource:
        """Return the source of a network's tensor in a file of the project.

        Args:
            name: The tensor's name in the zoo.
            signature: The tensor's signature in the zoo.
            architecture: The network's architecture.
        """
        special = self.locate_special_tensor(name, signature, architecture) if self.locate_special_tensor else None
        return special or TensorSource(self.get_foreign_name(name, architecture))

    def find_state_dict(self, checkpoint: Mapping[str, Tensor], stem_name: str, *, source_name: str) -> FlatCheckpoint:
        """Find the state dict in a checkpoint, and leave out the training state.

        Args:
            checkpoint: All tensors of the file, by their path in it.
            stem_name: The foreign name of the network's first weight. It shows which of the layout's
                prefixes the file uses: the first prefix for which the file has a tensor named
                prefix + stem_name. If there is none, the first prefix of the layout is used.
            source_name: The name of the file, for the error message.

        Returns:
            The tensors without training state, under the names that the project uses today.

        Raises:
            IntegrityError: Two tensors have the same name.
        """
        state_dict_prefix = next(
            (prefix for prefix in self.state_dict_prefixes if prefix + stem_name in checkpoint),
            self.state_dict_prefixes[0],
        )
        tensors: dict[str, Tensor] = {}
        for old_path, tensor in checkpoint.items():
            path = self.rename_old_path(old_path)
            if path in tensors:
                raise IntegrityError(f"{source_name}: two tensors are called {path}")
            # A path with the state dict's prefix is no training state, whatever name follows.
            if path.startswith(state_dict_prefix) or not path.startswith(self.ignored_prefixes):
                tensors[path] = tensor
        return FlatCheckpoint(state_dict_prefix, tensors)

    def list_required_signatures(
        self, flat: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture
    ) -> dict[str, Signature]:
        """Return the signatures that the tensors of a file must have, so that it fits a network.

        Args:
            flat: The file's state dict. Where the layout allows float16 and the file has it, float16
                is required instead of float32.
            expected: The signatures of the network's tensors, by the zoo's names.
            architecture: The network's architecture.

        Returns:
            The signature of each tensor that the file must hold, by the tensor's path in the file.
        """
        prefix = flat.state_dict_prefix
        required = {prefix + name: signature for name, signature in self.list_unused_tensors(architecture).items()}
        for name, signature in expected.items():
            foreign_name, foreign_shape, _ = self.locate(name, signature, architecture)
            if foreign_name is None:
                continue
            tensor = flat.tensors.get(prefix + foreign_name)
            is_float16 = tensor is not None and tensor.dtype == torch.float16
            dtype = "F16" if self.allows_float16 and is_float16 and signature.dtype == "F32" else signature.dtype
            shape = signature.shape if foreign_shape is None else foreign_shape
            required[prefix + foreign_name] = Signature(dtype, shape)
        return required

    def extract_tensors(
        self, flat: FlatCheckpoint, expected: Mapping[str, Signature], architecture: Architecture, *, error_start: str
    ) -> dict[str, Tensor]:
        """Take the tensors of a network out of a checkpoint.

        The checkpoint must hold exactly the tensors of `list_required_signatures`. Only batch
        counters may be absent.

        Args:
            flat: The file's state dict.
            expected: The signatures of the network's tensors, by the zoo's names.
            architecture: The network's architecture.
            error_start: The start of the error message.

        Returns:
            The tensors by the zoo's names. Batch counters that the file does not have are not among
            them. All floating-point tensors are float32.

        Raises:
            IntegrityError: A name, a dtype or a shape is not the required one.
        """
        required = self.list_required_signatures(flat, expected, architecture)
        next_step = "check --layout, --arch and --dataset"
        check_signatures(get_signatures(flat.tensors), required, error_start=error_start, next_step=next_step)
        tensors: dict[str, Tensor] = {}
        for name, signature in expected.items():
            foreign_name, _, fill = self.locate(name, signature, architecture)
            tensor = None if foreign_name is None else flat.tensors.get(flat.state_dict_prefix + foreign_name)
            if tensor is not None:
                tensors[name] = tensor.reshape(signature.shape)
            elif not name.endswith(COUNTER):
                tensors[name] = torch.full(signature.shape, fill, dtype=torch.float32)
        return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}
