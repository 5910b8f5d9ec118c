"""One network at some batch sizes: its variants and its peers checked against each other, then timed in turn."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.bench.counting import activation_bytes, multiply_adds, weights_bytes
from pyramidzoo.bench.peers import peer
from pyramidzoo.bench.timing import compared, convolution_peak, forward_passes, interleaved, passes_for
from pyramidzoo.catalog.architectures import Architecture, get_architecture
from pyramidzoo.catalog.weights_entry import WeightsEntry
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.evaluation.arithmetic import strict_arithmetic
from pyramidzoo.evaluation.compute_settings import PRECISIONS, ComputeSettings
from pyramidzoo.evaluation.engine import Engine
from pyramidzoo.factory import create_model
from pyramidzoo.models import build
from pyramidzoo.models._interface import ImageClassifier

_CHECKED_IMAGES = 16
OUT_OF_MEMORY = "out of memory"
DIFFERENT = "not measured: logits differ from the plain network's"
_SINGLE = 1e-4  # of the largest logit: rounding in floats comes to 1e-6, another order of summation to ten times that
# what the words of a variant's name mean, after "plain" or "optimized"
WORDS: Mapping[str, Mapping[str, Any]] = {
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "channelslast": {"channels_last": True},
    "compiled": {"compiled": True},
    "graph": {"cuda_graph": True},
}


def engine_of(variant: str, device: torch.device) -> Engine:
    """What computes a variant, such as "plain", "optimized_bf16" or "optimized_fp16_graph". Raises UsageError."""
    form, *rest = variant.split("_")
    if form not in ("plain", "optimized") or not {*rest} <= {*WORDS}:
        words = ", ".join(WORDS)
        raise UsageError(f"no variant is called {variant!r}; plain and optimized are, with _ and any of {words}")
    if sum("precision" in WORDS[word] for word in rest) > 1:
        raise UsageError(f"{variant!r} names two precisions; give one")
    options: dict[str, Any] = {"optimized": form == "optimized"}
    for word in rest:
        options |= WORDS[word]
    return Engine(ComputeSettings(device, **options))


@dataclass(frozen=True)
class BenchmarkTarget:
    """A network of the table with random weights, or with those of an entry."""

    row: Architecture
    entry: WeightsEntry | None = None

    @property
    def name(self) -> str:
        return self.row.name if self.entry is None else self.entry.id

    @property
    def image(self) -> tuple[int, int, int]:
        size = self.row.input_size
        return (3, size, size) if self.entry is None else self.entry.preprocessing.input_size

    @classmethod
    def of_entry(cls, entry: WeightsEntry) -> BenchmarkTarget:
        return cls(get_architecture(entry.architecture), entry)

    def network(self) -> ImageClassifier:
        """In float32 on the CPU, in evaluation mode. Raises IntegrityError, UnavailableError where weights lack."""
        if self.entry is None:
            return random_calibrated_model(self.row)
        return create_model(self.row.name, weights=self.entry.id).eval()


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured of every network: variants (`engine_of`) and peers, at each batch size, in so many rounds.

    Raises UsageError.
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
            engine_of(variant, self.device)
        if self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds} measures nothing; it must be positive")

    @property
    def steps(self) -> int:
        """How often `measure_target` reports that it has come further, for each network."""
        return len(self.batches) * (self.rounds + 2)


@dataclass
class Peaks:
    """FLOP/s of the device's best convolution in each precision, the best of all times that it was measured."""

    device: torch.device
    known: dict[str, float] = field(default_factory=dict)

    def measure(self, precision: str) -> None:
        """Once more: whatever else runs on the machine does not run all the time."""
        with strict_arithmetic(tf32=precision == "tf32", fixed=False):
            found = convolution_peak(PRECISIONS[precision], self.device)
        self.known[precision] = max(self.known.get(precision, 0.0), found)

    def set_fractions(self, rows: Sequence[dict[str, Any]]) -> None:
        """Fill in `fraction_of_peak`, when all has been measured."""
        for row in rows:
            if row["gflops"] is not None:
                row["fraction_of_peak"] = round(row["gflops"] * 1e9 / self.known[row["precision"]], 4)


def random_calibrated_model(row: Architecture) -> ImageClassifier:
    """A network with random weights and BN under which activations stay in range, in evaluation mode.

    Speed does not depend on weights as long as nothing is NaN, infinite or denormal.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(row)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = 1.0  # the statistics of the one batch to come
        with torch.no_grad():
            model.train()(_images(_CHECKED_IMAGES, (3, row.input_size, row.input_size)))
    return model.eval()


def measure_target(
    subject: BenchmarkTarget, settings: BenchmarkSettings, peaks: Peaks, *, step: Callable[[], object] = lambda: None
) -> list[dict[str, Any]]:
    """A row for each batch size and variant, peers first; those that cannot be measured say why in `error`.

    fp32 is IEEE's, without TF32. `peaks` are measured on the way, and set the fractions afterwards. Raises what
    `BenchmarkTarget.network` raises, and UsageError.
    """
    with strict_arithmetic(fixed=False):
        plain = subject.network()
        macs = multiply_adds(copy.deepcopy(plain).to("meta"), subject.image)
        parameters = sum(parameter.numel() for parameter in plain.parameters())
        networks: dict[str, nn.Module] = {}
        for library in settings.peers:
            if found := peer(library, subject.row, plain, subject.image):
                networks[library] = found.to(settings.device)
        plain.to(settings.device)
        networks |= {name: Variant(plain, name, settings.device) for name in dict.fromkeys(settings.variants)}
        rows = []
        for batch in settings.batches:
            about = {
                "network": subject.row.name,
                "weights": subject.entry.id if subject.entry else None,
                "image": list(subject.image),
                "batch": batch,
                "parameters": parameters,
                "multiply_adds": macs,
            }
            for network in networks.values():
                if isinstance(network, Variant):
                    network.prepare(batch)
            images = _images(batch, subject.image).to(settings.device)
            for row in _at_one_size(plain, networks, images, 2 * macs, settings, peaks, step):
                rows.append({**about, **row})
    return rows


def _at_one_size(
    plain: ImageClassifier,
    networks: Mapping[str, nn.Module],
    images: Tensor,
    flop: int,
    settings: BenchmarkSettings,
    peaks: Peaks,
    step: Callable[[], object],
) -> Iterator[dict[str, Any]]:
    errors = unequal(plain, networks, images[:_CHECKED_IMAGES])
    memory: dict[str, int] = {}
    for name, network in networks.items():
        if name not in errors and not (isinstance(network, Variant) and network.hides_memory):
            with _running_out(errors, [name]):
                memory[name] = activation_bytes(lambda network=network: network(images), images.device)  # type: ignore[misc]
    step()
    runs: dict[str, list[float]] = {}
    passes = 0
    fit = [name for name in networks if name not in errors]
    with _running_out(errors, fit):
        if fit:
            slowest = networks["plain" if "plain" in fit else fit[0]]
            passes = passes_for(lambda: slowest(images))
            run = {name: forward_passes(networks[name], images, passes) for name in fit}
            runs = interleaved(run, rounds=settings.rounds, after_round=step)
    for precision in dict.fromkeys(precision_of(networks[name]) for name in runs):
        peaks.measure(precision)
    rows = timed(runs, passes * len(images), settings.peers) if runs else {}
    for name, network in networks.items():
        precision = precision_of(network)
        row: dict[str, Any] = {"variant": name, "precision": precision, **rows.get(name, dict.fromkeys(_TIMED))}
        seconds = statistics.median(runs[name]) / passes if name in runs else None
        yield {
            **row,
            "milliseconds": seconds and round(1000 * seconds, 4),
            "gflops": seconds and round(flop * len(images) / seconds / 1e9, 3),
            "fraction_of_peak": None,
            "activations_mib": round(memory[name] / 2**20, 3) if name in memory else None,
            "weights_mib": round(weights_bytes(network) / 2**20, 3),
            "rewrites": list(network.passes) if isinstance(network, Variant) else [],
            "forward_passes": passes or None,
            "runs": runs.get(name),
            "error": errors.get(name),
        }


_TIMED = (
    "images_per_second",
    "images_per_second_min",
    "images_per_second_max",
    "ratio",
    "ratio_by_round",
    "ratio_to",
)


def timed(runs: Mapping[str, list[float]], images: int, peers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Images per second of each variant whose runs of so many images took these seconds, and the ratio to a baseline.

    The baseline is the fastest peer, without peers `plain`; without that either there are no ratios. `ratio` is that of
    the median speeds, `ratio_by_round` the median of the ratios within each round.
    """
    measured_peers = [name for name in peers if name in runs]
    baseline = min(measured_peers, key=lambda name: statistics.median(runs[name]), default="plain")
    known = baseline in runs
    found = {}
    for name, seconds in runs.items():
        # the ratio of speeds is that of the baseline's seconds to these
        beside = compared({baseline: runs[baseline], name: seconds}, name)[0] if known else {}
        speeds = (images / statistics.median(seconds), images / max(seconds), images / min(seconds))
        values = (*(round(speed, 2) for speed in speeds), beside.get("ratio"), beside.get("by_round"))
        found[name] = dict(zip(_TIMED, (*values, baseline if known else None), strict=True))
    return found


def unequal(plain: ImageClassifier, networks: Mapping[str, nn.Module], images: Tensor) -> dict[str, str]:
    """Which networks do not compute the logits of `plain` on these images, and how far off they are.

    In float32 to rounding: 1e-4 of the largest logit, or four times what `plain` loses by another order of summation,
    which in deep networks is more. In another precision at most twice as far off as `plain` itself is when it computes
    in that. Both are taken from 16 images: the largest of a few differences says little.
    """
    sample = _images(_CHECKED_IMAGES, images.shape[1:]).to(images.device)
    errors: dict[str, str] = {}
    with torch.inference_mode():
        expected, exact = plain(images), plain(sample)
        tolerances = {"fp32": max(_SINGLE * exact.abs().max().item(), 4 * _reordered(plain, sample, exact))}
        for name, network in networks.items():
            precision = precision_of(network)
            if precision not in tolerances:
                rounded = Variant(plain, f"plain_{precision}", sample.device).prepare(len(sample))(sample)
                tolerances[precision] = (2 * (rounded - exact).abs().max()).item()
            with _running_out(errors, [name]):
                difference = (network(images).float() - expected).abs().max().item()
                if not difference <= tolerances[precision]:
                    errors[name] = f"{DIFFERENT} by {difference:.1e}, more than {tolerances[precision]:.1e}"
    return errors


def _reordered(plain: nn.Module, images: Tensor, logits: Tensor) -> float:
    """By how much the logits differ when the channels of a pixel lie beside each other."""
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    return float((other(images.contiguous(memory_format=torch.channels_last)) - logits).abs().max())


class Variant(nn.Module):
    """One of our networks as an engine computes it, by the algorithms that are fastest: images to float32 logits."""

    def __init__(self, plain: ImageClassifier, name: str, device: torch.device) -> None:
        super().__init__()
        self._engine = engine_of(name, device)
        self._form = self._engine.prepare(copy.deepcopy(plain), name)
        self.network, self.passes = self._form.network, self._form.passes
        self.precision = self._engine.settings.precision

    @property
    def hides_memory(self) -> bool:
        """Whether nobody can see what a pass holds: set apart at the capture, or by the compiler's code on a CPU."""
        settings = self._engine.settings
        return settings.cuda_graph or (settings.compiled and settings.device.type == "cpu")

    def prepare(self, batch_size: int) -> Variant:
        """For batches of so many images."""
        self._program = self._engine.make_program(self._form, batch_size)
        return self

    def forward(self, images: Tensor) -> Tensor:
        with self._engine.arithmetic(fixed=False):
            return self._program(images)


def precision_of(network: nn.Module) -> str:
    """What it computes in: a name of the engine's `PRECISIONS`."""
    if isinstance(network, Variant):
        return network.precision
    dtype = next(network.parameters()).dtype
    return next(name for name, other in PRECISIONS.items() if other == dtype)


def _images(count: int, image: Sequence[int]) -> Tensor:
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def _running_out(errors: dict[str, str], names: Sequence[str]) -> Iterator[None]:
    """A device without memory for something is an error of that, and no reason to stop."""
    try:
        yield
    except torch.OutOfMemoryError:  # of a peer
        errors.update(dict.fromkeys(names, OUT_OF_MEMORY))
    except UnavailableError as error:
        errors.update(dict.fromkeys(names, str(error)))
    else:
        return
    if torch.cuda.is_available():  # outside the handler, whose traceback holds tensors
        torch.cuda.empty_cache()
