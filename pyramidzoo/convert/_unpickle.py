"""The child process of `unpickle`: SOURCE (a torch checkpoint) to OUTPUT (safetensors), nothing of pyramidzoo in it.

On failure the last line of stderr is {"error": reason, "disk": whether the system and not the file is to blame} and
the status is 1.
"""

import errno
import json
import sys

MINIMUM = (2, 10)  # weights_only=True could be escaped before (CVE-2025-32434, CVE-2026-24747)


class NotWritten(Exception):
    """The tensors are good, the disk is not."""


def main(source: str, output: str) -> None:
    sys.path.pop(0)  # the folder of this file, whose modules must not pass for others
    import torch
    from safetensors.torch import save_file

    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MINIMUM:
        raise ValueError(f"torch {torch.__version__} cannot open foreign pickles safely; 2.10 or newer can")
    torch.set_num_threads(1)
    content = torch.load(source, map_location="cpu", weights_only=True)
    tensors: dict[str, torch.Tensor] = {}

    def collect(value: object, path: str) -> None:
        if isinstance(value, torch.Tensor):
            if path in tensors:
                raise ValueError(f"two tensors are called {path}")
            tensors[path] = value.detach().clone().contiguous()
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(item, f"{path}.{key}" if path else str(key))

    collect(content, "")
    if not tensors:
        raise ValueError("it holds no tensors")
    try:
        save_file(tensors, output)
    except Exception as error:
        raise NotWritten(error) from error


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception as error:  # noqa: BLE001 (whatever a damaged pickle provokes becomes one line for the parent)
        reason = (str(error).strip().splitlines() or [""])[0]
        system = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM)
        disk = isinstance(error, NotWritten) or getattr(error, "errno", None) in system
        print(json.dumps({"error": f"{type(error).__name__}: {reason}"[:500], "disk": disk}), file=sys.stderr)
        sys.exit(1)
