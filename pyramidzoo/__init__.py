"""pyramidzoo: a pretrained model zoo of residual networks whose numbers anybody can check.

Example:
    >>> import pyramidzoo
    >>> model = pyramidzoo.create_model("resnet20_fattorib", weights="cifar10")

Every architecture is a function of this module too: `pyramidzoo.resnet20_fattorib(...)`. The module that a
public name comes from is imported when the name is used for the first time, so `import pyramidzoo` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyramidzoo.catalog.architectures import list_models as list_models
    from pyramidzoo.data.transforms import eval_transform as eval_transform
    from pyramidzoo.factory import create_model as create_model
    from pyramidzoo.factory import get_weights as get_weights
    from pyramidzoo.factory import list_weights as list_weights
    from pyramidzoo.inference import optimize as optimize
    from pyramidzoo.timm_adapter import register_with_timm as register_with_timm

__version__ = "0.1.0"

# Public names, and the modules that they come from.
_PUBLIC = {
    "create_model": "pyramidzoo.factory",
    "eval_transform": "pyramidzoo.data.transforms",
    "get_weights": "pyramidzoo.factory",
    "list_models": "pyramidzoo.catalog.architectures",
    "list_weights": "pyramidzoo.factory",
    "optimize": "pyramidzoo.inference",
    "register_with_timm": "pyramidzoo.timm_adapter",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    from pyramidzoo.catalog.architectures import architectures

    if name in architectures():
        from pyramidzoo.factory import constructors

        return constructors()[name]
    raise AttributeError(f"module 'pyramidzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    from pyramidzoo.catalog.architectures import architectures

    return sorted([*__all__, *architectures()])
