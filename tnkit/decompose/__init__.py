"""Decomposition: one algorithm a file, each a registered `Method`; a rule that chooses; the true error."""

from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.choose import as_method, asked_for, choose_method, methods_for
from tnkit.decompose.measure import relative_error
from tnkit.decompose.matrix_svd import MatrixSVD
from tnkit.decompose.run import error_floor, run, scaled
from tnkit.decompose.tt_svd import TTSVD
from tnkit.decompose.tubal_svd import TSVD

__all__ = [
    "TSVD",
    "TTSVD",
    "Fit",
    "MatrixSVD",
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
