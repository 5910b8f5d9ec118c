"""Check, before anything is timed, that every variant of a network computes the logits of the plain network."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyramidzoo.bench.targets import random_images
from pyramidzoo.bench.variants import Variant, get_precision
from pyramidzoo.errors import UnavailableError
from pyramidzoo.models._interface import ImageClassifier

CHECKED_IMAGES = 16
OUT_OF_MEMORY = "out of memory"
DIFFERENT = "not measured: logits differ from the plain network's"
# As a share of the largest logit. Rounding in float32 changes a logit by about 1e-6, and another order of summation by
# about 1e-5.
_TOLERANCE_FP32 = 1e-4


def find_different(plain: ImageClassifier, networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, str]:
    """Find the networks that do not compute the logits of the plain network.

    The largest difference that is allowed depends on the precision:

    - In float32 it is the larger one of two numbers: 1e-4 of the largest logit, and four times the change of the plain
      network's own logits if its sums are computed in another order. In deep networks the second number is larger.
    - In another precision it is twice the change of the plain network's own logits in that precision.

    These changes are measured with 16 images, also if fewer images are given: the largest change in a few images
    varies too much.

    Args:
        plain: the plain network in float32.
        networks: the variants to check, by name.
        images: float32 (n, C, H, W).

    Returns:
        An error message for each network, by name, whose logits differ or that could not be computed.
    """
    sample = random_images(CHECKED_IMAGES, images.shape[1:]).to(images.device)
    errors: dict[str, str] = {}
    with torch.inference_mode():
        expected, sample_logits = plain(images), plain(sample)
        tolerance_fp32 = max(
            _TOLERANCE_FP32 * sample_logits.abs().max().item(),
            4 * _measure_change_by_order(plain, sample, sample_logits),
        )
        tolerances = {"fp32": tolerance_fp32}
        for name, network in networks.items():
            precision = get_precision(network)
            if precision not in tolerances:
                plain_variant = Variant.from_plain(f"plain_{precision}", plain, sample.device).prepare(len(sample))
                tolerances[precision] = (2 * (plain_variant(sample) - sample_logits).abs().max()).item()
            with record_failures(errors, [name]):
                difference = (network(images).float() - expected).abs().max().item()
                if not difference <= tolerances[precision]:  # `not <=` is also true for NaN.
                    errors[name] = f"{DIFFERENT} by {difference:.1e}, more than {tolerances[precision]:.1e}"
    return errors


def _measure_change_by_order(plain: nn.Module, images: Tensor, logits: Tensor) -> float:
    """Return how much the logits change if sums are computed in another order, as in channels_last."""
    reordered = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    return float((reordered(images.contiguous(memory_format=torch.channels_last)) - logits).abs().max())


@contextlib.contextmanager
def record_failures(errors: dict[str, str], names: Sequence[str]) -> Iterator[None]:
    """Store an error message for some networks if the device has too little memory, or if the compiler fails.

    The program goes on after the `with` block.

    Args:
        errors: the messages by name of the network. New ones are added.
        names: names of the networks that are computed in the `with` block.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # An engine raises UnavailableError instead; a peer can be computed without one.
        errors.update(dict.fromkeys(names, OUT_OF_MEMORY))
    except UnavailableError as error:
        errors.update(dict.fromkeys(names, str(error)))
    else:
        return
    # This is not done in the `except` blocks, because the traceback of the error keeps tensors alive there.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
