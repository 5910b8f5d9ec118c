"""The reader of torch checkpoints. It runs in the sandbox's child process, and imports nothing of pyramidzoo."""

import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file as save

__all__ = ["read", "save"]

# With an older version of torch a file could run code in spite of weights_only=True (CVE-2025-32434,
# CVE-2026-24747).
_OLDEST_SAFE_TORCH = (2, 10)
_ZIP_START = b"PK\x03\x04"  # the first bytes of a zip archive
_MAX_DEPTH = 50  # of dictionaries in dictionaries; the checkpoint of a training has a depth of 4
_MAX_PATH_CHARACTERS = 500  # of a tensor's path
_CHUNK = 1 << 20  # bytes that are read at once


class NotACheckpointError(Exception):
    """The file cannot be read.

    The text is the reason, for the user. torch's own text is not used, because it advises to open
    the file without `weights_only=True`, so that the file could run code.
    """


class _TensorCollector:
    """Collects the tensors in nested dictionaries by their path, as "state_dict.conv1.weight".

    Attributes:
        tensors: The tensors that were collected so far, by their path.
        remaining_bytes: The number of bytes of tensors that may still be collected.
    """

    def __init__(self, allowed: int) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.remaining_bytes = allowed

    def collect(self, value: object, path: str = "", depth: int = 0) -> None:
        """Collect a tensor, or all tensors in a dictionary. Any other value is ignored."""
        if isinstance(value, torch.Tensor):
            self._add(value, path)
        elif isinstance(value, dict):
            if depth > _MAX_DEPTH:
                raise NotACheckpointError(
                    f"dictionaries lie in each other more than {_MAX_DEPTH} deep, or in themselves"
                )
            for key, item in value.items():
                self.collect(item, f"{path}.{key}" if path else str(key), depth + 1)

    def _add(self, tensor: torch.Tensor, path: str) -> None:
        if path in self.tensors:
            raise NotACheckpointError(f"two tensors are called {path}")
        if len(path) > _MAX_PATH_CHARACTERS or not path.isprintable() or path == "__metadata__":
            raise NotACheckpointError(f"it holds a tensor called {path[:60]!a}, as no network's is")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise NotACheckpointError(
                f"{path} is sparse, quantized or without values; no network here has such tensors"
            )
        # The size is computed before the copy, because a view with strides of 0 can show one value a
        # million times, and its copy would need the memory of a million values.
        self.remaining_bytes -= tensor.numel() * tensor.element_size()
        if self.remaining_bytes < 0:
            raise NotACheckpointError("its tensors are many times larger than the file; it is damaged, or made to harm")
        # Two tensors of a checkpoint may share memory, which a safetensors file does not allow.
        self.tensors[path] = tensor.detach().clone().contiguous()


def read(source: Path, allowed: int) -> dict[str, torch.Tensor]:
    """Read the tensors in all dictionaries of a torch checkpoint.

    Args:
        source: The checkpoint.
        allowed: The largest number of bytes that all tensors together may have.

    Returns:
        The tensors by their path in the file, as "state_dict.conv1.weight".

    Raises:
        NotACheckpointError: The file is damaged, holds no tensors, or holds other objects.
        ValueError: The installed version of torch cannot open pickles safely.
    """
    version = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if version < _OLDEST_SAFE_TORCH:
        raise ValueError(f"torch {torch.__version__} cannot open foreign pickles safely; 2.10 or newer can")
    try:
        with source.open("rb") as stream:  # If torch got a path, the file's extension would change how it reads it.
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NotACheckpointError(_describe_failure(error, source)) from error
    # `torch.load` does not compare the checksums in the zip archive. It is called first, because its messages about
    # files of other kinds are clearer.
    _require_checksums(source)
    collector = _TensorCollector(allowed)
    collector.collect(content)
    if not collector.tensors:
        raise NotACheckpointError("it holds no tensors; name the file with the weights")
    return collector.tensors


def _describe_failure(error: Exception, source: Path) -> str:
    """Say what is wrong with a file that torch refused, and what the user should do."""
    # torch's message names the class or function that the pickle asks for, as "GLOBAL models.ResNet".
    if match := re.search(r"GLOBAL ([\w.]+)", str(error), re.ASCII):
        return (
            f"it holds objects ({match[1]}) beside tensors, numbers, lists and dictionaries, as a whole pickled "
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
        return stream.read(len(_ZIP_START)) == _ZIP_START


def _require_checksums(source: Path) -> None:
    """Raise an error if a part of the checkpoint does not match its checksum, which torch does not check.

    Checkpoints since torch 1.6 are zip archives, which have a checksum for each part. Older ones
    have none.
    """
    if not _is_zip(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    while stream.read(_CHUNK):  # zipfile compares the checksum at the end of the part.
                        pass
    except Exception as error:
        raise NotACheckpointError(
            f"its checksums say that it is damaged ({error}); download it again (where torch's set_crc32_options has "
            "turned them off, save it again with them)"
        ) from error
