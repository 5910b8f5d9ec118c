"""The networks, one family in each module. This package builds networks; it does not find or load weights."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from pyramidzoo.catalog.architectures import Architecture
    from pyramidzoo.models._interface import ImageClassifier


def get_model_class(architecture: Architecture) -> type[ImageClassifier]:
    """Get the class that builds an architecture.

    This imports the module of the architecture's family, and no other family. So it is quick.

    Args:
        architecture: A row of the table of architectures.

    Returns:
        The class. Its constructor takes the `arguments` of the row.
    """
    module = importlib.import_module(f"pyramidzoo.models.{architecture.family}")
    network_class: type[ImageClassifier] = getattr(module, architecture.class_name)
    return network_class


def build(architecture: Architecture, **arguments: Any) -> ImageClassifier:
    """Build a network of the table with random weights.

    Args:
        architecture: A row of the table of architectures.
        **arguments: Arguments of the constructor (`num_classes`, `in_chans`, `drop_rate`, ...), in
            addition to the arguments that the row contains.

    Returns:
        The network, in training mode.

    Raises:
        TypeError: The constructor does not have an argument, or the argument would make another architecture.
        ValueError: The constructor does not accept the value of an argument.
    """
    network_class = get_model_class(architecture)
    parameters = inspect.signature(network_class).parameters
    # Arguments such as `depth` belong to the architecture: with another depth the network has another name. An argument
    # that the constructor does not have at all is left to the constructor, whose TypeError names it.
    fixed_arguments = (arguments.keys() - network_class.overridable_arguments) & parameters.keys()
    if fixed_arguments:
        names = ", ".join(sorted(fixed_arguments))
        raise TypeError(f"{architecture.name} fixes {names}: another value is another architecture")
    if arguments.get("in_chans", 1) < 1:
        raise ValueError(f"in_chans is {arguments['in_chans']}; images have at least one channel")
    return network_class(**{"num_classes": architecture.num_classes, **architecture.arguments, **arguments})


@contextlib.contextmanager
def skip_initialisation() -> Iterator[None]:
    """Build networks without initialising their tensors, inside a `with` statement and in this thread.

    The values of the tensors are then whatever was in memory before. So the caller must replace every
    tensor, for example by the tensors of a file. This is faster than building the network on the meta
    device, where PyTorch still calls each function that initialises a tensor.
    """
    with _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Skip the functions that initialise tensors.

    While this mode is active, PyTorch calls `__torch_function__` instead of each of its functions, and passes the
    function as `func`. A function that initialises is not called: its tensor is returned as it is.
    """

    # The functions of torch.nn.init whose names end with "_" change a tensor. Some of them are passed to the mode. The
    # others are not, but they call one of these four methods of the tensor, and the mode skips the method.
    _SKIPPED = frozenset(
        [value for name, value in vars(torch.nn.init).items() if name.endswith("_") and not name.startswith("_")]
        + [Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
