"""fattorib/ResNets-CIFAR10: three stages, each with a `final_block` at its end, and tensors that nothing reads."""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import COUNTER, Signature
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_CONSTANTS

_TOP = {"conv1": "first_layer", "bn1": "bn", "fc": "fc"}
_STAGES = {"layer1": "first_block", "layer2": "second_block", "layer3": "third_block"}
_PARTS = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    top, _, rest = name.partition(".")
    if top in _TOP:
        return f"{_TOP[top]}.{rest}"
    block, part, value = rest.split(".")
    last = (architecture.arguments["depth"] - 2) // 6 - 1
    place = "final_block" if int(block) == last else f"residual_block.{block}"
    return f"{_STAGES[top]}.{place}.{_PARTS[part]}.{value}"


def _list_unused_tensors(architecture: Architecture) -> dict[str, Signature]:
    """97,536 parameters at every depth: each stage's template, from which its blocks are copied, and one more BN."""
    unused: dict[str, Signature] = {}
    for stage, width, out in (("first_block", 16, 32), ("second_block", 32, 64), ("third_block", 64, 64)):
        for convolution in ("0", "3"):
            unused[f"{stage}.conv_block.{convolution}.weight"] = Signature("F32", (width, width, 3, 3))
        for norm, channels in (("conv_block.1", width), ("conv_block.4", width), ("bn", out)):
            for value in ("weight", "bias", "running_mean", "running_var"):
                unused[f"{stage}.{norm}.{value}"] = Signature("F32", (channels,))
            unused[f"{stage}.{norm}.{COUNTER}"] = Signature("I64", ())
    return unused


LAYOUT = Layout(
    name="fattorib",
    repository="fattorib/ResNets-CIFAR10",
    supports=lambda row: row.arguments.get("transition") == "last",
    get_foreign_name=_get_foreign_name,
    list_unused_tensors=_list_unused_tensors,
    preprocessing={"cifar10": IMAGENET_CONSTANTS},
)
