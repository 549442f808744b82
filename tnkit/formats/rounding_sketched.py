"""Rounding of long trains with large ranks: randomise, then orthogonalise.

Random trains are contracted with the train from the right, which gives for every cut a few random combinations of what
stands right of it. From the left, each core is then projected on the range of its product with them: the ranks fall
from R to the width of the sketch before anything is orthogonalised, so that R appears in products only, squared. What
is left is a small train, which is truncated exactly.

Some of the random combinations are kept apart: what of them lies outside the chosen range is an unbiased estimate of
the energy that is lost there, down to rounding. Where that is not far below what is allowed, or a rank turns out not to
be small, the exact rounding does the work.

Reference: Al Daas, Ballard, Cazeaux, Hallman, Miedlar, Pasha, Reid & Saibaba 2023, doi:10.1137/21M1451191
(arXiv:2110.04393), algorithm 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from tnkit.formats import operations
from tnkit.formats.base import Format
from tnkit.formats.chains import TT, chain_topology
from tnkit.formats.matrices import TTMatrix
from tnkit.formats.rank_plan import Limits, truncate_within
from tnkit.formats.rounding import check_request, requested_ranks, round_format
from tnkit.formats.trees import tree_of
from tnkit.linalg import energy
from tnkit.rng import generator, normal

__all__ = ["round_train", "sketch_train"]

_WORTH = 64  # ranks up to which the exact rounding is quick
_PROBES = 8
_SAFETY = 10.0  # the estimate from the probes may be too small by this
_SHARE = 0.01  # of the allowed energy that the sketch may lose
_START = 32


@dataclass(frozen=True, slots=True, eq=False)
class Sketched:
    """A train of smaller ranks.

    Attributes:
        cores: (r_k, n_k, r_{k+1}); all but the last with orthonormal columns.
        missed2: the squared error, estimated.
    """

    cores: list[Tensor]
    missed2: float


def sketch_train(cores: Sequence[Tensor], width: int, gen: torch.Generator) -> Sketched:
    """Project a train on the leading `width` directions of random combinations, cut by cut.

    Args:
        cores: (r_k, n_k, r_{k+1}) with ones at the ends.
        width: the largest rank of the result.
        gen: random numbers.

    Cost:
        2 n R² width for each core and direction, R the ranks.
    """
    columns = width + _PROBES
    right = [torch.ones((1, 1), dtype=cores[0].dtype, device=cores[0].device)]  # (r_{k+1}, columns), from the last
    for core in reversed(cores[1:]):
        r, n, _ = core.shape
        seen = (core.reshape(r * n, -1) @ right[-1]).reshape(r, -1)  # (r, n · columns of the one before)
        random = normal((seen.shape[1], columns), seen, gen) / sqrt(right[-1].shape[1])
        right.append(seen @ random)
    out: list[Tensor] = []
    missed2, left = 0.0, cores[0]
    for core, sketch in zip(cores[1:], right[:0:-1], strict=True):
        matrix = left.reshape(-1, left.shape[2])
        rank = min(width, *matrix.shape)
        seen = matrix @ sketch
        q = torch.linalg.qr(seen[:, :rank]).Q
        if rank < min(matrix.shape):
            outside = seen[:, -_PROBES:] - q @ (q.mH @ seen[:, -_PROBES:])
            missed2 += energy(outside) / _PROBES
        out.append(q.reshape(left.shape[0], left.shape[1], rank))
        left = ((q.mH @ matrix) @ core.reshape(core.shape[0], -1)).reshape(rank, core.shape[1], -1)
    return Sketched([*out, left], missed2)


@operations.round.register(TT)
@operations.round.register(TTMatrix)
def round_train(value: TT | TTMatrix, rank: Any = None, *, eps: float | None = None) -> Format:
    """Through a sketch where the ranks are large and the result is seen to keep what is asked, else exactly."""
    check_request(rank, eps)
    return _by_sketch(value, rank, eps) or round_format(value, rank, eps=eps)


def _by_sketch(value: TT | TTMatrix, rank: Any, eps: float | None) -> Format | None:
    tensors = [t.to(value.dtype) for t in value.tensors()]
    largest = max((t.shape[-1] for t in tensors), default=1)
    if len(tensors) < 3 or largest <= _WORTH or any(t.requires_grad for t in tensors):
        return None
    cores = [t.reshape(t.shape[0], -1, t.shape[-1]) for t in tensors]
    if not all(bool(torch.isfinite(c).all()) for c in cores):
        return None
    caps = requested_ranks(value, rank)
    width = _START if eps is not None else 2 * max(caps or (largest,)) + 16
    if caps is not None:
        width = min(width, 2 * max(caps) + 16)
    tree, bonds = tree_of(chain_topology(len(cores))), [f"r{k}" for k in range(1, len(cores))]
    while width <= largest // 3:
        small = sketch_train(cores, width, generator(0, cores[0].device))
        norm2 = energy(small.cores[-1]) + small.missed2
        missed2 = _SAFETY * small.missed2
        floor2 = (8.0 * torch.finfo(value.dtype).eps) ** 2 * norm2
        if eps is None:
            done = truncate_within(tree, small.cores, bonds, Limits(caps))
            if missed2 > _SHARE * done.lost2 and small.missed2 > 20 * floor2:
                return None
        else:
            error2 = max(eps**2 * norm2 * (1 - 1e-6) - floor2, floor2)
            if missed2 > _SHARE * error2:
                width *= 2
                continue
            done = truncate_within(tree, small.cores, bonds, Limits(caps, (sqrt(error2) - sqrt(missed2)) ** 2))
        return value.with_tensors(
            [t.reshape(t.shape[0], *old.shape[1:-1], t.shape[2]) for t, old in zip(done.tensors, tensors, strict=True)]
        )
    return None
