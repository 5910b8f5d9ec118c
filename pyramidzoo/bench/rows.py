"""What is reported of one network in one form: a row of `bench --format json`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyramidzoo.bench.timing import compare_runs


@dataclass(frozen=True)
class Speed:
    """How fast one form is.

    Attributes:
        images_per_second: by the median of its runs.
        images_per_second_min: by the slowest run.
        images_per_second_max: by the fastest run.
        ratio: the median speed over that of `ratio_to`.
        ratio_by_round: the median of the ratios within each round.
        ratio_to: the form that it is compared with; None where there is none.
    """

    images_per_second: float | None = None
    images_per_second_min: float | None = None
    images_per_second_max: float | None = None
    ratio: float | None = None
    ratio_by_round: float | None = None
    ratio_to: str | None = None


@dataclass(kw_only=True)
class BenchmarkRow:
    """One form of a network at one batch size. The fields have the names and the order of the JSON.

    Attributes:
        network: the name of the architecture.
        weights: the weights id; None for random weights.
        image: the shape of an image, [C, H, W].
        batch: images in a batch.
        parameters: numbers in the network's parameters.
        multiply_adds: of the plain network, for one image.
        variant: the name of the form: a variant or a peer.
        precision: what it computes in.
        images_per_second: see `Speed`, as the next five.
        images_per_second_min: see `Speed`.
        images_per_second_max: see `Speed`.
        ratio: see `Speed`.
        ratio_by_round: see `Speed`.
        ratio_to: see `Speed`.
        milliseconds: one forward pass of the batch.
        gflops: 1e9 floating-point operations a second, by the plain network's multiply-adds.
        fraction_of_peak: `gflops` over those of the device's best convolution; `Peaks.set_fractions` sets it.
        activations_mib: the most that a pass holds at once beyond weights and images; None where it cannot be seen.
        weights_mib: parameters and buffers.
        rewrites: the names of the inference passes.
        forward_passes: passes in a run.
        runs: seconds of each run.
        error: why it was not measured, or None.
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
        """Return the row as JSON can hold it."""
        return dataclasses.asdict(self)


def compute_speeds(
    runs: Mapping[str, list[float]], images: int, precisions: Mapping[str, str], peers: Sequence[str]
) -> dict[str, Speed]:
    """Compute the speed of each form from its runs.

    Each form is compared with the fastest peer of its precision. Where there is none, it is compared with the fastest
    fp32 peer, and where there is none either, with `plain`.

    Args:
        runs: seconds of the runs of each form, in rounds.
        images: how many images a run computes.
        precisions: what each form computes in.
        peers: the names of the forms that are peers.
    """
    return {name: _compute_speed(name, runs, images, _find_baseline(name, runs, precisions, peers)) for name in runs}


def _compute_speed(name: str, runs: Mapping[str, list[float]], images: int, baseline: str | None) -> Speed:
    seconds = runs[name]
    speed = Speed(
        images_per_second=round(images / statistics.median(seconds), 2),
        images_per_second_min=round(images / max(seconds), 2),
        images_per_second_max=round(images / min(seconds), 2),
    )
    if baseline is None:
        return speed
    # a ratio of speeds is the inverse ratio of seconds: those of the baseline over these
    beside = compare_runs({baseline: runs[baseline], name: seconds}, name)[0]
    return dataclasses.replace(speed, ratio=beside["ratio"], ratio_by_round=beside["by_round"], ratio_to=baseline)


def _find_baseline(
    name: str, runs: Mapping[str, list[float]], precisions: Mapping[str, str], peers: Sequence[str]
) -> str | None:
    for precision in (precisions[name], "fp32"):
        measured = [peer for peer in peers if peer in runs and precisions[peer] == precision]
        if measured:
            return min(measured, key=lambda peer: statistics.median(runs[peer]))
    return "plain" if "plain" in runs else None
