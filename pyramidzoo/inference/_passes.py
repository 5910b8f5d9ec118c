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
    """Store the channels of each pixel next to each other in memory. The numbers stay the same."""
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

_OVERWRITING = ("slice_add", "in_place")
_FOLDED = ("fold_bn", "fold_bn_into_next_conv", "constant_channel")


def choose_passes(family: str, device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Choose the passes that were fastest among those with small rounding errors (see docs/inference.md).

    Args:
        family: Family of the network, the name of its module in `pyramidzoo.models`.
        device: Type of the device: "cpu", "cuda", ...
        dtype: Type of the rewritten network.

    Returns:
        Names of passes. Some may find nothing to do in a network of the family.
    """
    half = dtype.itemsize == 2
    if device != "cpu":  # This choice follows from the number of operations. Nothing was measured here.
        aligned = ("align8",) if half and family == "pyramidnet" else ()
        return (*_FOLDED, *aligned, *_OVERWRITING, *(("channels_last",) if half else ()))
    # In a DenseNet, no convolution is followed by anything that could be fused with it.
    ending = _OVERWRITING if family == "densenet" else ("fuse", *_OVERWRITING)
    if half:
        # Widths that are no multiple of 8 are slowest here. `clamp` and `concat_buffer` save no time.
        return (*_FOLDED, *(("align8",) if family == "pyramidnet" else ()), *ending, "channels_last")
    if family == "vgg":  # channels_last is faster, but sums of 4,608 products in a row have 3 times the rounding error.
        return (*_FOLDED, *_OVERWRITING)
    return (*_FOLDED, "clamp", "concat_buffer", *ending, "channels_last")


def check_passes(form: str | Sequence[str]) -> tuple[str, ...]:
    """Check the names of passes.

    Args:
        form: One name, or several.

    Returns:
        The names.

    Raises:
        UsageError: There is no pass of this name.
    """
    names = (form,) if isinstance(form, str) else tuple(form)
    for name in names:
        if name not in PASSES:
            raise UsageError(f'no pass is called {name!r}; form is "auto" or some of {", ".join(PASSES)}')
    return names
