"""Loading files whose BN was folded into convolutions with biases into networks with BN.

In evaluation mode BN computes y = scale * (x - mean) / sqrt(variance + 1e-5) + shift for each
channel. This is one multiplication and one addition. BN can therefore be folded into the
convolution before it: the multiplication changes the convolution's weights, and the addition
becomes the convolution's bias. A file of such a network has no BN, but the zoo's network has one
after each convolution.

The convolutions of the zoo's network get the weights of the file, and the shift of each BN gets the
bias of the convolution before it. All else in BN must do nothing. So the mean is 0, and the scale
and the variance are chosen so that scale / sqrt(variance + 1e-5) is 1. With the constants SCALE and
VARIANCE below this quotient is exactly 1 in float32. In float64 it differs from 1 by less than
6e-15. With a scale of 1 and any variance in float32, it would differ by 7e-9, and the differences
of all layers would add up. So the logits are those of the folded network, except that the numbers
inside a convolution are added in another order.

The statistics that BN had before it was folded cannot be recovered. In training mode BN would
normalize with the statistics of the batch, which the folded network does not do. Such weights are
for evaluation, for computing features, and for fine-tuning with BN kept in evaluation mode.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.convert.layout import TensorSource

SCALE = 0.9970828294754028
VARIANCE = 0.9941641688346863

# The value of all elements of each tensor of BN, except its shift (`bias`).
_FILL_VALUES = {"weight": SCALE, "running_mean": 0.0, "running_var": VARIANCE, "num_batches_tracked": 0.0}


def locate_norm_tensor(tensor_name: str, bias_name: str) -> TensorSource:
    """Return the source of a BN's tensor: a bias in the file for BN's shift, or a constant for the others.

    Args:
        tensor_name: "weight", "bias", "running_mean", "running_var" or "num_batches_tracked".
        bias_name: The foreign name of the bias of the convolution before the BN.
    """
    if tensor_name == "bias":
        return TensorSource(bias_name)
    return TensorSource(None, fill=_FILL_VALUES[tensor_name])


def find_convolution(norm: str) -> str:
    """Return the name of the convolution before a BN, as `layer1.0.conv2` for `layer1.0.bn2`.

    The BN of a shortcut is `downsample.1`, and its convolution is `downsample.0`.
    """
    return f"{norm[:-1]}0" if norm.endswith("downsample.1") else norm.replace("bn", "conv")


def is_norm(module: str) -> bool:
    """Return whether a module's name in the zoo is that of a BN, in a post-activation network."""
    return module.endswith("downsample.1") or module.rpartition(".")[2].startswith("bn")


def make_remark(architecture: Architecture) -> str:
    """Make the text that a converted file holds about its BN. The text is the same for each architecture."""
    return "BN was folded into convolution biases; BN here adds them in evaluation mode and has no statistics"
