"""VGG with BN (Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition").

The layers of `features` have the same numbers as in torchvision, so torchvision's files for ImageNet
networks load without a conversion.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._interface import ImageClassifier, make_classifier
from pyramidzoo.models._stage import Stage

# The depth of a network, and the number of convolutions in each of its five stages.
CONVOLUTIONS_PER_STAGE = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
# Output channels of the convolutions in each of the five stages.
_STAGE_CHANNELS = (64, 128, 256, 512, 512)


class _Features(Stage):
    """All layers of the five stages in one sequence, as in torchvision."""

    def blocks(self) -> Iterator[nn.Module]:
        """Iterate over the five stages, each as a sequence of layers. Gradient checkpointing treats them as blocks."""
        stage_ends = [index + 1 for index, layer in enumerate(self) if isinstance(layer, nn.MaxPool2d)]
        return (self[start:end] for start, end in itertools.pairwise((0, *stage_ends)))


class _Vgg(ImageClassifier):
    """Five stages of conv3x3-BN-ReLU. Each stage ends with 2x2 max pooling.

    With `one_relu`, only the first convolution of each stage has a ReLU.
    """

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
        super().__init__(num_classes=num_classes, num_features=_STAGE_CHANNELS[-1], drop_rate=drop_rate)
        layers: list[nn.Module] = []
        channels = in_chans
        for stage, (convolution_count, width) in enumerate(zip(stages, _STAGE_CHANNELS, strict=True)):
            for index in range(convolution_count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=conv_bias))
                layers.append(nn.BatchNorm2d(width))
                if index == 0 or not one_relu:
                    layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
            name = f"features.{len(layers) - 1}"
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (stage + 1), "module": name})
        self.features = _Features(*layers)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, 512, H / 32, W / 32) of images (N, in_chans, H, W)."""
        return self.features(x)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Get the patterns by which timm divides the parameters into groups, see `ImageClassifier.group_matcher`."""
        return {"stem": r"^features\.0", "blocks": r"^features\.(\d+)"}

    def _zero_conv_biases(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)


class CifarVgg(_Vgg):
    """VGG with BN for 32x32 images: five stages and one linear layer.

    Args:
        stages: Number of convolutions in each stage: together 13 in "VGG-15", 16 in VGG-19.
        conv_bias: Whether convolutions have a bias.
        one_relu: Whether only the first convolution of each stage has a ReLU. So it was in hysts' code
            before 2020-09-03: all ReLUs of a stage had the same name, so only the first one existed.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout in front of the classifier.
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
        self.fc = make_classifier(_STAGE_CHANNELS[-1], num_classes)
        self._init_weights("fan_out")
        self._zero_conv_biases()
        for module in self.modules():
            if one_relu and isinstance(module, nn.BatchNorm2d):
                # hysts' code before 2020-09-03 drew the initial scale of each BN channel from U(0, 1).
                nn.init.uniform_(module.weight)


class ImageVgg(_Vgg):
    """VGG with BN for 224x224 images: five stages and three linear layers.

    chenyaofo's networks for 32x32 images have the same graph with smaller linear layers.

    Args:
        depth: 11, 13, 16 or 19.
        conv_bias: Whether convolutions have a bias.
        pool: Height and width of the map that the linear layers read, after average pooling: 7 in the
            paper, 1 in chenyaofo's networks.
        hidden: Output features of the first two linear layers: 4096 in the paper, 512 in chenyaofo's
            networks.
        num_classes: Number of classes.
        in_chans: Channels of the images.
        drop_rate: Probability of dropout after each of the first two linear layers (the authors use 0.5).

    Raises:
        ValueError: Nobody published a network of this depth.
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
        if depth not in CONVOLUTIONS_PER_STAGE:
            raise ValueError(
                f"A VGG has no depth {depth}; it must be one of {', '.join(map(str, CONVOLUTIONS_PER_STAGE))}"
            )
        super().__init__(
            stages=CONVOLUTIONS_PER_STAGE[depth],
            conv_bias=conv_bias,
            num_classes=num_classes,
            in_chans=in_chans,
            drop_rate=drop_rate,
        )
        self.pool = pool
        self.head_hidden_size = hidden
        self.classifier = nn.Sequential(
            nn.Linear(_STAGE_CHANNELS[-1] * pool * pool, hidden),
            nn.ReLU(),
            nn.Dropout(drop_rate),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(drop_rate),
            make_classifier(hidden, num_classes),
        )
        self._init_weights("fan_out")
        self._zero_conv_biases()

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify a feature map (N, 512, h, w), see `ImageClassifier.forward_head`."""
        x = F.adaptive_avg_pool2d(x, self.pool).flatten(1)
        for name, layer in self.classifier.named_children():
            # `classifier_name` ends with the number of the last layer. The vector in front of that layer is wanted.
            if pre_logits and self.classifier_name.endswith(name):
                break
            x = layer(x)
        return x
