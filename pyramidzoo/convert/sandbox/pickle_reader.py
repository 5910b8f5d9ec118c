"""The reader of torch checkpoints: it runs in the sandbox, and imports nothing of pyramidzoo."""

import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file as save

__all__ = ["read", "save"]

_MINIMUM = (2, 10)  # Before, files could run code in spite of weights_only=True (CVE-2025-32434, CVE-2026-24747).
_ZIP = b"PK\x03\x04"
_DEEPEST = 50  # dictionaries in each other; the checkpoint of a training has 4
_LONGEST = 500  # characters of a tensor's path
_CHUNK = 1 << 20  # bytes that are read at once


class NotACheckpointError(Exception):
    """The file cannot be read. The reason is in our words, because torch advises to open the file unsafely."""


class _TensorCollector:
    """Collects the tensors in nested dictionaries by their path, of at most `allowed` bytes together."""

    def __init__(self, allowed: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.allowed = allowed

    def collect(self, value: object, path: str = "", depth: int = 0) -> None:
        """Collect the tensors of a value; what is neither a tensor nor a dictionary is left out."""
        if isinstance(value, torch.Tensor):
            self._add(value, path)
        elif isinstance(value, dict):
            if depth > _DEEPEST:
                raise NotACheckpointError(f"dictionaries lie in each other more than {_DEEPEST} deep, or in themselves")
            for key, item in value.items():
                self.collect(item, f"{path}.{key}" if path else str(key), depth + 1)

    def _add(self, tensor: torch.Tensor, path: str) -> None:
        if path in self.tensors:
            raise NotACheckpointError(f"two tensors are called {path}")
        if len(path) > _LONGEST or not path.isprintable() or path == "__metadata__":
            raise NotACheckpointError(f"it holds a tensor called {path[:60]!a}, as no network's is")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise NotACheckpointError(
                f"{path} is sparse, quantized or without values; no network here has such tensors"
            )
        self.allowed -= tensor.numel() * tensor.element_size()  # A view may repeat one value a million times.
        if self.allowed < 0:
            raise NotACheckpointError("its tensors are many times larger than the file; it is damaged, or made to harm")
        self.tensors[path] = tensor.detach().clone().contiguous()


def read(source: Path, allowed: int) -> dict[str, torch.Tensor]:
    """Read the tensors in all dictionaries of a torch checkpoint.

    Args:
        source: The checkpoint.
        allowed: The largest number of bytes of all tensors together.

    Returns:
        The tensors by their path in the file, as "state_dict.conv1.weight".

    Raises:
        NotACheckpointError: The file is damaged, or holds something else.
        ValueError: This version of torch cannot open foreign files safely.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _MINIMUM:
        raise ValueError(f"torch {torch.__version__} cannot open foreign pickles safely; 2.10 or newer can")
    try:
        with source.open("rb") as stream:  # Given a path, torch would go by its extension.
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NotACheckpointError(_describe_failure(error, source)) from error
    _require_checksums(source)
    collector = _TensorCollector(allowed)
    collector.collect(content)
    if not collector.tensors:
        raise NotACheckpointError("it holds no tensors; name the file with the weights")
    return collector.tensors


def _describe_failure(error: Exception, source: Path) -> str:
    """What is wrong with a file that torch refused, and what to do about it."""
    if named := re.search(r"GLOBAL ([\w.]+)", str(error), re.ASCII):
        return (
            f"it holds objects ({named[1]}) beside tensors, numbers, lists and dictionaries, as a whole pickled "
            "network does, and objects of a file are not built here; where the code that made it runs, save the "
            "network's state_dict() alone"
        )
    if "Weights only load failed" in str(error):
        return (
            "its pickle is damaged, or holds more than tensors, numbers, lists and dictionaries; download it again, or "
            "save the network's state_dict() alone where the code that made it runs"
        )
    if _is_zip(source) and not zipfile.is_zipfile(source):
        return "it is cut off; download it again"
    return "it is cut off or damaged; download it again"


def _is_zip(source: Path) -> bool:
    with source.open("rb") as stream:
        return stream.read(len(_ZIP)) == _ZIP


def _require_checksums(source: Path) -> None:
    """Compare the checksum of every part of a newer checkpoint, which torch itself does not do."""
    if not _is_zip(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    while stream.read(_CHUNK):  # zipfile compares the checksum at the end.
                        pass
    except Exception as error:
        raise NotACheckpointError(
            f"its checksums say that it is damaged ({error}); download it again (where torch's set_crc32_options has "
            "turned them off, save it again with them)"
        ) from error
