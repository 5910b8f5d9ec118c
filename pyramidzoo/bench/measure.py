"""Measure a network: check its forms and its peers against each other, then time them in turn."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pyramidzoo.bench.checking import CHECKED_IMAGES, find_different, record_failures
from pyramidzoo.bench.counting import count_activation_bytes, count_graph_bytes, count_multiply_adds, count_weight_bytes
from pyramidzoo.bench.peaks import Peaks
from pyramidzoo.bench.peers import build_peer, split_peer
from pyramidzoo.bench.rows import BenchmarkRow, Speed, compute_speeds
from pyramidzoo.bench.targets import BenchmarkTarget, random_images
from pyramidzoo.bench.timing import choose_passes, repeat_forward, time_in_turns
from pyramidzoo.bench.variants import Variant, get_precision, make_engine, make_peer_engine
from pyramidzoo.errors import UsageError
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.models._interface import ImageClassifier


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured of every network.

    Attributes:
        device: where it is computed.
        batches: batch sizes.
        variants: forms of our network, as `make_engine` reads them.
        peers: forms of other libraries, as `make_peer_engine` reads them.
        rounds: how often each form is timed.

    Raises:
        UsageError: a number is not positive, or there is no such variant or peer.
    """

    device: torch.device
    batches: Sequence[int] = (64,)
    variants: Sequence[str] = ("plain", "optimized", "optimized_bf16")
    peers: Sequence[str] = ()
    rounds: int = 5

    def __post_init__(self) -> None:
        for batch in self.batches:
            if batch < 1:
                raise UsageError(f"a batch of {batch} images cannot be measured; -b must be positive")
        for variant in self.variants:
            make_engine(variant, self.device)
        for peer in self.peers:
            make_peer_engine(peer, self.device)
        if self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds} measures nothing; it must be positive")

    @property
    def steps(self) -> int:
        """How often `measure_target` reports progress for a network."""
        return len(self.batches) * (self.rounds + 2)


def measure_target(
    target: BenchmarkTarget,
    settings: BenchmarkSettings,
    peaks: Peaks,
    *,
    on_progress: Callable[[], object] = lambda: None,
) -> list[BenchmarkRow]:
    """Measure one network. fp32 is IEEE's, without TF32.

    Args:
        target: the network.
        settings: in which forms, and at which batch sizes.
        peaks: measured on the way. `Peaks.set_fractions` sets the rows' `fraction_of_peak` afterwards.
        on_progress: is called `settings.steps` times, unless something cannot be measured.

    Returns:
        A row for each batch size and form, peers first. A form that cannot be measured says why in `error`.

    Raises:
        IntegrityError: as `BenchmarkTarget.build_network`.
        UnavailableError: as `BenchmarkTarget.build_network`.
        UsageError: the network cannot be rewritten.
    """
    with strict_arithmetic(deterministic=False):
        plain = target.build_network()
        macs = count_multiply_adds(copy.deepcopy(plain).to("meta"), target.image)
        networks = _build_peers(target, plain, settings)
        plain.to(settings.device)
        for name in settings.variants:
            networks[name] = Variant.of_ours(name, plain, settings.device)
        rows = []
        for batch in settings.batches:
            images = random_images(batch, target.image).to(settings.device)
            measurement = _Measurement(plain, networks, images, settings)
            measurement.capture_graphs()
            measurement.check_logits()
            measurement.count_memory()
            on_progress()
            measurement.time_networks(on_progress)
            measurement.measure_peaks(peaks)
            rows += [measurement.make_row(name, target, macs) for name in networks]
        return rows


def _build_peers(target: BenchmarkTarget, plain: ImageClassifier, settings: BenchmarkSettings) -> dict[str, nn.Module]:
    """Build the peers that have this network. A peer without words is called directly, as its library made it."""
    peers: dict[str, nn.Module] = {}
    of_library: dict[str, nn.Module | None] = {}
    for name in settings.peers:
        library, words = split_peer(name)
        if library not in of_library:
            of_library[library] = build_peer(library, target.row, plain, target.image)
        network = of_library[library]
        if network is not None:
            network.to(settings.device)
            peers[name] = Variant.of_peer(name, network, settings.device) if words else network
    return peers


class _Measurement:
    """All forms of one network at one batch size. The methods are called in their order here."""

    def __init__(
        self,
        plain: ImageClassifier,
        networks: Mapping[str, nn.Module],
        images: Tensor,
        settings: BenchmarkSettings,
    ) -> None:
        self.plain, self.networks, self.images, self.settings = plain, networks, images, settings
        self.precisions = {name: get_precision(network) for name, network in networks.items()}
        self.errors: dict[str, str] = {}
        self.memory: dict[str, int] = {}  # bytes
        self.runs: dict[str, list[float]] = {}  # seconds
        self.passes = 0  # in each run
        self.speeds: dict[str, Speed] = {}
        for network in networks.values():
            if isinstance(network, Variant):
                network.prepare(len(images))

    def capture_graphs(self) -> None:
        """Capture the CUDA graphs, and count the memory that each takes: only here can it be seen."""
        for name, network in self.networks.items():
            if isinstance(network, Variant) and network.is_captured:
                with record_failures(self.errors, [name]):
                    self.memory[name] = count_graph_bytes(partial(network, self.images))

    def check_logits(self) -> None:
        checked = {name: network for name, network in self.networks.items() if name not in self.errors}
        self.errors |= find_different(self.plain, checked, self.images[:CHECKED_IMAGES])
        self.memory = {name: size for name, size in self.memory.items() if name not in self.errors}

    def count_memory(self) -> None:
        for name, network in self.networks.items():
            is_hidden = isinstance(network, Variant) and network.hides_memory
            if name in self.errors or name in self.memory or is_hidden:
                continue
            with record_failures(self.errors, [name]):
                self.memory[name] = count_activation_bytes(partial(network, self.images), self.images.device)

    def time_networks(self, on_progress: Callable[[], object]) -> None:
        fit = {name: network for name, network in self.networks.items() if name not in self.errors}
        if not fit:
            return
        with record_failures(self.errors, list(fit)):
            slowest = fit.get("plain", next(iter(fit.values())))
            self.passes = choose_passes(lambda: slowest(self.images))
            forwards = {name: repeat_forward(network, self.images, self.passes) for name, network in fit.items()}
            self.runs = time_in_turns(forwards, rounds=self.settings.rounds, after_round=on_progress)
        self.speeds = compute_speeds(self.runs, self.passes * len(self.images), self.precisions, self.settings.peers)

    def measure_peaks(self, peaks: Peaks) -> None:
        for precision in dict.fromkeys(self.precisions[name] for name in self.runs):
            peaks.measure(precision)

    def make_row(self, name: str, target: BenchmarkTarget, macs: int) -> BenchmarkRow:
        network, batch, runs = self.networks[name], len(self.images), self.runs.get(name)
        seconds = statistics.median(runs) / self.passes if runs else None
        return BenchmarkRow(
            network=target.row.name,
            weights=target.entry.id if target.entry else None,
            image=list(target.image),
            batch=batch,
            parameters=sum(parameter.numel() for parameter in self.plain.parameters()),
            multiply_adds=macs,
            variant=name,
            precision=self.precisions[name],
            **asdict(self.speeds.get(name, Speed())),
            milliseconds=None if seconds is None else round(1000 * seconds, 4),
            gflops=None if seconds is None else round(2 * macs * batch / seconds / 1e9, 3),
            fraction_of_peak=None,
            activations_mib=round(self.memory[name] / 2**20, 3) if name in self.memory else None,
            weights_mib=round(count_weight_bytes(network) / 2**20, 3),
            rewrites=list(network.passes) if isinstance(network, Variant) else [],
            forward_passes=self.passes or None,
            runs=runs,
            error=self.errors.get(name),
        )
