"""Tubal nuclear norm: nuclear norms of slices after a transform along the other modes, by ADMM (t-SVD completion).

    min ‖X‖_TNN   with X = M on the observed entries.

The transform is the DCT, or learnt: the main components of the present estimate along each mode, anew every round
(LSTC), which turns rhythms of a day or a week into a few slices. Which two modes make the slices matters; held-out
entries choose.

References: Zhang, Aeron 2017, doi:10.1109/TSP.2016.2639466; Lu, Peng, Wei 2019, doi:10.1109/CVPR.2019.00615 (DCT);
Chen, Chen, Saunier, Sun 2021, doi:10.1016/j.trc.2021.103226 (learnt).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tnkit.completion.base import CompletionFit, CompletionMethod, CompletionProblem, register
from tnkit.completion.convex import checked, compare_and_fit
from tnkit.completion.slices import apply_transforms, dct, learnt, shrink_slices, top_value
from tnkit.errors import OptionError

__all__ = ["TubalNuclear"]


@register
@dataclass(frozen=True, slots=True)
class TubalNuclear(CompletionMethod):
    """Tubal nuclear norm; real arrays of three and more modes. It gives a dense array and no format.

    Attributes:
        transform: "dct", "learnt", or "auto": both compared on held-out entries.
        slices: the two modes of the slices, or "auto": all pairs compared on held-out entries (three modes; otherwise
            the first two).
        factor: by which μ grows a round.
        tol: it ends when a round changes the array by less than this share.
        max_steps: rounds of a run.
        holdout: share of the observed entries held out for the error and the choices, and given back; 0 for none.

    Example:
        >>> import numpy as np
        >>> from tnkit.completion import complete
        >>> i, j, k = np.ogrid[:20, :15, :12]
        >>> x = np.sin(i / 3) * j + np.cos(k) * i
        >>> mask = np.random.default_rng(0).random(x.shape) < 0.5
        >>> done = complete(x, mask=mask, method=TubalNuclear())
        >>> bool(np.linalg.norm(done.filled - x) < 0.05 * np.linalg.norm(x))
        True
    """

    transform: str = "auto"
    slices: tuple[int, int] | str = "auto"
    factor: float = 1.15
    tol: float = 1e-5
    max_steps: int = 150
    holdout: float = 0.1
    name: ClassVar[str] = "tnn"
    formats: ClassVar[bool] = False
    weights: ClassVar[bool] = False
    summary: ClassVar[str] = "nuclear norms of slices after a DCT or a learnt transform; panels, videos, series of maps"

    def __post_init__(self) -> None:
        """Refuse options that cannot be.

        Raises:
            OptionError: an unknown transform, slices that are not two modes, factor <= 1, or tol <= 0.
        """
        if self.transform not in ("auto", "dct", "learnt"):
            raise OptionError(f'transform={self.transform!r}: use "dct", "learnt" or "auto".')
        pair = self.slices == "auto" or (not isinstance(self.slices, str) and len(set(self.slices)) == 2)
        if not (pair and self.factor > 1 and self.tol > 0 and 0 <= self.holdout < 1):
            raise OptionError(
                f"{self!r}: slices must be two modes, factor above 1, tol above 0, holdout at least 0 and below 1."
            )

    def fit(self, problem: CompletionProblem) -> CompletionFit:
        """See the class.

        Raises:
            DTypeError: complex values.
            ShapeError: fewer than 3 modes.
            OptionError: slices that the array does not have.
        """
        obs = checked(problem.observations, self.name, least=3)
        kinds = ("learnt", "dct") if self.transform == "auto" else (self.transform,)
        if not isinstance(self.slices, str):
            if not all(0 <= mode < obs.ndim for mode in self.slices):
                raise OptionError(f"slices={self.slices} are not two of the modes 0 to {obs.ndim - 1}.")
            pairs = [self.slices]
        else:
            pairs = list(combinations(range(3), 2)) if obs.ndim == 3 else [(0, 1)]
        forms = {f"{kind} {pair}": (kind, pair) for kind in kinds for pair in pairs}
        makers = {
            name: partial(_Slices, pair=pair, kind=kind, factor=self.factor) for name, (kind, pair) in forms.items()
        }
        return compare_and_fit(
            problem,
            makers,
            holdout=self.holdout,
            tol=self.tol,
            max_steps=self.max_steps,
            settle=lambda name: replace(self, transform=forms[name][0], slices=forms[name][1], holdout=0.0),
        )


class _State(NamedTuple):
    """x: the array. e: M − X off the observed entries. y: the multiplier. mu: μ."""

    x: Tensor
    e: Tensor
    y: Tensor
    mu: float


class _Slices:
    """The iteration, with the two modes of the slices first."""

    def __init__(self, m: Tensor, seen: Tensor, *, pair: tuple[int, int], kind: str, factor: float) -> None:
        self.order = [*pair, *(k for k in range(m.ndim) if k not in pair)]
        self.m, self.seen = m.permute(self.order), seen.permute(self.order)
        self.kind, self.factor = kind, factor

    def transforms(self, x: Tensor) -> list[Tensor]:
        """One for each mode after the second."""
        return [dct(n, x) if self.kind == "dct" else learnt(x, k) for k, n in enumerate(x.shape[2:], start=2)]

    def start(self) -> _State:
        """Missing entries at the mean; thresholds of half the largest singular value."""
        x = torch.where(self.seen, self.m, self.m.sum() / self.seen.sum())
        z = apply_transforms(x, self.transforms(x))
        top = top_value(z.reshape(*z.shape[:2], -1).permute(2, 0, 1)) or 1.0
        return _State(x, self.m - x, torch.zeros_like(x), 2 / top)

    def step(self, s: _State, number: int) -> tuple[_State, float]:
        """One round."""
        target = self.m - s.e + s.y / s.mu
        x = shrink_slices(target, self.transforms(target), 1 / s.mu)
        e = torch.where(self.seen, torch.zeros_like(x), self.m - x + s.y / s.mu)
        y = s.y + s.mu * (self.m - x - e)
        change = float(torch.maximum((x - s.x).norm(), (self.m - x - e).norm()) / x.norm().clamp_min(1e-30))
        return _State(x, e, y, s.mu * self.factor), change if number > 15 else max(change, 1.0)

    def dense(self, state: _State) -> Tensor:
        """The array, its modes as they came."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return state.x.permute(back)
