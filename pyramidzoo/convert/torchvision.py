"""pytorch/vision: names are the zoo's own; what needs care is the age of the files.

Those of 2016 and 2017 have no batch counters. DenseNets of 2017 say `denselayer1.norm.1` and `.conv.1` where today's
code says `norm1` and `conv1` (torchvision's own loader renames them). The V1 files of wide_resnet50_2 and
wide_resnet101_2 hold float16, which become float32: exactly, and noted in the converted file.
"""

from __future__ import annotations

import re

from pyramidzoo.architectures import Architecture
from pyramidzoo.convert._layout import IMAGENET_224, PLAIN_OR_WRAPPED, Layout

_OF_2017 = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")
_BUILDERS = ("ImageResNet", "ImageResNeXt", "ImageWideResNet", "ImageDenseNet")


def is_twin(row: Architecture) -> bool:
    """Whether torchvision's and timm's code builds this network."""
    if row.builder == "ImageVgg":
        return row.arguments.get("conv_bias", True) and row.arguments.get("pool", 7) == 7
    strided_3x3 = row.arguments.get("stride_in", "3x3") == "3x3"
    return row.builder in _BUILDERS and strided_3x3 and row.arguments.get("width", 2) == 2


LAYOUT = Layout(
    name="torchvision",
    repository="pytorch/vision",
    supports=is_twin,
    modern=lambda name: _OF_2017.sub(r"\1\2", name),
    half=True,
    containers=PLAIN_OR_WRAPPED,
    preprocessing={"imagenet1k": IMAGENET_224},
)
