"""The zoo's own names: state dicts of its networks, saved by whoever trained them. Other layouts are tried before."""

from __future__ import annotations

from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import PLAIN_OR_WRAPPED, TRAINING_STATE

LAYOUT = Layout(
    name="zoo",
    repository="pyramidzoo",
    supports=lambda row: True,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={},
)
