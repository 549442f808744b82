"""Least squares for the rows of one node: normal equations of each row, or conjugate gradients where they are large.

For the row a of a node, with h_e the rest of the network at entry e and w_e its weight,

    (Σ_e w_e h̄_e h_eᵀ + κΓ) δ = Σ_e w_e h̄_e r_e − κΓ a,     a ← a + δ,

where r is what is left of the observed values, and Γ = Σ h̄ hᵀ over ALL positions of the row, observed or not, times
the share that is observed. κ‖x̂‖² over the whole array is what it penalises: it does not depend on the gauge of the
bonds, and large values where nothing is observed cost. Solving for the change δ keeps the accuracy of r.

References: Zhou, Wilkinson, Schreiber, Pan 2008, doi:10.1007/978-3-540-68880-8_32 (alternating least squares on
observed entries); Grasedyck, Kluge, Krämer 2015, doi:10.1137/130942401 (for tensor trains).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tnkit.arrays import machine_eps
from tnkit.completion.blocks import segment_sum
from tnkit.completion.entrywise import CHUNK, Entrywise, Partial
from tnkit.linalg.lstsq import solve_gram
from tnkit.network import contract
from tnkit.network.environments import gram_topology

__all__ = ["Data", "Rows", "fit_rows", "is_large", "whole_gram"]

#: Multiplications for the normal equations of a node from which on conjugate gradients are used instead.
LARGE = 4e9
CG_STEPS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What is to be fitted.

    Attributes:
        values: (N,).
        root_weight: (N,) roots of the weights, or None.
    """

    values: Tensor
    root_weight: Tensor | None = None

    @property
    def weighted(self) -> Tensor:
        """√w y."""
        return self.values if self.root_weight is None else self.values * self.root_weight


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of one node, as a least-squares problem.

    Attributes:
        net: the network at the entries.
        node: which node.
        tensor: its tensor.
        left: the product of the nodes before it.
        right: of those after it.
        data: what is to be fitted.
    """

    net: Entrywise
    node: int
    tensor: Tensor
    left: Partial
    right: Partial
    data: Data

    @property
    def table(self) -> Tensor:
        """(rows, m) the unknowns."""
        return self.net.table(self.node, self.tensor)

    def blocks_of(self, start: int, stop: int, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """√w h, (P, B, m), of some blocks, and √w (y − ⟨h, a⟩), (P, B, 1), both zero in padding.

        Args:
            start: first block.
            stop: one after the last.
            at: (rows, m) the unknowns a.
        """
        blocks, data = self.net.blocks[self.node], self.data
        slots, real = blocks.slots[start:stop], blocks.real[start:stop]
        h = self.net.design(self.node, self.tensor, self.left, self.right, start, stop)
        if data.root_weight is not None:
            h = h * (data.root_weight[slots] * real)[..., None]
        elif blocks.padded:
            h = h.contiguous().index_put_((~real,), h.new_zeros(()))  # a fresh tensor: nobody else sees it
        if at is None:
            return h, h.new_empty(0)
        own = at[blocks.rows[blocks.owner[start:stop]]]
        known = data.weighted[slots] * real if blocks.padded else data.weighted[slots]
        return h, known[..., None] - h @ own[..., None]


def fit_rows(rows: Rows, kappa: float, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """The node that fits the entries best, all others fixed.

    Args:
        rows: the problem.
        kappa: κ.
        gram: Γ, (1, m, m) or (rows, m, m); None stands for a multiple of the identity.

    Returns:
        The node, and Σ w r² before this update (0-d). Rows without entries get the mean of the others.
    """
    net, node, table = rows.net, rows.node, rows.table
    if is_large(net.n, table.shape[1]):
        change, residual2 = _by_gradients(rows, table, kappa)
    else:
        change, residual2 = _by_normal_equations(rows, table, kappa, gram)
    seen = net.blocks[node].rows
    known = table[seen] + change
    if seen.shape[0] < table.shape[0]:
        known = known.mean(0).expand_as(table).index_copy(0, seen, known)
    return net.untable(node, known, rows.tensor), residual2


def is_large(n: int, m: int) -> bool:
    """Whether conjugate gradients take less than the normal equations of n entries and m unknowns a row."""
    return m > 1024 or (m > 4 * CG_STEPS and n * m * m > LARGE)


def whole_gram(net: Entrywise, node: int, nodes: Sequence[Tensor]) -> Tensor:
    """Σ h̄ hᵀ over all positions of a row: (1, m, m), or (rows, m, m) where rows differ in it.

    Args:
        net: the network at the entries.
        node: which node.
        nodes: all nodes, constants filled in.
    """
    topology, t = net.topology, nodes[node]
    rest, shape = net.rest(node), net.rest_shape(node, t)
    size = prod(shape)
    if len(topology.inputs) == 1:
        return t.new_ones(1, size, size)
    doubled, batch = gram_topology(topology, node)
    others = [nodes[k] for k in topology.parameters if k != node]
    gram = contract(doubled, [*(t.conj() for t in others), *others])
    shared = doubled.output[len(batch) :][: (len(doubled.output) - len(batch)) // 2]
    plain = [label[:-1] for label in shared]  # they are primed
    order = [plain.index(label) for label in rest if label in plain]
    b, f = len(batch), len(shared)
    gram = gram.permute([*range(b), *(b + k for k in order), *(b + f + k for k in order)])
    lead = gram.shape[:b]
    ones = [n if label in plain else 1 for label, n in zip(rest, shape, strict=True)]
    gram = gram.reshape((*lead, *ones, *ones)).expand((*lead, *shape, *shape))
    if not b:
        return gram.reshape(1, size, size)
    opened = net.opened(node)
    sizes = dict(zip(topology.inputs[node], t.shape, strict=True))
    wide = [sizes[label] if label in batch else 1 for label in opened]
    full = [sizes[label] for label in opened]
    inner = [batch.index(label) for label in opened if label in batch]
    gram = gram.reshape(*lead, size, size).permute(*inner, b, b + 1).reshape(*wide, size, size)
    return gram.expand(*full, size, size).reshape(-1, size, size)


def _by_normal_equations(rows: Rows, table: Tensor, kappa: float, whole: Tensor | None) -> tuple[Tensor, Tensor]:
    blocks = rows.net.blocks[rows.node]
    m = table.shape[1]
    changes, residual2 = [], table.real.new_zeros(())
    floor = 16 * machine_eps(table.dtype)
    for g0, g1 in blocks.row_chunks(CHUNK // (m * m)):
        gram, rhs = table.new_zeros(g1 - g0, m, m), table.new_zeros(g1 - g0, m, 1)
        for p0, p1 in blocks.block_chunks(g0, g1, CHUNK // (m * max(m, blocks.size))):
            h, r = rows.blocks_of(p0, p1, table)
            residual2 = residual2 + r.abs().square().sum()
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            owner = blocks.owner[p0:p1] - low
            gram[low - g0 : high - g0] += segment_sum(h.mH @ h, owner, high - low)
            rhs[low - g0 : high - g0] += segment_sum(h.mH @ r, owner, high - low)
        mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        if kappa:
            seen = blocks.rows[g0:g1]
            if whole is None:
                eye = torch.eye(m, dtype=table.dtype, device=table.device)
                shrink = (kappa * mean)[:, None, None] * eye
            else:
                shrink = kappa * (whole if whole.shape[0] == 1 else whole[seen])
            rhs = rhs - shrink @ table[seen][..., None]
            gram = gram + shrink
        shift = floor * torch.maximum(mean, mean.amax() * 1e-3)
        shift = torch.where(shift > 0, shift, torch.ones_like(shift))
        changes.append(solve_gram(gram, rhs, shift)[..., 0])
    return torch.cat(changes) if len(changes) > 1 else changes[0], residual2


def _by_gradients(rows: Rows, table: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Conjugate gradients, diagonally preconditioned, each row with its own step lengths; Γ ≈ a multiple of I."""
    blocks = rows.net.blocks[rows.node]
    m, g = table.shape[1], len(blocks.first) - 1
    chunk = max(1, CHUNK // (m * blocks.size))
    right, diagonal = table.new_zeros(g, m, 1), table.real.new_zeros(g, m)
    residual2 = table.real.new_zeros(())
    for p0, p1 in blocks.block_chunks(0, g, chunk):
        h, r = rows.blocks_of(p0, p1, table)
        residual2 = residual2 + r.abs().square().sum()
        low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
        owner = blocks.owner[p0:p1] - low
        right[low:high] += segment_sum(h.mH @ r, owner, high - low)
        diagonal[low:high] += segment_sum(h.abs().square().sum(1), owner, high - low)
    shift = kappa * diagonal.mean(1, keepdim=True) + machine_eps(table.dtype) * diagonal.mean()

    def normal(x: Tensor) -> Tensor:
        out = shift[..., None] * x
        for p0, p1 in blocks.block_chunks(0, g, chunk):
            h, _ = rows.blocks_of(p0, p1)
            low, high = blocks.owner_of(p0), blocks.owner_of(p1 - 1) + 1
            owner = blocks.owner[p0:p1]
            out[low:high] += segment_sum(h.mH @ (h @ x[owner]), owner - low, high - low)
        return out

    r = right - shift[..., None] * table[blocks.rows][..., None]
    total = diagonal + shift
    inverse = torch.where(total > 0, 1 / total, torch.zeros_like(total))[..., None]
    x, z = torch.zeros_like(r), inverse * r
    direction, rz = z, _inner(r, z)
    for _ in range(CG_STEPS):
        q = normal(direction)
        curvature = _inner(direction, q)
        alpha = torch.where(curvature > 0, rz / curvature, torch.zeros_like(rz))
        x, r = x + alpha * direction, r - alpha * q
        z = inverse * r
        rz_next = _inner(r, z)
        beta = torch.where(rz > 0, rz_next / rz, torch.zeros_like(rz))
        direction, rz = z + beta * direction, rz_next
    return x[..., 0], residual2


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).real.sum((1, 2), keepdim=True)
