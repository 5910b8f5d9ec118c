"""torch.hub entry points: one for every architecture of pyramidzoo, `pretrained=` and `weights=` included.

>>> torch.hub.load("path/to/checkout", "resnet20_fattorib", source="local", pretrained=True)
"""

from pyramidzoo.factory import constructors as _constructors

dependencies = ["torch", "torchvision", "huggingface_hub", "safetensors", "numpy", "tqdm"]

globals().update(_constructors())
