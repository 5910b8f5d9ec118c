"""The zoo's own names: state dicts that users of the zoo have saved from its networks.

When a checkpoint is recognised, this layout is used only if no other layout fits.
"""

from __future__ import annotations

from pyramidzoo.convert.layout import Layout
from pyramidzoo.convert.layouts._shared import PLAIN_OR_WRAPPED, TRAINING_STATE

LAYOUT = Layout(
    name="zoo",
    repository="pyramidzoo",
    supports=lambda architecture: True,
    state_dict_prefixes=PLAIN_OR_WRAPPED,
    ignored_prefixes=TRAINING_STATE,
    preprocessing={},
)
