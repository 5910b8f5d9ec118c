"""Entry points of torch.hub: one for every architecture, with the arguments of `pyramidzoo.create_model`.

>>> torch.hub.load("path/to/checkout", "resnet20_fattorib", source="local", pretrained=True)
"""

from pyramidzoo.factory import constructors as _constructors

dependencies = ["torch", "torchvision", "huggingface_hub", "safetensors", "numpy", "tqdm"]

globals().update(_constructors())
