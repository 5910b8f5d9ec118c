"""The settings that say how logits are computed: device, batch size, precision and so on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch

from pyramidzoo.data._splits import ReaderOptions
from pyramidzoo.data.transforms import Override
from pyramidzoo.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ComputeSettings:
    """How to compute logits.

    The defaults are the strict evaluation: fp32 without TF32, deterministic algorithms, the plain
    network. A record names every setting that differs from them.

    Attributes:
        device: The device that computes.
        batch_size: Number of images in a batch.
        amp: "bf16" or "fp16" for PyTorch's autocast; None for no autocast.
        channels_last: Whether the plain network computes in the channels-last memory layout.
        precision: A key of `PRECISIONS`: the precision of the whole network.
        optimized: Whether to compute with the network that `pyramidzoo.inference.optimize` makes.
        compiled: Whether to compile the network with torch.compile.
        cuda_graph: Whether to record the kernels of a forward pass once, and to replay them for
            every batch.
        reading: How encoded images (JPEG files) are decoded and resized.
        override: Changes to the preprocessing of the weights, for another published protocol.

    Raises:
        UsageError: Two settings exclude each other, or a setting needs another device.
    """

    device: torch.device
    batch_size: int = 128
    amp: str | None = None
    channels_last: bool = False
    precision: str = "fp32"
    optimized: bool = False
    compiled: bool = False
    cuda_graph: bool = False
    reading: ReaderOptions = field(default_factory=ReaderOptions)
    override: Override = field(default_factory=Override)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"there is no precision {self.precision!r}; the precisions are {', '.join(PRECISIONS)}")
        if self.amp and (self.precision != "fp32" or self.optimized):
            raise UsageError("autocast needs a plain fp32 network; leave out --amp, or --precision and --optimize")
        if self.optimized and self.channels_last:
            raise UsageError("an optimized network chooses its memory layout itself; leave out --channels-last")
        if self.precision == "tf32" and self.compiled:
            raise UsageError(
                "PyTorch's compiler does not work with the setting that turns TF32 on; "
                "leave out --compile or --precision tf32"
            )
        for is_asked, option in ((self.precision == "tf32", "--precision tf32"), (self.cuda_graph, "--cuda-graph")):
            if is_asked and self.device.type != "cuda":
                raise UsageError(f"{option} needs a CUDA device, and the device is {self.device}; leave it out")

    @property
    def precision_name(self) -> str:
        """The precision as a record names it: the dtype of autocast, or else the precision."""
        return self.amp or self.precision

    @property
    def flags(self) -> dict[str, Any]:
        """The flags of a record that follow from these settings alone.

        The flags "compiled" and "cuda_graph" are there only if they are true.
        """
        only_if_true = {"compiled": self.compiled, "cuda_graph": self.cuda_graph}
        true_flags = {name: value for name, value in only_if_true.items() if value}
        return {"batch_size": self.batch_size, "channels_last": self.channels_last, "amp": self.amp, **true_flags}

    @property
    def has_fixed_shape(self) -> bool:
        """Whether all batches must have the same shape."""
        return self.compiled or self.cuda_graph

    @property
    def memory_format(self) -> torch.memory_format:
        """PyTorch's name for the memory layout of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


def make_strict_settings(settings: ComputeSettings) -> ComputeSettings:
    """Make the settings of the strict evaluation that an evaluation is compared with.

    Args:
        settings: The settings of the evaluation, which is not strict.

    Returns:
        Strict settings with the same device, the same batch size and the same preprocessing.

    Raises:
        UsageError: The settings are strict already, so there is nothing to compare.
    """
    strict = ComputeSettings(
        settings.device,
        settings.batch_size,
        reading=dataclasses.replace(settings.reading, tensor_resize=False),
        override=settings.override,
    )
    if strict == settings:
        raise UsageError("this is the strict evaluation itself, so there is nothing to compare it with")
    return strict
