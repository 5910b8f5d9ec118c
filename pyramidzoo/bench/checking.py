"""Before anything is timed: does every form of a network compute the logits of the plain one?"""

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
# A share of the largest logit. Rounding in float32 makes 1e-6, and another order of summation ten times that.
_TOLERANCE_FP32 = 1e-4


def find_different(plain: ImageClassifier, networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, str]:
    """Find the networks that do not compute the logits of the plain network.

    In float32 a logit may differ by 1e-4 of the largest one. It may differ by more where another order of summation
    changes the plain network's own logits by more than a quarter of that, as it does in deep networks: then by four
    times that change. In another precision a logit may differ by twice what the plain network's logits change by in
    that precision. Both changes are the largest of 16 images, because the largest of a few images says little.

    Args:
        plain: the plain network in float32.
        networks: the forms to check, by name.
        images: float32 (n, C, H, W).

    Returns:
        For each network that differs, or for which there is not enough memory, a sentence that says so.
    """
    sample = random_images(CHECKED_IMAGES, images.shape[1:]).to(images.device)
    errors: dict[str, str] = {}
    with torch.inference_mode():
        expected, exact = plain(images), plain(sample)
        tolerances = {"fp32": max(_TOLERANCE_FP32 * exact.abs().max().item(), 4 * _reorder_sums(plain, sample, exact))}
        for name, network in networks.items():
            precision = get_precision(network)
            if precision not in tolerances:
                rounded = Variant.of_ours(f"plain_{precision}", plain, sample.device).prepare(len(sample))(sample)
                tolerances[precision] = (2 * (rounded - exact).abs().max()).item()
            with record_failures(errors, [name]):
                difference = (network(images).float() - expected).abs().max().item()
                if not difference <= tolerances[precision]:  # NaN is different too
                    errors[name] = f"{DIFFERENT} by {difference:.1e}, more than {tolerances[precision]:.1e}"
    return errors


def _reorder_sums(plain: nn.Module, images: Tensor, logits: Tensor) -> float:
    """Return how much the logits change in channels_last, whose sums have another order."""
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    return float((other(images.contiguous(memory_format=torch.channels_last)) - logits).abs().max())


@contextlib.contextmanager
def record_failures(errors: dict[str, str], names: Sequence[str]) -> Iterator[None]:
    """Note an error of these networks, and go on, where the device has not enough memory or the compiler fails."""
    try:
        yield
    except torch.OutOfMemoryError:  # of a network that no engine computes
        errors.update(dict.fromkeys(names, OUT_OF_MEMORY))
    except UnavailableError as error:
        errors.update(dict.fromkeys(names, str(error)))
    else:
        return
    # Not in the handler: there the traceback still holds tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
