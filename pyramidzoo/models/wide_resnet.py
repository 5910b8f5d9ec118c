"""Wide residual networks on CIFAR and SVHN (Zagoruyko & Komodakis 2016, "Wide Residual Networks")."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pyramidzoo.models._blocks import PreActUnit, conv3x3
from pyramidzoo.models._contract import ImageClassifier


class WideResNet(ImageClassifier):
    """WRN-depth-width: conv3x3(16), three stages of n pre-activation units at 16, 32, 64 times `width`, BN-ReLU.

    Depth is 6n+4. `drop_rate` is the dropout between a unit's two convolutions, after the second BN-ReLU (the authors
    use 0.3 on CIFAR, 0.4 on SVHN). Where channels change, BN-ReLU feeds a bare conv1x1 shortcut too; elsewhere the raw
    input passes. Raises ValueError for other depths.
    """

    def __init__(
        self, *, depth: int, width: int, drop_rate: float = 0.0, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__(num_classes=num_classes, num_features=64 * width)
        n, rest = divmod(depth - 4, 6)
        if rest or n < 1:
            raise ValueError(f"A wide ResNet has no depth {depth}: it must be 6n+4 with n >= 1")
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}; it must lie in [0, 1)")
        self.conv1 = conv3x3(in_chans, 16)
        channels = 16
        for stage in range(3):
            out = 16 * 2**stage * width
            units: list[nn.Module] = []
            for k in range(n):
                stride = 2 if stage > 0 and k == 0 else 1
                units.append(PreActUnit(channels, out, stride=stride, shared=channels != out, drop_rate=drop_rate))
                channels = out
            self._add_stage(units, channels=out, reduction=2**stage)
        self.norm = nn.BatchNorm2d(channels)
        self._complete("fan_in")
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # Torch7's BN scale starts at U(0, 1), and the authors' PyTorch code writes it out
                nn.init.uniform_(module.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self._stages(self.conv1(x))))
