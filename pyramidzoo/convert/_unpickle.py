"""What `_sandbox` does for `unpickle`: a torch checkpoint to named tensors, with nothing of pyramidzoo in it."""

import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file as save

__all__ = ["read", "save"]

_MINIMUM = (2, 10)  # weights_only=True could be escaped before (CVE-2025-32434, CVE-2026-24747)
_ZIP = b"PK\x03\x04"
_DEEPEST = 50  # dictionaries in each other; checkpoints of a training have 4

_LONGEST = 500  # characters of a tensor's path


class NotACheckpoint(Exception):
    """The reason in words of its own: torch's would advise to open the file unsafely."""


def _reason_for(error: Exception, source: Path) -> str:
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
    """Every part of a newer checkpoint has one, which torch itself does not look at. Raises NotACheckpoint."""
    if not _is_zip(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    while stream.read(1 << 20):
                        pass
    except Exception as error:
        raise NotACheckpoint(
            f"its checksums say that it is damaged ({error}); download it again (where torch's set_crc32_options has "
            "turned them off, save it again with them)"
        ) from error


def read(source: Path, allowed: int) -> dict[str, torch.Tensor]:
    """The tensors in all dictionaries of a checkpoint by their path, of at most `allowed` bytes together."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _MINIMUM:
        raise ValueError(f"torch {torch.__version__} cannot open foreign pickles safely; 2.10 or newer can")
    try:
        with source.open("rb") as stream:  # given a path, torch would go by its extension
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NotACheckpoint(_reason_for(error, source)) from error
    _require_checksums(source)
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: object, path: str, depth: int) -> None:
        nonlocal allowed
        if isinstance(value, torch.Tensor):
            if path in tensors:
                raise NotACheckpoint(f"two tensors are called {path}")
            if len(path) > _LONGEST or not path.isprintable() or path == "__metadata__":
                raise NotACheckpoint(f"it holds a tensor called {path[:60]!a}, as no network's is")
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise NotACheckpoint(f"{path} is sparse, quantized or without values; no network here has such tensors")
            allowed -= value.numel() * value.element_size()  # a view may name one value a million times
            if allowed < 0:
                raise NotACheckpoint("its tensors are many times larger than the file; it is damaged, or made to harm")
            tensors[path] = value.detach().clone().contiguous()
        elif isinstance(value, dict):
            if depth > _DEEPEST:
                raise NotACheckpoint(f"dictionaries lie in each other more than {_DEEPEST} deep, or in themselves")
            for key, item in value.items():
                collect(item, f"{path}.{key}" if path else str(key), depth + 1)

    collect(content, "", 0)
    if not tensors:
        raise NotACheckpoint("it holds no tensors; name the file with the weights")
    return tensors
