"""Layers and functions of rewritten networks."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F


def is_recorded(x: object) -> bool:
    """Tell whether the operations on x are recorded: traced, exported or compiled.

    If they are recorded, a function of this module uses an ordinary expression instead of writing in place,
    because every recorder understands ordinary expressions. An example of a recorder that fails otherwise:
    the TorchScript exporter of ONNX loses what is written through a view.
    """
    return torch.compiler.is_compiling() or isinstance(x, fx.Proxy) or is_tracing()  # type: ignore[no-untyped-call]


@fx.wrap  # torch.fx then sees one node, whose result is used. Without it, torch.fx would remove the addition as unused.
def add_into_channels(y: Tensor, x: Tensor, before: int, after: int) -> Tensor:
    """Compute y + pad(x) in place, where pad puts zero channels before and after those of x.

    Only the channels that x has are added. The other channels of y stay as they are, because y + 0 = y.
    So at most the sign of a zero differs from y + pad(x): -0 + 0 is 0, and a -0 that stays is -0.

    Args:
        y: Map (N, before + C + after, H, W), which is overwritten.
        x: Map (N, C, H, W).
        before: Channels of y that come before those that x is added to.
        after: Channels of y that come after them.

    Returns:
        y.
    """
    if is_recorded(x):
        return y + F.pad(x, (0, 0, 0, 0, before, after))
    y.narrow(1, before, x.shape[1]).add_(x)
    return y


class Clamp(nn.Module):
    """Compute max(x, kink) or min(x, kink) in each channel, where kink = -shift / scale.

    ReLU(scale * x + shift) is 0 on one side of the kink. It is scale * max(x, kink) + shift if the scale is
    positive, and scale * min(x, kink) + shift if the scale is negative. This layer computes the maximum or
    the minimum. The next convolution computes the rest (`_folding.clamp`).

    Args:
        scale: Scale of each channel (C).
        shift: Shift of each channel (C).

    Attributes:
        low: Lower bound of each channel (C, 1, 1).
        high: Upper bound of each channel (C, 1, 1).
        is_constant: Whether a channel (C) has scale 0 or a kink outside the range of float32. The result is
            0 in such a channel.
    """

    low: Tensor
    high: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        kink = -shift / scale
        # "not smaller" is also true for an infinite kink and for NaN, which 0/0 gives.
        self.is_constant = ~(kink.abs() < torch.finfo(torch.float32).max)
        # In a constant channel both bounds are 0, so the result is 0.
        kink = torch.where(self.is_constant, 0.0, kink).view(-1, 1, 1)
        scale_or_zero = torch.where(self.is_constant, 0.0, scale).view(-1, 1, 1)
        self.register_buffer("low", torch.where(scale_or_zero < 0, -torch.inf, kink))
        self.register_buffer("high", torch.where(scale_or_zero > 0, torch.inf, kink))

    def forward(self, x: Tensor) -> Tensor:
        """Clamp a map (N, C, H, W) between the bounds of its channels."""
        return torch.clamp(x, self.low, self.high)


class ScaleShift(nn.Module):
    """Compute x * scale + shift, which is BN in evaluation mode.

    If x is a view of some channels of a wider map, this layer is faster than `nn.BatchNorm2d`.

    Args:
        scale: Scale of each channel (C).
        shift: Shift of each channel (C).

    Attributes:
        scale: Scale of each channel (C, 1, 1).
        shift: Shift of each channel (C, 1, 1).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute x * scale + shift for a map (N, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


class FusedConv2d(nn.Conv2d):
    """A convolution, then optionally the addition of a second map, then optionally ReLU.

    On a CPU, for maps in channels_last, one operation of oneDNN computes the whole layer. oneDNN needs the
    filters in an order of its own, so the layer keeps a reordered copy of them. On other devices, for other
    memory layouts, and while the network is exported or compiled, separate operations compute the same.

    Args:
        conv: The convolution that this layer replaces. The layer shares its parameters.

    Attributes:
        has_relu: Whether the layer ends with ReLU.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)  # All settings and parameters are those of `conv`.
        self.has_relu = False
        # The version of the filters that were reordered, and their reordered copy.
        self._reordered_filters: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor, added_map: Tensor | None = None) -> Tensor:
        """Compute the convolution, the addition and the ReLU.

        Args:
            x: Map (N, in_channels, H, W).
            added_map: Map (N, out_channels, h, w) that is added to the result of the convolution; None for no
                addition. The result is stored in its memory.

        Returns:
            Map (N, out_channels, h, w). It is `added_map` itself if there is one.
        """
        if is_recorded(x):
            y = super().forward(x)
            y = y if added_map is None else added_map + y
            return F.relu(y) if self.has_relu else y
        if _can_use_onednn(x, self.weight, added_map):
            return self._run_onednn(x, added_map)
        y = super().forward(x)
        if added_map is not None:
            y = added_map.add_(y)
        return F.relu_(y) if self.has_relu else y

    def _run_onednn(self, x: Tensor, added_map: Tensor | None) -> Tensor:
        """Compute the whole layer by one operation of oneDNN."""
        conv_settings = (self.padding, self.stride, self.dilation, self.groups)
        filters = self._get_reordered_filters(x, *conv_settings)
        result: Tensor
        # Both operations end with the same three arguments: the name of the function that is applied last, its
        # parameters, and its algorithm. ReLU has no parameters and no choice of algorithms.
        if added_map is None:
            last_function = "relu" if self.has_relu else "none"
            result = torch.ops.mkldnn._convolution_pointwise(
                x, filters, self.bias, *conv_settings, last_function, [], ""
            )
        else:
            last_function_or_none = "relu" if self.has_relu else None
            factor = 1.0  # The convolution's result is multiplied by this before it is added.
            result = torch.ops.mkldnn._convolution_pointwise_.binary(
                added_map, x, filters, self.bias, *conv_settings, "add", factor, last_function_or_none, [], ""
            )
        return result

    def _get_reordered_filters(self, x: Tensor, *conv_settings: Any) -> Tensor:
        """Return the filters in oneDNN's order. They are reordered only if they changed since the last call.

        oneDNN chooses the order for the shape of x, but it accepts these filters for maps of other shapes too.
        """
        weight = self.weight
        # PyTorch increases `_version` with every change in place.
        version = (weight.data_ptr(), weight._version, weight.dtype)
        if self._reordered_filters is None or self._reordered_filters[0] != version:
            reordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *conv_settings, list(x.shape))
            self._reordered_filters = version, reordered
        return self._reordered_filters[1]

    def __getstate__(self) -> dict[str, Any]:
        # oneDNN's order cannot be stored, so a copy of the layer reorders its filters again.
        return {**self.__dict__, "_reordered_filters": None}

    def extra_repr(self) -> str:
        """Describe the layer in the representation of a network."""
        return f"{super().extra_repr()}{', relu' if self.has_relu else ''}"  # type: ignore[no-untyped-call]


def _can_use_onednn(x: Tensor, weight: Tensor, added_map: Tensor | None) -> bool:
    """Tell whether oneDNN can compute a `FusedConv2d` with these filters for these maps."""
    if x.device.type != "cpu" or weight.dtype not in _list_onednn_dtypes() or not torch.backends.mkldnn.enabled:
        return False
    # An inference tensor has no `_version`, so the layer would not notice that its filters changed.
    if torch.is_autocast_enabled("cpu") or weight.is_inference():
        return False
    return all(
        tensor.dtype == weight.dtype and tensor.is_contiguous(memory_format=torch.channels_last) and tensor.numel() > 0
        for tensor in ((x,) if added_map is None else (x, added_map))
    )


@cache
def _list_onednn_dtypes() -> frozenset[torch.dtype]:
    """List the dtypes for which this build of PyTorch and this processor have oneDNN's fused convolutions."""
    operators = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        return frozenset()
    dtypes = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        dtypes.add(torch.float16)
    return frozenset(dtypes)
