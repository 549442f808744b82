"""The manifolds of Tucker tensors and of tensor trains of fixed ranks: tangents, projection, retraction.

See `tnkit.completion.riemannian` for the representation.

Example:
    >>> from tnkit.formats import as_spec, random_tensors
    >>> import torch
    >>> layout = as_spec("tt").layout((3, 4, 3))
    >>> like, rng = torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(0)
    >>> geometry = geometry_of(layout)
    >>> x = geometry.rooted(random_tensors(layout, (2, 2), like, rng))
    >>> zero = tuple(t * 0 for t in x)
    >>> again = geometry.retract(x, zero)
    >>> bool(torch.allclose(layout.build(again).to_dense(), layout.build(x).to_dense()))
    True
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from tnkit.formats import TT, Layout, Tucker

__all__ = ["Geometry", "geometry_of"]

Tensors = tuple[Tensor, ...]


class Geometry(ABC):
    """Tangents are tuples shaped like the point's tensors; see the module."""

    @abstractmethod
    def rooted(self, tensors: Sequence[Tensor]) -> Tensors:
        """The same tensor with all but the root orthogonal."""

    @abstractmethod
    def grams(self, x: Tensors) -> list[Tensor | None]:
        """S_k for each tensor, None at the root."""

    @abstractmethod
    def flat(self, k: int, t: Tensor) -> Tensor:
        """A tensor that is not the root as (rows, bond towards the root)."""

    @abstractmethod
    def joined(self, x: Tensors, tangent: Tensors, with_point: bool) -> TT | Tucker:
        """The tangent vector, or the point and it, as a format of at most twice the ranks."""

    @abstractmethod
    def build(self, x: Sequence[Tensor]) -> TT | Tucker:
        """The point as a format."""

    def tangent(self, x: Tensors, slopes: Sequence[Tensor]) -> Tensors:
        """The projection whose inner products with tangents are those of the plain gradients `slopes`."""
        found = []
        for k, (u, slope, gram) in enumerate(zip(x, slopes, self.grams(x), strict=True)):
            if gram is None:
                found.append(slope)
                continue
            basis, flat = self.flat(k, u), self.flat(k, slope)
            flat = flat - basis @ (basis.mT @ flat)
            shift = 1e-13 * gram.diagonal().sum() * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
            shift = shift + torch.finfo(gram.dtype).tiny * torch.eye(
                gram.shape[0], dtype=gram.dtype, device=gram.device
            )
            found.append(torch.linalg.solve(gram + shift, flat.mT).mT.reshape(u.shape))
        return tuple(found)

    def inner(self, x: Tensors, a: Tensors, b: Tensors) -> Tensor:
        """⟨a, b⟩ of two tangents at x, 0-d."""
        total = x[0].new_zeros(())
        for k, (p, q, gram) in enumerate(zip(a, b, self.grams(x), strict=True)):
            total = total + ((p * q).sum() if gram is None else ((self.flat(k, p) @ gram) * self.flat(k, q)).sum())
        return total

    def carried(self, x: Tensors, tangent: Tensors, to: Tensors) -> Tensors:
        """A tangent at x, projected to the tangents at another point."""
        vector = self.joined(x, tangent, with_point=False)
        leaves = tuple(t.detach().requires_grad_() for t in to)
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.build(leaves).inner(vector), leaves)
        return self.tangent(to, slopes)

    def retract(self, x: Tensors, tangent: Tensors) -> Tensors:
        """The tensor of the same ranks that truncation makes of x + tangent."""
        wide = self.joined(x, tangent, with_point=True)
        return self.truncated(wide, x)

    @abstractmethod
    def truncated(self, wide: TT | Tucker, x: Tensors) -> Tensors:
        """To the ranks of x, rooted."""


class _Train(Geometry):
    """Left-orthogonal cores; the last is the root."""

    def rooted(self, tensors: Sequence[Tensor]) -> Tensors:
        cores = list(tensors)
        for k in range(len(cores) - 1):
            r, n, s = cores[k].shape
            q, rest = _qr(cores[k].reshape(r * n, s))
            cores[k] = q.reshape(r, n, -1)  # fewer columns than s where r n is smaller
            cores[k + 1] = torch.tensordot(rest, cores[k + 1], dims=1)
        return tuple(cores)

    def grams(self, x: Tensors) -> list[Tensor | None]:
        found: list[Tensor | None] = [None]
        gram = x[-1].new_ones(1, 1)
        for core in reversed(x[1:]):
            gram = torch.einsum("anb,bc,dnc->ad", core, gram, core)
            found.append(gram)
        return found[::-1]

    def flat(self, k: int, t: Tensor) -> Tensor:
        return t.flatten(0, 1)

    def build(self, x: Sequence[Tensor]) -> TT:
        return TT.from_tensors(tuple(x))

    def joined(self, x: Tensors, tangent: Tensors, with_point: bool) -> TT:
        d = len(x)
        if d == 1:
            return TT.from_tensors((x[0] + tangent[0] if with_point else tangent[0],))
        cores = [torch.cat([tangent[0], x[0]], dim=2)]
        for u, change in zip(x[1:-1], tangent[1:-1], strict=True):
            top = torch.cat([u, torch.zeros_like(u)], dim=2)
            cores.append(torch.cat([top, torch.cat([change, u], dim=2)], dim=0))
        cores.append(torch.cat([x[-1], tangent[-1] + x[-1] if with_point else tangent[-1]], dim=0))
        return TT.from_tensors(tuple(cores))

    def truncated(self, wide: TT | Tucker, x: Tensors) -> Tensors:
        assert isinstance(wide, TT)
        cores = list(self.rooted(wide.cores))
        for k in range(len(cores) - 1, 0, -1):
            r, n, s = cores[k].shape
            u, values, v = torch.linalg.svd(cores[k].reshape(r, n * s), full_matrices=False)
            most = min(x[k].shape[0], len(values))
            cores[k] = v[:most].reshape(most, n, s)
            cores[k - 1] = torch.tensordot(cores[k - 1], u[:, :most] * values[:most], dims=1)
        return self.rooted(cores)


class _Star(Geometry):
    """The core is the root; factors are orthonormal."""

    def rooted(self, tensors: Sequence[Tensor]) -> Tensors:
        core, *factors = tensors
        bases = []
        for k, factor in enumerate(factors):
            q, rest = _qr(factor)
            bases.append(q)
            core = torch.tensordot(rest, core, dims=([1], [k])).movedim(0, k)
        return (core, *bases)

    def grams(self, x: Tensors) -> list[Tensor | None]:
        core = x[0]
        flats = [core.movedim(k, 0).flatten(1) for k in range(core.ndim)]
        return [None, *(flat @ flat.mT for flat in flats)]

    def flat(self, k: int, t: Tensor) -> Tensor:
        return t

    def build(self, x: Sequence[Tensor]) -> Tucker:
        return Tucker.from_tensors(tuple(x))

    def joined(self, x: Tensors, tangent: Tensors, with_point: bool) -> Tucker:
        core, *factors = x
        wide = core.new_zeros([2 * r for r in core.shape])
        wide[tuple(slice(0, r) for r in core.shape)] = tangent[0] + core if with_point else tangent[0]
        for k, r in enumerate(core.shape):
            places = [slice(0, n) for n in core.shape]
            places[k] = slice(r, 2 * r)
            wide[tuple(places)] = core
        return Tucker.from_tensors(
            (wide, *(torch.cat([u, v], dim=1) for u, v in zip(factors, tangent[1:], strict=True)))
        )

    def truncated(self, wide: TT | Tucker, x: Tensors) -> Tensors:
        assert isinstance(wide, Tucker)
        core, *factors = self.rooted((wide.core, *wide.factors))
        for k, r in enumerate(x[0].shape):
            flat = core.movedim(k, 0)
            basis = torch.linalg.svd(flat.flatten(1), full_matrices=False)[0][:, :r]
            core = torch.tensordot(basis.mT, core, dims=([1], [k])).movedim(0, k)
            factors[k] = factors[k] @ basis
        return (core, *factors)


def geometry_of(layout: Layout) -> Geometry:
    """Of the format "tt" or "tucker"."""
    return _Train() if layout.name == "tt" else _Star()


def _qr(a: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(a)
    return q, r
