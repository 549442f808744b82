"""CP of a rank in the thousands: a block of terms at a time, each fitted to what the others leave.

A sweep over all terms at once solves with (r, r) matrices, which for a rank of 20,000 are 3 GB each. Here a block of b
terms is swept against x less all other terms, so that memory is that of two arrays and of the block's products, time
limits hold between blocks, and no solve is larger than b. Each pass over the blocks lowers the error, or leaves it.

References:
    Cichocki & Phan (2009), doi:10.1587/transfun.E92.A.708 (hierarchical alternating least squares, of blocks here).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt

import torch
from torch import Tensor

from tnkit.decompose.cp_starts import random_start
from tnkit.decompose.descent import Trial
from tnkit.decompose.mttkrp import CPLeastSquares
from tnkit.linalg import energy, khatri_rao
from tnkit.solvers import Control, iterate

__all__ = ["BLOCK", "MANY", "fit_blocks"]

#: Ranks above this are fitted by blocks, of so many terms.
MANY, BLOCK = 2048, 1024
#: Sweeps of a block when it is first there, and in later passes.
FIRST_SWEEPS, SWEEPS = 3, 1


def fit_blocks(
    x: Tensor,
    norm: float,
    start: Sequence[Tensor] | int,
    control: Control,
    rng: torch.Generator,
    *,
    ridge: float = 0.0,
    block: int = BLOCK,
) -> Trial:
    """Fit CP block by block.

    Args:
        x: the array.
        norm: ‖x‖, above 0.
        start: (weights, factors …) to begin with, or a rank.
        control: when to stop; its steps and its patience are passes over all blocks, its deadline holds between two
            blocks, and it hears of each of them.
        rng: of the starts of blocks.
        ridge: pull towards the old factors, as a share of the mean eigenvalue of a block's normal matrix.
        block: how many terms are fitted together.

    Returns:
        (weights, factors …) with weights of one, and their relative error. Terms that the time did not reach are zero.

    Cost:
        About 4 r entries(x) multiplications a pass (three times that in the first one), and r b² for the solves; two
        arrays of the size of x beside it, and products of b with the halves of its shape.

    Example:
        >>> import torch, tnkit as tk
        >>> from tnkit.decompose.cp_blocks import fit_blocks
        >>> from tnkit.solvers import Control
        >>> x = tk.random_format("cp", (8, 9, 10), 4, rng=0).to_dense()
        >>> found = fit_blocks(x, float(x.norm()), 6, Control(max_steps=20), torch.Generator().manual_seed(0))
        >>> found.error < 0.02, [tuple(t.shape) for t in found.tensors]
        (True, [(6,), (8, 6), (9, 6), (10, 6)])
    """
    rank = start if isinstance(start, int) else start[0].shape[0]
    blocks = [slice(at, min(at + block, rank)) for at in range(0, rank, block)]
    if isinstance(start, int):
        begin = _State(tuple(x.new_zeros((n, rank)) for n in x.shape), x)
    else:
        begin = _State((start[1] * start[0], *start[2:]), x)
        for some in blocks:
            begin = replace(begin, left=begin.left - _dense(begin.terms(some)))

    def step(state: _State, number: int) -> tuple[_State, float]:
        some = blocks[(number - 1) % len(blocks)]
        state = _swept(state, some, ridge, rng)
        return state, sqrt(energy(state.left)) / norm

    passes = replace(
        control, max_steps=control.max_steps * len(blocks), patience=max(control.patience, 1) * len(blocks)
    )
    first = sqrt(energy(begin.left)) / norm
    out = iterate(step, begin, passes, start_error=first)
    return Trial((x.new_ones(rank), *out.value.factors), out.error, out.status, out.history)


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Factors (n_k, r) without weights, and what they leave of the array."""

    factors: tuple[Tensor, ...]
    left: Tensor

    def terms(self, block: slice) -> list[Tensor]:
        return [f[:, block] for f in self.factors]


def _swept(state: _State, block: slice, ridge: float, rng: torch.Generator) -> _State:
    """One block fitted to what the others leave; the state as it was if that does not lower the error."""
    old = state.terms(block)
    there = bool(old[0].any())
    target = state.left + _dense(old) if there else state.left
    size = sqrt(energy(target))
    if not size > 0.0:
        return state
    count = old[0].shape[1]
    terms = (target.new_ones(count), *old) if there else random_start(target, count, size, rng)
    problem = CPLeastSquares(target, size)
    for _ in range(SWEEPS if there else FIRST_SWEEPS):
        terms, _ = problem.sweep(terms, ridge)
    new = (terms[1] * terms[0], *terms[2:])
    left = target - _dense(new)
    if not energy(left) <= energy(state.left):  # rounding, or nothing finite
        return state
    factors = tuple(f.clone() for f in state.factors)
    for f, value in zip(factors, new, strict=True):
        f[:, block] = value
    return _State(factors, left)


def _dense(factors: Sequence[Tensor]) -> Tensor:
    """The sum of the terms, as one product of two Khatri–Rao products of about equal sizes."""
    shape = tuple(f.shape[0] for f in factors)
    cut = min(range(1, len(shape)), key=lambda k: prod(shape[:k]) + prod(shape[k:]))
    return (khatri_rao(factors[:cut]) @ khatri_rao(factors[cut:]).mT).reshape(shape)
