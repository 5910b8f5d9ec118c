"""The child process of `unpickle`: SOURCE (a torch checkpoint) to OUTPUT (safetensors), nothing of pyramidzoo in it.

On failure the last line of stderr is {"error": reason, "disk": whether the system and not the file is to blame} and
the status is 1.
"""

import errno
import json
import re
import sys
import tarfile
import zipfile
from pathlib import Path

MINIMUM = (2, 10)  # weights_only=True could be escaped before (CVE-2025-32434, CVE-2026-24747)


SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)
PICKLE, ZIP, GZIP = b"\x80", b"PK\x03\x04", b"\x1f\x8b"


class NotWritten(Exception):
    """The tensors are good, the disk is not."""


class NotACheckpoint(Exception):
    """The reason in words of its own: torch's would advise to open the file unsafely."""


def reason_for(error: Exception, source: Path) -> str:
    """What a file that torch refused is instead, and what to do about it."""
    with source.open("rb") as stream:
        head = stream.read(24)
    if not head:
        return "it is empty; download it again"
    if tarfile.is_tarfile(source):
        return (
            "it is a tar archive; unpack it and name the checkpoint in it (torch's own archives of before 2017 cannot "
            "be opened safely: look for a newer file)"
        )
    if head.startswith(GZIP):
        return "it is compressed with gzip; unpack it"
    if not head.startswith((PICKLE, ZIP)):
        return f"it is no torch file, it starts with {head!r}; download it again and see what its address answers"
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
    if head.startswith(ZIP) and not zipfile.is_zipfile(source):
        return "it is cut off; download it again"
    return "it is cut off or damaged; download it again"


def main(source: str, output: str) -> None:
    sys.path.pop(0)  # the folder of this file, whose modules must not pass for others
    import torch
    from safetensors.torch import save_file

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MINIMUM:
        raise ValueError(f"torch {torch.__version__} cannot open foreign pickles safely; 2.10 or newer can")
    torch.set_num_threads(1)
    try:
        with Path(source).open("rb") as stream:  # given a path, torch would go by its extension
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in SYSTEM:
            raise
        raise NotACheckpoint(reason_for(error, Path(source))) from error
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: object, path: str) -> None:
        if isinstance(value, torch.Tensor):
            if path in tensors:
                raise NotACheckpoint(f"two tensors are called {path}")
            tensors[path] = value.detach().clone().contiguous()
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(item, f"{path}.{key}" if path else str(key))

    collect(content, "")
    if not tensors:
        raise NotACheckpoint("it holds no tensors; name the file with the weights")
    try:
        save_file(tensors, output)
    except Exception as error:
        raise NotWritten(error) from error


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception as error:  # noqa: BLE001 (whatever a damaged pickle provokes becomes one line for the parent)
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, NotACheckpoint):
            reason = f"{type(error).__name__}: {reason}"
        disk = isinstance(error, NotWritten) or getattr(error, "errno", None) in SYSTEM
        print(json.dumps({"error": reason[:500], "disk": disk}), file=sys.stderr)
        sys.exit(1)
