"""The models of pytorchcv that have a published file and belong to families of the zoo."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytorchcv

from pyramidzoo.bench.pytorchcv_names import PytorchcvModel, describe_model, split_dataset

_FAMILIES = re.compile(r"(se|sepre|pre)?res(net|next)(bc)?\d|senet|densenet|pyramidnet|wrn|shakeshake|(bn_)?vgg")
# These names look like families of the zoo, but the networks differ: they have no BN, another stem or other data.
_OTHER_NETWORKS = re.compile(r"vgg\d+|resnet[ad]\w*|\w+_cub|wrn20_10_(1|32)bit")


def list_published_models() -> list[PytorchcvModel]:
    """Return these models. pytorchcv's own table says which of its models have a file."""
    table = Path(pytorchcv.__file__).parent / "models/common/model_metainfos.csv"
    with table.open(encoding="utf-8") as stream:
        names = [row["model_name"] for row in csv.DictReader(stream) if row["checksum"] != "NA"]
    names = [name for name in names if _FAMILIES.match(name) and not _OTHER_NETWORKS.fullmatch(split_dataset(name)[0])]
    return [describe_model(name) for name in names]
