"""t-SVD: truncated SVDs of the frontal slices in the Fourier domain, all to one tubal rank.

References: Kilmer & Martin 2011, doi:10.1016/j.laa.2010.09.020; more than three modes: Martin, Shafer & LaRue 2013,
doi:10.1137/110841229. The truncation is the best t-product of that rank (Kilmer & Martin, theorem 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from tnkit.decompose.allowance import known_error
from tnkit.decompose.base import Fit, Method, Problem
from tnkit.decompose.one_rank import one_rank
from tnkit.linalg import batched_spectra, batched_split, tails
from tnkit.registry import METHODS

__all__ = ["TSVD"]


@dataclass(frozen=True, slots=True)
class TSVD(Method):
    """The best tubal approximation, slice by slice in the Fourier domain.

    A real array has slices in conjugate pairs: one of each pair is decomposed and the other is its conjugate, so what is
    stored is real to the last bit.

    Example:
        >>> import torch, tnkit as tk
        >>> tk.decompose(torch.ones(4, 5, 3), "tubal", eps=1e-3).ranks
        (1,)
    """

    name: ClassVar[str] = "tubal_svd"
    formats: ClassVar[tuple[str, ...]] = ("tubal",)
    summary: ClassVar[str] = "t-SVD, the best tubal approximation, by SVDs of the Fourier slices"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: a Fourier transform and thin SVDs of half of the slices (all of a complex array)."""
        x = problem.x
        depths = tuple(x.shape[2:])
        count = prod(depths)
        if not depths:
            slices = x[None]
        else:
            transformed = torch.fft.fftn(x, dim=tuple(range(2, x.ndim)))
            slices = transformed.reshape(*x.shape[:2], count).movedim(-1, 0)
        groups = _groups(depths, x)
        s2 = torch.zeros(min(x.shape[:2]), dtype=torch.float64, device=x.device)
        for group in groups:
            s2 = s2 + group.weight / count * batched_spectra(group.pick(slices)).sum(0)
        rank = one_rank(problem, s2)
        left = slices.new_empty((count, x.shape[0], rank))
        right = slices.new_empty((count, rank, x.shape[1]))
        for group in groups:
            basis, rest = batched_split(group.pick(slices), rank)
            left = left.index_copy(0, group.members, basis.to(left.dtype))
            right = right.index_copy(0, group.members, rest.to(right.dtype))
            if group.weight == 2:
                left = left.index_copy(0, group.mirrors, basis.conj().resolve_conj())
                right = right.index_copy(0, group.mirrors, rest.conj().resolve_conj())
        tensors = (_back(left, depths, x), _back(right, depths, x))
        return Fit(tensors, known_error(problem, float(tails(s2)[rank]), certain=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Slices that are treated alike.

    Attributes:
        members: their positions.
        mirrors: the positions of their conjugates.
        weight: 2 if the conjugates are other slices, else 1.
        real: whether they are real, so that their SVDs must be.
    """

    members: Tensor
    mirrors: Tensor
    weight: int
    real: bool

    def pick(self, slices: Tensor) -> Tensor:
        chosen = slices.index_select(0, self.members)
        return chosen.real.contiguous() if self.real and chosen.is_complex() else chosen


def _groups(depths: tuple[int, ...], x: Tensor) -> list[_Group]:
    """All slices of a complex array; of a real one those that are real, and one of each conjugate pair."""
    every = torch.arange(prod(depths), device=x.device)
    if x.is_complex() or not depths:
        return [_Group(every, every, 1, False)]
    grid = every.reshape(depths)
    for axis in range(len(depths)):
        grid = grid.flip(axis).roll(1, axis)
    mirror = grid.flatten()
    own, paired = every[every == mirror], every[every < mirror]
    found = [_Group(own, own, 1, True)]
    return [*found, _Group(paired, mirror[paired], 2, False)] if paired.numel() else found


def _back(slices: Tensor, depths: tuple[int, ...], x: Tensor) -> Tensor:
    """Slices (K, a, b) from the Fourier domain to a tensor (a, b, n_2 …) of the dtype of `x`."""
    stacked = slices.movedim(0, -1).reshape(*slices.shape[1:], *depths)
    if depths:
        stacked = torch.fft.ifftn(stacked, dim=tuple(range(2, 2 + len(depths))))
    plain = stacked if x.is_complex() else stacked.real
    return plain.to(x.dtype).contiguous()


METHODS.register("tubal_svd", TSVD)
