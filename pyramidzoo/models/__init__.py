"""The networks, one family in each file. This package knows no weights and no URLs."""

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

    Only the module of the architecture's own family is imported.

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
        **arguments: Arguments of the constructor (`num_classes`, `in_chans`, `drop_rate`, ...).
            They come on top of those of the row.

    Returns:
        The network, in training mode.

    Raises:
        TypeError: The family does not have an argument, or the argument would make another architecture.
        ValueError: The network cannot take a value.
    """
    network_class = get_model_class(architecture)
    parameters = inspect.signature(network_class).parameters
    fixed = (arguments.keys() - network_class.overridable_arguments) & parameters.keys()
    if fixed:
        raise TypeError(f"{architecture.name} fixes {', '.join(sorted(fixed))}: another value is another architecture")
    if arguments.get("in_chans", 1) < 1:
        raise ValueError(f"in_chans is {arguments['in_chans']}; images have at least one channel")
    return network_class(**{"num_classes": architecture.num_classes, **architecture.arguments, **arguments})


@contextlib.contextmanager
def skip_initialisation() -> Iterator[None]:
    """Build networks without initialising their tensors, inside a `with` statement and in this thread.

    The tensors hold whatever is in memory, so a file must replace every one of them. This is
    faster than the meta device, on which PyTorch still runs through each initialisation.
    """
    with _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    # Some functions of torch.nn.init can be intercepted themselves. The others end in these methods of a tensor.
    _SKIPPED = frozenset(
        [value for name, value in vars(torch.nn.init).items() if name.endswith("_") and not name.startswith("_")]
        + [Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
