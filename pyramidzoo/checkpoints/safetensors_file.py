"""safetensors files: written as a whole, read strictly, hashed by content."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyramidzoo.catalog.preprocessing import Preprocessing
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError
from pyramidzoo.files import replacing
from pyramidzoo.json_records import InvalidRecordError, make_record, reject_duplicate_keys, require_hex

COUNTER = "num_batches_tracked"  # BN's batch counters: absent in old files, without effect at momentum 0.1

MAX_CLASSES = 1_000_000  # more is damage: no memory is taken for it
_SEAL = "content_sha256"
_LONGEST_HEADER = 16 << 20  # bytes; the longest of a network here is 0.6 MB, safetensors itself takes 100 MB
_LONGEST_NAME = 500  # characters
_DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Description:
    """What a file says of itself in its metadata, enough to build its network and to evaluate it.

    `layout` and `origin_sha256` tell what it was converted from; both are None where it was trained here.
    """

    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    num_classes: int
    preprocessing: Preprocessing
    layout: str | None
    origin_sha256: str | None

    def __post_init__(self) -> None:
        taken = self.arguments.keys() & {"num_classes", "in_chans", "weights", "pretrained"}
        if taken or not 0 < self.num_classes < MAX_CLASSES:
            raise InvalidRecordError(f"num_classes is {self.num_classes}, and arguments name {sorted(taken)}")
        if (self.layout is None) != (self.origin_sha256 is None):
            raise InvalidRecordError("layout and origin_sha256 belong together")
        if self.origin_sha256 is not None:
            require_hex(self.origin_sha256, 64)

    def to_metadata(self) -> dict[str, str]:
        # "format" is what timm, transformers and the Hub's viewer look for
        return {"format": "pt", "pyramidzoo": json.dumps(self._plain(), sort_keys=True)}

    def _plain(self) -> dict[str, Any]:
        shallow = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return shallow | {"arguments": dict(self.arguments), "preprocessing": dataclasses.asdict(self.preprocessing)}

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str] | None = None) -> Description | None:
        """The description in a safetensors file, or None where another program wrote it.

        `metadata` is the file's, where it was read already. Raises IntegrityError, UnavailableError.
        """
        text = (read_metadata(path) if metadata is None else metadata).get("pyramidzoo")
        if text is None:
            return None
        try:
            content = json.loads(text)
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in content["preprocessing"].items()}
            return make_record(cls, {**content, "preprocessing": make_record(Preprocessing, settings)})
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise IntegrityError(
                f"{path}: its metadata do not describe a network ({error}); convert it anew"
            ) from error


@dataclass(frozen=True)
class Content:
    """What a safetensors file holds."""

    path: Path
    metadata: Mapping[str, str]
    tensors: dict[str, Tensor]


class Signature(NamedTuple):
    """dtype (safetensors' name) and shape of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]"


def signature(tensor: Tensor) -> Signature:
    """The signature of a tensor on any device; a dtype that no network has keeps torch's name."""
    dtype = _DTYPES.get(tensor.dtype) or str(tensor.dtype).removeprefix("torch.")
    return Signature(dtype, tuple(tensor.shape))


def signatures(tensors: Mapping[str, Tensor]) -> dict[str, Signature]:
    """The signature of every tensor."""
    return {name: signature(tensor) for name, tensor in tensors.items()}


def stored_signatures(model: nn.Module) -> dict[str, Signature]:
    """What a file of this network holds: floats in float32, whatever PyTorch's default is in this process."""
    return {
        name: part._replace(dtype="F32") if part.dtype.startswith(("F", "BF")) else part
        for name, part in signatures(model.state_dict()).items()
    }


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Replace `path` with a safetensors file; the same tensors and metadata give the same bytes."""
    with replacing(path) as part:
        try:
            save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, part, dict(metadata))
            _sort_metadata(part)
        except SafetensorError as error:  # the library wraps the operating system's errors (disk full) in its own
            raise NotWritableError(f"cannot write {path}: {error}; nothing was left there") from error


def _sort_metadata(path: Path) -> None:
    """safetensors writes metadata in a random order; caches that several processes fill need equal bytes."""
    with path.open("rb+") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        stream.seek(8)
        stream.write(text.ljust(length))


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """`write_tensors` with a hash over everything in the file, for files that nothing else vouches for."""
    write_tensors(path, tensors, {**metadata, _SEAL: _seal(tensors, metadata)})


def read_sealed(path: Path) -> Content:
    """What `write_sealed` wrote. Raises IntegrityError where anything in the file is altered, UnavailableError."""
    content = read_content(path)
    metadata = {name: value for name, value in content.metadata.items() if name != _SEAL}
    if content.metadata.get(_SEAL) != _seal(content.tensors, metadata):
        raise IntegrityError(f"{path} is damaged: its content does not match its hash; delete it and run again")
    return Content(path, metadata, content.tensors)


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file. Raises IntegrityError, UnavailableError."""
    with _opened(path) as container:
        return dict(container.metadata() or {})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors, on the CPU. Raises IntegrityError, UnavailableError."""
    return read_content(path).tensors


def read_content(path: Path, *, header_checked: bool = False) -> Content:
    """Metadata and all tensors, which are a private map of the file. Raises IntegrityError, UnavailableError.

    `header_checked` says that `check_header` has passed this state of the file.
    """
    # older safetensors make their tensors on whatever device is the default; naming one costs a tenth of the reading
    elsewhere = torch.get_default_device().type != "cpu"
    with torch.device("cpu") if elsewhere else contextlib.nullcontext(), _opened(path) as container:
        if not header_checked:
            check_header(path)
        try:
            tensors = {name: container.get_tensor(name) for name in container.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            first = str(error).partition("\n")[0]
            raise IntegrityError(f"{path} holds a tensor that no network here has ({first})") from error
        return Content(path, dict(container.metadata() or {}), tensors)


def check_header(path: Path) -> None:
    """Require what safetensors itself does not: names that stand once, and can be printed.

    Raises IntegrityError, UnavailableError.
    """
    with _readable(path) as stream:
        length = _header_length(stream, path)
        try:
            header = json.loads(stream.read(length).decode(), object_pairs_hook=reject_duplicate_keys)
        except (ValueError, RecursionError) as error:
            raise _not_safetensors(path, f"its header: {error}") from error
    for name in header if isinstance(header, dict) else ():
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise _not_safetensors(path, f"it holds a tensor called {name[:60]!a}, as no network's is")


def check_signatures(
    found: Mapping[str, Signature], expected: Mapping[str, Signature], *, what: str, next_step: str
) -> None:
    """Require exactly the expected names, dtypes and shapes; batch counters may be absent.

    Raises IntegrityError, which names up to five of each kind of difference.
    """
    problems = []
    missing = sorted(name for name in expected.keys() - found.keys() if not name.endswith(COUNTER))
    unexpected = sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("different", wrong)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{kind}: {', '.join(names[:5])}{more}")
    if problems:
        raise IntegrityError(f"{what}: {'; '.join(problems)}; {next_step}")


def check_finite(tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Require that no value is NaN or infinite. Raises IntegrityError, which names the tensors."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise IntegrityError(f"{what}: NaN or infinite values in {', '.join(sorted(bad)[:5])}; the file is damaged")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; NaN is an extreme too, and finding those takes an eighth of isfinite's time."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of a state dict's content, whatever its container.

    Over the names in sorted order, batch counters left out: the line "name dtype AxBxC\\n" (safetensors' dtype name;
    an empty last word for a scalar), then the values in C order, little-endian.
    """
    digest = hashlib.sha256()
    _add({name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}, digest)
    return digest.hexdigest()


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    _add(tensors, digest)
    return digest.hexdigest()


def _add(tensors: Mapping[str, Tensor], digest: hashlib._Hash) -> None:
    """Names, signatures and values, in the order of the names."""
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        described = signature(tensor)
        digest.update(f"{name} {described.dtype} {'x'.join(map(str, described.shape))}\n".encode())
        digest.update(_little_endian_bytes(tensor))


def _little_endian_bytes(tensor: Tensor) -> bytes:
    raw = tensor.reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, tensor.element_size()).flip(1)
    return raw.numpy().tobytes()


def _opened(path: Path) -> safe_open:
    with _readable(path) as stream:  # safetensors says "no such file" of a file that may not be read
        _header_length(stream, path)
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _not_safetensors(path, str(error)) from error
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _readable(path: Path) -> BinaryIO:
    if not path.is_file():
        raise UnavailableError(f"{path} is a folder, not a file" if path.is_dir() else f"there is no file {path}")
    try:
        return path.open("rb")
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror or error}") from error


def _header_length(stream: BinaryIO, path: Path) -> int:
    """Bytes of the header, as the first eight say. Raises IntegrityError where no network needs so many."""
    length = int.from_bytes(stream.read(8), "little")
    if length > _LONGEST_HEADER:
        raise _not_safetensors(path, f"its header would have {length} bytes, more than {_LONGEST_HEADER}")
    return length


def _not_safetensors(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(f"{path} is not a readable safetensors file ({reason})")
