"""Foreign checkpoints into the zoo's safetensors files: one small key map per layout, strict in both directions."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyramidzoo.architectures import Architecture, architectures, get_architecture
from pyramidzoo.containers import (
    COUNTER,
    Description,
    check_finite,
    check_signatures,
    read_tensors,
    signatures,
    stored_signatures,
    tensors_sha256,
    write_tensors,
)
from pyramidzoo.convert._layout import Layout
from pyramidzoo.errors import IntegrityError, NotWritableError, UnavailableError, UsageError
from pyramidzoo.files import file_hash
from pyramidzoo.manifest import Preprocessing
from pyramidzoo.models import build

LAYOUTS = ("akamaster", "fattorib", "ferles")

_UNPICKLE_SECONDS = 600


@dataclass(frozen=True)
class Converted:
    """A finished conversion: where it is and the hashes that describe it."""

    path: Path
    description: Description
    sha256: str
    tensors_sha256: str


def get_layout(name: str) -> Layout:
    """The key map of that name. Raises UsageError."""
    if name not in LAYOUTS:
        raise UsageError(f"no layout is called {name!r}; the layouts are {', '.join(LAYOUTS)}")
    layout: Layout = importlib.import_module(f"pyramidzoo.convert.{name}").LAYOUT
    return layout


def convert_file(
    source: Path,
    destination: Path,
    *,
    layout: str,
    architecture: str,
    dataset: str,
    num_classes: int,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    origin_sha256: str | None = None,
    expected_tensors: str | None = None,
) -> Converted:
    """Convert a foreign checkpoint to a safetensors file that says what it holds.

    `arguments` are the network's beside the table's; `preprocessing` defaults to what the layout's authors trained with
    on that data set; `origin_sha256` is given where the caller has hashed the source already, `expected_tensors` where
    the content is known. `destination` is replaced as a whole, or left alone on any error. Raises UsageError for
    unknown names, IntegrityError where the checkpoint is damaged or is not that network.
    """
    key_map, row = get_layout(layout), get_architecture(architecture)
    if not key_map.supports(row):
        known = ", ".join(name for name, other in architectures().items() if key_map.supports(other))
        raise UsageError(
            f"layout {layout} is that of {key_map.repository}, which has no {architecture}; it has {known}"
        )
    if preprocessing is None:
        if dataset not in key_map.preprocessing:
            known = ", ".join(key_map.preprocessing)
            raise UsageError(
                f"{key_map.repository} trained on {known} only, so the normalisation of {dataset} weights is unknown; "
                "give --mean and --std"
            )
        preprocessing = key_map.preprocessing[dataset]
    if not source.is_file():
        raise UnavailableError(f"there is no file {source}")
    if destination.exists() and destination.samefile(source):
        raise UsageError(f"{destination} is the checkpoint itself; name another output")
    description = Description(
        architecture=architecture,
        arguments=dict(arguments or {}),
        dataset=dataset,
        num_classes=num_classes,
        preprocessing=preprocessing,
        layout=layout,
        origin_sha256=origin_sha256 or file_hash(source),
    )
    settings = {"num_classes": num_classes, "in_chans": preprocessing.input_size[0], **description.arguments}
    tensors = map_tensors(unpickle(source), key_map, row, settings=settings, what=str(source))
    content = tensors_sha256(tensors)
    if expected_tensors not in (None, content):
        raise IntegrityError(
            f"{source}: its tensors have sha256 {content}, the manifest says {expected_tensors}; please report this"
        )
    write_tensors(destination, tensors, description.to_metadata())
    return Converted(destination, description, file_hash(destination), content)


def map_tensors(
    checkpoint: Mapping[str, Tensor],
    layout: Layout,
    architecture: Architecture,
    *,
    settings: Mapping[str, Any],
    what: str,
) -> dict[str, Tensor]:
    """A foreign checkpoint's tensors under the zoo's names; every name, dtype, shape and value is checked.

    The foreign file must hold exactly what the key map names: the network's tensors and the layout's unused ones, which
    are dropped. Raises IntegrityError.
    """
    with torch.device("meta"):
        model = build(architecture, **settings)
    expected = stored_signatures(model)
    foreign = {name: layout.container + layout.foreign_name(name, architecture) for name in expected}
    unused = {layout.container + name: part for name, part in layout.unused(architecture).items()}
    check_signatures(
        signatures(checkpoint),
        {foreign[name]: part for name, part in expected.items()} | unused,
        what=f"{what} is not a {layout.name} checkpoint of {architecture.name} with {model.num_classes} classes",
        next_step="check --layout, --arch and --dataset",
    )
    tensors = {name: checkpoint[foreign[name]] for name in expected if foreign[name] in checkpoint}
    check_finite({name: t for name, t in tensors.items() if not name.endswith(COUNTER)}, what=what)
    return tensors


def unpickle(source: Path) -> dict[str, Tensor]:
    """All tensors of a torch checkpoint by their path in it ("state_dict.conv1.weight").

    A child process opens the pickle with weights_only=True, so that no object of the file is ever built in this one.
    Raises IntegrityError where the file cannot be read that way.
    """
    child = Path(__file__).with_name("_unpickle.py")
    with tempfile.TemporaryDirectory(prefix="pyramidzoo-") as folder:
        output = Path(folder) / "tensors.safetensors"
        try:
            done = subprocess.run(  # noqa: S603 (this interpreter, a file of this package, and two paths)
                [sys.executable, str(child), str(source), str(output)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_UNPICKLE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise IntegrityError(
                f"{source} could not be read within {_UNPICKLE_SECONDS} s; it was left alone"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot start a process to open {source}: {error.strerror or error}") from error
        if done.returncode:
            raise _failure(source, done)
        return read_tensors(output)


def _failure(source: Path, done: subprocess.CompletedProcess[str]) -> IntegrityError | UnavailableError:
    """What the child's last line says went wrong."""
    try:
        said = json.loads(done.stderr.strip().splitlines()[-1])
        reason, disk = str(said["error"]), bool(said["disk"])
    except (IndexError, ValueError, KeyError, TypeError):
        reason, disk = f"the reading process ended with status {done.returncode}", False
    if disk and reason.startswith("NotWritten"):
        return NotWritableError(
            f"cannot write the tensors of {source} to a temporary file ({reason.partition(': ')[2]}); name a folder "
            "with room in TMPDIR"
        )
    if disk:
        return UnavailableError(f"cannot read {source}: {reason}")
    return IntegrityError(f"{source} is not a readable torch checkpoint: {reason}")
