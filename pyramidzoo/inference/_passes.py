"""All passes by name, and which of them are fastest on which device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.fx import GraphModule

from pyramidzoo.errors import UsageError
from pyramidzoo.inference._channels import align, constant_channel
from pyramidzoo.inference._dense import concat_buffer
from pyramidzoo.inference._folding import clamp, fold_bn, fold_bn_into_next_conv
from pyramidzoo.inference._fused import fuse, in_place, slice_add


def channels_last(graph_module: GraphModule) -> bool:
    """Convert the weights to the memory layout channels_last: the channels of a pixel lie next to each other.

    The numbers stay the same.
    """
    graph_module.to(memory_format=torch.channels_last)
    return True


# The passes in the order in which they are applied. Each returns whether it changed anything.
PASSES: dict[str, Callable[[GraphModule], bool]] = {
    "fold_bn": fold_bn,
    "fold_bn_into_next_conv": fold_bn_into_next_conv,
    "constant_channel": constant_channel,
    "clamp": clamp,
    "align8": partial(align, multiple=8),
    "align16": partial(align, multiple=16),
    "concat_buffer": concat_buffer,
    "fuse": fuse,
    "slice_add": slice_add,
    "in_place": in_place,
    "channels_last": channels_last,
}

_IN_PLACE_PASSES = ("slice_add", "in_place")
_BN_FOLDING_PASSES = ("fold_bn", "fold_bn_into_next_conv", "constant_channel")


def choose_passes(family: str, device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Choose the passes that were fastest among those with small rounding errors (see docs/inference.md).

    Args:
        family: Family of the network, the name of its module in `pyramidzoo.models`.
        device: Type of the device: "cpu", "cuda", ...
        dtype: Type of the rewritten network.

    Returns:
        Names of passes. Some may find nothing to do in a network of the family.
    """
    has_16_bits = dtype.itemsize == 2
    # In 16 bits, convolutions are slow if their number of channels is no multiple of 8, as in a PyramidNet.
    aligning = ("align8",) if has_16_bits and family == "pyramidnet" else ()
    if device != "cpu":
        # The choice follows from the number of operations. On a GPU the chosen passes were measured together, for two
        # networks (docs/inference.md), but not each pass alone.
        return (*_BN_FOLDING_PASSES, *aligning, *_IN_PLACE_PASSES, *(("channels_last",) if has_16_bits else ()))
    # `fuse` is left out for a DenseNet: its convolutions are followed neither by a sum nor by ReLU.
    fusing = () if family == "densenet" else ("fuse",)
    if has_16_bits:  # In 16 bits, `clamp` and `concat_buffer` save no time.
        return (*_BN_FOLDING_PASSES, *aligning, *fusing, *_IN_PLACE_PASSES, "channels_last")
    if family == "vgg":
        # channels_last would be faster. But in channels_last the 4,608 products of an output (512 channels x 9) are
        # added one after the other, which makes the rounding error three times as large.
        return (*_BN_FOLDING_PASSES, *_IN_PLACE_PASSES)
    return (*_BN_FOLDING_PASSES, "clamp", "concat_buffer", *fusing, *_IN_PLACE_PASSES, "channels_last")


def check_passes(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check that there is a pass of each name.

    Args:
        names: One name, or several.

    Returns:
        The names as a tuple.

    Raises:
        UsageError: A name is not that of a pass.
    """
    checked = (names,) if isinstance(names, str) else tuple(names)
    for name in checked:
        if name not in PASSES:
            raise UsageError(f'no pass is called {name!r}; form is "auto" or some of {", ".join(PASSES)}')
    return checked
