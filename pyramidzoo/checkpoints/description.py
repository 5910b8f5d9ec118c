"""The description of a network in the metadata of its safetensors file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramidzoo import json_records
from pyramidzoo.catalog.preprocessing import Preprocessing, make_preprocessing
from pyramidzoo.checkpoints.safetensors_file import read_metadata
from pyramidzoo.errors import IntegrityError

MAX_CLASSES = 1_000_000  # A file that says it has more is damaged. No memory is allocated for it.
_METADATA_KEY = "pyramidzoo"  # The description is the value of this key in the metadata.
# `create_model` sets these arguments itself, so a description must not name them as arguments of
# the network.
_RESERVED_ARGUMENTS = {"num_classes", "in_chans", "weights", "pretrained"}


@dataclass(frozen=True)
class Description:
    """The description of a network that its weights file holds: enough to build and to evaluate the network.

    Attributes:
        architecture: The name of the architecture, as "wrn_28_10".
        arguments: Further arguments of the network's class. They add to the arguments that the
            catalog of architectures has under the architecture's name, or replace them.
        dataset: The dataset that the network was trained on, as "cifar10".
        num_classes: The number of classes.
        preprocessing: How images are prepared for the network.
        layout: The layout that the file was converted from; None if the network was trained here.
        origin_sha256: The sha256 of the file that it was converted from; None if the network was
            trained here.
    """

    architecture: str
    arguments: Mapping[str, Any]
    dataset: str
    num_classes: int
    preprocessing: Preprocessing
    layout: str | None
    origin_sha256: str | None

    def __post_init__(self) -> None:
        reserved_names = self.arguments.keys() & _RESERVED_ARGUMENTS
        if reserved_names or not 0 < self.num_classes < MAX_CLASSES:
            raise json_records.InvalidRecordError(
                f"num_classes is {self.num_classes}, and arguments name {sorted(reserved_names)}"
            )
        if (self.layout is None) != (self.origin_sha256 is None):
            raise json_records.InvalidRecordError("layout and origin_sha256 belong together")
        if self.origin_sha256 is not None:
            json_records.require_hex(self.origin_sha256, 64)

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata with which a safetensors file holds this description."""
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content |= {"arguments": dict(self.arguments), "preprocessing": dataclasses.asdict(self.preprocessing)}
        # timm, transformers and the viewer of the Hugging Face Hub read "format"; "pt" means PyTorch.
        return {"format": "pt", _METADATA_KEY: json.dumps(content, sort_keys=True)}

    @classmethod
    def from_file(cls, path: Path, metadata: Mapping[str, str] | None = None) -> Description | None:
        """Read the description in a safetensors file.

        Args:
            path: The file.
            metadata: The file's metadata, if they were read already.

        Returns:
            The description. None if the metadata have none, because another program wrote the
            file.

        Raises:
            IntegrityError: The file or its description is damaged.
            UnavailableError: The file cannot be read.
        """
        text = (read_metadata(path) if metadata is None else metadata).get(_METADATA_KEY)
        if text is None:
            return None
        try:
            content = json.loads(text)
            # JSON has no tuples. `Preprocessing` has tuples where JSON has lists.
            preprocessing_fields = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in content["preprocessing"].items()
            }
            return json_records.make_record(cls, {**content, "preprocessing": make_preprocessing(preprocessing_fields)})
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
            raise IntegrityError(
                f"{path}: its metadata do not describe a network ({error}); convert it again"
            ) from error
