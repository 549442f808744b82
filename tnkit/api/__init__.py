"""The front doors: decompose, complete, search, explain, error, round. No algorithm is here."""

from tnkit.api.decomposition import decompose
from tnkit.api.explanation import Explanation, explain
from tnkit.api.formats import error, round
from tnkit.api.searching import search
from tnkit.completion import complete

__all__ = ["Explanation", "complete", "decompose", "error", "explain", "round", "search"]
