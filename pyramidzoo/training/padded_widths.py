"""Train a PyramidNet with every number of channels rounded up to a multiple of 8.

Almost every block of a PyramidNet has another width, and most of these widths are no multiples of 8. Kernels for
bfloat16 are slow with such widths. The padded network is faster, and it computes what the plain network computes: the
channels of the plain network come first, and all channels behind them are zero.

Why the channels behind them stay zero: their weights, scales and shifts start as zero. A weight that reads such a
channel has the gradient zero, because the channel is zero. A weight that writes such a channel has the gradient zero,
because the scale of the BN behind it is zero. So SGD with momentum and weight decay leaves these values at zero. There
is one exception. A shortcut adds the last channels of a narrow map to real channels of a wider map. So the shifts of
the narrow map would get gradients, and `PaddedWidths` sets these gradients to zero.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyramidzoo.catalog.architectures import get_architecture
from pyramidzoo.models._interface import ImageClassifier
from pyramidzoo.models.pyramidnet import BasicBlock, Bottleneck

WIDTH_MULTIPLE = 8

PadWidths = Literal["auto", "on", "off"]


def can_pad_widths(architecture: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether a network can be trained with padded widths.

    Dropout would draw numbers for the added channels too. So the other channels would get other numbers than in the
    plain network.

    Args:
        architecture: Name of the architecture.
        arguments: The arguments that the recipe gives the network.
    """
    return get_architecture(architecture).family == "pyramidnet" and not arguments.get("drop_rate")


class PaddedWidths:
    """The widths of a network before and after they were rounded up. Making this object rounds them up.

    Args:
        network: The plain PyramidNet. Its parameters and buffers are replaced by larger ones. The values of the plain
            network become the first channels.
    """

    def __init__(self, network: ImageClassifier) -> None:
        self._true_shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        self._padded_shapes = {}
        for name, shape in self._true_shapes.items():
            # The classifier writes logits, and the stem reads images. Their numbers stay as they are.
            kept = {f"{network.classifier_name}.weight": 0, f"{network.stem_name}.weight": 1}.get(name)
            is_logits = name == f"{network.classifier_name}.bias"
            # The first two dimensions are channels. The other two are the height and the width of a kernel.
            self._padded_shapes[name] = torch.Size(
                size if is_logits or axis == kept or axis > 1 else round_up(size) for axis, size in enumerate(shape)
            )
        for name, module in network.named_modules():
            self._pad_module(name, module)
        # A shortcut fills up its channels to those of the branch. The channels of its input are the first ones of both.
        for block in network.modules():
            if isinstance(block, (BasicBlock, Bottleneck)):
                last_conv = block.conv2 if isinstance(block, BasicBlock) else block.conv3
                block.added_channels = last_conv.out_channels - block.conv1.in_channels
        network.num_features = network.head_hidden_size = round_up(network.num_features)

    def _pad_module(self, name: str, module: nn.Module) -> None:
        """Replace the parameters and buffers of one layer by larger ones."""
        for own_name, parameter in module.named_parameters(recurse=False):
            setattr(module, own_name, nn.Parameter(self.pad(f"{name}.{own_name}", parameter.detach())))
        for own_name, buffer in module.named_buffers(recurse=False):
            setattr(module, own_name, self.pad(f"{name}.{own_name}", buffer))
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.Linear):
            module.in_features = module.weight.shape[1]
        elif isinstance(module, nn.BatchNorm2d):
            true_width, module.num_features = module.num_features, len(module.bias)
            if module.num_features > true_width:
                clear_padding = functools.partial(_clear_gradient, first_channel=true_width)
                module.bias.register_post_accumulate_grad_hook(clear_padding)  # type: ignore[no-untyped-call]

    def pad(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the plain network in the shape of the padded network.

        Args:
            name: Name of the tensor in the network.
            tensor: Its values, in the shape of the plain network.

        Returns:
            A new tensor. The added values are zero; those of running variances are one, as in a new BN.
        """
        added_value = 1 if name.endswith(".running_var") else 0
        padded = tensor.new_full(self._padded_shapes[name], added_value)
        self.cut(name, padded).copy_(tensor)
        return padded

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """Return the part of a tensor of the padded network that the plain network has.

        Args:
            name: Name of the tensor in the network.
            tensor: Its values, or its momentum, in the shape of the padded network.

        Returns:
            A view of `tensor` in the shape of the plain network.
        """
        return tensor[tuple(slice(size) for size in self._true_shapes[name])]


def round_up(channels: int) -> int:
    """Round a number of channels up to a multiple of 8."""
    return -(-channels // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def _clear_gradient(shift: Tensor, first_channel: int) -> None:
    """Set the gradient of a shift to zero, from a channel on."""
    assert shift.grad is not None
    shift.grad[first_channel:].zero_()
