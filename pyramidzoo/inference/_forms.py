"""The passes by name, and which of them pay where."""

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
    """The channels of a pixel beside each other in memory: the same numbers, elsewhere."""
    graph_module.to(memory_format=torch.channels_last)
    return True


# in the order in which they are applied: each tells whether it found something to do
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


def auto_form(family: str, device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The fastest passes of those that round well (docs/inference.md), whether or not a network has use for each."""
    half = dtype.itemsize == 2
    if device != "cpu":  # by arithmetic only: nothing was measured there
        aligned = ("align8",) if half and family == "pyramidnet" else ()
        return (*_FOLDED, *aligned, *_OVERWRITING, *(("channels_last",) if half else ()))
    # nothing follows a convolution of a DenseNet that could be fused with it
    ending = _OVERWRITING if family == "densenet" else ("fuse", *_OVERWRITING)
    if half:
        # odd widths cost most here; a clamp and a buffer for the dense blocks do not pay
        return (*_FOLDED, *(("align8",) if family == "pyramidnet" else ()), *ending, "channels_last")
    if family == "vgg":  # in channels_last, which is faster, 4,608 products in a row triple the rounding error
        return (*_FOLDED, *_OVERWRITING)
    return (*_FOLDED, "clamp", "concat_buffer", *ending, "channels_last")


def checked_form(form: str | Sequence[str]) -> tuple[str, ...]:
    """Names of passes. Raises UsageError."""
    names = (form,) if isinstance(form, str) else tuple(form)
    for name in names:
        if name not in PASSES:
            raise UsageError(f'no pass is called {name!r}; form is "auto" or some of {", ".join(PASSES)}')
    return names
