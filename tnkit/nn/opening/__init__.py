"""Layers that hold several weights, opened into linear ones; importing this registers them."""

from tnkit.nn.opening.attention import OpenAttention
from tnkit.nn.opening.base import OPENINGS, Opening, opening_of
from tnkit.nn.opening.experts import OpenExperts
from tnkit.nn.opening.model import Opened, closed, is_open, opened, opened_layers
from tnkit.nn.opening.projection import owners, projection_input
from tnkit.nn.opening.recurrent import OpenGRU, OpenLSTM, OpenRNN

__all__ = [
    "OPENINGS",
    "OpenAttention",
    "OpenExperts",
    "OpenGRU",
    "OpenLSTM",
    "OpenRNN",
    "Opened",
    "Opening",
    "closed",
    "is_open",
    "opened",
    "opened_layers",
    "opening_of",
    "owners",
    "projection_input",
]
