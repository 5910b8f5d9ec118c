"""pytorchcv's names for the zoo's networks, and which of its models have a published file."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytorchcv

from pyramidzoo.bench.pytorchcv_names import PytorchcvModel as Model
from pyramidzoo.bench.pytorchcv_names import describe_model as model
from pyramidzoo.bench.pytorchcv_names import split_dataset

__all__ = ["Model", "model", "published"]

# names that look like the zoo's families and are others: without BN, other stems, other data
_OTHERS = re.compile(r"vgg\d+|resnet[ad]\w*|\w+_cub|wrn20_10_(1|32)bit")


def published() -> list[str]:
    """Names of all models of the zoo's families that pytorchcv has a file for, by its own table."""
    table = Path(pytorchcv.__file__).parent / "models/common/model_metainfos.csv"
    families = re.compile(r"(se|sepre|pre)?res(net|next)(bc)?\d|senet|densenet|pyramidnet|wrn|shakeshake|(bn_)?vgg")
    with table.open(encoding="utf-8") as stream:
        names = [row["model_name"] for row in csv.DictReader(stream) if row["checksum"] != "NA"]
    return [name for name in names if families.match(name) and not _OTHERS.fullmatch(split_dataset(name)[0])]
