"""The functions that `torch.hub.load` finds: one for each architecture, with the arguments of `create_model`.

>>> torch.hub.load("path/to/checkout", "resnet20_fattorib", source="local", pretrained=True)
"""

from pyramidzoo.factory import constructors as _constructors

# The packages that torch.hub requires to be installed before it calls one of the functions.
dependencies = ["torch", "torchvision", "huggingface_hub", "safetensors", "numpy", "tqdm"]

# torch.hub looks for the functions among the global names of this file.
globals().update(_constructors())
