"""The names of the layouts. A layout describes how one project names the tensors in its checkpoints.

The layout "torchvision", for example, is the module `pyramidzoo.convert.layouts.torchvision`. Those modules import
torch. The list of names is here, because `--help` and the manifest need the names but not torch.
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
