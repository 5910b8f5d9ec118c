"""How logits are computed: the form of the network, its arithmetic, and the shape of its batches."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pyramidzoo.data._source import ReaderOptions
from pyramidzoo.data.transforms import Override
from pyramidzoo.errors import UnavailableError, UsageError
from pyramidzoo.evaluation.environment import strict_arithmetic
from pyramidzoo.inference import optimize, overwrite_sums
from pyramidzoo.models._interface import ImageClassifier

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Program = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ComputeSettings:
    """How to compute. Strict is fp32 without TF32, fixed algorithms, the plain network; anything else is recorded.

    `precision` is that of the whole network, `amp` (bf16 or fp16) autocast's. `optimized` takes the network that
    `pyramidzoo.inference.optimize` makes, `compiled` what torch.compile makes of it, `cuda_graph` records its kernels
    once and replays them. `reading` is for images that have to be decoded, `override` for another protocol than that of
    the weights. Raises UsageError for what does not go together.
    """

    device: torch.device
    batch_size: int = 128
    amp: str | None = None
    channels_last: bool = False
    precision: str = "fp32"
    optimized: bool = False
    compiled: bool = False
    cuda_graph: bool = False
    reading: ReaderOptions = field(default_factory=ReaderOptions)
    override: Override = field(default_factory=Override)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"no precision is called {self.precision!r}; {', '.join(PRECISIONS)} are")
        if self.amp and (self.precision != "fp32" or self.optimized):
            raise UsageError("autocast takes a plain fp32 network; leave out --amp, or --precision and --optimize")
        if self.optimized and self.channels_last:
            raise UsageError("an optimized network has the memory layout that suits it; leave out --channels-last")
        if self.precision == "tf32" and self.compiled:
            raise UsageError("PyTorch's compiler refuses how TF32 is turned on here; leave out one of them")
        for wanted, option in ((self.precision == "tf32", "--precision tf32"), (self.cuda_graph, "--cuda-graph")):
            if wanted and self.device.type != "cuda":
                raise UsageError(f"{option} is for CUDA devices, not for {self.device}; leave it out there")

    @property
    def arithmetic(self) -> str:
        """The precision as records name it."""
        return self.amp or self.precision

    @property
    def flags(self) -> dict[str, Any]:
        """How it is computed, as far as the settings alone say it."""
        options = {"compiled": self.compiled, "cuda_graph": self.cuda_graph}
        used = {name: value for name, value in options.items() if value}
        return {"batch_size": self.batch_size, "channels_last": self.channels_last, "amp": self.amp, **used}

    @property
    def fixed_shape(self) -> bool:
        """Whether every batch must have the same shape: the last one is filled up, and what it adds is cut off."""
        return self.compiled or self.cuda_graph

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class PreparedNetwork:
    """A network as it is computed: `passes` are its rewrites; networks of one `key` differ in their tensors alone."""

    network: nn.Module
    passes: tuple[str, ...]
    key: Hashable


class Engine:
    """Computes what the settings ask for, one network after the other.

    Of the last network it keeps what was compiled or captured, and gives it the tensors of the next weights if they
    are of the same network; the batch size that fits is found once for each.
    """

    def __init__(self, settings: ComputeSettings) -> None:
        self.settings = settings
        self._kept: CachedProgram | None = None
        self._fitting: dict[Hashable, int] = {}

    def form(self, model: ImageClassifier, key: Hashable) -> PreparedNetwork:
        """The network as it will be computed; weights of the same `key` are weights of the same network.

        A plain network is computed with sums in place, where that saves padding: no bit of a logit changes, and a
        PyramidNet is faster (docs/evaluation.md). The compiler gets the network as it is built.
        Raises UnavailableError where the device has too little memory.
        """
        settings = self.settings
        dtype = PRECISIONS[settings.precision]
        if settings.optimized:
            with memory_of(settings.device):
                rewritten = optimize(model.to(settings.device), dtype=dtype)  # which form is best depends on the device
            return PreparedNetwork(rewritten, rewritten.passes, (key, rewritten.passes, str(rewritten.network)))
        plain = model.eval() if dtype == torch.float32 else copy.deepcopy(model).eval().to(dtype)
        network = plain if settings.compiled else overwrite_sums(plain)
        return PreparedNetwork(network if dtype == torch.float32 else _Cast(network, dtype), (), key)

    def batch_size(self, form: PreparedNetwork, input_size: tuple[int, int, int]) -> int:
        """The batch size that the device has memory for: the one asked for, halved as often as it takes.

        It is found before any work is planned, with images that are all zero: units, files and predictions are those of
        a run that was asked for this batch size. Raises UnavailableError where there is no memory for one image.
        """
        settings, known = self.settings, (form.key, input_size)
        batch_size = self._fitting.get(known, settings.batch_size)
        while _may_run_out(settings.device) and known not in self._fitting:
            try:
                with self.running(form, batch_size) as run:
                    run(torch.zeros(batch_size, *input_size, device=settings.device))
            except _OutOfMemory:
                if batch_size == 1:
                    raise
            else:
                self._fitting[known] = batch_size
                break
            # behind the handler, whose traceback holds activations
            batch_size //= 2
            self._kept = None
            torch.cuda.empty_cache()
        return batch_size

    @contextlib.contextmanager
    def running(self, form: PreparedNetwork, batch_size: int) -> Iterator[Program]:
        """The `program` of a form, in the arithmetic of the settings."""
        program = self.program(form, batch_size)
        with self.arithmetic():
            yield program

    def program(self, form: PreparedNetwork, batch_size: int) -> Program:
        """A function from normalised images (n, C, H, W), n at most `batch_size`, to float32 logits (n, classes).

        It raises UnavailableError where the device has too little memory. Where the shape is fixed, every batch is
        filled up to `batch_size` with zeros, and their logits are left out.
        """
        settings = self.settings
        network = self._placed(form)

        def run(batch: Tensor) -> Tensor:
            images = len(batch)
            with memory_of(settings.device, f" for batches of {batch_size}; try a smaller -b"):
                if settings.fixed_shape and images < batch_size:
                    batch = torch.cat([batch, batch.new_zeros(batch_size - images, *batch.shape[1:])])
                batch = batch.contiguous(memory_format=settings.layout)
                return self._logits(form.key, network, batch)[:images].float()

        return run

    def _placed(self, form: PreparedNetwork) -> nn.Module:
        """The network, on its device and in its layout. Raises UnavailableError where it has too little memory."""
        with memory_of(self.settings.device):
            network = form.network.to(self.settings.device)
            return network if self.settings.optimized else network.to(memory_format=self.settings.layout)

    @contextlib.contextmanager
    def arithmetic(self, *, fixed: bool = True) -> Iterator[None]:
        """What the settings ask for, without gradients; without `fixed`, by the algorithms that are fastest."""
        device, amp = self.settings.device, self.settings.amp
        autocast = torch.autocast(
            device.type,
            PRECISIONS[amp] if amp else None,
            enabled=amp is not None,
            cache_enabled=not self.settings.cuda_graph,  # or a graph would replay the weights it was captured with
        )
        # streams, events and graphs are those of the current device
        current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        strict = strict_arithmetic(tf32=self.settings.precision == "tf32", fixed=fixed)
        with current, strict, torch.inference_mode(), autocast:
            yield

    def _logits(self, key: Hashable, network: nn.Module, batch: Tensor) -> Tensor:
        if not self.settings.fixed_shape:
            logits: Tensor = network(batch)
            return logits
        known = key, tuple(batch.shape)
        if self._kept is None or self._kept.key != known:
            self._kept = None  # its memory first
            if self.settings.compiled:
                torch.compiler.reset()  # after some networks it would not compile any more, and say nothing
            with torch.inference_mode(False):
                own = copy.deepcopy(network)  # others' tensors will be written over it
            program: Program = _compiled(own, batch) if self.settings.compiled else own
            self._kept = CachedProgram(
                known, own, CapturedGraph(program, batch) if self.settings.cuda_graph else program, network
            )
        if self._kept.holds is not network:
            for mine, its in zip(self._kept.network.state_dict().values(), network.state_dict().values(), strict=True):
                mine.copy_(its)
            self._kept.holds = network
        return self._kept.program(batch)


@dataclass
class CachedProgram:
    """What was made of a network of its own, whose tensors are, for now, those that `holds` has."""

    key: Hashable
    network: nn.Module
    program: Program
    holds: nn.Module


class _Cast(nn.Module):
    """A plain network in another precision, for images in single precision."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.to(self.dtype))
        return logits


def _compiled(network: nn.Module, batch: Tensor) -> Program:
    """torch.compile, which compiles when it is first called. Raises UnavailableError where it cannot."""
    try:
        program: Program = torch.compile(network, dynamic=False, fullgraph=True)  # all of it or nothing
        program(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # as all of the compiler's own errors are
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"torch.compile failed ({reason}); it needs a C++ compiler on CPUs and Triton on GPUs: leave out --compile"
        ) from error
    return program


class CapturedGraph:
    """The kernels of one forward pass on a GPU, recorded once; a replay has no cost on the CPU but its own launch."""

    def __init__(self, program: Program, batch: Tensor) -> None:
        self._input = batch.clone()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # compiling, and the libraries' own first calls, cannot be recorded
            for _ in range(3):
                program(self._input)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # others may pin memory meanwhile
            self._output = program(self._input)

    def __call__(self, batch: Tensor) -> Tensor:
        self._input.copy_(batch)
        self._graph.replay()
        return self._output.clone()  # the next replay overwrites it


class _OutOfMemory(UnavailableError):
    """What may fit with fewer images at once."""


@contextlib.contextmanager
def memory_of(device: torch.device, wanted: str = " for this network") -> Iterator[None]:
    """Raises UnavailableError where the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _OutOfMemory(f"{device} has no memory{wanted}") from error


def _may_run_out(device: torch.device) -> bool:
    """Whether too little memory is an error on this device that one can go on after; a CPU's system ends processes."""
    return device.type != "cpu"
