"""The rows of `bench --format json`: each has the numbers of one variant or peer at one batch size."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyramidzoo.bench.timing import compare_runs


@dataclass(frozen=True)
class Speed:
    """How fast one variant or peer is.

    Attributes:
        images_per_second: from the median of the run times.
        images_per_second_min: from the slowest run.
        images_per_second_max: from the fastest run.
        ratio: `images_per_second`, divided by that of `ratio_to`.
        ratio_by_round: the ratio is computed within each round, and this is the median of these ratios.
        ratio_to: the name of the variant or peer that this one is compared with; None if there is none.
    """

    images_per_second: float | None = None
    images_per_second_min: float | None = None
    images_per_second_max: float | None = None
    ratio: float | None = None
    ratio_by_round: float | None = None
    ratio_to: str | None = None


@dataclass(kw_only=True)
class BenchmarkRow:
    """One variant or peer of a network at one batch size. The fields have the names and the order of the JSON.

    Attributes:
        network: the name of the architecture.
        weights: the weights id; None for random weights.
        image: the shape of an image, [C, H, W].
        batch: the batch size.
        parameters: the number of parameters of the network.
        multiply_adds: the multiply-adds of the plain network for one image.
        variant: the name of the variant or peer.
        precision: the precision that it computes in, such as "fp16".
        images_per_second: see `Speed`.
        images_per_second_min: see `Speed`.
        images_per_second_max: see `Speed`.
        ratio: see `Speed`.
        ratio_by_round: see `Speed`.
        ratio_to: see `Speed`.
        milliseconds: the time of one forward pass of the batch.
        gflops: 1e9 floating-point operations a second. Two operations are counted for each of the plain network's
            multiply-adds, also if the variant computes more or fewer.
        fraction_of_peak: `gflops`, divided by those of the device's best convolution. `Peaks.set_fractions` sets it.
        activations_mib: the most memory in MiB that a forward pass holds at once, without weights and images; None if
            it cannot be measured.
        weights_mib: the memory of parameters and buffers in MiB.
        rewrites: the names of the inference passes that were applied.
        forward_passes: the number of forward passes in a run; None if nothing was timed.
        runs: the seconds of each run; None if nothing was timed.
        error: why it was not measured; None if it was measured.
    """

    network: str
    weights: str | None
    image: list[int]
    batch: int
    parameters: int
    multiply_adds: int
    variant: str
    precision: str
    images_per_second: float | None
    images_per_second_min: float | None
    images_per_second_max: float | None
    ratio: float | None
    ratio_by_round: float | None
    ratio_to: str | None
    milliseconds: float | None
    gflops: float | None
    fraction_of_peak: float | None
    activations_mib: float | None
    weights_mib: float
    rewrites: list[str]
    forward_passes: int | None
    runs: list[float] | None
    error: str | None

    def as_data(self) -> dict[str, Any]:
        """Return the row as a dictionary of values that JSON has."""
        return dataclasses.asdict(self)


def compute_speeds(
    runs: Mapping[str, list[float]], images: int, precisions: Mapping[str, str], peers: Sequence[str]
) -> dict[str, Speed]:
    """Compute the speed of each variant and peer from its run times.

    Each one is compared with a baseline: the fastest peer of the same precision. If there is none, the baseline is the
    fastest fp32 peer. If there is none either, it is the variant "plain".

    Args:
        runs: the seconds of each run, by the name of the variant or peer. The n-th runs of all belong to round n.
        images: how many images a run computes.
        precisions: the precision of each variant and peer, by name.
        peers: the names of those in `runs` that are peers. It may have other names too.

    Returns:
        The speeds by name.
    """
    return {name: _compute_speed(name, runs, images, _find_baseline(name, runs, precisions, peers)) for name in runs}


def _compute_speed(name: str, runs: Mapping[str, list[float]], images: int, baseline: str | None) -> Speed:
    """Compute the speed of one variant or peer, and its ratio to the baseline if there is one."""
    seconds = runs[name]
    speed = Speed(
        images_per_second=round(images / statistics.median(seconds), 2),
        images_per_second_min=round(images / max(seconds), 2),
        images_per_second_max=round(images / min(seconds), 2),
    )
    if baseline is None:
        return speed
    # The ratio of two speeds is the inverse ratio of the times. So the time of the baseline is divided by this one's.
    comparison = compare_runs({baseline: runs[baseline], name: seconds}, name)[0]
    return dataclasses.replace(
        speed, ratio=comparison["ratio"], ratio_by_round=comparison["by_round"], ratio_to=baseline
    )


def _find_baseline(
    name: str, runs: Mapping[str, list[float]], precisions: Mapping[str, str], peers: Sequence[str]
) -> str | None:
    """Find the name of the baseline that a variant or peer is compared with.

    It is the fastest peer in the same precision, else the fastest peer in fp32, else the plain network.

    Args:
        name: Name of the variant or peer.
        runs: The seconds of each run, by the name of what ran.
        precisions: The precision of each, by name.
        peers: Names of the peers.

    Returns:
        The name of the baseline; None if neither a peer nor the plain network was measured.
    """
    for precision in (precisions[name], "fp32"):
        measured = [peer for peer in peers if peer in runs and precisions[peer] == precision]
        if measured:
            return min(measured, key=lambda peer: statistics.median(runs[peer]))
    return "plain" if "plain" in runs else None
