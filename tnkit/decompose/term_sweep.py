"""Block terms one at a time: each term is a step of HOOI on what the others leave.

No normal matrix is formed, so large cores are no burden. Factors stay orthonormal within a term, and a term's core is a
projection, so the error never rises.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tnkit.linalg import split
from tnkit.rng import normal

__all__ = ["TermSweeps", "hosvd", "with_empty_terms"]


def hosvd(x: Tensor, ranks: Sequence[int], rng: torch.Generator) -> tuple[Tensor, ...]:
    """Core and orthonormal factors by sequential truncation; padded with zeros where a mode has less than its rank."""
    core, factors = x, list[Tensor]()
    for k, rank in enumerate(ranks):
        unfolded = core.movedim(k, 0).reshape(core.shape[k], -1)
        part = split(unfolded, max_rank=min(rank, *unfolded.shape), rng=rng)
        short = rank - part.rank
        factors.append(torch.cat([part.basis, x.new_zeros((x.shape[k], short))], dim=1))
        rest = [n for j, n in enumerate(core.shape) if j != k]
        core = torch.cat([part.rest, x.new_zeros((short, unfolded.shape[1]))]).reshape(rank, *rest).movedim(0, k)
    return core.contiguous(), *factors


def with_empty_terms(term: Sequence[Tensor], terms: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """One Tucker term and others with a core of zero, whose factors are random so that they can grow."""
    core, *factors = term
    cores = torch.cat([core[None], core.new_zeros((terms - 1, *core.shape))])
    others = [normal((terms - 1, *f.shape), f, rng) / f.shape[0] ** 0.5 for f in factors]
    return cores, *(torch.cat([f[None], other]) for f, other in zip(factors, others, strict=True))


class TermSweeps:
    """Sweeps over the terms of a block-term decomposition.

    Args:
        x: the array.
        norm: ‖x‖.
    """

    def __init__(self, x: Tensor, norm: float) -> None:
        self.x, self.norm = x, norm

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The measured relative error."""
        return float(torch.linalg.vector_norm(self._rest(tensors))) / self.norm

    def sweep(
        self, tensors: Sequence[Tensor], ridge: float = 0.0, *, regauge: bool = True
    ) -> tuple[tuple[Tensor, ...], float]:
        """One step of HOOI for each term; `ridge` and `regauge` are not needed.

        Cost: for each term about 2 r entries(x) for each mode, and two dense tensors.
        """
        rest = self._rest(tensors)
        terms = list[tuple[Tensor, ...]]()
        for t in range(len(tensors[0])):
            old = tuple(part[t] for part in tensors)
            own = rest + _dense(old)
            new = self._step(own, old)
            rest = own - _dense(new)
            terms.append(new)
        error = float(torch.linalg.vector_norm(rest)) / self.norm
        return tuple(torch.stack(parts) for parts in zip(*terms, strict=True)), error

    def linearise(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Not offered: this is for problems that are too large for it."""
        raise NotImplementedError("TermSweeps has no normal matrix; call descend with newton=0.")

    def moved(self, tensors: Sequence[Tensor], delta: Tensor) -> tuple[Tensor, ...]:
        """Not offered (see `linearise`)."""
        raise NotImplementedError("TermSweeps has no normal matrix; call descend with newton=0.")

    def _rest(self, tensors: Sequence[Tensor]) -> Tensor:
        rest = self.x
        for t in range(len(tensors[0])):
            rest = rest - _dense(tuple(part[t] for part in tensors))
        return rest

    def _step(self, own: Tensor, term: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, *given = term
        factors = [torch.linalg.qr(f).Q for f in given]
        core = own
        for k, old in enumerate(factors):
            seen = own
            for j in sorted((j for j in range(own.ndim) if j != k), key=lambda j: -own.shape[j]):
                seen = torch.tensordot(factors[j].mH, seen, dims=([1], [j])).movedim(0, j)
            unfolded = seen.movedim(k, 0).reshape(own.shape[k], -1)
            vectors = torch.linalg.eigh(unfolded @ unfolded.mH).eigenvectors
            factors[k] = vectors[:, -old.shape[1] :].flip(1)
            if k == own.ndim - 1:
                core = torch.tensordot(factors[k].mH, seen, dims=([1], [k])).movedim(0, k)
        return core.contiguous(), *factors


def _dense(term: Sequence[Tensor]) -> Tensor:
    core, *factors = term
    dense = core
    for k in sorted(range(len(factors)), key=lambda k: factors[k].shape[0]):
        dense = torch.tensordot(factors[k], dense, dims=([1], [k])).movedim(0, k)
    return dense
