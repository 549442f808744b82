"""Least squares for the rows of one node: normal equations of each row, or conjugate gradients where they are large.

For the row a of a node, with h_e the rest of the network at entry e and w_e its weight,

    (Σ_e w_e h̄_e h_eᵀ + λ I) δ = Σ_e w_e h̄_e r_e − λ a,     a ← a + δ,

where r is what is left of the observed values. Solving for the change δ keeps the accuracy of r.
Reference: Zhou, Wilkinson, Schreiber, Pan 2008, doi:10.1007/978-3-540-68880-8_32 (ALS with weighted-λ regularisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.completion.blocks import segment_sum
from tnkit.completion.entrywise import CHUNK, Entrywise, Partial
from tnkit.linalg.lstsq import solve_gram

__all__ = ["Fitted", "fit_node"]

#: Unknowns of a row from which on conjugate gradients are used instead of normal equations.
LARGE = 1024
CG_STEPS = 12
PRIOR=None
KAPPA=None
FULL=1


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A node after its least squares.

    Attributes:
        tensor: the node.
        residual2: Σ w r² before the update (0-d).
    """

    tensor: Tensor
    residual2: Tensor


def fit_node(
    net: Entrywise,
    node: int,
    t: Tensor,
    left: Partial,
    right: Partial,
    values: Tensor,
    root_weight: Tensor | None,
    ridge: float,
) -> Fitted:
    """The node that fits the entries best, all others fixed.

    Args:
        net: the network at the entries.
        node: which.
        t: its tensor.
        left: the product of the nodes before it.
        right: of those after it.
        values: (N,) observed values.
        root_weight: (N,) roots of the weights, or None.
        ridge: λ; a few machine epsilons of the mean eigenvalue are always added.
    """
    table = net.table(node, t)
    solve = _by_gradients if table.shape[1] > LARGE else _by_normal_equations
    change, residual2 = solve(net, node, t, table, left, right, values, root_weight, ridge)
    rows = net.blocks[node].rows
    fresh = table.index_copy(0, rows, table[rows] + change)
    return Fitted(net.untable(node, fresh, t), residual2)


def _block(
    net: Entrywise,
    node: int,
    t: Tensor,
    table: Tensor,
    left: Partial,
    right: Partial,
    values: Tensor,
    root_weight: Tensor | None,
    start: int,
    stop: int,
) -> tuple[Tensor, Tensor]:
    """√w h (P, B, m) and √w r (P, B, 1) of some blocks; zero in padding."""
    blocks = net.blocks[node]
    slots, real = blocks.slots[start:stop], blocks.real[start:stop]
    h = net.design(node, t, left, right, start, stop)
    scale = real.to(values.dtype) if root_weight is None else root_weight[slots] * real
    h = h * scale[..., None]
    own = table[blocks.rows[blocks.owner[start:stop]]]
    r = (values[slots] * scale)[..., None] - h @ own[..., None]
    return h, r


def _by_normal_equations(
    net: Entrywise,
    node: int,
    t: Tensor,
    table: Tensor,
    left: Partial,
    right: Partial,
    values: Tensor,
    root_weight: Tensor | None,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    blocks = net.blocks[node]
    m = table.shape[1]
    changes, residual2 = [], values.real.new_zeros(())
    weight = segment_sum(blocks.real.to(values.dtype).sum(1), blocks.owner, len(blocks.first) - 1)
    floor = 16 * machine_eps(values.dtype)
    for g0, g1 in blocks.row_chunks(CHUNK // (m * m)):
        gram, rhs = table.new_zeros(g1 - g0, m, m), table.new_zeros(g1 - g0, m, 1)
        for p0, p1 in blocks.block_chunks(g0, g1, CHUNK // (m * max(m, blocks.size))):
            h, r = _block(net, node, t, table, left, right, values, root_weight, p0, p1)
            residual2 = residual2 + r.abs().square().sum()
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            owner = blocks.owner[p0:p1] - low
            gram[low - g0 : high - g0] += segment_sum(h.mH @ h, owner, high - low)
            rhs[low - g0 : high - g0] += segment_sum(h.mH @ r, owner, high - low)
        mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        if PRIOR is not None:
            gam=PRIOR[blocks.rows[g0:g1]] if PRIOR.shape[0]>1 else PRIOR
            shrink=((ridge*m/weight[g0:g1] if KAPPA is None else KAPPA*torch.ones_like(weight[g0:g1]))*len(values)/FULL)[:,None,None]*gam
            rhs=rhs-shrink@table[blocks.rows[g0:g1]][...,None]
            gram=gram+shrink
        shift = floor * torch.maximum(mean, mean.max() * 1e-3)
        shift = torch.where(shift > 0, shift, torch.ones_like(shift))
        changes.append(solve_gram(gram, rhs, shift)[..., 0])
    return torch.cat(changes) if len(changes) > 1 else changes[0], residual2


def _by_gradients(
    net: Entrywise,
    node: int,
    t: Tensor,
    table: Tensor,
    left: Partial,
    right: Partial,
    values: Tensor,
    root_weight: Tensor | None,
    ridge: float,
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients with a diagonal preconditioner; every row has a step length of its own."""
    blocks = net.blocks[node]
    m, g = table.shape[1], len(blocks.first) - 1
    chunk = max(1, CHUNK // (m * blocks.size))

    def normal(x: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """HᴴH x + λ x (or the right side, for None), the diagonal of HᴴH, and Σ r²."""
        out, diagonal = table.new_zeros(g, m, 1), values.real.new_zeros(g, m)
        residual2 = values.real.new_zeros(())
        for p0, p1 in blocks.block_chunks(0, g, chunk):
            h, r = _block(net, node, t, table, left, right, values, root_weight, p0, p1)
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            owner = blocks.owner[p0:p1]
            if x is None:
                residual2 = residual2 + r.abs().square().sum()
                diagonal[low:high] += segment_sum(h.abs().square().sum(1), owner - low, high - low)
            else:
                r = h @ x[owner]
            out[low:high] += segment_sum(h.mH @ r, owner - low, high - low)
        return out, diagonal, residual2

    r, diagonal, residual2 = normal(None)
    r = r - ridge * table[blocks.rows, :, None]
    shift = diagonal + ridge + machine_eps(values.dtype) * diagonal.mean()
    inverse = torch.where(shift > 0, 1 / shift, torch.zeros_like(shift))[..., None]
    x, z = torch.zeros_like(r), inverse * r
    direction, rz = z, (r.conj() * z).real.sum((1, 2), keepdim=True)
    for _ in range(CG_STEPS):
        q = normal(direction)[0] + ridge * direction
        curvature = (direction.conj() * q).real.sum((1, 2), keepdim=True)
        alpha = torch.where(curvature > 0, rz / curvature, torch.zeros_like(rz))
        x, r = x + alpha * direction, r - alpha * q
        z = inverse * r
        rz_next = (r.conj() * z).real.sum((1, 2), keepdim=True)
        beta = torch.where(rz > 0, rz_next / rz, torch.zeros_like(rz))
        direction, rz = z + beta * direction, rz_next
    return x[..., 0], residual2
