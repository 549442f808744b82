"""Hierarchical SVD: the hierarchical Tucker form of a dense array, leaves to root.

Reference: Grasedyck 2010, doi:10.1137/090764189; the error at given ranks is at most √(2d−3) times the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.hierarchical import fit_tree
from tnkit.registry import METHODS

__all__ = ["HTSVD"]


@dataclass(frozen=True, slots=True)
class HTSVD(Method):
    """Hierarchical SVD over the spec's dimension tree.

    Example:
        >>> import torch, tnkit as tk
        >>> tk.decompose(torch.ones(2, 3, 4, 5), "ht", eps=1e-3).ranks
        (1, 1, 1, 1, 1, 1)
    """

    name: ClassVar[str] = "ht_svd"
    formats: ClassVar[tuple[str, ...]] = ("ht",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "hierarchical SVD, direct and quasi-optimal, ranks chosen for all edges together"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: one split of the array, as far as it is reduced, for each edge."""
        return fit_tree(problem)


METHODS.register("ht_svd", HTSVD)
