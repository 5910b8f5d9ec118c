"""What a key map has to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyramidzoo.architectures import Architecture
from pyramidzoo.containers import Signature
from pyramidzoo.manifest import Preprocessing

IMAGENET_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR10_CONSTANTS = Preprocessing(input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


def nothing_unused(architecture: Architecture) -> dict[str, Signature]:
    return {}


@dataclass(frozen=True)
class Layout:
    """One repository's checkpoints.

    `container` is the path of the state dict in the checkpoint, with its last dot. `foreign_name` turns a name of the
    zoo into the repository's; `unused` gives the tensors that must be there too but take no part in the network.
    `supports` says which architectures it has; `preprocessing` is what its authors trained with, by data set.
    """

    name: str
    repository: str
    supports: Callable[[Architecture], bool]
    foreign_name: Callable[[str, Architecture], str]
    preprocessing: Mapping[str, Preprocessing]
    container: str = ""
    unused: Callable[[Architecture], dict[str, Signature]] = nothing_unused
