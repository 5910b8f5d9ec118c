"""fattorib/ResNets-CIFAR10: ResNets with three stages, each with a module `final_block` as its last block.

The files also hold tensors that the network does not use.
"""

from __future__ import annotations

from pyramidzoo.catalog.architectures import Architecture
from pyramidzoo.checkpoints.signatures import COUNTER, Signature
from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import IMAGENET_CONSTANTS

# The foreign names of modules, by their names in the zoo.
_STEM_AND_HEAD = {"conv1": "first_layer", "bn1": "bn", "fc": "fc"}
_STAGES = {"layer1": "first_block", "layer2": "second_block", "layer3": "third_block"}
_LAYERS = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}


def _get_foreign_name(name: str, architecture: Architecture) -> str:
    first_part, _, rest = name.partition(".")
    if first_part in _STEM_AND_HEAD:
        return f"{_STEM_AND_HEAD[first_part]}.{rest}"
    block, layer, tensor_name = rest.split(".")
    last_block = (architecture.arguments["depth"] - 2) // 6 - 1  # A network has 6 * blocks per stage + 2 layers.
    block_name = "final_block" if int(block) == last_block else f"residual_block.{block}"
    return f"{_STAGES[first_part]}.{block_name}.{_LAYERS[layer]}.{tensor_name}"


def _list_unused_tensors(architecture: Architecture) -> dict[str, Signature]:
    """Return the signatures of the tensors in a file that the network does not use.

    The project makes the blocks of a stage as copies of one block, `conv_block`, which stays in the
    state dict. Each stage also has a BN that is never called. These are 97,536 parameters at every
    depth.
    """
    unused: dict[str, Signature] = {}
    for stage, width, next_width in (("first_block", 16, 32), ("second_block", 32, 64), ("third_block", 64, 64)):
        for convolution in ("0", "3"):
            unused[f"{stage}.conv_block.{convolution}.weight"] = Signature("F32", (width, width, 3, 3))
        for norm, channels in (("conv_block.1", width), ("conv_block.4", width), ("bn", next_width)):
            for tensor_name in ("weight", "bias", "running_mean", "running_var"):
                unused[f"{stage}.{norm}.{tensor_name}"] = Signature("F32", (channels,))
            unused[f"{stage}.{norm}.{COUNTER}"] = Signature("I64", ())
    return unused


LAYOUT = Layout(
    name="fattorib",
    repository="fattorib/ResNets-CIFAR10",
    # Only this project's networks change the width in the last block of a stage.
    supports=lambda architecture: architecture.arguments.get("transition") == "last",
    get_foreign_name=_get_foreign_name,
    list_unused_tensors=_list_unused_tensors,
    preprocessing={"cifar10": IMAGENET_CONSTANTS},
)
