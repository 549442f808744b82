"""TT-SVD: the tensor train of a dense array by successive projections.

References: Oseledets 2011, doi:10.1137/090752286; Röhrig-Zöllner, Thies & Basermann, arXiv:2102.00104, for its cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.peeling import flip
from tnkit.decompose.train_svd import Train, TrainLimits, fit_train
from tnkit.formats import Layout
from tnkit.registry import METHODS

__all__ = ["TTSVD", "train_problem"]


@dataclass(frozen=True, slots=True)
class TTSVD(Method):
    """TT-SVD for trains and TT matrices.

    By ranks the error is at most √(d−1) times the best, and reported from the energies that the cuts discard. With eps
    the ranks of all bonds are chosen together, for the fewest entries.

    Example:
        >>> import torch, tnkit as tk
        >>> x = torch.arange(24.0).reshape(2, 3, 4)
        >>> tk.decompose(x, "tt", eps=1e-5, method="tt_svd").tensor.ranks
        (2, 2)
    """

    name: ClassVar[str] = "tt_svd"
    formats: ClassVar[tuple[str, ...]] = ("tt", "ttm")
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "TT-SVD, direct and quasi-optimal: sketches and Gram matrices where they are certain"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: a few reads of the array and 2 N r flops where ranks are small."""
        layout = problem.layout
        x = _merged(problem.x, layout)
        train = train_problem(problem, x)
        cores = [core.contiguous() for core in train.cores]
        if _interleaved(layout):
            half = len(cores)
            shape = problem.x.shape
            cores = [
                core.reshape(core.shape[0], shape[k], shape[half + k], core.shape[2]) for k, core in enumerate(cores)
            ]
        return Fit(tuple(cores), known_error(problem, train.lost2, train.certain))


def train_problem(problem: Problem, x: Tensor) -> Train:
    """The train of `x`, which holds the problem's array with its modes merged to those of a chain."""
    limits = TrainLimits(problem.max_ranks, allowed2(problem), problem.target.max_params, floor2(problem))
    norm2 = problem.norm**2

    def cost(ranks: tuple[int, ...]) -> int:
        return problem.layout.n_params(ranks)

    if x.is_contiguous():
        return fit_train(x, limits, norm2, problem.rng, cost)
    turned = x.permute(*range(x.ndim - 1, -1, -1))
    if not turned.is_contiguous():
        return fit_train(x.contiguous(), limits, norm2, problem.rng, cost)
    back = TrainLimits(limits.caps[::-1], limits.error2, limits.max_params, limits.floor2)
    train = fit_train(turned, back, norm2, problem.rng, lambda ranks: cost(ranks[::-1]))
    return Train(flip(train.cores), train.lost2, train.certain)


def _interleaved(layout: Layout) -> bool:
    return layout.name == "ttm" and layout.static.get("order", "interleaved") == "interleaved"


def _merged(x: Tensor, layout: Layout) -> Tensor:
    """Row mode k beside column mode k, as one mode; the array itself for other chains."""
    if not _interleaved(layout):
        return x
    half = x.ndim // 2
    order: Sequence[int] = [k + side * half for k in range(half) for side in (0, 1)]
    sizes = [x.shape[k] * x.shape[half + k] for k in range(half)]
    return torch.permute(x, tuple(order)).reshape(sizes)


METHODS.register("tt_svd", TTSVD)
