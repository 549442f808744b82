"""Ring SVD: the ring of a dense array by successive projections, its first cut split in two and its modes shifted.

One mode is cut off, its rank R is split as r_0 · r_1, and the rest, whose last mode now carries r_0, is a tensor train.
Which mode comes first and how R is split changes the size by integer factors, so the choices are tried.

Reference: Mickelin & Karaman 2020, arXiv:1807.02513, algorithm 2 and section 3.2; Zhao et al. 2016, arXiv:1606.05535.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from tnkit.decompose.allowance import allowed2, floor2, known_error
from tnkit.decompose.base import Fit, Method, Problem, Target
from tnkit.decompose.rough import SMALL
from tnkit.decompose.st_hosvd import compress_tucker
from tnkit.decompose.train_svd import TrainLimits, fit_train
from tnkit.formats import TuckerSpec
from tnkit.linalg import Spectrum, rank_for_tail, spectrum, split
from tnkit.registry import METHODS

__all__ = ["RingSVD"]

#: Entries that the padded array behind the first cut may have.
ENTRIES = 2**26


@dataclass(frozen=True, slots=True)
class Start:
    """Where the ring is cut first.

    Attributes:
        shift: the mode that comes first.
        first: the rank of its bond on the left, r_shift.
        second: the rank of its bond on the right.
    """

    shift: int
    first: int
    second: int


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """A candidate: cores in the order of the modes, the squared error, and whether that is certain."""

    cores: tuple[Tensor, ...]
    lost2: float
    certain: bool


@dataclass(frozen=True, slots=True)
class RingSVD(Method):
    """Direct tensor ring; a train (r_0 = 1) is among the candidates, so it is never larger than that at the same error.

    Attributes:
        candidates: how many splits of the first rank are tried for each first mode.

    Example:
        >>> import torch, tnkit as tk
        >>> tk.decompose(torch.ones(4, 5, 6), "tr", eps=1e-3, method="ring_svd").ranks
        (1, 1, 1)
    """

    candidates: int = 6
    name: ClassVar[str] = "ring_svd"
    formats: ClassVar[tuple[str, ...]] = ("tr",)
    deterministic: ClassVar[bool] = False
    summary: ClassVar[str] = "direct ring: the first cut split in two, the best of several shifts and splits"

    def fit(self, problem: Problem) -> Fit:
        """See `Method.fit`. Cost: one TT-SVD for each candidate, of the array as the first cut has reduced it."""
        if problem.x.ndim == 1:
            return Fit((problem.x.reshape(1, -1, 1).clone(),), 0.0)
        if problem.target.eps is None or problem.x.requires_grad or problem.x.numel() <= SMALL:
            best = self._best(problem)
        else:
            best = self._best_of_compressed(problem)
        return Fit(tuple(core.contiguous() for core in best.cores), known_error(problem, best.lost2, best.certain))

    def _best(self, problem: Problem) -> Ring:
        """The best of all starts, and of the train."""
        error2, best = allowed2(problem), _train(problem)
        if error2 is not None and 2 * sum(core.numel() for core in best.cores) > problem.x.numel():
            return best  # hardly compressible: the others would take long for nothing
        for start in self._starts(problem):
            if problem.control.out_of_time:
                break
            ring = _ring(problem, start)
            if ring is not None and _better(problem, ring, best, error2):
                best = ring
        return best

    def _best_of_compressed(self, problem: Problem) -> Ring:
        """The starts are tried on a Tucker core; errors add up exactly, as all lies in the range of the factors."""
        rough = compress_tucker(
            replace(problem, layout=TuckerSpec().layout(problem.x.shape), target=Target(eps=problem.target.eps))
        )
        left2 = max((allowed2(problem) or 0.0) - rough.lost2, floor2(problem))
        norm = float(torch.linalg.vector_norm(rough.core))
        inner = replace(problem, x=rough.core, norm=norm, target=replace(problem.target, eps=sqrt(left2) / norm))
        best = self._best(inner)
        cores = [torch.einsum("anb,mn->amb", core, f) for core, f in zip(best.cores, rough.factors, strict=True)]
        return Ring(tuple(cores), best.lost2 + rough.lost2, best.certain)

    def _starts(self, problem: Problem) -> Iterator[Start]:
        d, caps, target = problem.x.ndim, problem.max_ranks, problem.target
        if target.eps is None and target.max_params is None:
            for k in range(d):
                rest = problem.x.numel() // problem.x.shape[k]
                yield Start(k, *_within(caps[k], caps[(k + 1) % d], ENTRIES // rest, problem.x.shape[k]))
            return
        error2 = allowed2(problem)
        shares = None if error2 is None else error2 / d
        for k in range(d):
            n = problem.x.shape[k]
            most = min(n, problem.x.numel() // n)
            if shares is None:
                wanted = [r for r in (1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 36) if r <= most]
            else:
                found: Spectrum = spectrum(_unfold(problem.x, k), tail2=shares, norm2=problem.norm**2)
                wanted = [rank_for_tail(found.s2, shares)]
            for rank in wanted:
                for first in _splits(rank, self.candidates):
                    second = -(-rank // first)
                    if first <= caps[k] and second <= caps[(k + 1) % d]:
                        yield Start(k, first, second)


def _within(first: int, second: int, most: int, needed: int) -> tuple[int, int]:
    """The parts of the first cut, smaller where the padded array behind it would not fit; never below what it needs."""
    most = max(most, needed)
    if first * second <= most:
        return first, second
    small = min(first, max(1, round(most**0.5)))
    return small, min(second, -(-most // small))


def _splits(rank: int, most: int) -> list[int]:
    """First factors of a rank, the most nearly square ones and 1 among them."""
    exact = [f for f in range(1, rank + 1) if rank % f == 0]
    if len(exact) <= 2 and rank > 3:
        exact += [f for f in (2, 3, round(rank**0.5)) if f > 1]
    chosen = sorted(set(exact), key=lambda f: abs(f - rank**0.5))[: most - 1]
    return sorted({1, *chosen})


def _train(problem: Problem) -> Ring:
    """The ring with r_0 = 1: a tensor train, its ranks chosen together."""
    x = problem.x.contiguous()
    caps = tuple(min(c, prod(x.shape[: k + 1]), prod(x.shape[k + 1 :])) for k, c in enumerate(problem.max_ranks[1:]))
    limits = TrainLimits(caps, allowed2(problem), problem.target.max_params, floor2(problem))
    train = fit_train(x, limits, problem.norm**2, problem.rng, lambda ranks: problem.layout.n_params((1, *ranks)))
    return Ring(tuple(train.cores), train.lost2, train.certain)


def _unfold(x: Tensor, k: int) -> Tensor:
    return x.movedim(k, 0).reshape(x.shape[k], -1)


def _ring(problem: Problem, start: Start) -> Ring | None:
    """The ring of one start, or None if its limits leave no room."""
    d, target, caps = problem.x.ndim, problem.target, problem.max_ranks
    error2, norm2 = allowed2(problem), problem.norm**2
    order = [(start.shift + k) % d for k in range(d)]
    x = problem.x.permute(order)
    rows = x.reshape(x.shape[0], -1)
    rank = min(start.first * start.second, *rows.shape)
    part = split(rows, max_rank=rank, norm2=norm2, rng=problem.rng)
    whole = start.first * start.second
    basis, rest = pad(part.basis, (0, whole - part.rank)), pad(part.rest, (0, 0, 0, whole - part.rank))
    head = basis.reshape(-1, start.first, start.second).permute(1, 0, 2)
    tail = rest.reshape(start.first, start.second, *x.shape[1:]).movedim(0, -1)

    def cost(inner: tuple[int, ...]) -> int:
        return problem.layout.n_params(_in_order(start, inner, d)) - head.numel()

    size = None if target.max_params is None else target.max_params - head.numel()
    if size is not None and cost((1,) * (d - 2)) > size:
        return None
    cores, lost2, certain = [tail], 0.0, True
    if d > 2:
        chain = tail.reshape(start.second * x.shape[1], *x.shape[2:-1], x.shape[-1] * start.first).contiguous()
        inner_caps = _chain_caps(chain.shape, [caps[k] for k in order[2:]])
        left = None if error2 is None else max(error2 - part.discarded2, floor2(problem))
        limits = TrainLimits(inner_caps, left, size, floor2(problem))
        train = fit_train(chain, limits, max(norm2 - part.discarded2, 0.0), problem.rng, cost)
        cores, lost2, certain = list(train.cores), train.lost2, train.certain
        cores[0] = cores[0].reshape(start.second, x.shape[1], -1)
        cores[-1] = cores[-1].reshape(cores[-1].shape[0], x.shape[-1], start.first)
    shifted = [head, *cores]
    ordered = tuple(shifted[(k - start.shift) % d] for k in range(d))
    certain = certain and (part.certain or part.rank == min(rows.shape))
    padding = whole > part.rank and lost2 > 0.0  # the train may be wrong where the head is zero: a bound only
    return Ring(ordered, part.discarded2 + lost2, certain and not padding)


def _chain_caps(shape: torch.Size, caps: list[int]) -> tuple[int, ...]:
    return tuple(min(cap, prod(shape[: k + 1]), prod(shape[k + 1 :])) for k, cap in enumerate(caps))


def _in_order(start: Start, inner: tuple[int, ...], d: int) -> tuple[int, ...]:
    """All ranks (r_0 … r_{d−1}) from those of a start and of the train behind it."""
    shifted = (start.first, start.second, *inner)
    return tuple(shifted[(k - start.shift) % d] for k in range(d))


def _better(problem: Problem, ring: Ring, best: Ring, error2: float | None) -> bool:
    if error2 is not None:
        meets, met = ring.lost2 <= error2, best.lost2 <= error2
        if meets != met:
            return meets
        if meets:
            return sum(c.numel() for c in ring.cores) < sum(c.numel() for c in best.cores)
    return ring.lost2 < best.lost2


METHODS.register("ring_svd", RingSVD)
