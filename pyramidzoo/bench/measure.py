"""Measure a network: check that its variants and its peers have equal logits, then time all of them in turn."""

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
    """What `bench` measures of every network.

    Attributes:
        device: the device that computes.
        batches: batch sizes.
        variants: names of variants of our network, such as "optimized_fp16" (`make_engine`).
        peers: names of peers, such as "timm_bf16": the same network in another library (`make_peer_engine`).
        rounds: how often each variant and each peer is timed.

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
        """How often `measure_target` reports progress for a network.

        For each batch size: once after the checks, once after each round, and once after the round that is not counted.
        """
        return len(self.batches) * (self.rounds + 2)


def measure_target(
    target: BenchmarkTarget,
    settings: BenchmarkSettings,
    peaks: Peaks,
    *,
    on_progress: Callable[[], object] = lambda: None,
) -> list[BenchmarkRow]:
    """Measure one network. fp32 means IEEE single precision, without TF32.

    Args:
        target: the network.
        settings: the variants, the peers and the batch sizes.
        peaks: the speeds of the best convolution. This function measures them again for each precision in use. Call
            `Peaks.set_fractions` after the last network, to set `fraction_of_peak` in the rows.
        on_progress: function that is called `settings.steps` times, or fewer times if something cannot be measured.

    Returns:
        A row for each batch size and each peer or variant, peers first. If one cannot be measured, `error` in its row
        says why.

    Raises:
        IntegrityError: the file of the weights is not the one that the manifest describes.
        UnavailableError: the weights cannot be fetched.
        UsageError: the network cannot be rewritten.
    """
    with strict_arithmetic(deterministic=False):
        plain = target.build_network()
        macs = count_multiply_adds(copy.deepcopy(plain).to("meta"), target.image)
        networks = _build_peers(target, plain, settings)
        plain.to(settings.device)
        for name in settings.variants:
            networks[name] = Variant.from_plain(name, plain, settings.device)
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
    """Build the peers that have this network.

    A peer whose name is only a library is the network as its library made it. A peer with words after the library,
    such as "timm_bf16", is computed by an engine with the settings of these words.
    """
    peers: dict[str, nn.Module] = {}
    networks_by_library: dict[str, nn.Module | None] = {}
    for name in settings.peers:
        library, words = split_peer(name)
        if library not in networks_by_library:
            networks_by_library[library] = build_peer(library, target.row, plain, target.image)
        network = networks_by_library[library]
        if network is not None:
            network.to(settings.device)
            peers[name] = Variant.from_peer(name, network, settings.device) if words else network
    return peers


class _Measurement:
    """The measurement of all variants and peers of one network at one batch size.

    The methods are called in the order in which they are defined.
    """

    def __init__(
        self,
        plain: ImageClassifier,
        networks: Mapping[str, nn.Module],
        images: Tensor,
        settings: BenchmarkSettings,
    ) -> None:
        self.plain, self.networks, self.images, self.settings = plain, networks, images, settings
        self.precisions = {name: get_precision(network) for name, network in networks.items()}
        # The keys of these dictionaries are names of variants and peers.
        self.errors: dict[str, str] = {}
        self.activation_bytes: dict[str, int] = {}
        self.run_seconds: dict[str, list[float]] = {}
        self.passes_per_run = 0
        self.speeds: dict[str, Speed] = {}
        for network in networks.values():
            if isinstance(network, Variant):
                network.prepare(len(images))

    def capture_graphs(self) -> None:
        """Capture the CUDA graphs, and count the memory of each. A graph allocates only while it is captured."""
        for name, network in self.networks.items():
            if isinstance(network, Variant) and network.is_captured:
                with record_failures(self.errors, [name]):
                    self.activation_bytes[name] = count_graph_bytes(partial(network, self.images))

    def check_logits(self) -> None:
        """Store an error for each variant and peer whose logits differ from those of the plain network."""
        checked = {name: network for name, network in self.networks.items() if name not in self.errors}
        self.errors |= find_different(self.plain, checked, self.images[:CHECKED_IMAGES])
        self.activation_bytes = {
            name: byte_count for name, byte_count in self.activation_bytes.items() if name not in self.errors
        }

    def count_memory(self) -> None:
        """Count the bytes of the activations of each variant and peer.

        CUDA graphs are left out (`hides_memory`): a replay allocates no memory, so there is nothing to count.
        """
        for name, network in self.networks.items():
            is_hidden = isinstance(network, Variant) and network.hides_memory
            if name in self.errors or name in self.activation_bytes or is_hidden:
                continue
            with record_failures(self.errors, [name]):
                self.activation_bytes[name] = count_activation_bytes(partial(network, self.images), self.images.device)

    def time_networks(self, on_progress: Callable[[], object]) -> None:
        """Time all variants and peers that have no error, in turn."""
        measurable = {name: network for name, network in self.networks.items() if name not in self.errors}
        if not measurable:
            return
        with record_failures(self.errors, list(measurable)):
            # All runs have the same number of passes. The plain network decides it, because it is one of the slowest.
            slow_network = measurable.get("plain", next(iter(measurable.values())))
            self.passes_per_run = choose_passes(lambda: slow_network(self.images))
            forwards = {
                name: repeat_forward(network, self.images, self.passes_per_run) for name, network in measurable.items()
            }
            self.run_seconds = time_in_turns(forwards, rounds=self.settings.rounds, after_round=on_progress)
        images_per_run = self.passes_per_run * len(self.images)
        self.speeds = compute_speeds(self.run_seconds, images_per_run, self.precisions, self.settings.peers)

    def measure_peaks(self, peaks: Peaks) -> None:
        """Measure the best convolution in each precision that was timed."""
        for precision in dict.fromkeys(self.precisions[name] for name in self.run_seconds):
            peaks.measure(precision)

    def make_row(self, name: str, target: BenchmarkTarget, macs: int) -> BenchmarkRow:
        """Make the row of a variant or peer. `macs` are the multiply-adds of the plain network for one image."""
        network, batch, runs = self.networks[name], len(self.images), self.run_seconds.get(name)
        seconds = statistics.median(runs) / self.passes_per_run if runs else None
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
            activations_mib=round(self.activation_bytes[name] / 2**20, 3) if name in self.activation_bytes else None,
            weights_mib=round(count_weight_bytes(network) / 2**20, 3),
            rewrites=list(network.passes) if isinstance(network, Variant) else [],
            forward_passes=self.passes_per_run or None,
            runs=runs,
            error=self.errors.get(name),
        )
