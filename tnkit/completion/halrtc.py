"""HaLRTC: the sum of the nuclear norms of the unfoldings, by ADMM. Truncated (LRTC-TNN), the largest values are spared.

    min Σ_n α ‖X_(n)‖_{r_n,*}   with X = M on the observed entries,

where ‖·‖_{r,*} sums the singular values after the first r = ⌈θ n⌉; θ = 0 is HaLRTC. A round:

    M_n = fold D_{α/ρ}(X_(n) + Y_n/ρ);  X = mean(M_n − Y_n/ρ) where missing;  Y_n += ρ (X − M_n);  ρ grows.

References: Liu, Musialski, Wonka, Ye 2013, doi:10.1109/TPAMI.2012.39; Chen, Yang, Sun 2020,
doi:10.1016/j.trc.2020.102673 (truncated).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked, compare_and_fit
from tnkit.completion.slices import shrink_matrix, top_value
from tnkit.errors import OptionError

__all__ = ["HaLRTC", "TruncatedNuclear"]


@register
@dataclass(frozen=True, slots=True)
class HaLRTC(CompletionMethod):
    """Nuclear norms of all unfoldings; real arrays of two and more modes. It gives a dense array and no format.

    Attributes:
        factor: by which ρ grows a round.
        tol: it ends when a round changes the array by less than this share.
        max_steps: rounds of a run.
        holdout: share of the observed entries held out for the error, then given back; 0 for none, in half the time.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.add.outer(np.sin(np.arange(20)), np.ones((15, 10))) + np.arange(10)
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=HaLRTC())
        >>> bool(np.linalg.norm(done.filled - x) < 1e-2 * np.linalg.norm(x))
        True
    """

    factor: float = 1.08
    tol: float = 1e-5
    max_steps: int = 200
    holdout: float = 0.1
    name: ClassVar[str] = "halrtc"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "nuclear norms of all unfoldings, convex; panels and other arrays without a rank"

    def __post_init__(self) -> None:
        """Refuse a factor that would not move ρ.

        Raises:
            OptionError: factor <= 1, or tol <= 0.
        """
        _require(self, self.factor, self.tol, self.holdout)

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 modes.
        """
        checked(problem.observations, self.name)
        makers = {"0": partial(_Unfoldings, theta=0.0, factor=self.factor)}
        return compare_and_fit(problem, makers, holdout=self.holdout, tol=self.tol, max_steps=self.max_steps)


@register
@dataclass(frozen=True, slots=True)
class TruncatedNuclear(CompletionMethod):
    """HaLRTC whose first ⌈θ n⌉ singular values of each unfolding are not shrunk; θ by held-out entries.

    Entries are held out in the manner in which they are missing (days, blocks, fibres or single ones). θ = 0, which is
    HaLRTC, is always among those compared.

    Attributes:
        thetas: what is compared.
        factor, tol, max_steps, holdout: as of `HaLRTC`. Without holdout the first θ is taken.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.add.outer(np.sin(np.arange(20)), np.ones((15, 10))) + np.arange(10)
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=TruncatedNuclear(thetas=(0.0, 0.1)))
        >>> bool(np.linalg.norm(done.filled - x) < 1e-2 * np.linalg.norm(x))
        True
    """

    thetas: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.3)
    factor: float = 1.08
    tol: float = 1e-5
    max_steps: int = 200
    holdout: float = 0.1
    name: ClassVar[str] = "truncated"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "nuclear norms that spare the largest singular values; traffic and other panels"

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            OptionError: no θ or one outside 0 … 1, factor <= 1, or tol <= 0.
        """
        _require(self, self.factor, self.tol, self.holdout)
        if not self.thetas or not all(0 <= theta < 1 for theta in self.thetas):
            raise OptionError(f"{self!r}: thetas must be one or more numbers of at least 0 and below 1.")

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 modes.
        """
        checked(problem.observations, self.name)
        makers = {str(theta): partial(_Unfoldings, theta=theta, factor=self.factor) for theta in self.thetas}
        return compare_and_fit(
            problem,
            makers,
            holdout=self.holdout,
            tol=self.tol,
            max_steps=self.max_steps,
            settle=lambda theta: replace(self, thetas=(float(theta),), holdout=0.0),
        )


def _require(method: CompletionMethod, factor: float, tol: float, holdout: float) -> None:
    if not (factor > 1 and tol > 0 and 0 <= holdout < 1):
        raise OptionError(f"{method!r}: factor must be above 1, tol above 0, holdout at least 0 and below 1.")


class _State(NamedTuple):
    """x: the array. y: a multiplier for each unfolding, folded. rho: ρ."""

    x: Tensor
    y: tuple[Tensor, ...]
    rho: float


@dataclass(frozen=True, slots=True, eq=False)
class _Unfoldings:
    """m: observed values, 0 elsewhere. seen: where observed."""

    m: Tensor
    seen: Tensor
    theta: float
    factor: float

    def start(self) -> _State:
        """Missing entries at the mean; thresholds of half the largest singular value."""
        mean = self.m.sum() / self.seen.sum()
        x = torch.where(self.seen, self.m, mean)
        top = max(top_value(_unfold(x, n)) for n in range(x.ndim)) or 1.0
        zero = torch.zeros_like(x)
        return _State(x, (zero,) * x.ndim, 2 / (x.ndim * top))

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round."""
        tau = 1 / (self.m.ndim * s.rho)
        folded = tuple(self.shrink(s.x + y / s.rho, n, tau) for n, y in enumerate(s.y))
        mean = sum((z - y / s.rho for z, y in zip(folded, s.y, strict=True)), torch.zeros_like(s.x)) / len(folded)
        x = torch.where(self.seen, self.m, mean)
        y = tuple(y + s.rho * (x - z) for y, z in zip(s.y, folded, strict=True))
        change = float((x - s.x).norm() / x.norm().clamp_min(1e-30))
        acts = number > 20  # the first thresholds are too large to tell
        return _State(x, y, s.rho * self.factor), change if acts else max(change, 1.0)

    def shrink(self, t: Tensor, mode: int, tau: float) -> Tensor:
        """Singular values of an unfolding less τ, but for the first."""
        n = min(t.shape[mode], t.numel() // t.shape[mode])
        spared = min(n, ceil(self.theta * t.shape[mode]))
        flat = shrink_matrix(_unfold(t, mode), tau, spared)
        rest = [size for k, size in enumerate(t.shape) if k != mode]
        return flat.reshape(t.shape[mode], *rest).movedim(0, mode)

    def dense(self, state: _State) -> Tensor:
        """The array."""
        return state.x


def _unfold(t: Tensor, mode: int) -> Tensor:
    return t.movedim(mode, 0).flatten(1)
