"""What every model of the zoo promises, written once: timm's model interface, met natively."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BlockFactory = Callable[[int, int, int, int, int], nn.Module]


class Stage(nn.Sequential):
    """Units in order; in training each is recomputed in the backward pass where `grad_checkpointing` is set."""

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            for unit in self.units():
                x = _checkpointed(unit, x)
            return x
        for layer in self:
            x = layer(x)
        return x

    def units(self) -> Iterable[nn.Module]:
        """What is recomputed as a whole."""
        return self


class ImageClassifier(nn.Module):
    """Convolutional trunk, global average pooling, one linear classifier.

    A family fills in `forward_features` and names its parts alike: `conv1` (stem), `layer1`, `layer2`, ... (stages of
    residual units), `norm` (a last BN, if any) and `fc`. Families whose parts torchvision has named otherwise keep its
    names and say so: `stem_name`, `classifier_name`. Images are (N, in_chans, H, W) floats of any size that the
    strides allow; logits are (N, num_classes).
    """

    stem_name = "conv1"
    classifier_name = "fc"
    free_arguments = frozenset({"num_classes", "in_chans", "drop_rate"})  # all others make another graph

    def __init__(self, *, num_classes: int, num_features: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = _checked(num_classes)
        self.num_features = num_features
        self.head_hidden_size = num_features  # of the vector that the classifier reads
        self.head_drop_rate = checked_rate(drop_rate)
        self.grad_checkpointing = False
        self.preprocessing: Any = None  # that of the loaded weights, set by whoever loads them
        self.feature_info: list[dict[str, Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to the last feature map (N, num_features, h, w), after its normalisation."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map (N, num_features, h, w) to logits, or to the (N, head_hidden_size) vector in front of them."""
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        if self.head_drop_rate:
            x = F.dropout(x, self.head_drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def get_classifier(self) -> nn.Module:
        """The last layer: `nn.Linear`, or `nn.Identity` where num_classes is 0."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new, randomly initialised classifier in place, on the old one's device and dtype; 0 takes it away.

        `global_pool` is there for timm's sake and must be None or "avg". Raises ValueError.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; these networks are pooled by averaging")
        reference = next(self.get_classifier().parameters(), next(self.parameters()))
        self.num_classes = _checked(num_classes)
        self._set_classifier(reference.device, reference.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each residual unit in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter-name patterns, first layer to last, for layer-wise learning rates (timm's `group_matcher`)."""
        return {
            "stem": r"^conv1|^bn1",
            "blocks": r"^layer(\d+)" if coarse else [(r"^layer(\d+)\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _stages(self, x: Tensor) -> Tensor:
        """Run `layer1`, `layer2`, ... in order."""
        for name, stage in self.named_children():
            if not name.startswith("layer"):
                continue
            x = stage(x)
        return x

    def _add_stage(self, units: Iterable[nn.Module], *, channels: int, reduction: int) -> None:
        """Append the next `layerN`, and what its output is to whoever reads features."""
        name = f"layer{len(self.feature_info) + 1}"
        self.add_module(name, Stage(*units))
        self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": name})

    def _add_stages(
        self, counts: Sequence[int], widths: Sequence[int], unit: BlockFactory, *, channels: int, reduction: int
    ) -> None:
        """Stages of `counts` units at `widths` channels, the first unit of every stage but the first with stride 2.

        `unit(in_channels, out_channels, stride, stage, k)` makes unit k of a stage, the last of all with num_features
        channels; `channels` and `reduction` are the stem's.
        """
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
            units: list[nn.Module] = []
            for k in range(count):
                last = (stage, k) == (len(counts) - 1, count - 1)
                out = self.num_features if last else width
                units.append(unit(channels, out, 2 if stage > 0 and k == 0 else 1, stage, k))
                channels = out
            self._add_stage(units, channels=channels, reduction=reduction * 2**stage)

    def _complete(self, mode: Literal["fan_in", "fan_out"]) -> None:
        """Put the classifier last and give the convolutions He's initialisation, N(0, 2 / fan).

        BN at scale 1 and shift 0 and linear weights at U(-1/sqrt(in), 1/sqrt(in)) are PyTorch's defaults and Torch7's.
        """
        self._set_classifier()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")

    def _set_classifier(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        layer: nn.Module = nn.Identity()
        if self.num_classes:
            layer = nn.Linear(self.head_hidden_size, self.num_classes, device=device, dtype=dtype)
            nn.init.zeros_(layer.bias)
        parent, _, name = self.classifier_name.rpartition(".")
        setattr(self.get_submodule(parent), name, layer)


def checked_rate(drop_rate: float) -> float:
    """A probability of dropping. Raises ValueError outside [0, 1)."""
    if not 0.0 <= drop_rate < 1.0:
        raise ValueError(f"drop_rate is {drop_rate}; it must lie in [0, 1)")
    return drop_rate


def checked_choice(name: str, value: object, *choices: object) -> None:
    """Raises ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def _checked(num_classes: int) -> int:
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; 0 means no classifier, else it must be positive")
    return num_classes


def _checkpointed(unit: nn.Module, x: Tensor) -> Tensor:
    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _statistics_kept(unit)

    result: Tensor = checkpoint(unit, x, use_reentrant=False, context_fn=contexts)
    return result


@contextlib.contextmanager
def _statistics_kept(unit: nn.Module) -> Iterator[None]:
    """The second forward pass of a checkpointed unit must not update BN's running statistics a second time."""
    norms = [module for module in unit.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
