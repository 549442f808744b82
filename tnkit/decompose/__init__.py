"""Decomposition: one algorithm a file, each a registered `Method`; a rule that chooses; the true error."""

from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.choose import as_method, asked_for, choose_method, methods_for
from tnkit.decompose.measure import relative_error
from tnkit.decompose.run import error_floor, run, scaled

__all__ = [
    "Fit",
    "Method",
    "Problem",
    "Target",
    "as_method",
    "asked_for",
    "choose_method",
    "error_floor",
    "methods_for",
    "relative_error",
    "run",
    "scaled",
]
