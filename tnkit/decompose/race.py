"""Several starts of a large problem swept side by side: the array is read once for all, and the worst are dropped.

Each fit extrapolates for itself (Ang, Cohen, Gillis, Hien, doi:10.1137/19M1288395); which ones go on is decided by
their errors after a few sweeps (successive halving: Jamieson & Talwalkar, arXiv:1502.07943).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tnkit.solvers import Control, Status, StepInfo, iterate

__all__ = ["Race", "SideBySide", "race"]

#: After so many sweeps so many fits go on.
ROUNDS = ((3, 3), (9, 2), (24, 1))


@runtime_checkable
class SideBySide(Protocol):
    """Least-squares problems whose sweeps take several fits at once."""

    def sweep_all(self, stacked: Sequence[Tensor], ridge: float = 0.0) -> tuple[tuple[Tensor, ...], list[float]]:
        """One sweep of each fit; each tensor has one axis more, at the front; their relative errors."""


@dataclass(frozen=True, slots=True, eq=False)
class Race:
    """How a race ended.

    Attributes:
        tensors: of the fits that are left, the best first.
        errors: theirs.
        status: how it ended.
        history: its steps, each with the smallest error.
    """

    tensors: tuple[tuple[Tensor, ...], ...]
    errors: tuple[float, ...]
    status: Status
    history: tuple[StepInfo, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """The fits that are left: stacked tensors, and where each of them was before."""

    tensors: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    errors: Tensor
    pace: Tensor
    most: Tensor

    def chosen(self, which: Tensor) -> _Field:
        return _Field(
            tuple(t[which.to(t.device)] for t in self.tensors),
            tuple(t[which.to(t.device)] for t in self.before),
            self.errors[which],
            self.pace[which],
            self.most[which],
        )


def race(problem: SideBySide, starts: Sequence[Sequence[Tensor]], control: Control, *, ridge: float = 0.0) -> Race:
    """Sweep all starts side by side, drop the worst, and go on until a rule of `control` says stop.

    Args:
        problem: the array and the format.
        starts: parameters of equal shapes; they are not changed.
        control: when to stop; what counts is the smallest error.
        ridge: pull towards the old parameters.
    """
    stacked = tuple(torch.stack(list(parts)) for parts in zip(*starts, strict=True))
    count = len(starts)
    none = torch.zeros(count, dtype=torch.float64)
    field = _Field(stacked, stacked, none + inf, none + 0.3, none + 1.0)
    rounds = dict(ROUNDS)

    def step(field: _Field, number: int) -> tuple[_Field, float]:
        field = _stepped(problem, field, ridge)
        if rounds.get(number, count) < len(field.errors):
            field = field.chosen(torch.argsort(field.errors, stable=True)[: rounds[number]])
        return field, float(field.errors.min())

    out = iterate(step, field, control)
    best = out.value
    order = torch.argsort(best.errors, stable=True).tolist()
    return Race(
        tuple(tuple(t[i] for t in best.tensors) for i in order),
        tuple(float(best.errors[i]) for i in order),
        out.status,
        out.history,
    )


def _stepped(problem: SideBySide, field: _Field, ridge: float) -> _Field:
    """One sweep of each, from its extrapolated point; where that does not help it is a lost step."""
    ahead = tuple(t + _to(field.pace, t) * (t - b) for t, b in zip(field.tensors, field.before, strict=True))
    moved, errors = problem.sweep_all(ahead, ridge)
    new = torch.as_tensor(errors, dtype=torch.float64)
    good = new <= field.errors
    pace = torch.where(good, torch.minimum(1.05 * field.pace, field.most), field.pace / 1.5)
    most = torch.where(good, (1.01 * field.most).clamp_max(1.0), field.pace)
    if bool(good.all()):
        return replace(field, tensors=moved, before=field.tensors, errors=new, pace=pace, most=most)
    kept = tuple(torch.where(_to(good, t, t.device), m, t) for m, t in zip(moved, field.tensors, strict=True))
    return _Field(kept, field.tensors, torch.where(good, new, field.errors), pace, most)


def _to(each: Tensor, like: Tensor, device: torch.device | None = None) -> Tensor:
    """One number a fit, shaped to multiply its tensor."""
    kind = like.real.dtype if device is None else each.dtype
    return each.to(like.device, kind).reshape(-1, *(1,) * (like.ndim - 1))
