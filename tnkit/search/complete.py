"""Completion by search: the network, its ranks and the order of its modes by what is held out.

The array is reshaped (long modes are split into factors), and trains, rings and trees over several orders of the parts
are raced by their error on entries that are held out; the best grows bond by bond. Where an image is split along rows
and columns, orders that keep the coarse parts of both together, and the fine parts, are among those that are tried.

References: held-out growth as in Greedy-TN, arXiv 2008.05437; orders that mix the scales of all modes: Oseledets 2010,
doi:10.1137/090757861 (quantized trains).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.errors import OptionError, ShapeError
from tnkit.search.drive import run_objective
from tnkit.search.ladder import RankLadder
from tnkit.search.objective import Trial
from tnkit.search.observed import ObservedObjective
from tnkit.search.proposer import Proposer
from tnkit.solvers import StepInfo
from tnkit.tensorize import Tensorization, balanced_factors

__all__ = ["StructureSearch", "mixed_orders"]


@register
@dataclass(frozen=True, slots=True)
class StructureSearch(CompletionMethod):
    """Search for a network with held-out entries.

    Attributes:
        shape: a reshaping of the array, whose parts are in row-major order; by default modes are split into factors of
            about `part`.
        part: see `shape`.
        strategy: the search; by default `RankLadder` over the given order and `mixed_orders`.
        holdout: share of the observed entries that is held out.
        sample: entries of the fits of the race at the most; the best is fitted to all.

    Example:
        >>> import numpy as np, tnkit as tk
        >>> i, j = np.ogrid[:16, :16]
        >>> x = np.sin(i / 3.0) * np.cos(j / 4.0) + 0.1 * i
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.6
        >>> done = tk.complete(x, mask=mask, method="search")
        >>> done.heldout_error < 1e-2, done.tensor.shape
        (True, (16, 16))
    """

    shape: tuple[int, ...] | None = None
    part: int = 8
    strategy: Proposer | None = None
    holdout: float = 0.1
    sample: int = 60_000
    name: ClassVar[str] = "search"
    formats: ClassVar[bool] = False
    summary: ClassVar[str] = "trains, rings and trees over split and reordered modes, raced by their held-out error"

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            ShapeError: a shape of another number of entries.
            OptionError: fewer than two parts above 1.
        """
        obs, rng = problem.observations, problem.rng
        plan, owners = self.split(obs.shape)
        control = problem.control
        objective = ObservedObjective(
            obs, plan, rng=rng, control=replace(control, progress=None), holdout=self.holdout, sample=self.sample
        )
        strategy = self.strategy or RankLadder(orders=mixed_orders(owners))
        history: list[StepInfo] = []

        def heard(trial: Trial) -> None:
            last = history[-1].elapsed_s if history else 0.0
            history.append(StepInfo(len(history) + 1, trial.error, last + trial.seconds))
            if control.progress is not None:
                control.progress(history[-1])

        found = run_objective(objective, strategy, heard=heard)
        best, status = found.best, found.status
        best = objective.with_all_entries(best)
        tensors, train = objective.refit(best)
        layout = objective.layout(best.graph)
        return CompletionFit(
            objective.unscaled(tensors), None, best.error, train, status, tuple(history), layout=layout
        )

    def split(self, shape: tuple[int, ...]) -> tuple[Tensorization, tuple[int, ...]]:
        """The plan, and the mode of the array that each part is of (its own number, where that is not known)."""
        if self.shape is not None:
            if prod(self.shape) != prod(shape):
                raise ShapeError(f"StructureSearch(shape={self.shape}) has not the entries of an array of {shape}.")
            parts, owners = self.shape, _owners(shape, self.shape)
        else:
            factors = [_factors(n, self.part) for n in shape]
            parts = tuple(n for group in factors for n in group)
            owners = tuple(k for k, group in enumerate(factors) for _ in group)
        used = [k for k, n in enumerate(parts) if n > 1]
        if len(used) < 2:
            raise OptionError(f"A search over networks needs two parts above 1; an array of {shape} gives {parts}.")
        return Tensorization.start(shape).reshape([parts[k] for k in used]), tuple(owners[k] for k in used)


def mixed_orders(owners: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Orders of the parts: as given, by scale from coarse to fine, and by scale from fine to coarse.

    Args:
        owners: the mode of each part; parts of a mode are given from coarse to fine.

    Example:
        >>> mixed_orders((0, 0, 1, 1, 2))
        ((0, 1, 2, 3, 4), (0, 2, 4, 1, 3), (1, 3, 4, 0, 2), (0, 1, 3, 2, 4))
    """
    groups = [[k for k, owner in enumerate(owners) if owner == mode] for mode in dict.fromkeys(owners)]
    depth = max(map(len, groups))
    coarse = tuple(group[j] for j in range(depth) for group in groups if j < len(group))
    fine = tuple(group[-1 - j] for j in range(depth) for group in groups if j < len(group))
    # there and back: the fine parts of one mode beside those of the next
    folded = tuple(k for place, group in enumerate(groups) for k in (group if place % 2 == 0 else group[::-1]))
    return tuple(dict.fromkeys((tuple(range(len(owners))), coarse, fine, folded)))


def _factors(n: int, part: int) -> tuple[int, ...]:
    """Near-equal factors of about a size, where there are some."""
    best: tuple[int, ...] = (n,)
    for count in range(2, 12):
        found = tuple(balanced_factors(n, count))
        if min(found) < 2:
            break
        best = found
        if max(found) <= part:
            break
    return best if max(best) < n else (n,)


def _owners(shape: tuple[int, ...], parts: tuple[int, ...]) -> tuple[int, ...]:
    """The mode that each part is of; a part that spans several is its own."""
    owners, mode, left = [], 0, shape[0]
    for n in parts:
        while left == 1 and mode + 1 < len(shape):
            mode, left = mode + 1, shape[mode + 1]
        if n > 0 and left % n == 0:
            owners.append(mode)
            left //= n
        else:
            return tuple(range(len(parts)))
    return tuple(owners)
