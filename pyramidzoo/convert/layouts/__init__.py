"""One module for each layout: the way in which one project names and stores the tensors of its checkpoints."""

from __future__ import annotations

import importlib

from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.convert.layout import Layout
from pyramidzoo.errors import UsageError


def get_layout(name: str) -> Layout:
    """Return the layout with a name, as "timm". Its module is imported only now, because each import takes time.

    Raises:
        UsageError: There is no such layout. The message lists those that exist.
    """
    if name not in LAYOUTS:
        raise UsageError(f"no layout is called {name!r}; the layouts are {', '.join(LAYOUTS)}")
    layout: Layout = importlib.import_module(f"pyramidzoo.convert.layouts.{name}").LAYOUT
    return layout
