"""The rank of a format that has one bond, from its tails and everything that is asked."""

from __future__ import annotations

from torch import Tensor

from tnkit.decompose.allowance import allowed2
from tnkit.decompose.base import Problem
from tnkit.linalg import rank_for_tail

__all__ = ["largest_rank", "one_rank"]


def largest_rank(problem: Problem) -> int:
    """The rank limit of the one bond: what is asked or admitted, and what the size allows."""
    cap = problem.max_ranks[0]
    limit = problem.target.max_params
    if limit is None:
        return cap
    base = problem.layout.n_params((1,))
    step = max(1, problem.layout.n_params((2,)) - base)  # every tensor of these formats is linear in its rank
    return max(1, min(cap, 1 + (limit - base) // step))


def one_rank(problem: Problem, s2: Tensor) -> int:
    """The smallest rank for eps within the limits, or the limit itself.

    Args:
        problem: with one bond.
        s2: squared singular values, summed over all blocks, descending, float64.
    """
    cap = min(largest_rank(problem), s2.numel())
    error2 = allowed2(problem)
    return cap if error2 is None else min(cap, rank_for_tail(s2, error2))
