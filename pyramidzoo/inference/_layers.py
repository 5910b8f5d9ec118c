"""Layers and functions that only a rewritten network has."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F


def is_recorded(x: object) -> bool:
    """Tell whether operations on x are recorded (traced, exported or compiled), not computed.

    What is faster in place is then written as the textbook expression. The recorders understand that one; the
    TorchScript exporter of ONNX, for one, loses what is written through a view.
    """
    return torch.compiler.is_compiling() or isinstance(x, fx.Proxy) or is_tracing()  # type: ignore[no-untyped-call]


@fx.wrap  # torch.fx sees one node with a result. Dead-code elimination would remove the addition alone.
def add_into_channels(y: Tensor, x: Tensor, before: int, after: int) -> Tensor:
    """Add a map into some channels of a wider one, in place: y + x, where x is padded with zero channels.

    Every element of those channels takes the same one addition, and y + 0 is y. So the result has the same values,
    without the zeros and without a second map. Only the sign of a zero may differ: -0 + 0 is 0, and -0 stays here.

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
    """max(x, low) and min(x, high) for each channel of (N, C, H, W): where ReLU(scale * x + shift) has its kink.

    `constant` says for which channels there is none within single precision.
    """

    low: Tensor
    high: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        kink = -shift / scale
        self.constant = ~(kink.abs() < torch.finfo(torch.float32).max)  # infinities and 0/0 as well
        kink = torch.where(self.constant, 0.0, kink).view(-1, 1, 1)
        slope = torch.where(self.constant, 0.0, scale).view(-1, 1, 1)
        self.register_buffer("low", torch.where(slope < 0, -torch.inf, kink))
        self.register_buffer("high", torch.where(slope > 0, torch.inf, kink))

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high)


class ScaleShift(nn.Module):
    """BN in evaluation mode, x * scale + shift; unlike `BatchNorm2d` not slower on a view of a wider map."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class FusedConv2d(nn.Conv2d):
    """A convolution; where a second map is given, the sum with it, stored over it; then a ReLU where `relu` is set.

    On a CPU, in channels_last, oneDNN does all of it in one pass, with filters that are rearranged once and not at each
    call. Everywhere else, and where the network is exported or compiled, it is the same in ordinary operations.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)  # a convolution in every respect
        self.relu = False
        self._packed: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor, total: Tensor | None = None) -> Tensor:
        if is_recorded(x):
            y = super().forward(x)
            y = y if total is None else total + y
            return F.relu(y) if self.relu else y
        if _onednn_can(x, self.weight, total):
            return self._in_one_pass(x, total)
        y = super().forward(x)
        if total is not None:
            y = total.add_(y)
        return F.relu_(y) if self.relu else y

    def _in_one_pass(self, x: Tensor, total: Tensor | None) -> Tensor:
        shape = (self.padding, self.stride, self.dilation, self.groups)
        weight, ending = self._filters(x, *shape), "relu" if self.relu else "none"
        result: Tensor
        if total is None:
            result = torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *shape, ending, [], "")
        else:
            ending_or_none = ending if self.relu else None
            result = torch.ops.mkldnn._convolution_pointwise_.binary(
                total, x, weight, self.bias, *shape, "add", 1.0, ending_or_none, [], ""
            )
        return result

    def _filters(self, x: Tensor, *shape: Any) -> Tensor:
        """The filters as oneDNN wants them for maps of this shape; it takes them for other shapes too."""
        weight = self.weight
        state = (weight.data_ptr(), weight._version, weight.dtype)
        if self._packed is None or self._packed[0] != state:
            self._packed = state, torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # neither copied nor pickled, but made again

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{', relu' if self.relu else ''}"  # type: ignore[no-untyped-call]


def _onednn_can(x: Tensor, weight: Tensor, total: Tensor | None) -> bool:
    if x.device.type != "cpu" or weight.dtype not in _fused_dtypes() or not torch.backends.mkldnn.enabled:
        return False
    if torch.is_autocast_enabled("cpu") or weight.is_inference():  # which does not tell when it is written to
        return False
    return all(
        tensor.dtype == weight.dtype and tensor.is_contiguous(memory_format=torch.channels_last) and tensor.numel() > 0
        for tensor in ((x,) if total is None else (x, total))
    )


@cache
def _fused_dtypes() -> frozenset[torch.dtype]:
    """Those that this build of PyTorch and this processor have fused convolutions for."""
    operators = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        return frozenset()
    found = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        found.add(torch.bfloat16)
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        found.add(torch.float16)
    return frozenset(found)
