"""fattorib/ResNets-CIFAR10: three blocks of units, each ending in a `final_block`, and tensors that nothing reads."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import COUNTER, Signature
from pyramidzoo.convert._layout import IMAGENET_CONSTANTS, Layout

_TOP = {"conv1": "first_layer", "bn1": "bn", "fc": "fc"}
_BLOCKS = {"layer1": "first_block", "layer2": "second_block", "layer3": "third_block"}
_PARTS = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}


def _foreign_name(name: str, architecture: Architecture) -> str:
    top, _, rest = name.partition(".")
    if top in _TOP:
        return f"{_TOP[top]}.{rest}"
    unit, part, value = rest.split(".")
    last = (architecture.arguments["depth"] - 2) // 6 - 1
    place = "final_block" if int(unit) == last else f"residual_block.{unit}"
    return f"{_BLOCKS[top]}.{place}.{_PARTS[part]}.{value}"


def _unused(architecture: Architecture) -> dict[str, Signature]:
    """97,536 parameters at every depth: the template unit that each block copies its units from, and one more BN."""
    unused: dict[str, Signature] = {}
    for block, width, out in (("first_block", 16, 32), ("second_block", 32, 64), ("third_block", 64, 64)):
        for convolution in ("0", "3"):
            unused[f"{block}.conv_block.{convolution}.weight"] = Signature("F32", (width, width, 3, 3))
        for norm, channels in (("conv_block.1", width), ("conv_block.4", width), ("bn", out)):
            for value in ("weight", "bias", "running_mean", "running_var"):
                unused[f"{block}.{norm}.{value}"] = Signature("F32", (channels,))
            unused[f"{block}.{norm}.{COUNTER}"] = Signature("I64", ())
    return unused


LAYOUT = Layout(
    name="fattorib",
    repository="fattorib/ResNets-CIFAR10",
    supports=lambda row: row.arguments.get("transition") == "last",
    foreign_name=_foreign_name,
    unused=_unused,
    preprocessing={"cifar10": IMAGENET_CONSTANTS},
)
