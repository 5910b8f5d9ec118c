"""Networks whose BN was folded into biased convolutions, as networks with BN.

In evaluation BN is one multiplication and one addition for each channel, so its authors can multiply the convolution's
weights and add the rest to a bias. Such a file has no BN, our network has. Its convolutions take the file's weights as
they are, its BN shifts take the biases, and the rest of every BN is made to do nothing: mean 0, and a scale and a
variance of which scale / sqrt(variance + 1e-5) is 1. With 32 bits that quotient is exactly 1 for these two numbers, and
within 6e-15 of it when the same numbers are used with 64 (no pair with scale 1 is: it misses by 7e-9, a little more in
each layer). So logits are those of the folded network up to the order of additions inside its convolutions.

What cannot come back is BN's statistics: in training mode BN would normalise, which the folded network does not. Such
weights are for evaluation, for features, and for fine-tuning with BN kept in evaluation mode.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert._layout import TensorSource

SCALE = 0.9970828294754028
VARIANCE = 0.9941641688346863

_FILL = {"weight": SCALE, "running_mean": 0.0, "running_var": VARIANCE, "num_batches_tracked": 0.0}


def norm_source(value: str, folded_bias: str) -> TensorSource:
    """Where a value of a BN (`weight`, `bias`, ...) comes from, its convolution's bias being called `folded_bias`."""
    return TensorSource(folded_bias) if value == "bias" else TensorSource(None, fill=_FILL[value])


def convolution_of(norm: str) -> str:
    """The convolution that a BN of a post-activation network follows: `layer1.0.bn2` -> `layer1.0.conv2`."""
    return f"{norm[:-1]}0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")


def is_norm(module: str) -> bool:
    """Whether a module of a post-activation network is a BN."""
    return module.endswith("downsample.1") or module.rpartition(".")[2].startswith("bn")


def remark(architecture: Architecture) -> str:
    return "BN was folded into convolution biases; BN here adds them in evaluation mode and has no statistics"
