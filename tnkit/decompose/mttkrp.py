"""Sweeps of alternating least squares for CP in about two passes over the array.

The product of an unfolding with a Khatri–Rao product (MTTKRP) for all modes: the modes are cut in two runs, L and R.
One product with the Khatri–Rao product of R serves all modes of L, one with that of L serves all of R; what is left are
products with small tensors (dimension tree: Phan, Tichavský, Cichocki, doi:10.1109/TSP.2013.2269903). Factors are held
as (r, n_k), so that every product reads its operands as they lie and no array is permuted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod, sqrt

import torch
from torch import Tensor

from tnkit.decompose.sweep import SAFE_SHARE, Workspace
from tnkit.decompose.tangent import scale
from tnkit.linalg import solve_gram
from tnkit.linalg.products import energy, padded_rows, wide_dtype

__all__ = ["CPLeastSquares", "balanced", "normalised"]

#: Partial products may hold so many times the entries of the array, or so many entries.
ROOM, FREE = 2, 2**20


class CPLeastSquares:
    """The least-squares problems of CP for one array; tensors are (weights, factors …) with weights of one.

    Args:
        x: the array; a contiguous copy is made if it is not contiguous.
        norm: ‖x‖.
    """

    def __init__(self, x: Tensor, norm: float) -> None:
        self.x, self.norm = x.contiguous(), norm
        self.wide = wide_dtype(x.dtype)
        self.space = Workspace()
        n = x.shape
        self.cut = min(range(1, x.ndim), key=lambda s: prod(n[:s]) + prod(n[s:])) if x.ndim > 1 else 0

    def error(self, tensors: Sequence[Tensor]) -> float:
        """The measured relative error; the dense tensor is one product of two Khatri–Rao products."""
        weights, *factors = tensors
        rows = [f.mT for f in factors]
        left = _khatri_rao(rows[: self.cut]) * weights[:, None] if self.cut else weights[:, None]
        right = _khatri_rao(rows[self.cut :])
        data = self.x.reshape(left.shape[1], right.shape[1])
        block = max(1, 2**22 // right.shape[1])
        total = 0.0
        for start in range(0, data.shape[0], block):
            part = data[start : start + block] - left[:, start : start + block].mT @ right
            total += energy(part)
        return sqrt(total) / self.norm

    def sweep(
        self, tensors: Sequence[Tensor], ridge: float = 0.0, *, regauge: bool = True
    ) -> tuple[tuple[Tensor, ...], float]:
        """Update every factor once; always balanced; see `LeastSquares.sweep`. Cost: about 4 r entries(x)."""
        moved, errors = self.sweep_all([t[None] for t in tensors], ridge)
        return tuple(t[0] for t in moved), errors[0]

    def sweep_all(self, stacked: Sequence[Tensor], ridge: float = 0.0) -> tuple[tuple[Tensor, ...], list[float]]:
        """A sweep of several fits side by side: (s, r) and (s, n_k, r); the array is read as often as for one."""
        weights, *given = stacked
        count, rank = weights.shape
        rows = [f.mT.contiguous() for f in given]
        rows[0] = rows[0] * weights[:, :, None]
        grams = [self._gram(row) for row in rows]
        shares, last = [1.0] * count, len(rows) - 1
        flat = [row.reshape(count * rank, -1) for row in rows]

        def update(k: int, side: Tensor) -> None:
            gram = _product([g for j, g in enumerate(grams) if j != k], torch.ones_like(grams[k]))
            right = side.to(self.wide).reshape(count, rank, -1)
            pull = max(ridge, 8 * torch.finfo(self.x.dtype).eps) * gram.diagonal(dim1=1, dim2=2).real.mean(1)
            old = flat[k].reshape(count, rank, -1).to(self.wide)
            new = solve_gram(gram, right + pull[:, None, None] * old, pull)
            if k == last:  # ‖x − x̂‖² from inner products that are there already
                inner = (new.conj() * (2 * right - gram @ new)).real.sum((1, 2))
                shares[:] = (1.0 - inner / self.norm**2).tolist()
            rows[k] = new.to(self.x.dtype)
            flat[k] = rows[k].reshape(count * rank, -1)
            grams[k] = self._gram(rows[k])

        self._sides(flat, update)
        moved = balanced([row.mT for row in rows])
        safe = SAFE_SHARE[self.x.dtype]
        return moved, [
            sqrt(share) if share > safe else self.error([t[i] for t in moved]) for i, share in enumerate(shares)
        ]

    def _gram(self, row: Tensor) -> Tensor:
        wide = row.to(self.wide)
        return wide.conj() @ wide.mT

    # -- all factors at once

    def linearise(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Jᴴ(x − x̂), JᴴJ and the size of its diagonal; the parameters are the factors, each as (r, n_k).

        The block of modes k and m is conj(f_m)[j, r] f_k[i, s] times the Gram matrices of all other factors at (r, s)
        (Tomasi & Bro, doi:10.1016/j.csda.2004.11.013).
        """
        rows = [f.mT.contiguous() for f in balanced(_factors(tensors))[1:]]
        grams = [self._gram(row) for row in rows]
        wide = [row.to(self.wide) for row in rows]
        sides = list[Tensor]()
        rest = self._with(self._dense_difference(rows))
        rest._sides(rows, lambda _, side: sides.append(side.to(self.wide, copy=True).reshape(-1)))
        sizes = [row.numel() for row in rows]
        whole = torch.zeros((sum(sizes), sum(sizes)), dtype=self.wide, device=self.x.device)
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        ones = torch.ones_like(grams[0])
        for k, row in enumerate(wide):
            for m in range(k, len(wide)):
                gram = _product([g for j, g in enumerate(grams) if j not in (k, m)], ones)
                if m == k:
                    eye = torch.eye(row.shape[1], dtype=self.wide, device=self.x.device)
                    block = gram[:, None, :, None] * eye[None, :, None, :]
                else:
                    block = gram[:, None, :, None] * row.mT[None, :, :, None] * wide[m].conj()[:, None, None, :]
                block = block.reshape(sizes[k], sizes[m])
                whole[starts[k] : starts[k] + sizes[k], starts[m] : starts[m] + sizes[m]] = block
                whole[starts[m] : starts[m] + sizes[m], starts[k] : starts[k] + sizes[k]] = block.mH
        return torch.cat(sides), whole, scale(sizes, whole)

    def moved(self, tensors: Sequence[Tensor], delta: Tensor) -> tuple[Tensor, ...]:
        """The factors after a step, balanced again."""
        factors = balanced(_factors(tensors))[1:]
        parts = delta.split([f.numel() for f in factors])
        return balanced([f + p.reshape(f.mT.shape).mT.to(f.dtype) for f, p in zip(factors, parts, strict=True)])

    def _with(self, x: Tensor) -> CPLeastSquares:
        return CPLeastSquares(x, self.norm)

    def _dense_difference(self, rows: Sequence[Tensor]) -> Tensor:
        left = _khatri_rao(rows[: self.cut]) if self.cut else rows[0].new_ones((rows[0].shape[0], 1))
        right = _khatri_rao(rows[self.cut :])
        return (self.x.reshape(left.shape[1], -1) - left.mT @ right).reshape(self.x.shape)

    # -- the products

    def _sides(self, rows: list[Tensor], update: Callable[[int, Tensor], None]) -> None:
        """For each mode in order the conjugated other factors on the array, (r, n_k); `update` may change `rows`.

        What `update` gets is overwritten by what comes later.
        """
        d, r, cut = self.x.ndim, rows[0].shape[0], self.cut
        if d == 1:
            update(0, self.x.expand(r, -1))
            return
        matrix = self.x.reshape(prod(self.x.shape[:cut]), -1)
        for mine, data in ((range(cut), matrix), (range(cut, d), matrix.mT)):
            others = [k for k in range(d) if k not in mine]
            if r * data.shape[0] <= max(ROOM * self.x.numel(), FREE) or len(mine) == 1:
                terms = [padded_rows(rows[k].conj().resolve_conj(), data) for k in others]
                size = terms[0].shape[0], data.shape[1]
                product = _khatri_rao(terms, None if len(terms) == 1 else self.space.take("product", size, terms[0]))
                part = torch.mm(product, data.mT, out=self.space.take("part", (size[0], data.shape[0]), product))[:r]
                self._within(part.reshape(r, *(self.x.shape[k] for k in mine)), list(mine), rows, update)
                continue
            width = max(1, ROOM * self.x.numel() // data.shape[0])
            for k in mine:  # the partial products of all columns at once would not fit
                sides = []
                for start in range(0, r, width):
                    some = [row[start : start + width] for row in rows]
                    part = _khatri_rao([some[j] for j in others]).conj() @ data.mT
                    part = part.reshape(-1, *(self.x.shape[j] for j in mine))
                    sides.append(_contract_others(part, list(mine), some, k))
                update(k, torch.cat(sides))

    def _within(
        self, part: Tensor, modes: list[int], rows: list[Tensor], update: Callable[[int, Tensor], None]
    ) -> None:
        """Go down the tree: `part` is (r, n of `modes` …), with all other factors contracted."""
        if len(modes) == 1:
            update(modes[0], part)
            return
        half = len(modes) // 2
        r = part.shape[0]
        for mine, others, left in ((modes[:half], modes[half:], True), (modes[half:], modes[:half], False)):
            product = _khatri_rao([rows[k] for k in others]).conj()
            whole = part.reshape(r, prod(self.x.shape[k] for k in modes[:half]), -1)
            smaller = torch.bmm(whole, product[:, :, None]) if left else torch.bmm(product[:, None, :], whole)
            self._within(smaller.reshape(r, *(self.x.shape[k] for k in mine)), mine, rows, update)


def _contract_others(part: Tensor, modes: list[int], rows: Sequence[Tensor], k: int) -> Tensor:
    """All factors of `modes` but the k-th contracted into `part`, (r, n_k)."""
    r, at = part.shape[0], modes.index(k)
    before, after = modes[:at], modes[at + 1 :]
    if after:
        product = _khatri_rao([rows[j] for j in after]).conj()
        part = torch.bmm(part.reshape(r, -1, product.shape[1]), product[:, :, None])[:, :, 0]
    if before:
        product = _khatri_rao([rows[j] for j in before]).conj()
        part = torch.bmm(product[:, None, :], part.reshape(r, product.shape[1], -1))[:, 0, :]
    return part.reshape(r, -1)


def _khatri_rao(rows: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """(r, n_0 n_1 …) from (r, n_k) each, the first running slowest; into `out` where it is given."""
    product = rows[0]
    for k, row in enumerate(rows[1:], 2):
        shape = product.shape[0], product.shape[1], row.shape[1]
        into = out.view(shape) if out is not None and k == len(rows) else None
        product = torch.mul(product[:, :, None], row[:, None, :], out=into).reshape(shape[0], -1)
    return product


def _product(grams: Sequence[Tensor], empty: Tensor) -> Tensor:
    """Their entrywise product; `empty` if there are none."""
    product = grams[0] if grams else empty
    for gram in grams[1:]:
        product = product * gram
    return product


def _factors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The factors with the weights in the first."""
    weights, first, *others = tensors
    return [first * weights, *others]


def balanced(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Weights of one, and factors (…, n_k, r) whose r-th columns have equal norms, for the same tensor."""
    weights, *units = normalised(factors)
    share = (weights ** (1.0 / len(units)))[..., None, :]
    return (torch.ones_like(units[0][..., 0, :]), *(u * share for u in units))


def normalised(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The norms of the terms (…, r), and factors (…, n_k, r) with columns of norm one, for the same tensor."""
    norms = [torch.linalg.vector_norm(f, dim=-2, keepdim=True) for f in factors]
    units = [f / torch.where(n > 0, n, torch.ones_like(n)) for f, n in zip(factors, norms, strict=True)]
    return (torch.stack(norms).prod(0)[..., 0, :].to(factors[0].dtype), *units)
