"""pytorch/vision: it has the zoo's names, but its older files differ.

* Files of 2016 and 2017 have no batch counters.
* DenseNets of 2017 say `denselayer1.norm.1` and `.conv.1` where today's code says `norm1` and
  `conv1`. torchvision's own loader renames them too.
* The V1 files of wide_resnet50_2 and wide_resnet101_2 hold float16. They become float32, which
  keeps the values exactly, and the converted file says so.
"""

from __future__ import annotations

import re

from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_224, PLAIN_OR_WRAPPED, TRAINING_STATE

_OF_2017 = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")
# The networks of the zoo that are torchvision's, under the same names.
SHARED_ARCHITECTURES = frozenset(
    (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("wide_resnet50_2", "wide_resnet101_2"),
        *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        *("densenet121", "densenet161", "densenet169", "densenet201"),
        *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    )
)


LAYOUT = Layout(
    name="torchvision",
    repository="pytorch/vision",
    supports=lambda row: row.name in SHARED_ARCHITECTURES,
    rename_old_path=lambda name: _OF_2017.sub(r"\1\2", name),
    allows_float16=True,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"imagenet1k": IMAGENET_224},
)
