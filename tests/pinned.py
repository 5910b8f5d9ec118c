"""Today's behaviour, recorded from outside: what the tests in `test_pinned_*.py` share.

The expectations are JSON files in `tests/data/pinned/`. These tests use only what an outsider uses: the public names of
`pyramidzoo`, `hubconf.py`, timm's registry, the command line and files. So they stay as they are while the code inside
the package moves.

    PYRAMIDZOO_ORIGINS=... PYRAMIDZOO_DATA=... python tests/pinned.py --write

writes all expectations anew, in some minutes. CONTRIBUTING.md says when that is allowed. The diff of the JSON files is
what is reviewed.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib
import io
import json
import lzma
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXPECTATIONS = TESTS / "data" / "pinned"
SAMPLES = TESTS / "data" / "samples"
WRITE = "PYRAMIDZOO_TESTS_WRITE_PINNED"  # set: observations are written instead of compared

# What differs from one machine, version or day to the next. Its place and its type are compared, not its value.
_VARIES = {
    "command",
    "date",
    "device",
    "duration_seconds",
    "largest_difference",
    "seconds",
    "speed",
    "versions",
}
# Sentences for people: they may be worded anew.
_WORDS = {"detail", "error", "recorded_detail"}
_LINE = 420  # characters; what is shorter stands on one line of an expectations file
_ROWS = 12  # of a CSV table that are written down; a hash stands for the others


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as JSON; a failure shows what the command said."""
        assert self.code in (0, 3), self.err
        return json.loads(self.out)


class _Refusing(io.TextIOBase):
    """A standard output with a bug of its own."""

    def write(self, text: str) -> int:
        raise RuntimeError("this stream is broken")


def run(*arguments: object, stdout: str = "kept") -> Ran:
    """Run `python -m pyramidzoo ARGUMENTS` in this process, which saves the seconds of importing torch.

    `stdout` "none" is a closed stream, "broken" one that raises an error that nobody expects.
    """
    importlib.import_module("pyramidzoo")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    streams = {"kept": out, "none": None, "broken": _Refusing()}
    before = sys.argv, sys.stdout, sys.stderr
    code: object = "the command did not exit"
    sys.argv = ["pyramidzoo", *map(str, arguments)]
    sys.stdout, sys.stderr = streams[stdout], err  # type: ignore[assignment]
    try:
        runpy.run_module("pyramidzoo", run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code or 0
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    assert isinstance(code, int), code
    return Ran(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m pyramidzoo ARGUMENTS` as a process of its own, to be interrupted."""
    program = [sys.executable, "-m", "pyramidzoo", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(program, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **environment}, cwd=ROOT)


def stable(value: Any, places: Mapping[str, Path], key: str = "") -> Any:
    """A JSON document without what varies.

    What varies becomes its type in angle brackets. `places` are folders by the word that stands for them.
    """
    if key in _VARIES and value is not None:
        return type_of(value)
    if isinstance(value, dict):
        return {name: stable(part, places, name) for name, part in value.items()}
    if isinstance(value, list):
        return [stable(part, places, key if key in _WORDS else "") for part in value]
    if isinstance(value, str):
        if key in _WORDS and value:
            return "<text>"
        for word, folder in places.items():
            value = value.replace(str(folder), word)
    return value


def type_of(value: Any) -> Any:
    """The type of a JSON value in angle brackets, with the keys of an object and the number of items of a list."""
    if isinstance(value, dict):
        return {name: type_of(part) for name, part in value.items()}
    if isinstance(value, list):
        return [type_of(part) for part in value]
    if isinstance(value, (bool, type(None))):
        return value
    return "<text>" if isinstance(value, str) else "<number>"


def stable_csv(text: str, places: Mapping[str, Path], varies: Sequence[str] = ()) -> dict[str, Any]:
    """The header and the rows of CSV, without what varies; `varies` names more columns of that kind."""
    header, *rows = csv.reader(io.StringIO(text))
    cells = []
    for row in rows:
        assert len(row) == len(header), row
        found = {name: stable(cell, places, name) for name, cell in zip(header, row, strict=True)}
        # an empty cell is no value
        found |= {name: "<number>" for name in varies if found.get(name)}
        cells.append(["" if row[k] == "" else found[name] for k, name in enumerate(header)])
    shown: dict[str, Any] = {"header": header, "number of rows": len(cells), "rows": cells[:_ROWS]}
    if len(cells) > _ROWS:
        shown["sha256 of the other rows"] = sha256_of(cells[_ROWS:])
    return shown


def sha256_of(value: Any) -> str:
    """Hex digest of the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def same(document: str, name: str, observed: Any) -> None:
    """Require that an observation is the one in a file of expectations; the failure shows what differs.

    While expectations are written anew, write it down instead.
    """
    observed = json.loads(json.dumps(observed))
    if is_writing():
        _write(document, {**(_read(document) if _path(document).exists() else {}), name: observed})
        return
    wanted = _read(document)
    assert name in wanted, f"{_path(document).name} expects nothing of {name!r}; {__doc__}"
    if observed != wanted[name]:
        before, after = (text(value).splitlines() for value in (wanted[name], observed))
        lines = list(difflib.unified_diff(before, after, "expected", "observed", lineterm="", n=1))
        raise AssertionError(f"{document}.json, {name}:\n" + "\n".join(lines[:60]))


def names_in(document: str) -> list[str]:
    """The names of all expectations in a file, so that none stays there that nothing looks at."""
    return list(_read(document))


def is_writing() -> bool:
    return bool(os.environ.get(WRITE))


def text(value: Any, indent: int = 0) -> str:
    """JSON with sorted keys in which one name, signature or row is one line."""
    short = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if indent and len(short) <= _LINE and not _holds_objects(value):
        return short
    inner = " " * (indent + 1)
    if isinstance(value, dict) and value:
        parts = [f"{inner}{json.dumps(k, ensure_ascii=False)}: {text(value[k], indent + 1)}" for k in sorted(value)]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + text(part, indent + 1) for part in value) + "\n" + " " * indent + "]"
    return short


def _holds_objects(value: Any) -> bool:
    """Whether something with more than one level is inside, or a list of many names."""
    if isinstance(value, list):
        return len(value) > _ROWS or any(isinstance(part, dict) for part in value)
    return isinstance(value, dict) and any(isinstance(part, dict) and part for part in value.values())


def _path(document: str) -> Path:
    return EXPECTATIONS / f"{document}.json"


def _read(document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_path(document).read_text(encoding="utf-8"))
    return found


def _write(document: str, content: Mapping[str, Any]) -> None:
    EXPECTATIONS.mkdir(parents=True, exist_ok=True)
    _path(document).write_text(text(content) + "\n", encoding="utf-8")


# --- files of ours, as anybody reads and writes them ---


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the tensors of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return dict(opened.metadata() or {}), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def write_sealed(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with the hash over its content that prediction files and checkpoints have."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in metadata.items() if name != "content_sha256"}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, kept | seal(tensors, kept))


def seal(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hash over metadata, names, dtypes, shapes and values of all tensors, under its name in the metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    _add(tensors, digest)
    return {"content_sha256": digest.hexdigest()}


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """The `tensors_sha256` of a state dict, computed as the documentation of the weights says."""
    digest = hashlib.sha256()
    _add({name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}, digest)
    return digest.hexdigest()


def _add(tensors: Mapping[str, Any], digest: Any) -> None:
    import torch

    words = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {words[tensor.dtype]} {'x'.join(map(str, tensor.shape))}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def folder_hash(unit: Mapping[str, Any]) -> str:
    """The end of a result folder's name: a hash of all that the predictions in it depend on."""
    shared = {name: value for name, value in unit.items() if name not in ("start", "stop")}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:8]


def unpack(name: str, target: Path) -> Path:
    """Copy a sample to `target`; a name that ends in .xz is decompressed. Returns the copy."""
    content = (SAMPLES / name).read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(lzma.decompress(content) if name.endswith(".xz") else content)
    return target


def main() -> int:
    """Write all expectations anew, by running the tests."""
    if sys.argv[1:] != ["--write"]:
        print(__doc__, file=sys.stderr)
        return 2
    for variable in ("PYRAMIDZOO_ORIGINS", "PYRAMIDZOO_DATA"):
        if not os.environ.get(variable):
            print(f"{variable} is not set; without it some expectations cannot be observed", file=sys.stderr)
            return 2
    for path in EXPECTATIONS.glob("*.json"):
        path.unlink()
    files = [str(path) for path in sorted(TESTS.glob("test_pinned_*.py"))]
    everything = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow", *files]
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([before] if before else [])])
    environment = {**os.environ, WRITE: "1", "PYTHONPATH": path}
    return subprocess.run(everything, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
