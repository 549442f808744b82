"""Robust completion: least squares again and again, with weights that leave gross outliers out.

Outliers are told by their residuals: r_e = y_e − x̂_e is set against the scale s = 1.4826 median |r|, which half of the
entries may spoil without moving it far. An entry counts with Tukey's weight

    w_e = (1 − (r_e / (c s))²)²  where |r_e| < c s, otherwise 0,

and the network is fitted again. The first fit sees the entries with outliers drawn in to the edge of the bulk (median
± c s of the values, winsorised), so that no single one dominates it; ranks are chosen anew until two rounds agree.

Where low rank does not describe the bulk, leaving out what does not fit would feed on itself. So some entries are kept
from all rounds, and the round counts whose errors there, cut off at c s of the first, are the smallest; and the status
says so where the bulk is not explained, since gross errors cannot be told from structure then.

References: Beaton, Tukey 1974, doi:10.1080/00401706.1974.10489171 (the weights); Holland, Welsch 1977,
doi:10.1080/03610927708827533 (iteratively reweighted least squares).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.als import CompletionALS
from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.holdout import split
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.formats import Layout
from tnkit.solvers import INTERRUPTED, TIME_LIMIT, Record, Status

__all__ = ["RobustALS", "robust_scale", "tukey_weights"]

#: The standard deviation of normal numbers by the median of their sizes.
NORMAL = 1.4826
#: The scale is not taken to be smaller than this share of the bulk of the values: rounding is no outlier.
FLOOR = 1e-6
#: Rounds end when no weight changes by more than this.
SETTLED = 0.05
#: Rounds at smaller ranks.
THINNED = 3
#: Share of the entries that are kept from all rounds.
ASIDE = 0.05
#: What the fit leaves of the bulk, relative to its spread, from which on nothing can be told.
UNCLEAR = 0.5
NOT_TOLD_APART = Status(
    "not_told_apart",
    False,
    "low rank explains little of the bulk of the values, so gross errors cannot be told from structure; for pictures "
    'use method="robust_tubal", or method="auto" if there are no gross errors',
)


@register
@dataclass(frozen=True, slots=True)
class RobustALS(CompletionMethod):
    """Alternating least squares that gross outliers among the observed entries do not spoil.

    Attributes:
        inner: the least squares of every round.
        cutoff: residuals beyond so many standard deviations do not count; 4.685 keeps 95 % of the efficiency of least
            squares where the noise is normal and there are no outliers.
        rounds: reweightings at the most.

    The held-out error that the fit tells is by the same weights, so it is that on entries which are no outliers. The
    observed entries of `Completion.filled` stay as they came, outliers too; `Completion.predict` and
    `Completion.tensor` are without them. Cost: that of `rounds` + 1 fits at the most.

    Raises:
        OptionError: a cutoff that is not above 1, or less than one round.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.outer(np.arange(1.0, 21.0), np.arange(1.0, 16.0))
        >>> spoilt, rng = x.copy(), np.random.default_rng(0)
        >>> spoilt[rng.random(x.shape) < 0.1] += 1000.0
        >>> done = complete(spoilt, "lowrank", mask=rng.random(x.shape) < 0.6, rank=1, method="robust")
        >>> bool(np.abs(done.tensor.to_dense().numpy() - x).max() < 1e-6)
        True
    """

    inner: CompletionALS = field(default_factory=CompletionALS)
    cutoff: float = 4.685
    rounds: int = 8
    name: ClassVar[str] = "robust"
    summary: ClassVar[str] = "least squares again and again without the entries that do not fit (gross outliers)"

    def __post_init__(self) -> None:
        if not self.cutoff > 1 or self.rounds < 1:
            raise OptionError(
                f"RobustALS(cutoff={self.cutoff!r}, rounds={self.rounds!r}): cutoff must be above 1, and rounds 1 or "
                "more. Leave them out for the defaults."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class."""
        record = Record(problem.control)
        run = _Rounds(self, replace(problem, control=record.control))
        run.settle()
        if problem.ranks is None and run.status() is not NOT_TOLD_APART:
            run.thin()
        return replace(run.best, status=run.status(), history=tuple(record.steps))


class _Rounds:
    """One completion in progress.

    Attributes:
        obs: the entries that are fitted.
        test: those that are kept from all rounds.
        best: the fit whose errors on `test`, cut off, are the smallest.
        last: the fit of the last round.
    """

    def __init__(self, method: RobustALS, problem: CompletionProblem) -> None:
        assert problem.layout is not None
        self.method, self.problem, self.layout = method, problem, problem.layout
        held = split(problem.observations, ASIDE, problem.rng)
        self.obs = problem.observations if held is None else problem.observations.take(~held)
        self.test = self.obs if held is None else problem.observations.take(held)
        self.floor = FLOOR * _bulk(self.obs.values)
        self.best = self.last = method.inner.fit(replace(problem, observations=_winsorised(self.obs, method.cutoff)))

    def settle(self) -> None:
        """Fit, weigh by what it leaves, and fit again, until the weights have settled."""
        before_ranks: tuple[int, ...] | None = None
        weights, least, misses, edge = torch.ones_like(self.obs.values.real), float("inf"), 0, self.edge(self.last)
        for number in range(self.method.rounds + 1):
            ranks, loss = self.ranks(self.last), self.loss(self.last, edge)
            self.best, least, misses = (self.last, loss, 0) if loss <= least else (self.best, least, misses + 1)
            if number == self.method.rounds or misses > 1 or self.stopped:
                return
            before, weights = weights, self.weights(self.last)
            if float((weights - before).abs().max()) <= SETTLED:
                return
            asked = ranks if ranks == before_ranks else self.problem.ranks
            before_ranks = ranks
            self.refit(weights, asked)

    def thin(self) -> None:
        """Smaller ranks, as long as entries aside are met as well: larger ones may have bent to an outlier.

        Such an outlier, where few entries say what is right, is met by a rank too many and so never found; a smaller
        one misses it.
        """
        while not self.stopped and (most := max(self.ranks(self.best), default=1)) > 1:
            ranks = tuple(min(r, most - 1) for r in self.ranks(self.best))
            edge, found = self.edge(self.best), self.best
            allowed = self.loss(self.best, edge) * (1 + sqrt(2 / self.test.n))
            least, weights = float("inf"), self.weights(self.best)
            for _ in range(THINNED):
                self.refit(weights, ranks)
                before, loss = least, self.loss(self.last, edge)
                found, least = (self.last, loss) if loss < least else (found, least)
                if self.stopped or least > 0.9 * before:
                    break
                weights = self.weights(self.last)
            if least > allowed:
                return
            self.best = found

    def refit(self, weights: Tensor, ranks: tuple[int, ...] | None) -> None:
        """The next round."""
        self.last = self.method.inner.fit(replace(self.problem, observations=_weighted(self.obs, weights), ranks=ranks))

    def ranks(self, fit: CompletionFit) -> tuple[int, ...]:
        """Of a fit."""
        assert fit.tensors is not None
        return self.layout.ranks_of(fit.tensors)

    def weights(self, fit: CompletionFit) -> Tensor:
        """By what a fit leaves."""
        n_params = self.layout.n_params(self.ranks(fit))
        return tukey_weights(_missed(self.layout, fit, self.obs), self.method.cutoff, n_params, self.floor)

    def edge(self, fit: CompletionFit) -> float:
        """Where errors on the entries aside are cut off."""
        return self.method.cutoff * max(robust_scale(_missed(self.layout, fit, self.test)), self.floor)

    def loss(self, fit: CompletionFit, edge: float) -> float:
        """Mean square error on the entries aside, cut off."""
        return float(_missed(self.layout, fit, self.test).clamp_max(edge).square().mean())

    @property
    def stopped(self) -> bool:
        """Whether time has ended."""
        return self.last.status in (INTERRUPTED, TIME_LIMIT)

    def status(self) -> Status:
        """How it ended; whether outliers could be told."""
        if self.stopped:
            return self.last.status
        away = (self.test.values - _centre(self.test.values)).abs()
        spread = robust_scale(away) or float(away.square().mean().sqrt())
        left = robust_scale(_missed(self.layout, self.best, self.test))
        return NOT_TOLD_APART if left > max(UNCLEAR * spread, self.floor) else self.best.status


def robust_scale(residual: Tensor, n_params: int = 0) -> float:
    """The standard deviation of the bulk of some residuals, whatever the others are.

    Args:
        residual: (N,) sizes.
        n_params: numbers that were fitted to them: residuals are the smaller for it.

    Example:
        >>> import torch
        >>> round(robust_scale(torch.tensor([1.0, 1.0, 1.0, 1e9])), 4)
        1.4826
    """
    n = residual.shape[0]
    spared = max(n - n_params, n / 10)
    return NORMAL * sqrt(n / spared) * float(residual.median())


def tukey_weights(residual: Tensor, cutoff: float, n_params: int = 0, floor: float = 0.0) -> Tensor:
    """(N,) from 0 to 1: how much entries count by the sizes of their residuals.

    Args:
        residual: (N,) sizes.
        cutoff: in standard deviations; beyond it, entries count nothing.
        n_params: numbers that were fitted.
        floor: the standard deviation is not taken to be smaller.

    Example:
        >>> import torch
        >>> tukey_weights(torch.tensor([0.0, 1.0, 1.0, 1e9]), 4.0)[[0, 3]].tolist()
        [1.0, 0.0]
    """
    scale = max(robust_scale(residual, n_params), floor)
    if scale == 0:
        return (residual == 0).to(residual.dtype)
    return (1 - (residual / (cutoff * scale)).clamp_max(1).square()).square()


def _bulk(values: Tensor) -> float:
    """The size of the bulk of the values; of all where half are zero."""
    size = values.abs()
    middle = float(size.median())
    return middle if middle > 0 else float(size.max())


def _centre(values: Tensor) -> Tensor:
    """The median; of complex values that of either part."""
    return torch.complex(values.real.median(), values.imag.median()) if values.is_complex() else values.median()


def _missed(layout: Layout, fit: CompletionFit, obs: Observations) -> Tensor:
    """Sizes of what a fit leaves of some entries."""
    assert fit.tensors is not None
    return (obs.values - layout.build(fit.tensors).at(obs.indices)).abs()


def _winsorised(obs: Observations, cutoff: float) -> Observations:
    """Values drawn in to the edge of their bulk."""
    values, centre = obs.values, _centre(obs.values)
    away = values - centre
    most = cutoff * robust_scale(away.abs())
    if most == 0:
        return obs
    shrink = (most / away.abs().clamp_min(most)).to(values.real.dtype)
    return obs.with_values(centre + away * shrink)


def _weighted(obs: Observations, weights: Tensor) -> Observations:
    return obs.with_weights(weights if obs.weights is None else weights * obs.weights)
