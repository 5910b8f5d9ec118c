"""The names of the layouts: whose names the tensors of a checkpoint from another project have.

Each layout is a module in `pyramidzoo.convert.layouts`. Those modules need torch; their names are here, so that
`--help` and the manifest do not.
"""

from __future__ import annotations

LAYOUTS = (
    "akamaster",
    "bearpaw",
    "chenyaofo",
    "dice",
    "dyhan",
    "fattorib",
    "ferles",
    "functional_zoo",
    "pytorchcv",
    "timm",
    "torch7",
    "torchvision",
    "zoo",
)
