"""An array in a basis of each mode, found once for a whole search: every fit is one of the core, which is smaller.

What the bases miss is a small share of the error that is asked, so what the core's fit leaves is what counts. The size
of a graph stays that of the array's own modes.

Reference: Bro & Andersson, doi:10.1016/S0169-7439(98)00011-2, for CP; here for any graph.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from tnkit.decompose import Problem
from tnkit.decompose.compressed import Compressed, compress_for_error, smaller

__all__ = ["Reduced"]


class Reduced:
    """The core of an array, ready for the layout of any graph.

    Args:
        problem: the array with any layout over its modes.
        eps: the relative error that is asked; the bases miss a small share of it.

    Example:
        >>> import tnkit as tk, torch
        >>> from tnkit.search.graph import chain
        >>> from tnkit.search.objective import DenseObjective
        >>> from tnkit.solvers import Control
        >>> x = tk.random_format("tt", (9, 9, 9, 9), 2, rng=0).to_dense()
        >>> gen = torch.Generator().manual_seed(0)
        >>> objective = DenseObjective(x, float(x.norm()), eps=1e-3, max_params=None, rng=gen, control=Control())
        >>> tuple(objective.reduced.core.problem.x.shape)
        (2, 4, 4, 2)
    """

    def __init__(self, core: Compressed) -> None:
        self.core = core

    @staticmethod
    def of(problem: Problem, eps: float | None) -> Reduced | None:
        """The core; None where it is not smaller, or the eps is too small for it to be sure."""
        if not eps:
            return None
        core = compress_for_error(problem, eps, least=1)
        if core is None or core.goal(eps) <= 0:
            return None
        return Reduced(core)

    def within(self, problem: Problem) -> Compressed:
        """The core with a graph's layout."""
        small = replace(
            self.core.problem,
            layout=smaller(problem.layout, self.core.problem.x.shape),
            spec=problem.spec,
            target=problem.target,
        )
        return replace(self.core, problem=small, layout=problem.layout)

    @property
    def ratio(self) -> float:
        """How many times smaller the core is."""
        return prod(b.shape[0] for b in self.core.bases) / self.core.problem.x.numel()
