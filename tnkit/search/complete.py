"""Completion by search: the network, its ranks and the order of its modes by what is held out.

The array is reshaped (long modes are split into factors), and trains, rings and Tucker tensors over several orders of
the parts are raced by their error on entries that are held out. Where an image is split along rows and columns, orders
that keep the coarse parts of both together, and the fine parts, are among those that are tried. The first ones are
fitted again from other starts, and one network is written for the mean of those that agree best with what is held out.

References: held-out growth as in Greedy-TN, arXiv 2008.05437; orders that mix the scales of all modes: Oseledets 2010,
doi:10.1137/090757861 (quantized trains).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import groupby
from math import inf, prod
from typing import ClassVar

from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.errors import OptionError, ShapeError
from tnkit.search.drive import ObjectiveResult, run_objective
from tnkit.search.families import FamilyRace
from tnkit.search.mean_network import is_small, is_sound, mean_of, one_network, soundest
from tnkit.search.objective import Trial
from tnkit.search.observed import ObservedObjective
from tnkit.search.proposer import Proposer
from tnkit.solvers import INTERRUPTED, Control, StepInfo
from tnkit.tensorize import Tensorization, balanced_factors

__all__ = ["StructureSearch", "merged_scales", "mixed_orders", "usual"]

_PARTS = (400, 130, 45, 20, 10, 6, 4, 3)  # of the observed entries: numbers at each rung
_RACE = 0.75  # share of the time after which what there is is fitted to all entries


@register
@dataclass(frozen=True, slots=True)
class StructureSearch(CompletionMethod):
    """Search for a network with held-out entries.

    Attributes:
        shape: a reshaping of the array, whose parts are in row-major order; by default modes are split into factors of
            about `part`.
        part: see `shape`.
        strategy: the search; by default `usual` over the given order and `mixed_orders`.
        holdout: share of the observed entries that is held out.
        sample: entries of the fits of the race at the most; the best is fitted to all.
        each: entries of such a fit at the most for each number of the graph.
        seconds: for all of it, where no time limit is given.
        workers: processes that fit; None for this one.
        mean: whether the answer may be one network for the mean of several; no array of more than 2²³ entries.

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
    each: int = 25
    seconds: float = 120.0
    workers: int | None = None
    mean: bool = True
    name: ClassVar[str] = "search"
    formats: ClassVar[bool] = False
    summary: ClassVar[str] = (
        "trains, rings and Tucker over split and reordered modes, raced by held-out error; one network for the mean"
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            OptionError: a share, a size, seconds or a strategy that is none.
        """
        if not 0 <= self.holdout < 1:
            raise OptionError(
                f"StructureSearch: holdout={self.holdout!r} is a share of the entries: from 0 to below 1."
            )
        if self.part < 2 or self.sample < 1 or self.each < 1 or not self.seconds > 0:
            raise OptionError(
                f"StructureSearch: part={self.part!r} must be 2 or more, sample={self.sample!r} and each={self.each!r} "
                f"1 or more, and seconds={self.seconds!r} above 0."
            )
        if self.shape is not None and any(n < 1 for n in self.shape):
            raise ShapeError(f"StructureSearch: shape={self.shape} has sizes below 1; give the size of each part.")
        if self.strategy is not None and not isinstance(self.strategy, Proposer):
            raise OptionError(
                f"StructureSearch: strategy={self.strategy!r} is no proposer. Give one, such as RankLadder() or "
                "GreedyTN(), or leave it out."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            ShapeError: a shape of another number of entries.
            OptionError: fewer than two parts above 1.
        """
        obs, rng = problem.observations, problem.rng
        plan, owners = self.split(obs.shape)
        control = problem.control if problem.control.deadline < inf else problem.control.within(self.seconds)
        quiet = replace(control, progress=None)
        racing = quiet.within(_RACE * (control.deadline - time.monotonic()))
        objective = ObservedObjective(
            obs, plan, rng=rng, control=racing, holdout=self.holdout, sample=self.sample, each=self.each
        )
        orders, merged = mixed_orders(owners, plan.out_shape), merged_scales(owners, plan.out_shape)
        strategy = self.strategy or usual(orders, obs.n, sum(plan.out_shape), merged)
        history: list[StepInfo] = []

        def heard(trial: Trial) -> None:
            last = history[-1].elapsed_s if history else 0.0
            history.append(StepInfo(len(history) + 1, trial.error, last + trial.seconds))
            if control.progress is not None:
                control.progress(history[-1])

        found = run_objective(objective, strategy, heard=heard, workers=self.workers)
        objective.control = quiet
        try:
            best, tensors = self.settled(objective, found, quiet)
            status = found.status
        except KeyboardInterrupt:
            best, tensors, status = found.best, found.best.tensors, INTERRUPTED
        train = objective.error(best.graph, tensors, obs)
        layout = objective.layout(best.graph)
        error = None if objective.held is objective.known else best.error  # nothing was held out
        return CompletionFit(objective.unscaled(tensors), None, error, train, status, tuple(history), layout=layout)

    def settled(
        self, objective: ObservedObjective, found: ObjectiveResult, control: Control
    ) -> tuple[Trial, tuple[Tensor, ...]]:
        """The best trial, or one network for the mean of several; and its tensors for all entries."""
        if found.status is INTERRUPTED:
            return found.best, found.best.tensors
        small = is_small(objective.shape)
        best = soundest(objective, found.tried) if small else found.best
        if self.mean and small and objective.held is not objective.known:
            mean = mean_of(objective, found.tried)
            if mean is not None:
                trial, tensors = one_network(objective, mean, control, max(objective.all.n, best.graph.n_params))
                if trial.error < best.error:
                    return trial, trial.tensors if tensors is None else tensors
        best = objective.with_all_entries(best)
        tensors = objective.refit(best)[0]
        return best, tensors if not small or is_sound(objective, best, tensors) else best.tensors

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


def usual(
    orders: tuple[tuple[int, ...], ...],
    entries: int,
    least: int,
    merged: tuple[tuple[tuple[int, ...], ...], ...] = (),
) -> Proposer:
    """Families of structures of growing size, raced; see `FamilyRace`.

    Args:
        orders: of the parts.
        entries: that are observed; sizes are parts of their number.
        least: the smallest size.
        merged: networks whose nodes hold several parts.
    """
    sizes = tuple(dict.fromkeys(max(round(entries / part), least) for part in _PARTS))
    return FamilyRace(orders, merged, sizes)


def mixed_orders(owners: tuple[int, ...], sizes: tuple[int, ...] = ()) -> tuple[tuple[int, ...], ...]:
    """Orders of the parts: as given, by scale from coarse to fine, and by scale from fine to coarse.

    Args:
        owners: the mode of each part; parts of a mode are given from coarse to fine.
        sizes: of the parts. Where no mode has two parts, equal neighbours are taken for two or three modes in parts.

    Example:
        >>> mixed_orders((0, 0, 1, 1, 2))
        ((0, 1, 2, 3, 4), (0, 2, 4, 1, 3), (1, 3, 4, 0, 2), (0, 1, 3, 2, 4))
        >>> mixed_orders((0, 1, 2, 3, 4), (8, 8, 8, 8, 3))
        ((0, 1, 2, 3, 4), (0, 2, 1, 3, 4))
    """
    groups = [[k for k, owner in enumerate(owners) if owner == mode] for mode in dict.fromkeys(owners)]
    guessed = [] if max(map(len, groups)) > 1 else [_shuffled(sizes, ways) for ways in (2, 3)]
    depth = max(map(len, groups))
    coarse = tuple(group[j] for j in range(depth) for group in groups if j < len(group))
    fine = tuple(group[-1 - j] for j in range(depth) for group in groups if j < len(group))
    # there and back: the fine parts of one mode beside those of the next
    folded = tuple(k for place, group in enumerate(groups) for k in (group if place % 2 == 0 else group[::-1]))
    return tuple(dict.fromkeys((tuple(range(len(owners))), coarse, fine, folded, *(g for g in guessed if g))))


def merged_scales(owners: tuple[int, ...], sizes: tuple[int, ...] = ()) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Nodes of several parts for trains and rings: all parts of a mode, or those of one scale, one of each mode.

    Args:
        owners: as for `mixed_orders`.
        sizes: as there.

    Returns:
        For each network the parts of each node; nothing where no mode has two parts and none can be guessed.

    Example:
        >>> merged_scales((0, 0, 1, 1, 2))
        (((4,), (0, 2), (1, 3)), ((0, 2), (1, 3), (4,)), ((4,), (0, 1), (2, 3)))
        >>> merged_scales((0, 1, 2, 3, 4), (8, 8, 8, 8, 3))
        (((4,), (0, 2), (1, 3)), ((0, 2), (1, 3), (4,)), ((4,), (0, 1), (2, 3)))
    """
    groups = [tuple(k for k, owner in enumerate(owners) if owner == mode) for mode in dict.fromkeys(owners)]
    found = [[group for group in groups if len(group) > 1]]
    if not found[0]:
        found = [_dealt(sizes, ways) for ways in (2, 3)]
    trains: list[tuple[tuple[int, ...], ...]] = []
    for split in found:
        depth = max(map(len, split), default=0)
        scales = [tuple(group[j] for group in split if j < len(group)) for j in range(depth)]
        alone = [(k,) for k in range(len(owners)) if not any(k in group for group in split)]
        if len(split) > 1:
            trains += [(*alone, *scales), (*scales, *alone), (*alone, *split)]
    return tuple(dict.fromkeys(trains))


def _dealt(sizes: tuple[int, ...], ways: int) -> list[tuple[int, ...]]:
    """The longest run of equal sizes cut into so many modes of two parts or more; nothing where that does not go."""
    runs = [tuple(k for k, _ in run) for _, run in groupby(enumerate(sizes), key=lambda pair: pair[1])]
    run = max(runs, key=len, default=())
    if len(run) < 2 * ways or len(run) % ways:
        return []
    depth = len(run) // ways
    return [run[way * depth : (way + 1) * depth] for way in range(ways)]


def _shuffled(sizes: tuple[int, ...], ways: int) -> tuple[int, ...]:
    """The longest run of equal sizes dealt out among so many modes, coarse beside coarse; () where there is none."""
    groups = _dealt(sizes, ways)
    if not groups:
        return ()
    dealt = [k for scale in zip(*groups, strict=True) for k in scale]
    return (*range(min(dealt)), *dealt, *range(max(dealt) + 1, len(sizes)))


def _factors(n: int, part: int) -> tuple[int, ...]:
    """Near-equal factors of about a size, where there are some and it is larger."""
    if n <= part:
        return (n,)
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
