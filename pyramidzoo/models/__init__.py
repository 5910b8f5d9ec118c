"""The graphs, one family a file: no weights, no URLs, no lists of names."""

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


def model_class(architecture: Architecture) -> type[ImageClassifier]:
    """The class of a row; only its own family is imported."""
    module = importlib.import_module(f"pyramidzoo.models.{architecture.family}")
    found: type[ImageClassifier] = getattr(module, architecture.class_name)
    return found


def build(architecture: Architecture, **arguments: Any) -> ImageClassifier:
    """A network of the table, randomly initialised; only its own family is imported.

    `arguments` (num_classes, in_chans, drop_rate, ...) come on top of the table's. Raises TypeError for an argument the
    family does not have or that would make another graph, ValueError for a value it cannot take.
    """
    builder = model_class(architecture)
    fixed = (arguments.keys() - builder.free_arguments) & inspect.signature(builder).parameters.keys()
    if fixed:
        raise TypeError(f"{architecture.name} fixes {', '.join(sorted(fixed))}: another value is another architecture")
    if arguments.get("in_chans", 1) < 1:
        raise ValueError(f"in_chans is {arguments['in_chans']}; images have at least one channel")
    settings = {"num_classes": architecture.num_classes, **architecture.arguments, **arguments}
    return builder(**settings)


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Networks built here, in this thread, hold whatever is in memory: for those whose every tensor a file replaces.

    Faster than the meta device, on which PyTorch still walks through each initialisation.
    """
    with _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    # those of torch.nn.init that announce themselves, and what the others end in
    _SKIPPED = frozenset(
        [value for name, value in vars(torch.nn.init).items() if name.endswith("_") and not name.startswith("_")]
        + [Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_]
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
