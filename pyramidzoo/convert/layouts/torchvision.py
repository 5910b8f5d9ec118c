"""pytorch/vision (torchvision): its names of tensors are those of the zoo, except in older files.

* Files of 2016 and 2017 have no batch counters.
* Files of DenseNets of 2017 have the names `denselayer1.norm.1` and `denselayer1.conv.1`, where
  today's names are `denselayer1.norm1` and `denselayer1.conv1`. torchvision's own loader renames
  them too.
* The V1 files of wide_resnet50_2 and wide_resnet101_2 hold float16. The values become float32,
  which holds them exactly, and the converted file has a remark about it.
"""

from __future__ import annotations

import re

from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_224, PLAIN_OR_WRAPPED, TRAINING_STATE

# A path in a file of 2017. Without the dot between its two groups it is today's path.
_DENSENET_PATH_OF_2017 = re.compile(r"(\.denselayer\d+\.(?:norm|relu|conv))\.(\d\.)")
# The architectures that torchvision has too, under the same names.
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
    supports=lambda architecture: architecture.name in SHARED_ARCHITECTURES,
    rename_old_path=lambda path: _DENSENET_PATH_OF_2017.sub(r"\1\2", path),
    allows_float16=True,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={"imagenet1k": IMAGENET_224},
)
