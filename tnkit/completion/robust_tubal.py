"""Robust completion: low tubal rank plus sparse gross errors, by ADMM (tensor robust principal components).

    min ‖L‖_TNN + λ ‖S‖_1   with L + S = M on the observed entries,

so observed entries may be wrong, and the fit says which: it is `predict`, not `filled`, that corrects them.

Reference: Lu, Feng, Chen, Liu, Lin, Yan 2020, TPAMI 42(4), doi:10.1109/TPAMI.2019.2891760.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked, compare_and_fit
from tnkit.completion.slices import apply_transforms, dct, shrink_slices, top_value
from tnkit.errors import OptionError

__all__ = ["RobustTubal"]


@register
@dataclass(frozen=True, slots=True)
class RobustTubal(CompletionMethod):
    """Low tubal rank plus sparse errors; real arrays of two and more modes. It gives a dense array and no format.

    The held-out error counts entries that are wrong themselves, so it is no smaller than their share.

    Attributes:
        strength: λ relative to 1/√(p max(n_0, n_1)), p the share observed; larger calls fewer entries wrong.
        factor: by which μ grows a round.
        tol: it ends when a round changes the array by less than this share.
        max_steps: rounds of a run.
        holdout: share of the observed entries held out for the error, and given back; 0 for none.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> x = np.outer(np.sin(np.arange(40.0)), np.cos(np.arange(30.0)))
        >>> rng = np.random.default_rng(0)
        >>> seen = np.where(rng.random(x.shape) < 0.05, 10.0, x)
        >>> done = complete(seen, mask=rng.random(x.shape) < 0.9, method=RobustTubal())
        >>> fit = done.predict(np.argwhere(np.ones(x.shape))).reshape(x.shape)
        >>> bool(np.linalg.norm(fit - x) < 1e-2 * np.linalg.norm(x))
        True
    """

    strength: float = 1.0
    factor: float = 1.1
    tol: float = 1e-6
    max_steps: int = 300
    holdout: float = 0.05
    name: ClassVar[str] = "robust_tubal"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "low tubal rank plus sparse gross errors; observed entries may be wrong"

    def __post_init__(self) -> None:
        """Refuse options that cannot be.

        Raises:
            OptionError: strength or tol <= 0, or factor <= 1.
        """
        if not (self.strength > 0 and self.factor > 1 and self.tol > 0 and 0 <= self.holdout < 1):
            raise OptionError(
                f"{self!r}: strength and tol must be above 0, factor above 1, holdout at least 0 and below 1."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 2 modes.
        """
        checked(problem.observations, self.name)
        makers = {"": partial(_Split, strength=self.strength, factor=self.factor)}
        return compare_and_fit(problem, makers, holdout=self.holdout, tol=self.tol, max_steps=self.max_steps)


class _State(NamedTuple):
    """low: L. sparse: S. e: M − L off the observed entries. y: the multiplier. mu: μ."""

    low: Tensor
    sparse: Tensor
    e: Tensor
    y: Tensor
    mu: float


class _Split:
    def __init__(self, m: Tensor, seen: Tensor, *, strength: float, factor: float) -> None:
        self.m, self.seen, self.factor = m, seen, factor
        self.transforms = [dct(n, m) for n in m.shape[2:]]
        share = float(seen.to(m.dtype).mean())
        self.weight = strength / (share * max(m.shape[:2])) ** 0.5

    def start(self) -> _State:
        """All zero; the first threshold is the largest singular value."""
        z = apply_transforms(self.m, self.transforms)
        top = top_value(z.reshape(*z.shape[:2], -1).permute(2, 0, 1)) or 1.0
        zero = torch.zeros_like(self.m)
        return _State(zero, zero, zero, zero, 1.25 / top)

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round."""
        push = s.y / s.mu
        low = shrink_slices(self.m - s.sparse - s.e + push, self.transforms, 1 / s.mu)
        rest = self.m - low + push
        soft = rest.sign() * (rest.abs() - self.weight / s.mu).clamp_min(0)
        sparse = torch.where(self.seen, soft, 0.0)
        e = torch.where(self.seen, 0.0, rest)
        gap = self.m - low - sparse - e
        y = s.y + s.mu * gap
        size = self.m.norm().clamp_min(1e-30)
        change = float(torch.maximum((low - s.low).norm(), gap.norm()) / size)
        return _State(low, sparse, e, y, s.mu * self.factor), change if number > 20 else max(change, 1.0)

    def dense(self, state: _State) -> Tensor:
        """The low part."""
        return state.low
