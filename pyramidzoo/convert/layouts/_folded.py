"""Networks whose BN was folded into biased convolutions, as networks with BN.

In evaluation mode BN is one multiplication and one addition for each channel. Authors can therefore
multiply the convolution's weights and put the rest into its bias. Such a file has no BN, but the
zoo's network has.

The network's convolutions take the file's weights as they are, and its BN shifts take the biases.
The rest of every BN does nothing: its mean is 0, and its scale and variance make scale /
sqrt(variance + 1e-5) equal to 1. In float32 this quotient is exactly 1 for the two numbers below.
In float64 the same two numbers miss 1 by less than 6e-15, while any pair with scale 1 misses it by
7e-9, and a little more in each layer. So the logits are those of the folded network up to the order
of additions inside its convolutions.

BN's statistics cannot be recovered. In training mode BN would normalize, which the folded network
does not do. Such weights are for evaluation, for features, and for fine-tuning with BN kept in
evaluation mode.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import TensorSource

SCALE = 0.9970828294754028
VARIANCE = 0.9941641688346863

_FILL = {"weight": SCALE, "running_mean": 0.0, "running_var": VARIANCE, "num_batches_tracked": 0.0}


def locate_norm_value(value: str, folded_bias: str) -> TensorSource:
    """Say where a value of a BN comes from.

    Args:
        value: "weight", "bias", "running_mean", "running_var" or "num_batches_tracked".
        folded_bias: The name that the bias of the BN's convolution has in the file.
    """
    return TensorSource(folded_bias) if value == "bias" else TensorSource(None, fill=_FILL[value])


def find_convolution(norm: str) -> str:
    """Return the convolution that a BN of a post-activation network follows: `layer1.0.bn2` -> `layer1.0.conv2`."""
    return f"{norm[:-1]}0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")


def is_norm(module: str) -> bool:
    """Return whether a module of a post-activation network is a BN."""
    return module.endswith("downsample.1") or module.rpartition(".")[2].startswith("bn")


def remark(architecture: Architecture) -> str:
    """Return what a converted file says about its BN."""
    return "BN was folded into convolution biases; BN here adds them in evaluation mode and has no statistics"
