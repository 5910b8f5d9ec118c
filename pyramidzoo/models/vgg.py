"""Plain convolutional networks with BN (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks ...").

`features` is numbered as torchvision numbers it, so that its ImageNet networks load the same files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._interface import ImageClassifier, Stage

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class _Features(Stage):
    """All layers in one row, as torchvision has them; a unit ends with its pooling."""

    def units(self) -> Iterator[nn.Module]:
        ends = [index + 1 for index, layer in enumerate(self) if isinstance(layer, nn.MaxPool2d)]
        return (self[start:end] for start, end in itertools.pairwise((0, *ends)))


class _Vgg(ImageClassifier):
    """Five stages of conv3x3-BN-ReLU, each ended by 2x2 max pooling; `one_relu`: only each stage's first has a ReLU."""

    stem_name = "features.0"

    def __init__(
        self,
        *,
        stages: tuple[int, ...],
        conv_bias: bool,
        one_relu: bool = False,
        num_classes: int,
        in_chans: int,
        drop_rate: float,
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=_WIDTHS[-1], drop_rate=drop_rate)
        layers: list[nn.Module] = []
        channels = in_chans
        for stage, (count, width) in enumerate(zip(stages, _WIDTHS, strict=True)):
            for k in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=conv_bias), nn.BatchNorm2d(width)]
                if k == 0 or not one_relu:
                    layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
            name = f"features.{len(layers) - 1}"
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (stage + 1), "module": name})
        self.features = _Features(*layers)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def _complete(self, mode: Literal["fan_in", "fan_out"]) -> None:
        super()._complete(mode)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)


class CifarVgg(_Vgg):
    """VGG with BN on 32x32 images and one linear layer: 13 convolutions for depth 14 or 15, 16 for 17 or 19.

    `one_relu` is hysts' network before 2020-09-03, whose ReLUs of a stage bore one name, so that a stage had one, after
    its first BN.
    """

    def __init__(
        self,
        *,
        stages: tuple[int, int, int, int, int],
        conv_bias: bool = True,
        one_relu: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(
            stages=stages,
            conv_bias=conv_bias,
            one_relu=one_relu,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
        )
        self._complete("fan_out")
        for module in self.modules():
            if one_relu and isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)  # as hysts' networks of that time began


class ImageVgg(_Vgg):
    """VGG-11, 13, 16 or 19 with BN and three linear layers over a map of `pool` x `pool` pixels.

    224x224 images and 4096 `hidden` features in the paper; 1 and 512 in chenyaofo's CIFAR networks. `drop_rate` is the
    dropout after both hidden layers (the authors use 0.5). Raises ValueError for another depth.
    """

    classifier_name = "classifier.6"

    def __init__(
        self,
        *,
        depth: int,
        conv_bias: bool = True,
        pool: int = 7,
        hidden: int = 4096,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        if depth not in STAGES:
            raise ValueError(f"A VGG has no depth {depth}: one of {', '.join(map(str, STAGES))}")
        super().__init__(
            stages=STAGES[depth], conv_bias=conv_bias, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate
        )
        self.pool = pool
        self.head_hidden_size = hidden
        self.classifier = nn.Sequential(
            nn.Linear(_WIDTHS[-1] * pool * pool, hidden),
            nn.ReLU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(drop_rate),
        )
        self._complete("fan_out")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = F.adaptive_avg_pool2d(x, self.pool).flatten(1)
        for name, layer in self.classifier.named_children():
            if not (pre_logits and self.classifier_name.endswith(name)):
                x = layer(x)
        return x
