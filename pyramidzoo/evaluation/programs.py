"""Programs that compute logits faster than a plain call: compiled networks and CUDA graphs.

A program works for one shape of batches. Making it takes seconds, so it is kept for the next
weights of the same network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from pyramidzoo.errors import UnavailableError

Program = Callable[[Tensor], Tensor]


class CachedProgram:
    """A compiled or captured copy of a network, which can take over the tensors of other weights.

    The copy has tensors of its own, so that the loaded networks stay as they are.

    Attributes:
        key: Identifies the network and the shape of the batches that the program was made for.
    """

    def __init__(
        self, key: Hashable, network: nn.Module, batch: Tensor, *, compiled: bool, as_cuda_graph: bool
    ) -> None:
        """Copy a network and make the program of the copy.

        Args:
            key: Identifies the network and the shape of the batches.
            network: The network, on its device.
            batch: A batch of the shape that all batches will have.
            compiled: Whether to compile the copy.
            as_cuda_graph: Whether to capture the kernels of one forward pass.

        Raises:
            UnavailableError: The compiler failed.
        """
        self.key = key
        if compiled:
            # The compiler gives up after eight networks and then silently runs the network as it
            # is.
            torch.compiler.reset()
        with torch.inference_mode(False):  # Inference tensors could not be overwritten in place later.
            self._copy = copy.deepcopy(network)
        self._holds_tensors_of = network
        program: Program = compile_network(self._copy, batch) if compiled else self._copy
        self._program = CapturedGraph(program, batch) if as_cuda_graph else program

    def compute(self, network: nn.Module, batch: Tensor) -> Tensor:
        """Compute logits with the tensors of a network that has the same key.

        Args:
            network: The network whose tensors are used.
            batch: The images, in the shape that the program was made for.

        Returns:
            The logits.
        """
        if self._holds_tensors_of is not network:
            self._copy_tensors(network)
        return self._program(batch)

    def _copy_tensors(self, network: nn.Module) -> None:
        new_tensors = network.state_dict().values()
        for tensor, new_tensor in zip(self._copy.state_dict().values(), new_tensors, strict=True):
            tensor.copy_(new_tensor)
        self._holds_tensors_of = network


class CapturedGraph:
    """The kernels of one forward pass on a GPU, recorded once.

    A replay costs the CPU only one launch.
    """

    def __init__(self, program: Program, batch: Tensor) -> None:
        """Record the kernels that a program launches for a batch.

        Args:
            program: The program to record.
            batch: A batch of the shape that all batches will have.
        """
        self._input = batch.clone()
        # The compiler and the first calls of CUDA's libraries cannot be recorded, so the program
        # runs a few times first.
        warm_up_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up_stream):
            for _ in range(3):
                program(self._input)
        torch.cuda.current_stream().wait_stream(warm_up_stream)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may allocate pinned memory meanwhile; only "thread_local" allows it.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = program(self._input)

    def __call__(self, batch: Tensor) -> Tensor:
        """Replay the kernels for a batch, and return the output."""
        self._input.copy_(batch)
        self._graph.replay()
        return self._output.clone()  # The next replay overwrites the output.


def compile_network(network: nn.Module, batch: Tensor) -> Program:
    """Compile a network with torch.compile, for one shape of batches.

    Args:
        network: The network.
        batch: A batch of that shape. It is computed once, because torch.compile compiles at the
            first call.

    Returns:
        The compiled network.

    Raises:
        UnavailableError: torch.compile does not work here.
    """
    try:
        # With `fullgraph` the compiler fails if it cannot compile everything.
        program: Program = torch.compile(network, dynamic=False, fullgraph=True)
        program(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # The base class of all of the compiler's own errors.
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"torch.compile failed ({reason}); it needs a C++ compiler on CPUs and Triton on GPUs: leave out --compile"
        ) from error
    return program
