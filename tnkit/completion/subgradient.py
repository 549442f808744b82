"""Robust completion by sub-gradients from a small start: absolute errors, a rank that may be too large.

    min Σ_e w_e |x̂_e − y_e|

from small random tensors, with steps η_t = η₀ q^t along the sub-gradient scaled by its length. From a small start the
directions of the true tensor grow first and the superfluous ones hardly at all, so that neither gross errors (which
count by their sign alone) nor a rank that is too large do harm.

References: Ma, Fattahi 2023, JMLR 24 (sub-gradients with small initialisation and over-parametrisation),
arXiv:2202.08788; Charisopoulos et al. 2021, doi:10.1007/s10208-020-09490-9 (geometrically falling steps).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.factor_descent import Steps, fit_tensors, gradients, real_values, values_at
from tnkit.completion.observations import Observations
from tnkit.errors import OptionError
from tnkit.formats import Layout, random_tensors

__all__ = ["SubGradient"]

Tensors = tuple[Tensor, ...]


@register
@dataclass(frozen=True, slots=True)
class SubGradient(CompletionMethod):
    """Absolute errors by sub-gradients from a small start; any format, outliers among the entries.

    Attributes:
        small: root mean square of the values at the start, relative to the data.
        step: η₀, the length of the first step relative to the tensors' size at the scale of the data.
        last: the length of the last one by the first.
        max_steps: how many there are.
        holdout: share of the entries held out for the error and for ranks, and given back for the last steps.
        max_rank: where no rank is given, this is taken (less where the shape or the entries admit no more).

    The held-out error is the mean absolute one by that of zero.

    Raises:
        OptionError: numbers outside their ranges.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> rng = np.random.default_rng(0)
        >>> x = np.outer(rng.normal(size=30), rng.normal(size=25))
        >>> spoilt = np.where(rng.random(x.shape) < 0.1, 50.0, x)
        >>> done = complete(spoilt, "lowrank", mask=rng.random(x.shape) < 0.6, rank=2, method="subgradient")
        >>> bool(np.linalg.norm(np.asarray(done.tensor) - x) < 0.02 * np.linalg.norm(x))
        True
    """

    small: float = 1e-2
    step: float = 0.05
    last: float = 1e-4
    max_steps: int = 1500
    holdout: float = 0.1
    max_rank: int = 4
    name: ClassVar[str] = "subgradient"
    summary: ClassVar[str] = "absolute errors by sub-gradients from a small start: outliers, a rank that is too large"

    def __post_init__(self) -> None:
        self.steps.require("SubGradient")
        if not (0 < self.small <= 1 and 0 < self.step < 1 and 0 < self.last < 1):
            raise OptionError(f"{self!r}: small, step and last must be above 0 and at most 1.")

    @property
    def steps(self) -> Steps:
        """How long it runs: all steps, since they fall on a schedule."""
        return Steps(self.max_steps, 0.0, 1, self.holdout, self.max_rank, 0, 25)

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
        """
        layout = problem.layout
        assert layout is not None
        obs = real_values(problem.observations, self.name)
        ranks = problem.ranks or tuple(min(self.max_rank, cap) for cap in layout.caps)
        median = float(obs.values.abs().median()) or float(obs.values.abs().max()) or 1.0
        scaled = CompletionProblem(obs.with_values(obs.values / median), layout, ranks, problem.rng, problem.control)
        fit = fit_tensors(
            scaled, layout, lambda part: _Falling(self, layout, part, problem.rng), self.steps, _absolute(layout), False
        )
        assert fit.tensors is not None
        share = median ** (1 / len(fit.tensors))
        return CompletionFit(
            tuple(t * share for t in fit.tensors), None, fit.heldout_error, fit.train_error, fit.status, fit.history
        )


def _absolute(layout: Layout) -> Callable[[Tensors, Observations], float]:
    def error(tensors: Tensors, obs: Observations) -> float:
        w = 1.0 if obs.weights is None else obs.weights
        with torch.no_grad():
            off = (w * (values_at(layout, tensors, obs.indices) - obs.values).abs()).sum()
            size = (w * obs.values.abs()).sum()
        return float(off / size.clamp_min(1e-30))

    return error


@dataclass(frozen=True, slots=True, eq=False)
class _Falling:
    method: SubGradient
    layout: Layout
    obs: Observations
    rng: torch.Generator

    def start(self, ranks: tuple[int, ...], before: Tensors | None) -> Tensors:
        """Small random tensors."""
        drawn = random_tensors(self.layout, ranks, self.obs.values, self.rng)
        drawn = tuple(t / t.norm().clamp_min(1e-30) for t in drawn)
        size = float(values_at(self.layout, drawn, self.obs.indices).square().mean().sqrt())
        share = (self.method.small / max(size, 1e-30)) ** (1 / len(drawn))
        return tuple(t * share for t in drawn)

    def step(self, state: Tensors, number: int) -> Tensors:
        """One step of a given length, shared among the tensors by their sizes."""
        obs, method = self.obs, self.method
        w = 1.0 if obs.weights is None else obs.weights
        _, slopes = gradients(self.layout, state, obs.indices, lambda v: (w * (v - obs.values).abs()).mean())
        length = torch.stack([s.square().sum() for s in slopes]).sum().sqrt().clamp_min(1e-30)
        size = torch.stack([t.square().sum() for t in state]).sum().sqrt()
        eta = method.step * method.last ** ((number - 1) / max(1, method.max_steps - 1))
        return tuple(t - eta * size * s / length for t, s in zip(state, slopes, strict=True))

    def tensors(self, state: Tensors) -> Tensors:
        """The state is the network."""
        return state
