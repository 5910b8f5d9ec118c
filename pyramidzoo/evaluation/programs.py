"""Programs that compute logits faster than a call of the network: compiled networks and CUDA graphs.

A program works only for batches of one shape. It takes seconds to make one. So a program is kept
and used again for other weights of the same network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from pyramidzoo.errors import UnavailableError

Program = Callable[[Tensor], Tensor]


class CachedProgram:
    """A copy of a network that is compiled or captured as a CUDA graph.

    The same program also computes other weights of the network: their tensors are copied into the
    tensors of the copy. The networks that the caller loaded are not changed.

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
            # Without this reset, the compiler compiles at most eight networks. It runs the next one uncompiled,
            # without an error.
            torch.compiler.reset()
        with torch.inference_mode(False):  # Inference tensors could not be overwritten in place later.
            self._copy = copy.deepcopy(network)
        self._source_of_tensors = network
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
        if self._source_of_tensors is not network:
            self._copy_tensors(network)
        return self._program(batch)

    def _copy_tensors(self, network: nn.Module) -> None:
        """Copy the tensors of another network into the tensors of the copy, which the program reads."""
        new_tensors = network.state_dict().values()
        for tensor, new_tensor in zip(self._copy.state_dict().values(), new_tensors, strict=True):
            tensor.copy_(new_tensor)
        self._source_of_tensors = network


class CapturedGraph:
    """A CUDA graph: the kernels of one forward pass, recorded once.

    To replay them, the CPU makes one launch instead of one for each kernel.
    """

    def __init__(self, program: Program, batch: Tensor) -> None:
        """Record the kernels that a program launches for a batch.

        Args:
            program: The program to record.
            batch: A batch of the shape that all batches will have.
        """
        self._input = batch.clone()
        # Two things cannot be recorded: the work of the compiler, and what CUDA's libraries do in their first
        # calls. So the program runs three times before it is recorded. CUDA wants another stream for this.
        warm_up_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm_up_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up_stream):
            for _ in range(3):
                program(self._input)
        torch.cuda.current_stream().wait_stream(warm_up_stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may allocate pinned memory during the capture. Only the mode "thread_local" allows that.
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
        batch: A batch of that shape. The network is called with it once, because torch.compile
            compiles in the first call.

    Returns:
        The compiled network.

    Raises:
        UnavailableError: torch.compile does not work here.
    """
    try:
        # With `fullgraph` the compiler raises an error if it cannot compile the whole network.
        program: Program = torch.compile(network, dynamic=False, fullgraph=True)
        program(batch)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # All errors of the compiler are of this class.
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"torch.compile failed ({reason}); it needs a C++ compiler on CPUs and Triton on GPUs: leave out --compile"
        ) from error
    return program
