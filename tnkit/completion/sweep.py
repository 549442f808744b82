"""One sweep of alternating least squares over all nodes, there and back, with shared partial products.

Example:
    >>> import torch
    >>> from tnkit.completion.rows import Data
    >>> from tnkit.network import Topology
    >>> rows = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    >>> net = Entrywise.of(Topology.parse("ia,aj->ij"), {"i": 3, "j": 2}, rows)
    >>> data = Data(torch.ones(6, dtype=torch.float64))
    >>> start = (torch.ones(3, 1).double() / 2, torch.ones(1, 2).double())
    >>> tensors, _ = sweep(net, start, data, lambda unknowns, rows: 0.0)
    >>> torch.allclose(net.values(tensors), data.values)
    True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from tnkit.completion.entrywise import Entrywise, Partial
from tnkit.completion.rows import Data, Rows, fit_rows, is_large, whole_gram
from tnkit.formats import Layout
from tnkit.rng import normal

__all__ = ["balanced", "grown", "refit_node", "shrunk", "sweep"]

Tensors = tuple[Tensor, ...]


def sweep(
    net: Entrywise, tensors: Sequence[Tensor], data: Data, kappa: Callable[[int, int], float]
) -> tuple[Tensors, Tensor]:
    """Fit every node once forth and once back.

    Args:
        net: the network at the entries.
        tensors: parameter nodes; not changed.
        data: what is to be fitted.
        kappa: from the unknowns of a row and the number of rows to κ (see `tnkit.completion.rows`).

    Returns:
        New nodes of equal root mean squares, and Σ w r² before the last node was fitted (0-d).
    """
    nodes = net.full(tensors)
    order, last = net.order, len(net.order) - 1
    weight = data.values.shape[0] if data.root_weight is None else float(data.root_weight.square().sum())
    share = weight / prod(net.sizes)
    residual2 = data.values.real.new_zeros(())

    def fit(place: int, left: Partial, right: Partial) -> Tensor:
        node = order[place]
        if net.topology.constants[node] is not None:
            return residual2
        t = nodes[node]
        m = prod(net.rest_shape(node, t))
        k = kappa(m, t.numel() // m)
        gram = share * whole_gram(net, node, nodes) if k and not is_large(net.n, m) else None
        nodes[node], before = fit_rows(Rows(net, node, t, left, right, data), k, gram)
        return before

    rights = net.rights(nodes)
    lefts = [net.start(nodes[0])]
    for place in range(last):
        residual2 = fit(place, lefts[place], rights[place])
        lefts.append(net.absorb(lefts[place], order[place], nodes[order[place]], net.fronts[place + 1]))
    right = net.start(nodes[0])
    for place in range(last, 0, -1):
        residual2 = fit(place, lefts[place], right)
        right = net.absorb(right, order[place], nodes[order[place]], net.fronts[place])
    residual2 = fit(0, lefts[0], right)
    return balanced([nodes[k] for k in net.topology.parameters]), residual2


def refit_node(
    net: Entrywise, tensors: Sequence[Tensor], data: Data, node: int, kappa: Callable[[int, int], float]
) -> Tensors:
    """Fit one node, all others fixed.

    Args:
        net: the network at the entries.
        tensors: parameter nodes; not changed.
        data: what is to be fitted.
        node: its place among all nodes.
        kappa: as in `sweep`.
    """
    nodes, place = net.full(tensors), net.order.index(node)
    left = net.start(nodes[0])
    for p in range(place):
        left = net.absorb(left, net.order[p], nodes[net.order[p]], net.fronts[p + 1])
    right = net.rights(nodes)[place]
    t = nodes[node]
    m = prod(net.rest_shape(node, t))
    k = kappa(m, t.numel() // m)
    weight = data.values.shape[0] if data.root_weight is None else float(data.root_weight.square().sum())
    share = weight / prod(net.sizes)
    gram = share * whole_gram(net, node, nodes) if k and not is_large(net.n, m) else None
    nodes[node], _ = fit_rows(Rows(net, node, t, left, right, data), k, gram)
    return balanced([nodes[j] for j in net.topology.parameters])


def balanced(tensors: Sequence[Tensor]) -> Tensors:
    """The same network with nodes of equal root mean squares."""
    tiny = torch.finfo(tensors[0].dtype).tiny
    sizes = torch.stack([t.abs().square().mean().sqrt() for t in tensors]).clamp_min(tiny)
    common = sizes.log().mean().exp()
    return tuple(t * (common / s) for t, s in zip(tensors, sizes.unbind(), strict=True))


def grown(
    layout: Layout, tensors: Sequence[Tensor], ranks: Sequence[int], noise: float, rng: torch.Generator
) -> Tensors:
    """The same network, nearly, at larger ranks: what is new is small noise.

    Args:
        layout: of the network.
        tensors: of smaller (or equal) ranks.
        ranks: the new ones.
        noise: of the new entries, relative to the root mean square of a node.
        rng: random numbers.
    """
    larger = []
    for t, shape in zip(tensors, layout.shapes(ranks), strict=True):
        if tuple(t.shape) == shape:
            larger.append(t)
            continue
        fresh = normal(shape, t, rng) * (noise * t.abs().square().mean().sqrt())
        fresh[tuple(slice(0, n) for n in t.shape)] = t
        larger.append(fresh)
    return tuple(larger)


def shrunk(layout: Layout, tensors: Sequence[Tensor], ranks: Sequence[int]) -> Tensors:
    """The same network, nearly, at smaller ranks.

    Where a bond joins two nodes, the directions that carry least in their product go; in a hyperedge, the terms whose
    slices have the smallest product of norms.

    Args:
        layout: of the network.
        tensors: of larger (or equal) ranks.
        ranks: the new ones.
    """
    nodes = list(tensors)
    topology = layout.topology
    for bond, rank in zip(layout.bonds, ranks, strict=True):
        holders = [
            (p, topology.inputs[k].index(bond)) for p, k in enumerate(topology.parameters) if bond in topology.inputs[k]
        ]
        if nodes[holders[0][0]].shape[holders[0][1]] <= rank:
            continue
        if len(holders) == 2:
            _cut_pair(nodes, holders, rank)
        else:
            score = torch.stack(
                [nodes[p].movedim(axis, 0).reshape(nodes[p].shape[axis], -1).norm(dim=1).log() for p, axis in holders]
            ).sum(0)
            keep = torch.topk(score, rank).indices.sort().values
            for p, axis in holders:
                nodes[p] = nodes[p].index_select(axis, keep)
    return tuple(nodes)


def _cut_pair(nodes: list[Tensor], holders: list[tuple[int, int]], rank: int) -> None:
    """Truncate one bond between two nodes by the SVD of the product of their triangular factors."""
    sides = []
    for p, axis in holders:
        moved = nodes[p].movedim(axis, 0)
        sides.append((torch.linalg.qr(moved.flatten(1).mT.contiguous()), moved.shape[1:]))
    (qa, ra), (qb, rb) = sides[0][0], sides[1][0]
    u, s, vh = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
    root = s[:rank].sqrt()
    a, b = (qa @ (u[:, :rank] * root)).mT, (qb @ (vh[:rank].mT * root)).mT
    for (p, axis), rows, (_, shape) in zip(holders, (a, b), sides, strict=True):
        width = rows.shape[0]
        if width < rank:  # fewer directions than asked for: zeros beside them
            rows = torch.cat([rows, rows.new_zeros(rank - width, rows.shape[1])])
        nodes[p] = rows.reshape(rank, *shape).movedim(0, axis)
