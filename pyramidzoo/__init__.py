"""pyramidzoo: a pretrained model zoo of residual networks whose numbers anybody can check.

Example:
    >>> import pyramidzoo
    >>> model = pyramidzoo.create_model("resnet20_fattorib", weights="cifar10")

Every architecture is a function of this module too: `pyramidzoo.resnet20_fattorib(...)`. `import pyramidzoo` does not
import PyTorch, so it is quick. A module of the package is imported when one of its public names is used for the first
time.
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

# The module that defines each public name.
_DEFINING_MODULES = {
    "create_model": "pyramidzoo.factory",
    "eval_transform": "pyramidzoo.data.transforms",
    "get_weights": "pyramidzoo.factory",
    "list_models": "pyramidzoo.catalog.architectures",
    "list_weights": "pyramidzoo.factory",
    "optimize": "pyramidzoo.inference",
    "register_with_timm": "pyramidzoo.timm_adapter",
}
__all__ = sorted([*_DEFINING_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name or an architecture's function. Python calls this for names that this module lacks."""
    if name in _DEFINING_MODULES:
        return getattr(importlib.import_module(_DEFINING_MODULES[name]), name)
    from pyramidzoo.catalog.architectures import architectures

    if name in architectures():
        from pyramidzoo.factory import constructors

        return constructors()[name]
    raise AttributeError(f"module 'pyramidzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all names of this module for `dir(pyramidzoo)`, also those that `__getattr__` imports."""
    from pyramidzoo.catalog.architectures import architectures

    return sorted([*__all__, *architectures()])
