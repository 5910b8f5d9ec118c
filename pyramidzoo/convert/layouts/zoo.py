"""The zoo's own names: state dicts of its networks, saved by whoever trained them. Any other layout comes first."""

from __future__ import annotations

from pyramidzoo.convert._layout import PLAIN_OR_WRAPPED, TRAINING_STATE, Layout

LAYOUT = Layout(
    name="zoo",
    repository="pyramidzoo",
    supports=lambda row: True,
    containers=PLAIN_OR_WRAPPED,
    beside=TRAINING_STATE,
    preprocessing={},
)
