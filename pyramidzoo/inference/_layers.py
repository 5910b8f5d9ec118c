"""Layers and functions of rewritten networks."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F


def is_recorded(x: object) -> bool:
    """Tell whether operations on x are recorded (traced, exported or compiled) and not only computed.

    Code that works in place is then replaced by the textbook expression. All recorders understand that
    expression. The TorchScript exporter of ONNX loses what is written through a view.
    """
    return torch.compiler.is_compiling() or isinstance(x, fx.Proxy) or is_tracing()  # type: ignore[no-untyped-call]


@fx.wrap  # torch.fx sees one node with a result. Otherwise its dead-code elimination would remove the addition.
def add_into_channels(y: Tensor, x: Tensor, before: int, after: int) -> Tensor:
    """Compute y + pad(x) in place, where pad puts zero channels before and after those of x.

    Only the channels of x are added, because y + 0 = y. Only the sign of a zero may differ: -0 + 0 is 0,
    and here -0 stays.

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
    """Clamp each channel of a map (N, C, H, W) where ReLU(scale * x + shift) has its kink, at x = -shift / scale.

    A channel with positive scale becomes max(x, kink), one with negative scale min(x, kink).

    Args:
        scale: Scale of each channel.
        shift: Shift of each channel.

    Attributes:
        low: Lower bound of each channel (C, 1, 1).
        high: Upper bound of each channel (C, 1, 1).
        constant: Channels whose kink is outside the range of float32, or that have scale 0. They become 0.
    """

    low: Tensor
    high: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        kink = -shift / scale
        self.constant = ~(kink.abs() < torch.finfo(torch.float32).max)  # This includes infinities and NaN from 0/0.
        kink = torch.where(self.constant, 0.0, kink).view(-1, 1, 1)
        slope = torch.where(self.constant, 0.0, scale).view(-1, 1, 1)
        self.register_buffer("low", torch.where(slope < 0, -torch.inf, kink))
        self.register_buffer("high", torch.where(slope > 0, torch.inf, kink))

    def forward(self, x: Tensor) -> Tensor:
        """Clamp a map (N, C, H, W)."""
        return torch.clamp(x, self.low, self.high)


class ScaleShift(nn.Module):
    """BN in evaluation mode: x * scale + shift. On a view of a wider map it is faster than `nn.BatchNorm2d`.

    Args:
        scale: Scale of each channel.
        shift: Shift of each channel.

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
        """Scale and shift a map (N, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


class FusedConv2d(nn.Conv2d):
    """A convolution, the sum of its result with a second map, and ReLU; the last two are optional.

    On a CPU, in channels_last, oneDNN computes all of it in one pass. It reorders the filters only once.
    Elsewhere, and where the network is exported or compiled, ordinary operations compute the same.

    Args:
        conv: The convolution that this layer replaces. The layer shares its parameters.

    Attributes:
        relu: A ReLU comes last.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)  # All settings and parameters are those of `conv`.
        self.relu = False
        # What the filters were when they were reordered, and the reordered ones.
        self._packed: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor, total: Tensor | None = None) -> Tensor:
        """Compute the convolution.

        Args:
            x: Map (N, in_channels, H, W).
            total: Map (N, out_channels, h, w) to add. It is overwritten.

        Returns:
            Map (N, out_channels, h, w). It is `total` where that is given.
        """
        if is_recorded(x):
            y = super().forward(x)
            y = y if total is None else total + y
            return F.relu(y) if self.relu else y
        if _can_use_onednn(x, self.weight, total):
            return self._run_onednn(x, total)
        y = super().forward(x)
        if total is not None:
            y = total.add_(y)
        return F.relu_(y) if self.relu else y

    def _run_onednn(self, x: Tensor, total: Tensor | None) -> Tensor:
        shape = (self.padding, self.stride, self.dilation, self.groups)
        weight, ending = self._reorder_filters(x, *shape), "relu" if self.relu else "none"
        result: Tensor
        if total is None:
            result = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *shape, ending, [], "")
        else:
            ending_or_none = ending if self.relu else None
            result = torch.ops.mkldnn._convolution_pointwise_.binary(
                total, x, weight, self.bias, *shape, "add", 1.0, ending_or_none, [], ""
            )
        return result

    def _reorder_filters(self, x: Tensor, *shape: Any) -> Tensor:
        """Get the filters in the order that oneDNN prefers for this map. It accepts them for other maps too."""
        weight = self.weight
        state = (weight.data_ptr(), weight._version, weight.dtype)
        if self._packed is None or self._packed[0] != state:
            self._packed = state, torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # A copy reorders its filters itself.

    def extra_repr(self) -> str:
        """Describe the layer in the representation of a network."""
        return f"{super().extra_repr()}{', relu' if self.relu else ''}"  # type: ignore[no-untyped-call]


def _can_use_onednn(x: Tensor, weight: Tensor, total: Tensor | None) -> bool:
    if x.device.type != "cpu" or weight.dtype not in _fused_dtypes() or not torch.backends.mkldnn.enabled:
        return False
    # An inference tensor does not count its changes, so changed filters would not be noticed.
    if torch.is_autocast_enabled("cpu") or weight.is_inference():
        return False
    return all(
        tensor.dtype == weight.dtype and tensor.is_contiguous(memory_format=torch.channels_last) and tensor.numel() > 0
        for tensor in ((x,) if total is None else (x, total))
    )


@cache
def _fused_dtypes() -> frozenset[torch.dtype]:
    """List the types for which this build of PyTorch and this processor have fused convolutions."""
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
